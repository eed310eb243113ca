//! What a user types about networks. The words that change something are read where it is carried out: here nobody knows the networks.

use arrayvec::ArrayString;

use super::Command;
use super::command::{LINE_BYTES, Mistake, find, number};
use crate::config::{MAX_NICS, is_name};

pub use crate::config::Name;
/// The rest of a line.
pub type Words = ArrayString<LINE_BYTES>;

/// What is told of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// Its ports.
    Ports,
    /// Addresses that are behind them.
    Addresses,
    /// Its rules.
    Rules,
    /// Its mirrors.
    Mirrors,
    /// Conversations that go on.
    Flows,
    /// What has passed, once.
    Records,
}

/// What becomes of a network's rules, or of its mirrors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// One more.
    Add(Words),
    /// One less: that number, from 1 on.
    Delete(u32),
    /// What no rule fits may pass, or not. Rules only.
    Default(bool),
}

/// What follows the command that changes a port.
pub(super) const PORT: &str = "VM[.N] WORD...";
const RULE: &str = "add WORDS, delete N, default allow or default deny";
const MIRROR: &str = "add WORDS, or delete N";

/// Reads a line that begins with this command.
pub(super) fn parse<'a, 'n>(
    command: &'static str,
    line: &'a str,
    names: impl Iterator<Item = &'n str> + Clone,
) -> Result<Command, Mistake<'a>> {
    let (_, line) = next(line);
    let (first, rest) = next(line);
    let name = || Name::from(first).ok().filter(|_| is_name(first)).ok_or(Mistake::Network(first));
    Ok(match command {
        "networks" => Command::Networks,
        "ports" => Command::Network(name()?, View::Ports),
        "addresses" => Command::Network(name()?, View::Addresses),
        "rules" => Command::Network(name()?, View::Rules),
        "mirrors" => Command::Network(name()?, View::Mirrors),
        "flows" => Command::Network(name()?, View::Flows),
        "records" => Command::Network(name()?, View::Records),
        "rule" => Command::Rule(name()?, change(rest, true)?),
        "mirror" => Command::Mirror(name()?, change(rest, false)?),
        "port" if rest.is_empty() => return Err(Mistake::Form("port", PORT)),
        "port" => {
            let (vm, device) = match first.split_once('.') {
                Some((vm, device)) => (vm, Some(number(device, 0, MAX_NICS as u32 - 1)? as u8)),
                None => (first, None),
            };
            Command::Port(find(vm, names).ok_or(Mistake::Vm(vm))?, device, words(rest))
        }
        // There is no other.
        other => return Err(Mistake::Word(other)),
    })
}

/// Reads what becomes of rules or mirrors.
fn change(text: &str, is_rule: bool) -> Result<Change, Mistake<'_>> {
    let (first, rest) = next(text);
    let (second, more) = next(rest);
    let form = if is_rule { RULE } else { MIRROR };
    match (first, second) {
        ("add", word) if !word.is_empty() => Ok(Change::Add(words(rest))),
        ("delete", text) if more.is_empty() => Ok(Change::Delete(number(text, 1, u16::MAX.into())?)),
        ("default", "allow") if is_rule && more.is_empty() => Ok(Change::Default(true)),
        ("default", "deny") if is_rule && more.is_empty() => Ok(Change::Default(false)),
        _ => Err(Mistake::Change(text, form)),
    }
}

/// The first word, and what is behind it.
fn next(text: &str) -> (&str, &str) {
    let text = text.trim_ascii();
    match text.split_once(|character: char| character.is_ascii_whitespace()) {
        Some((word, rest)) => (word, rest.trim_ascii()),
        None => (text, ""),
    }
}

