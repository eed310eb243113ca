//! What VMs do.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::amount::Bytes;
use crate::name::Name;
use crate::vm::VmFile;

/// The state of a VM.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does not run.
    Stopped,
    /// It is being made, reset or ended.
    Changing,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
}

impl State {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Changing => "changing",
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A VM, in short.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Vm {
    /// Its name.
    pub name: Name,
    /// Its state.
    pub state: State,
    /// Why it is in that state, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it starts with the node.
    pub autostart: bool,
    /// Whether it is the node's own, and can be changed and deleted; others come with its boot medium.
    pub own: bool,
    /// Virtual CPUs.
    pub cpus: u16,
    /// Its memory.
    pub memory: Bytes,
    /// How much of a CPU it uses, in percent; more than 100 with several vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<u32>,
    /// Addresses that it was given by the node's DHCP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// All of a VM.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct VmDetails {
    /// In short.
    #[serde(flatten)]
    pub vm: Vm,
    /// What stands in its `vm.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<VmFile>,
    /// What it has done since it was made, where it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
}

/// What a VM has done since it was started.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Counters {
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Time for which it was ready and had no CPU, in seconds.
    pub steal_seconds: f64,
    /// Memory that it has touched and not given back.
    pub resident_bytes: u64,
    /// Exits by reason.
    pub exits: Vec<Exits>,
    /// Its network devices.
    pub networks: Vec<NetworkCounters>,
    /// Its disks that dom0 serves.
    #[serde(default)]
    pub disks: Vec<DiskCounters>,
}

/// Exits of a kind.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Exits {
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// A port of the switch.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct NetworkCounters {
    /// The network.
    pub network: String,
    /// The device's address.
    pub mac: String,
    /// Frames that the VM has sent.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames that it was given.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames that were lost on the way to it.
    pub lost_frames: u64,
}

/// A disk.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct DiskCounters {
    /// Its file.
    pub file: String,
    /// Reads and writes that are done.
    pub reads: u64,
    /// See there.
    pub writes: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// See there.
    pub written_bytes: u64,
}
