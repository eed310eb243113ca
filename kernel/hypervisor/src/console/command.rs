//! What a user types at the prompt, as a command.

use core::fmt;

use super::network::{self, Change, Name, View, Words};
use crate::config::parse_size;
use crate::cpu_list::parse_cpus;
use crate::schedule::{Cpu, CpuSet, MAX_PERCENT, MAX_POOLS, MAX_WEIGHT, Pool};

/// Longest line at the prompt.
pub const LINE_BYTES: usize = 200;

/// What a typed key or line asks of the hypervisor. VMs are their numbers in the list, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// List the VMs, by [`Console::voice`](super::Console::voice).
    List,
    /// Show this VM's console. The console itself does it.
    Console(usize),
    /// List the commands.
    Help,
    /// List the CPUs.
    Cpus,
    /// Tell how much memory is free.
    Memory,
    /// Stop everything.
    End,
    /// Start this VM.
    Start(usize),
    /// Stop it.
    Stop(usize),
    /// Restart it.
    Reset(usize),
    /// Let it stand still.
    Pause(usize),
    /// Let it go on.
    Resume(usize),
    /// Say that its virtio console's window has so many columns and rows.
    Size(usize, u16, u16),
    /// Let it have so many bytes of its memory, by its balloon.
    Balloon(usize, u64),
    /// Tell what it has of its memory, and what it says of it.
    Usage(usize),
    /// Tell its vCPUs' registers.
    Dump(usize),
    /// Change its weight.
    Weight(usize, u32),
    /// Change its cap, in percent of a CPU; 0 lifts it.
    Cap(usize, u32),
    /// Change its reservation, in percent of a CPU.
    Reservation(usize, u32),
    /// Change where its vCPUs may run, or where one of them may.
    Pin(usize, Option<u8>, CpuSet),
    /// Put it in that pool.
    Pool(usize, Pool),
    /// Put that CPU in that pool.
    PoolCpu(Cpu, Pool),
    /// List the networks.
    Networks,
    /// Tell something of the network of that name.
    Network(Name, View),
    /// Change the port of a VM's network device by these words; of its only one, where no number is given.
    Port(usize, Option<u8>, Words),
    /// Change the rules of that network.
    Rule(Name, Change),
    /// Change its mirrors.
    Mirror(Name, Change),
}

/// What ends the form of a command that takes more words.
const MORE: &str = "...";

/// The words that begin a command, what follows, and what it does.
const WORDS: [(&str, &str, &str); 31] = [
    ("list", "", "the VMs: state, vCPUs, memory, exits a second, CPU time, steal"),
    ("console", "VM", "show its console, and let it have what is typed"),
    ("cpus", "", "the CPUs: pool, idle time, vCPUs"),
    ("memory", "", "how much is free"),
    ("start", "VM", "start a VM that has ended or was not started"),
    ("stop", "VM", "stop it at once, as by pulling the plug"),
    ("reset", "VM", "restart it at once"),
    ("pause", "VM", "let it stand still; its clocks go on"),
    ("resume", "VM", "let it go on after a pause"),
    ("dump", "VM", "its vCPUs' registers, in the kernel's log"),
    ("size", "VM COLSxROWS", "the size of your terminal, for its virtio console"),
    ("balloon", "VM SIZE", "how much of its memory it is to keep, such as 128M; its balloon takes the rest"),
    ("usage", "VM", "what it has of its memory, and what its balloon's driver says"),
    ("weight", "VM N", "its part of what VMs compete for; 100 is usual"),
    ("cap", "VM PERCENT", "the most it may have, in percent of one CPU; 0 for no cap"),
    ("reservation", "VM PERCENT", "what it has before others share, in percent of one CPU"),
    ("pin", "VM[.VCPU] CPUS", "the CPUs for its vCPUs, such as 0-1,3, or all"),
    ("pool", "VM N", "the pool whose CPUs it uses"),
    ("pool-cpu", "CPU N", "put a CPU in a pool"),
    ("networks", "", "the networks: ports, addresses, rules, what was denied"),
    ("ports", "NETWORK", "its ports: settings, link, traffic, frames lost and why"),
    ("port", network::PORT, "change the port of its device N: vlan=7, link=down, outbound=100M and others"),
    ("addresses", "NETWORK", "which addresses are behind which port"),
    ("rules", "NETWORK", "what may pass, and how much has"),
    ("rule", "NETWORK CHANGE...", "such as add deny from=web port=22, delete N, or default deny"),
    ("mirrors", "NETWORK", "who gets copies of what"),
    ("flows", "NETWORK", "the conversations that go on"),
    ("records", "NETWORK", "what has passed since this was last asked for"),
    ("mirror", "NETWORK CHANGE...", "such as add both=web to=probe, or delete N"),
    ("help", "", "this list"),
    ("power-off", "", "stop all VMs and power the machine off"),
];

