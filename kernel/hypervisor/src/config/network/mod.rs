//! What the kernel's own line and the prompt say of networks: `network=`, rules and mirrors, in words with commas between them.

mod fault;
mod mirror;
mod rule;

use vswitch::PortSet;

pub(crate) use fault::NetworkFault;
pub(crate) use mirror::mirror;
pub(crate) use rule::{ETHER_TYPES, PROTOCOLS, rule};

use super::values;

/// Seconds for which a switch remembers an address.
const AGES: core::ops::RangeInclusive<u64> = 0..=1_000_000;

/// What begins the words of networks in the kernel's line.
pub(crate) const KEYS: [&str; 3] = ["network", "rule", "mirror"];

/// Network devices as words name them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place<'a> {
    /// The VM.
    pub(crate) vm: &'a str,
    /// Which of its network devices; `None` for all.
    pub(crate) number: Option<usize>,
}

impl<'a> Place<'a> {
    /// Reads `VM` or `VM.N`.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let Some((vm, number)) = text.split_once('.') else { return Some(Self { vm: text, number: None }) };
        let number = values::word(number, 0..=super::MAX_NICS as u16 - 1)?;
        Some(Self { vm, number: Some(number.into()) })
    }
}

/// Says which ports of a network are those of a place; none where there is no such device on it.
pub(crate) type Find<'f> = &'f dyn Fn(Place<'_>) -> PortSet;

/// The ports that a word names.
fn ports<'a>(text: &'a str, find: Find<'_>) -> Result<PortSet, NetworkFault<'a>> {
    let ports = Place::parse(text).map_or(PortSet::NONE, find);
    if ports.is_empty() { Err(NetworkFault::NotThere(text)) } else { Ok(ports) }
}

/// Words with commas or white space between them; where two of those follow each other, there is an empty one.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> + Clone {
    text.split(|character: char| character == ',' || character.is_ascii_whitespace())
}

/// What `network=` says of a network.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct NetworkWords {
    /// What holds where no rule fits, where it says so.
    pub(crate) allow: Option<bool>,
    /// Seconds after which an address is forgotten, where it says so.
    pub(crate) age: Option<u32>,
}

/// Reads what follows the name in `network=NAME,WORD[,WORD]...`.
pub(crate) fn network<'a>(words: impl Iterator<Item = &'a str>) -> Result<NetworkWords, NetworkFault<'a>> {
    let mut read = NetworkWords::default();
    for word in words {
        let twice = match word.split_once('=') {
            Some(("default", value)) => read
                .allow
                .replace(verdict(value).ok_or(NetworkFault::Value(word, "default=allow or default=deny"))?)
                .is_some(),
            Some(("age", value)) => {
                let age = values::number(value, AGES);
                let age =
                    age.ok_or(NetworkFault::Value(word, "age=SECONDS up to 1000000, or age=0 for never"))?;
                read.age.replace(age as u32).is_some()
            }
            _ => return Err(NetworkFault::Unknown(word, "default=allow, default=deny or age=SECONDS")),
        };
        if twice {
            return Err(NetworkFault::Twice(word));
        }
    }
    if read == NetworkWords::default() {
        Err(NetworkFault::Nothing("network=NAME,default=deny"))
    } else {
        Ok(read)
    }
}

/// Whether it says that something may pass.
pub(crate) fn verdict(text: &str) -> Option<bool> {
    match text {
        "allow" => Some(true),
        "deny" => Some(false),
        _ => None,
    }
}

/// The same in its word.
pub(crate) const fn verdict_name(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_network_is_like_is_read() {
        let read = |text| network(words(text));
        assert_eq!(read("default=deny"), Ok(NetworkWords { allow: Some(false), age: None }));
        assert_eq!(read("age=0,default=allow"), Ok(NetworkWords { allow: Some(true), age: Some(0) }));
        for (text, culprit) in [
            ("", "'' is unknown; write default=allow"),
            ("default=block", "'default=block' is not possible; write default=allow or default=deny"),
            ("age=never", "write age=SECONDS"),
            ("age=1000001", "write age=SECONDS"),
            ("age=1,age=2", "'age=2' says it a second time"),
            ("mtu=9000", "'mtu=9000' is unknown"),
        ] {
            let fault = read(text).expect_err(text).to_string();
            assert!(fault.contains(culprit), "{text}: {fault}");
        }
        assert!(matches!(network([].into_iter()), Err(NetworkFault::Nothing(_))));
    }

    #[test]
    fn places_are_vms_and_their_devices() {
        let place = |vm, number| Some(Place { vm, number });
        assert_eq!((Place::parse("web"), Place::parse("web.7")), (place("web", None), place("web", Some(7))));
        for wrong in ["web.", "web.8", "web.x", "web.1.2", "web.+1"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}|((allow|deny|from=a|to=b.0|port=[0-9-]{0,6}|protocol=[a-z]{0,4}|both=a|to-vlan=[0-9]{0,5}|snap=[0-9]{0,6}|age=[0-9]{0,9}),){0,6}") {
            let find = |place: Place<'_>| if place.vm == "a" { PortSet::from_bits(3) } else { PortSet::NONE };
            let faults = [
                network(words(&text)).err(),
                rule(words(&text), &find).err(),
                mirror(words(&text), &find).err(),
            ];
            prop_assert!(faults.into_iter().flatten().all(|fault| !fault.to_string().is_empty()));
        }
    }
}
