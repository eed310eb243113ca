//! What happens, as it happens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::Name;
use crate::status::State;
use crate::task::Task;

/// Something that has happened.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Event {
    /// Its number: one more than that of the event before.
    pub number: u64,
    /// When, in seconds since 1970.
    pub time: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What has happened.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A VM is in another state.
    Vm {
        /// Which one.
        vm: Name,
        /// Its state now.
        state: State,
        /// Why, where that is not plain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A VM was described anew.
    Changed {
        /// Which one.
        vm: Name,
    },
    /// A VM is no more.
    Deleted {
        /// Which one.
        vm: Name,
    },
    /// A task goes on, or is over.
    Task {
        /// How it stands.
        task: Task,
    },
    /// Events were lost for a listener that did not listen.
    Lost {
        /// How many.
        count: u64,
    },
}