/// A line that is no command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mistake<'a> {
    /// No command begins so, or several.
    Word(&'a str),
    /// What the command's line is to be.
    Form(&'static str, &'static str),
    /// There is no such VM.
    Vm(&'a str),
    /// Not a number in this range.
    Number(&'a str, u32, u32),
    /// Not a list of CPUs.
    Cpus(&'a str),
    /// Not a name of a network.
    Network(&'a str),
    /// No change of the rules, or of the mirrors.
    Change(&'a str, &'static str),
    /// Not the size of a window.
    Size(&'a str),
    /// Not an amount of memory.
    Memory(&'a str),
}

impl fmt::Display for Mistake<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "'{word}' is no command; help lists them"),
            Self::Form(word, form) => write!(f, "write: {word} {form}"),
            Self::Vm(name) => write!(f, "there is no VM '{name}'; list tells their names and numbers"),
            Self::Number(text, least, most) => {
                write!(f, "'{text}' is no number from {least} to {most}")
            }
            Self::Size(text) => write!(f, "'{text}' is no size of a window; write one such as 132x43"),
            Self::Memory(text) => write!(f, "'{text}' is no amount of memory; write one such as 128M"),
            Self::Cpus(text) => write!(f, "'{text}' is no list of CPUs; write one such as 0-1,3, or all"),
            Self::Network(text) => write!(f, "'{text}' is no name of a network; networks lists them"),
            Self::Change("", form) => write!(f, "what is to be changed? Write {form}"),
            Self::Change(text, form) => write!(f, "'{text}' is no change; write {form}"),
        }
    }
}

/// A line of the help for the prompt.
pub struct Help(&'static str, &'static str, &'static str);

impl fmt::Display for Help {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(word, form, text) = self;
        write!(f, "{word:>11} {form:<17}  {text}")
    }
}

/// The help's lines, and what stands below them.
pub fn help() -> (impl Iterator<Item = Help>, &'static str) {
    let lines = WORDS.into_iter().map(|(word, form, text)| Help(word, form, text));
    (lines, "A VM is its name or its number. Words may be cut short. An empty line leaves the prompt.")
}

/// Reads a line; `names` are the VMs'.
pub(super) fn parse<'a, 'n>(
    line: &'a str,
    names: impl Iterator<Item = &'n str> + Clone,
) -> Result<Command, Mistake<'a>> {
    let mut words = line.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let (word, form) = full_word(first).ok_or(Mistake::Word(first))?;
    let (one, two, rest) = (words.next(), words.next(), words.next());
    let given = one.iter().chain(&two).chain(&rest).count();
    // Where there may be more, who reads them says whether they are enough.
    let fits = if form.ends_with(MORE) { given > 0 } else { given == form.split_ascii_whitespace().count() };
    if !fits {
        return Err(Mistake::Form(word, form));
    }
    let (one, two) = (one.unwrap_or_default(), two.unwrap_or_default());
    let vm = || find(one, names.clone()).ok_or(Mistake::Vm(one));
    let pool = || number(two, 0, MAX_POOLS as u32 - 1).map(|pool| Pool(pool as u8));
    Ok(match word {
        "list" => Command::List,
        "console" => Command::Console(vm()?),
        "cpus" => Command::Cpus,
        "memory" => Command::Memory,
        "power-off" => Command::End,
        "start" => Command::Start(vm()?),
        "stop" => Command::Stop(vm()?),
        "reset" => Command::Reset(vm()?),
        "pause" => Command::Pause(vm()?),
        "resume" => Command::Resume(vm()?),
        "dump" => Command::Dump(vm()?),
        "size" => {
            let (columns, rows) = size(two).ok_or(Mistake::Size(two))?;
            Command::Size(vm()?, columns, rows)
        }
        "balloon" => Command::Balloon(vm()?, parse_size(two).ok_or(Mistake::Memory(two))?),
        "usage" => Command::Usage(vm()?),
        "weight" => Command::Weight(vm()?, number(two, 1, MAX_WEIGHT)?),
        "cap" => Command::Cap(vm()?, number(two, 0, MAX_PERCENT)?),
        "reservation" => Command::Reservation(vm()?, number(two, 0, MAX_PERCENT)?),
        "pool" => Command::Pool(vm()?, pool()?),
        "pool-cpu" => Command::PoolCpu(Cpu(number(one, 0, u8::MAX.into())? as u8), pool()?),
        "pin" => pin(one, two, names)?,
        "help" => Command::Help,
        _ => network::parse(word, line, names)?,
    })
}

fn pin<'a, 'n>(
    who: &'a str,
    cpus: &'a str,
    names: impl Iterator<Item = &'n str> + Clone,
) -> Result<Command, Mistake<'a>> {
    let set = if cpus == "all" { Some(CpuSet::ALL) } else { parse_cpus(cpus) };
    let set = set.ok_or(Mistake::Cpus(cpus))?;
    let (name, vcpu) = match who.split_once('.') {
        Some((name, vcpu)) => (name, Some(number(vcpu, 0, crate::config::MAX_CPUS as u32 - 1)? as u8)),
        None => (who, None),
    };
    Ok(Command::Pin(find(name, names).ok_or(Mistake::Vm(name))?, vcpu, set))
}

