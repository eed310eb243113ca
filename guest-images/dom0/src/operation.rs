//! What the process with the API asks of the one that sees to VMs, over a socket of this machine: lines of JSON, each a [`Call`] or a [`Told`].

use api::access::{NewToken, Rights};
use api::event::Event;
use api::name::Name;
use api::node::Power;
use api::vm::VmFile;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where `control` listens.
pub(crate) const SOCKET: &str = "/run/basalt/control";
/// Bytes of a line at most.
pub(crate) const MOST_BYTES: usize = 1 << 20;

/// The first line of a connection says what it is for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Greeting {
    /// Calls and answers, and what happens.
    Calls,
    /// The console of a VM: its bytes follow the answer's line, in both directions.
    Console { vm: Name },
}

/// Something is asked.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Call {
    /// Chosen by who asks, and repeated in the answer.
    pub(crate) id: u64,
    pub(crate) operation: Operation,
}

/// What can be asked. What comes of it is of the types of the API.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    /// How the node is: `api::node::Node`.
    Node,
    /// What becomes of it.
    Power { power: Power },
    /// The last lines of its log.
    NodeLog { bytes: usize },
    /// All VMs: a list of `api::status::Vm`.
    Vms,
    /// One of them: `api::status::VmDetails`.
    Vm { vm: Name },
    /// All of them with all that they have done: a list of the same.
    Counters,
    /// A new one.
    CreateVm { vm: Name, file: Box<VmFile> },
    /// Another description of one.
    ChangeVm { vm: Name, file: Box<VmFile> },
    /// It goes, with its folder.
    DeleteVm { vm: Name },
    /// Something is done to it.
    Act { vm: Name, act: Act },
    /// The end of what it has written to its console.
    VmLog { vm: Name, bytes: usize },
    /// What VMs have used in the hours between: a list of `api::usage::Usage`.
    Usage { since: u64, until: u64 },
    /// All tasks that are known: a list of `api::task::Task`.
    Tasks,
    /// One of them.
    Task { id: u64 },
    /// A list of `api::image::Image`.
    Images,
    /// A file that was uploaded becomes an image.
    AddImage { image: String, file: String },
    /// It goes.
    DeleteImage { image: String },
    /// A list of `api::access::Token`.
    Tokens,
    /// A new one: `api::access::MadeToken`.
    MakeToken { token: NewToken },
    /// Somebody has used one that nobody had used before.
    TokenUsed { token: Name },
    /// It is good for nothing any more.
    DeleteToken { token: Name },
}

/// What is done to a VM.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    /// It is made and begins.
    Start,
    /// Its power button is pressed.
    Shutdown,
    /// It ends at once.
    Stop,
    /// It begins anew at once.
    Reset,
    /// It stands still.
    Pause,
    /// It goes on.
    Resume,
}

/// What is told.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// What has come of a call, or of the greeting, whose number is 0.
    Answer { id: u64, result: Result<Value, api::Error> },
    /// Something has happened.
    Event { event: Event },
    /// Who may ask: from here on only these.
    Access { tokens: Vec<Known> },
}

/// A token that is good for something.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Known {
    pub(crate) name: Name,
    pub(crate) rights: Rights,
    /// SHA-256 of the secret, in hexadecimal digits.
    pub(crate) hash: String,
    /// Nobody has used it yet.
    #[serde(default)]
    pub(crate) is_new: bool,
}
