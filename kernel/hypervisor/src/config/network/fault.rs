//! What can be wrong with words about networks.

use core::fmt;

use vswitch::mirror::{MOST_SESSIONS, MOST_VLANS};
use vswitch::rules::MOST_RULES;

use crate::config::MAX_NAME;

/// What is wrong with words about a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NetworkFault<'a> {
    /// They do not say which network, or not as this form has it.
    NoName(&'static str),
    /// No VM is on a network of that name.
    NoNetwork(&'a str),
    /// They say nothing; this would be something.
    Nothing(&'static str),
    /// A word that has no meaning here, and those that have.
    Unknown(&'a str, &'static str),
    /// A word whose value is none, and what it may be.
    Value(&'a str, &'static str),
    /// A word that says what another one has said.
    Twice(&'a str),
    /// A rule begins with something else than what it does.
    NoVerdict(&'a str),
    /// No network device that is on this network.
    NotThere(&'a str),
    /// No frame can be like that: why, and what to write.
    Never(&'static str),
    /// A rule that allows something, behind one that was to deny something and cannot be read.
    Undenied,
    /// There are as many rules as a network can have.
    ManyRules,
    /// A mirror that watches nobody.
    NoSource,
    /// A mirror that shows nothing to anybody.
    NoTarget,
    /// A mirror with more VLANs than it can have.
    ManyVlans,
    /// A mirror's copies would go to several devices.
    ManyTargets(&'a str),
    /// A mirror would watch who gets its copies.
    Itself(&'a str),
    /// There are as many mirrors as a network can have.
    ManyMirrors,
}

impl fmt::Display for NetworkFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName(form) => {
                write!(f, "it names no network of 1 to {MAX_NAME} of a-z, 0-9 and '-'; write {form}")
            }
            Self::NoNetwork(name) => {
                write!(f, "no VM is on network '{name}'; write the name of one that a VM's net= says")
            }
            Self::Nothing(form) => write!(f, "it says nothing; write such as {form}"),
            Self::Unknown(word, known) => write!(f, "'{word}' is unknown; write {known}"),
            Self::Value(word, form) => write!(f, "'{word}' is not possible; write {form}"),
            Self::Twice(word) => write!(f, "'{word}' says it a second time; leave one out"),
            Self::NoVerdict(word) => write!(f, "it begins with '{word}'; begin with allow or deny"),
            Self::NotThere(place) => {
                write!(f, "'{place}' has no network device there; write a VM that is on the network, or VM.N for its device N, from 0")
            }
            Self::Never(reason) => f.write_str(reason),
            Self::Undenied => f.write_str(
                "it is left out: a rule before it cannot be read, and what that was to deny it might allow; correct that one",
            ),
            Self::ManyRules => write!(f, "the network has {MOST_RULES} rules already; delete one"),
            Self::NoSource => f.write_str("it watches nobody; write both=VM, sent=VM, received=VM or vlan=N"),
            Self::NoTarget => f.write_str("it says not who watches; write to=VM.N or to-vlan=N"),
            Self::ManyVlans => write!(f, "it has more than {MOST_VLANS} VLANs; leave some out"),
            Self::ManyTargets(place) => {
                write!(f, "'{place}' has several network devices there; write which one, such as to={place}.0")
            }
            Self::Itself(word) => write!(f, "'{word}' is watched by itself; write another to= or to-vlan="),
            Self::ManyMirrors => write!(f, "the network has {MOST_SESSIONS} mirrors already; delete one"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn each_says_what_to_write() {
        for (fault, part) in [
            (NetworkFault::NoName("rule=NAME:deny"), "write rule=NAME:deny"),
            (NetworkFault::NoNetwork("lan"), "'lan'; write the name"),
            (NetworkFault::ManyRules, "256 rules already; delete one"),
            (NetworkFault::ManyMirrors, "4 mirrors already; delete one"),
        ] {
            assert!(fault.to_string().contains(part), "{fault}");
        }
    }
}