/// The command that a word begins, if it is one only.
fn full_word(typed: &str) -> Option<(&'static str, &'static str)> {
    let exact = WORDS.iter().find(|(word, ..)| *word == typed);
    let mut begun = WORDS.iter().filter(|(word, ..)| !typed.is_empty() && word.starts_with(typed));
    let (only, other) = (begun.next(), begun.next());
    let (word, form, _) = exact.or(only.filter(|_| other.is_none()))?;
    Some((word, form))
}

/// A VM's number, by its name or by what stands before it in the list.
pub(super) fn find<'n>(name: &str, mut names: impl Iterator<Item = &'n str> + Clone) -> Option<usize> {
    let mut by_number = names.clone();
    let by_name = names.position(|other| other == name && !other.is_empty());
    by_name.or_else(|| {
        let at = name.parse().ok().and_then(|number: usize| number.checked_sub(1))?;
        // Where there is no name, there is no VM.
        by_number.nth(at).filter(|name| !name.is_empty()).map(|_| at)
    })
}

fn size(text: &str) -> Option<(u16, u16)> {
    let (columns, rows) = text.split_once('x')?;
    let read = |text: &str| number(text, 1, u16::MAX.into()).ok().map(|number| number as u16);
    Some((read(columns)?, read(rows)?))
}

pub(super) fn number(text: &str, least: u32, most: u32) -> Result<u32, Mistake<'_>> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let read = text.parse().ok().filter(|number| digits && (least..=most).contains(number));
    read.ok_or(Mistake::Number(text, least, most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn read(line: &str) -> Result<Command, Mistake<'_>> {
        parse(line, ["web", "db", "1x"].into_iter())
    }

    #[test]
    fn commands_are_read() {
        for (line, command) in [
            ("list", Command::List),
            ("l", Command::List),
            (" stop  db ", Command::Stop(1)),
            ("sto 2", Command::Stop(1)),
            ("start 1x", Command::Start(2)),
            ("console 1x", Command::Console(2)),
            ("co db", Command::Console(1)),
            ("reset web", Command::Reset(0)),
            ("dump 3", Command::Dump(2)),
            ("pause db", Command::Pause(1)),
            ("resume db", Command::Resume(1)),
            ("weight web 300", Command::Weight(0, 300)),
            ("size db 132x43", Command::Size(1, 132, 43)),
            ("balloon web 128M", Command::Balloon(0, 128 << 20)),
            ("usage db", Command::Usage(1)),
            ("cap db 0", Command::Cap(1, 0)),
            ("reservation db 25", Command::Reservation(1, 25)),
            ("pin web 0-1,3", Command::Pin(0, None, CpuSet::from_bits(0b1011))),
            ("pin web.3 all", Command::Pin(0, Some(3), CpuSet::ALL)),
            ("pool web 2", Command::Pool(0, Pool(2))),
            ("pool-cpu 3 2", Command::PoolCpu(Cpu(3), Pool(2))),
            ("power-off", Command::End),
            ("networks", Command::Networks),
            ("rules lan", Command::Network(Name::from("lan").unwrap(), View::Rules)),
        ] {
            assert_eq!(read(line), Ok(command), "{line}");
        }
        assert_eq!(read("help"), Ok(Command::Help));
    }

    #[test]
    fn mistakes_are_named_with_the_way_out() {
        for (line, mistake) in [
            ("", Mistake::Word("")),
            ("x", Mistake::Word("x")),
            ("st web", Mistake::Word("st")),
            ("stop", Mistake::Form("stop", "VM")),
            ("list web", Mistake::Form("list", "")),
            ("weight web", Mistake::Form("weight", "VM N")),
            ("weight web 1 2", Mistake::Form("weight", "VM N")),
            ("stop 4", Mistake::Vm("4")),
            ("stop 0", Mistake::Vm("0")),
            ("weight web 0", Mistake::Number("0", 1, MAX_WEIGHT)),
            ("cap web +1", Mistake::Number("+1", 0, MAX_PERCENT)),
            ("balloon web much", Mistake::Memory("much")),
            ("pin web 3-1", Mistake::Cpus("3-1")),
            ("pin web.x 1", Mistake::Number("x", 0, 63)),
            ("pin web. 1", Mistake::Number("", 0, 63)),
        ] {
            assert_eq!(read(line), Err(mistake), "{line}");
            assert!(mistake.to_string().len() > 10);
        }
        for (word, ..) in WORDS {
            assert!(help().0.any(|line| line.to_string().contains(word)) && full_word(word).is_some());
        }
    }
}