/// Words to keep. There is room: the line was no longer.
fn words(text: &str) -> Words {
    Words::from(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::super::command;
    use super::*;

    fn read(line: &str) -> Result<Command, Mistake<'_>> {
        command::parse(line, ["web", "db", "1x"].into_iter())
    }

    fn lan() -> Name {
        Name::from("lan").expect("there is room")
    }

    #[test]
    fn commands_are_read() {
        let add = |text| Change::Add(words(text));
        for (line, command) in [
            ("networks", Command::Networks),
            ("n", Command::Networks),
            ("ports lan", Command::Network(lan(), View::Ports)),
            ("addresses lan", Command::Network(lan(), View::Addresses)),
            ("a lan", Command::Network(lan(), View::Addresses)),
            ("rules lan", Command::Network(lan(), View::Rules)),
            ("mirrors lan", Command::Network(lan(), View::Mirrors)),
            ("flows lan", Command::Network(lan(), View::Flows)),
            ("records lan", Command::Network(lan(), View::Records)),
            ("port web link=down", Command::Port(0, None, words("link=down"))),
            (" port  2.7  vlan=7   mtu=9000 ", Command::Port(1, Some(7), words("vlan=7   mtu=9000"))),
            ("rule lan add deny from=web, port=22", Command::Rule(lan(), add("deny from=web, port=22"))),
            ("rule lan delete 3", Command::Rule(lan(), Change::Delete(3))),
            ("rule lan default allow", Command::Rule(lan(), Change::Default(true))),
            ("rule lan default deny", Command::Rule(lan(), Change::Default(false))),
            ("mirror lan add both=web to=db", Command::Mirror(lan(), add("both=web to=db"))),
            ("mirror lan delete 1", Command::Mirror(lan(), Change::Delete(1))),
        ] {
            assert_eq!(read(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn mistakes_are_named_with_the_way_out() {
        for (line, mistake, part) in [
            ("ports", Mistake::Form("ports", "NETWORK"), "write: ports NETWORK"),
            ("ports lan x", Mistake::Form("ports", "NETWORK"), "write: ports NETWORK"),
            ("networks lan", Mistake::Form("networks", ""), "write: networks"),
            ("port web", Mistake::Form("port", PORT), "write: port VM[.N] WORD..."),
            ("port", Mistake::Form("port", PORT), "write: port VM[.N] WORD..."),
            ("rule", Mistake::Form("rule", "NETWORK CHANGE..."), "write: rule NETWORK CHANGE..."),
            ("rule lan", Mistake::Change("", RULE), "Write add WORDS, delete N"),
            ("mirror lan", Mistake::Change("", MIRROR), "Write add WORDS, or delete N"),
            ("ports LAN", Mistake::Network("LAN"), "networks lists them"),
            ("port who link=up", Mistake::Vm("who"), "list tells"),
            ("port web.8 link=up", Mistake::Number("8", 0, 7), "from 0 to 7"),
            ("rule lan delete 0", Mistake::Number("0", 1, 65_535), "from 1"),
            ("rule lan delete 1 2", Mistake::Change("delete 1 2", RULE), "delete N"),
            ("rule lan add", Mistake::Change("add", RULE), "add WORDS"),
            ("rule lan default", Mistake::Change("default", RULE), "default deny"),
            ("rule lan deny from=web", Mistake::Change("deny from=web", RULE), "add WORDS"),
            ("mirror lan default deny", Mistake::Change("default deny", MIRROR), "delete N"),
        ] {
            assert_eq!(read(line), Err(mistake), "{line}");
            assert!(mistake.to_string().contains(part), "{line}: {mistake}");
        }
    }

    #[test]
    fn the_longest_line_is_kept_whole() {
        let rest = "x".repeat(LINE_BYTES - "port web ".len());
        assert_eq!(read(&format!("port web {rest}")), Ok(Command::Port(0, None, words(&rest))));
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "((rule|mirror|port|ports|rules|networks)[ ]+)?([a-z0-9.=, -]{0,12} ){0,4}") {
            if let Err(mistake) = read(&line) {
                prop_assert!(!mistake.to_string().is_empty());
            }
        }
    }
}
