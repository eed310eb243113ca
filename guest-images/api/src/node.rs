//! The node itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the node is and how it is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The version of Basalt.
    pub version: String,
    /// Whether it has found all that it looks for at the beginning.
    pub ready: bool,
    /// Seconds since it has started.
    pub uptime: u64,
    /// CPUs on which VMs run.
    pub cpus: u16,
    /// Memory that VMs can still have, in bytes.
    pub free_memory_bytes: u64,
    /// Memory that the processes of dom0 have, in bytes: what several share counts once.
    #[serde(default)]
    pub processes_memory_bytes: u64,
    /// Its own addresses, with the interface.
    pub addresses: Vec<String>,
    /// Where its data is; nothing lasts where it is nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What is wrong, a line each.
    pub complaints: Vec<String>,
    /// The SHA-256 of the certificate by which its API is known.
    pub fingerprint: String,
}

/// What is to become of the node.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// It goes off, when its VMs have shut down.
    Off,
    /// It restarts, when its VMs have shut down.
    Restart,
}
