//! Who may ask.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::Name;

/// What a token is good for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rights {
    /// Seeing everything but consoles, and changing nothing.
    ReadOnly,
    /// Everything.
    #[default]
    Full,
}

/// A token, without the secret itself, which nobody keeps.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Token {
    /// Whose it is.
    pub name: Name,
    /// What it is good for.
    pub rights: Rights,
    /// When it was made, in seconds since 1970.
    pub made: u64,
}

/// A token that is asked for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Whose it is to be.
    pub name: Name,
    /// What it is to be good for.
    #[serde(default)]
    pub rights: Rights,
}

/// A token that was made. Its secret is shown this once.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct MadeToken {
    /// Whose it is.
    pub name: Name,
    /// What is sent as `Authorization: Bearer SECRET`.
    pub secret: String,
    /// The SHA-256 of the node's certificate, by which it is known.
    pub fingerprint: String,
}
