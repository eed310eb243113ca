//! What VMs have used, hour by hour: for bills, and for seeing what is worth what.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::Name;

/// Seconds of an hour.
pub const HOUR: u64 = 3600;

/// What a VM has used in an hour.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Usage {
    /// When the hour began, in seconds since 1970.
    pub hour: u64,
    /// The VM.
    pub vm: Name,
    /// Seconds of the hour for which it was there, running or paused.
    pub seconds: f64,
    /// Virtual CPUs, times the seconds for which they ran or could have run.
    pub vcpu_seconds: f64,
    /// GiB of its memory, times seconds.
    pub gib_seconds: f64,
    /// CPU time that it had.
    pub cpu_seconds: f64,
    /// Time for which it was ready and had no CPU.
    pub steal_seconds: f64,
    /// Bytes that it has sent.
    pub sent_bytes: u64,
    /// Bytes that it was given.
    pub received_bytes: u64,
    /// Reads and writes of its disks that dom0 serves, and their bytes.
    #[serde(default)]
    pub reads: u64,
    /// See there.
    #[serde(default)]
    pub writes: u64,
    /// See there.
    #[serde(default)]
    pub read_bytes: u64,
    /// See there.
    #[serde(default)]
    pub written_bytes: u64,
    /// CPU time of dom0's process that serves its disks.
    #[serde(default)]
    pub dom0_seconds: f64,
}

impl Usage {
    /// Nothing yet.
    #[must_use]
    pub const fn new(hour: u64, vm: Name) -> Self {
        Self {
            hour,
            vm,
            seconds: 0.0,
            vcpu_seconds: 0.0,
            gib_seconds: 0.0,
            cpu_seconds: 0.0,
            steal_seconds: 0.0,
            sent_bytes: 0,
            received_bytes: 0,
            reads: 0,
            writes: 0,
            read_bytes: 0,
            written_bytes: 0,
            dom0_seconds: 0.0,
        }
    }
}
