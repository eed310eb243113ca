//! Why something is refused.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of refusal it is: a word for programs. Each has an HTTP status of its own kind.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// What was sent is not what this takes: which part, and what it should be, is in the message.
    Invalid,
    /// There is no token, or no such one.
    Unauthorized,
    /// The token may only read.
    ReadOnly,
    /// Nothing is there by that name.
    NotFound,
    /// Something else has that name.
    NameTaken,
    /// Another VM has that identity: its folder was copied.
    IdentityTaken,
    /// It cannot be in the state that it is in.
    State,
    /// Somebody uses it.
    InUse,
    /// It does not fit into memory.
    NoMemory,
    /// It does not fit on the disk.
    NoRoom,
    /// There are as many as there can be.
    TooMany,
    /// Too much was sent.
    TooLarge,
    /// Too often; the answer says when to come back.
    TooOften,
    /// It took too long to send it.
    TooSlow,
    /// A file that it needs is missing, or is not what it should be.
    File,
    /// The node cannot do that.
    Unsupported,
    /// A part of the node does not answer; it is started again by itself.
    Unavailable,
    /// Something failed that should not.
    Failed,
}

impl Reason {
    /// The HTTP status (RFC 9110, "Status Codes").
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::ReadOnly => 403,
            Self::NotFound => 404,
            Self::TooSlow => 408,
            Self::NameTaken | Self::IdentityTaken | Self::State | Self::InUse => 409,
            Self::TooLarge => 413,
            Self::File => 422,
            Self::TooOften => 429,
            Self::Failed => 500,
            Self::Unsupported => 501,
            Self::Unavailable => 503,
            Self::NoMemory | Self::NoRoom | Self::TooMany => 507,
        }
    }
}

/// Why it was refused: nothing has changed then.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Error {
    /// The kind of refusal, for programs.
    pub reason: Reason,
    /// For people: what is wrong with what.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Error {
    /// A refusal.
    #[must_use]
    pub fn new(reason: Reason, message: impl fmt::Display) -> Self {
        Self { reason, message: message.to_string(), next: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn next(self, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.next.as_ref().map_or(Ok(()), |next| write!(f, "; {next}"))
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        // One of ours may be in it, from where only the other kind has a place.
        match error.downcast::<Self>() {
            Ok(ours) => ours,
            Err(error) => {
                let reason = match error.kind() {
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Reason::NoRoom,
                    std::io::ErrorKind::NotFound => Reason::File,
                    _ => Reason::Failed,
                };
                Self::new(reason, error)
            }
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_where_only_the_other_kind_fits() {
        let error = Error::new(Reason::NoMemory, "too large").next("make it smaller");
        let other = std::io::Error::from(error.clone());
        assert_eq!(other.to_string(), "too large; make it smaller");
        assert_eq!(Error::from(other), error);
    }
}
