//! What a node is asked and answers. The types of its REST API, of which the OpenAPI file is made, and of the files that describe VMs: a VM is the
//! same thing in a file and in a request. Both `basaltd` and the command `basalt` are built on them.
//!
//! Nothing is done here but reading and checking: no files, no network.
#![forbid(unsafe_code)]

pub mod access;
pub mod amount;
pub mod cloud_init;
pub mod disk;
pub mod error;
pub mod event;
pub mod image;
pub mod name;
pub mod node;
pub mod status;
pub mod task;
pub mod usage;
pub mod vm;

pub use error::{Error, Reason};

/// Where all of the API lies.
pub const PREFIX: &str = "/v1";
/// The TCP port where it is, by TLS.
pub const PORT: u16 = 8443;
