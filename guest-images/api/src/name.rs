//! Names of VMs, networks and images.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest one.
pub const LONGEST: usize = 31;

/// A name: 1 to 31 of `a-z`, `0-9` and `-`, and no `-` at its ends. It can be a folder, a host and a word of a command.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?$", example = "web-1")]
pub struct Name(String);

/// It is none.
#[derive(Debug, Eq, PartialEq)]
pub struct NoName(String);

impl fmt::Display for NoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no name: write 1 to {LONGEST} of a-z, 0-9 and -, and no - at its ends", self.0)
    }
}

impl std::error::Error for NoName {}

impl Name {
    /// Its letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NoName;

    fn try_from(text: String) -> Result<Self, NoName> {
        let has_length = (1..=LONGEST).contains(&text.len());
        let is_known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if has_length && text.bytes().all(is_known) && !text.starts_with('-') && !text.ends_with('-') {
            return Ok(Self(text));
        }
        // What somebody has sent for one may be long.
        Err(NoName(text.chars().take(2 * LONGEST).map(|c| if c.is_control() { '?' } else { c }).collect()))
    }
}

impl std::str::FromStr for Name {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        Self::try_from(text.to_owned())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let is_one = |text: &str| text.parse::<Name>().is_ok();
        assert!(["a", "web-1", "0", &"x".repeat(31)].into_iter().all(is_one));
        assert!(!["", "-a", "a-", "A", "a b", "..", "a/b", "ä", &"x".repeat(32)].into_iter().any(is_one));
        let told = "a\n\x1b[2J".parse::<Name>().expect_err("no name").to_string();
        assert!(told.starts_with("'a??[2J' is no name"), "{told}");
    }
}
