//! Which VMs there are: read from the boot modules' command lines.
//!
//! ```text
//! vm=NAME [cpus=N] [memory=SIZE] kernel -- COMMAND LINE OF THE GUEST'S KERNEL
//! vm=NAME initrd
//! ```
//!
//! Modules come in any order. A line that is wrong costs its VM, with an error that names the line, the culprit
//! and what to write instead; the other VMs start. Not its job: what is in the modules ([`loader`]).

mod options;
mod size;
#[cfg(test)]
mod tests;

use core::fmt;

use arrayvec::ArrayVec;

pub use options::{End, FirstView, Options};
pub use size::{Size, parse_size};

/// VMs at most: the consoles are chosen with one digit.
pub const MAX_VMS: usize = 9;
/// Longest name of a VM.
pub const MAX_NAME: usize = 31;
/// Least memory of a VM, in bytes: below it no kernel that we can load starts.
pub const MIN_MEMORY: u64 = 16 << 20;
/// Most memory of a VM, in bytes.
pub const MAX_MEMORY: u64 = 1 << 40;
/// Memory of a VM that says nothing, in bytes.
pub const DEFAULT_MEMORY: u64 = 256 << 20;

/// A boot module: a file in memory with its command line.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// The command line, without the file's name.
    pub line: &'a str,
    /// The file.
    pub bytes: &'a [u8],
}

/// A VM as the modules describe it.
#[derive(Clone, Copy, Debug)]
pub struct VmConfig<'a> {
    /// Its name, `[a-z0-9-]`, 1 to 31 characters.
    pub name: &'a str,
    /// Bytes of memory.
    pub memory: u64,
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The initial file system's file.
    pub initrd: Option<&'a [u8]>,
}

/// What is wrong with a module's line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault<'a> {
    /// It does not begin with `vm=`.
    NoVm,
    /// The name is not one.
    BadName(&'a str),
    /// A word that has no meaning.
    UnknownWord(&'a str),
    /// Neither `kernel` nor `initrd`, or both.
    NoKind,
    /// A word that only a kernel's line may have.
    OnlyForKernel(&'a str),
    /// The number of CPUs is not a number from 1 to 64.
    BadCpus(&'a str),
    /// More than one CPU.
    ManyCpus(u32),
    /// The memory is not a size.
    BadMemory(&'a str),
    /// The memory is too little or too much.
    MemoryRange(u64),
    /// This VM has a module of this kind already.
    Twice(&'static str),
    /// An initrd without a kernel.
    NoKernel(&'a str),
    /// There are too many VMs.
    TooMany,
}

/// A module line that is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigError<'a> {
    /// The whole line.
    pub line: &'a str,
    /// What is wrong with it.
    pub fault: Fault<'a>,
}

impl fmt::Display for ConfigError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "module \"{}\": ", self.line)?;
        match self.fault {
            Fault::NoVm => f.write_str(
                "does not begin with vm=NAME; write 'vm=NAME kernel -- COMMAND LINE' or 'vm=NAME initrd'",
            ),
            Fault::BadName(name) => write!(
                f,
                "'{name}' is no name; write 1 to {MAX_NAME} of the characters a-z, 0-9 and '-' after vm="
            ),
            Fault::UnknownWord(word) => write!(
                f,
                "'{word}' is unknown; write cpus=N, memory=SIZE, kernel or initrd, and the guest's own words after ' -- '"
            ),
            Fault::NoKind => {
                f.write_str("says not what it is; write either 'kernel' or 'initrd' after the settings")
            }
            Fault::OnlyForKernel(word) => write!(f, "'{word}' has its place in the line of the VM's kernel"),
            Fault::BadCpus(value) => write!(f, "cpus='{value}' is no number of CPUs; write cpus=1"),
            Fault::ManyCpus(count) => {
                write!(f, "cpus={count}: guests with more than one CPU are not supported yet; write cpus=1")
            }
            Fault::BadMemory(value) => {
                write!(f, "memory='{value}' is no size; write a number with K, M or G, such as memory=256M")
            }
            Fault::MemoryRange(bytes) => write!(
                f,
                "memory={} is out of range; write from {} to {}",
                Size(bytes),
                Size(MIN_MEMORY),
                Size(MAX_MEMORY)
            ),
            Fault::Twice(kind) => write!(f, "this VM has a second {kind}; give it one, or another name"),
            Fault::NoKernel(name) => {
                write!(f, "VM {name} has no kernel; add a module 'vm={name} kernel -- COMMAND LINE'")
            }
            Fault::TooMany => write!(f, "there are more than {MAX_VMS} VMs; leave some out"),
        }
    }
}

/// What one module is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind<'a> {
    Kernel { memory: u64, command_line: &'a str },
    Initrd,
}

/// Reads one line. The name is told even where the rest is wrong, so that its VM does not start half.
fn parse_line(line: &str) -> (Option<&str>, Result<Kind<'_>, Fault<'_>>) {
    let (head, command_line) = split_command_line(line);
    let mut words = head.split_ascii_whitespace();
    let Some(name) = words.next().and_then(|word| word.strip_prefix("vm=")) else {
        return (None, Err(Fault::NoVm));
    };
    if !is_name(name) {
        return (None, Err(Fault::BadName(name)));
    }
    (Some(name), parse_settings(words, command_line))
}

fn parse_settings<'a>(
    words: impl Iterator<Item = &'a str>,
    command_line: Option<&'a str>,
) -> Result<Kind<'a>, Fault<'a>> {
    let (mut kernel, mut initrd) = (false, false);
    let mut memory = DEFAULT_MEMORY;
    let mut kernel_only = None;
    for word in words {
        match word.split_once('=') {
            None if word == "kernel" => kernel = true,
            None if word == "initrd" => initrd = true,
            Some(("cpus", value)) => {
                parse_cpus(value)?;
                kernel_only = Some(word);
            }
            Some(("memory", value)) => {
                memory = parse_memory(value)?;
                kernel_only = Some(word);
            }
            _ => return Err(Fault::UnknownWord(word)),
        }
    }
    match (kernel, initrd) {
        (true, false) => Ok(Kind::Kernel { memory, command_line: command_line.unwrap_or_default() }),
        (false, true) => match kernel_only.or(command_line.map(|_| "--")) {
            Some(word) => Err(Fault::OnlyForKernel(word)),
            None => Ok(Kind::Initrd),
        },
        _ => Err(Fault::NoKind),
    }
}

/// Splits a line at its first word `--`.
fn split_command_line(line: &str) -> (&str, Option<&str>) {
    let mut from = 0;
    while let Some(found) = line.get(from..).and_then(|rest| rest.find("--")) {
        let (start, end) = (from + found, from + found + 2);
        let bytes = line.as_bytes();
        let alone_before = start == 0 || bytes.get(start - 1).is_some_and(u8::is_ascii_whitespace);
        let alone_after = bytes.get(end).is_none_or(u8::is_ascii_whitespace);
        if alone_before && alone_after {
            return (
                line.get(..start).unwrap_or_default(),
                Some(line.get(end..).unwrap_or_default().trim_ascii()),
            );
        }
        from = start + 1;
    }
    (line, None)
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

fn parse_cpus(value: &str) -> Result<(), Fault<'_>> {
    match value.parse() {
        Ok(1) => Ok(()),
        Ok(count @ 2..=64) => Err(Fault::ManyCpus(count)),
        _ => Err(Fault::BadCpus(value)),
    }
}

fn parse_memory(value: &str) -> Result<u64, Fault<'_>> {
    const PAGE_MASK: u64 = vcpu::PAGE_SIZE - 1;
    let bytes = parse_size(value).ok_or(Fault::BadMemory(value))?;
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&bytes) {
        return Err(Fault::MemoryRange(bytes));
    }
    Ok(bytes & !PAGE_MASK)
}

