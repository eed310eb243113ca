//! Images: files that disks of VMs are made of, and kernels.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a disk's content lies in its file.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As it is.
    Raw,
    /// QEMU's format, version 2 or 3.
    Qcow2,
}

/// An image that the node has.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Image {
    /// Its name: a file below `/data/images`.
    pub name: String,
    /// Bytes of the file.
    pub bytes: u64,
}
