//! What takes long is a task: it is asked for, goes on by itself, and can be looked at.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Error;
use crate::name::Name;

/// Something that takes long.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Task {
    /// Its number, which no other one has until the node starts anew.
    pub id: u64,
    /// What it does, such as `start`.
    pub what: String,
    /// The VM that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Name>,
    /// How it stands.
    pub state: State,
    /// How much of it is done, in percent.
    pub progress: u8,
    /// Why it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

/// How a task stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Others are before it.
    Waiting,
    /// It goes on.
    Running,
    /// It is done.
    Done,
    /// It has failed, and has undone what it had done.
    Failed,
}

impl Task {
    /// Whether it is over.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Failed)
    }
}