/// A VM while its modules are being collected.
struct Draft<'a> {
    name: &'a str,
    line: &'a str,
    kernel: Option<(&'a [u8], u64, &'a str)>,
    initrd: Option<&'a [u8]>,
    broken: bool,
}

/// All VMs that the modules describe, in order of their first module; `report` hears of every wrong line.
pub fn collect<'a>(
    modules: &[Module<'a>],
    mut report: impl FnMut(ConfigError<'a>),
) -> ArrayVec<VmConfig<'a>, MAX_VMS> {
    let mut drafts: ArrayVec<Draft<'a>, MAX_VMS> = ArrayVec::new();
    for module in modules {
        let line = module.line.trim_ascii();
        let (name, kind) = parse_line(line);
        let Some(name) = name else {
            if let Err(fault) = kind {
                report(ConfigError { line, fault });
            }
            continue;
        };
        let added = draft_of(&mut drafts, name, line).and_then(|draft| add(draft, kind, module.bytes));
        if let Err(fault) = added {
            report(ConfigError { line, fault });
        }
    }
    let mut vms = ArrayVec::new();
    for draft in &drafts {
        match draft.kernel {
            _ if draft.broken => {}
            None => report(ConfigError { line: draft.line, fault: Fault::NoKernel(draft.name) }),
            Some((kernel, memory, command_line)) => {
                vms.push(VmConfig { name: draft.name, memory, kernel, command_line, initrd: draft.initrd });
            }
        }
    }
    vms
}

fn draft_of<'a, 'd>(
    drafts: &'d mut ArrayVec<Draft<'a>, MAX_VMS>,
    name: &'a str,
    line: &'a str,
) -> Result<&'d mut Draft<'a>, Fault<'a>> {
    let at = match drafts.iter().position(|draft| draft.name == name) {
        Some(at) => at,
        None => {
            let draft = Draft { name, line, kernel: None, initrd: None, broken: false };
            drafts.try_push(draft).map_err(|_| Fault::TooMany)?;
            drafts.len() - 1
        }
    };
    drafts.get_mut(at).ok_or(Fault::TooMany)
}

fn add<'a>(
    draft: &mut Draft<'a>,
    kind: Result<Kind<'a>, Fault<'a>>,
    bytes: &'a [u8],
) -> Result<(), Fault<'a>> {
    let twice = match kind {
        Err(fault) => {
            draft.broken = true;
            return Err(fault);
        }
        Ok(Kind::Kernel { memory, command_line }) => {
            draft.kernel.replace((bytes, memory, command_line)).map(|_| "kernel")
        }
        Ok(Kind::Initrd) => draft.initrd.replace(bytes).map(|_| "initrd"),
    };
    match twice {
        None => Ok(()),
        Some(kind) => {
            draft.broken = true;
            Err(Fault::Twice(kind))
        }
    }
}
