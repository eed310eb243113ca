//! Reads one module's line.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use devices::fw_cfg::MAX_FILE_NAME;
use loader::Protocol;
use virtio::block::SERIAL_BYTES;

use super::nic::{self, Nic};
use super::share::{self, Restart, Share};
use super::{
    DEFAULT_MEMORY, DeviceOptions, Fault, MAX_CPUS, MAX_MEMORY, MAX_NAME, MAX_PORTS, MAX_VMS, MIN_MEMORY,
    Name, TSC_KHZ, parse_size,
};
use crate::paravirtual::Features;

/// What a kernel's line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Settings {
    /// How many VMs of this kind, where it says so.
    pub(super) count: Option<usize>,
    pub(super) cpus: usize,
    pub(super) memory: u64,
    pub(super) protocol: Option<Protocol>,
    pub(super) firmware: bool,
    /// It has the machine's own devices.
    pub(super) hardware: bool,
    pub(super) nics: Vec<Nic>,
    pub(super) ports: ArrayVec<Name, MAX_PORTS>,
    /// It has an entropy device.
    pub(super) rng: bool,
    /// It has a balloon.
    pub(super) balloon: bool,
    pub(super) devices: DeviceOptions,
    pub(super) share: Share,
    pub(super) restart: Restart,
    /// Whether it starts with the machine.
    pub(super) starts: bool,
    pub(super) paravirtual: Features,
    pub(super) tsc_khz: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            count: None,
            cpus: 1,
            memory: DEFAULT_MEMORY,
            protocol: None,
            firmware: false,
            hardware: false,
            nics: Vec::new(),
            ports: ArrayVec::new(),
            rng: true,
            balloon: true,
            devices: DeviceOptions::default(),
            share: Share::default(),
            restart: Restart::No,
            starts: true,
            paravirtual: Features::all(),
            tsc_khz: None,
        }
    }
}

impl Settings {
    /// Whether there can be several of such VMs, where it says so.
    fn check_count<'a>(&self, name: &'a str) -> Result<(), Fault<'a>> {
        let Some(count) = self.count else { return Ok(()) };
        let most = MAX_NAME - 2 - count.ilog10() as usize;
        if name.len() > most {
            return Err(Fault::LongName(name, most));
        }
        if count > 1 && self.nics.iter().any(|nic| nic.mac.is_some()) {
            return Err(Fault::ForOne("mac="));
        }
        if self.hardware {
            return Err(Fault::ForOne("hardware"));
        }
        if count > 1 && !self.ports.is_empty() {
            return Err(Fault::ForOne("port="));
        }
        Ok(())
    }
}

impl Settings {
    /// Whether it can have the machine's devices with what else is said.
    fn check_hardware(&self) -> Result<(), Fault<'static>> {
        let refused = [
            (self.firmware, "protocol=firmware"),
            (self.protocol.is_some_and(|protocol| protocol != Protocol::Linux), "protocol="),
            (self.devices.vga_text, "vga=text"),
            (self.devices.fw_cfg, "fwcfg"),
            (self.devices.debug_console, "e9"),
            (self.tsc_khz.is_some(), "tsc-khz="),
        ];
        match refused.into_iter().find(|(is, _)| self.hardware && *is) {
            Some((_, word)) => Err(Fault::NotWithHardware(word)),
            None => Ok(()),
        }
    }
}

/// What one module is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "one line at a time is read")]
pub(super) enum Kind<'a> {
    Kernel { settings: Settings, command_line: &'a str },
    Initrd,
    Module { command_line: &'a str },
    File { name: &'a str },
    Disk { read_only: bool, serial: &'a str },
}

/// The words that say what a module is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role<'a> {
    Kernel,
    Initrd,
    Module,
    File(&'a str),
    Disk,
}

/// Reads one line. The name is told even where the rest is wrong, so that its VM does not start half.
pub(super) fn parse_line(line: &str) -> (Option<&str>, Result<Kind<'_>, Fault<'_>>) {
    let (head, command_line) = split_command_line(line);
    let mut words = head.split_ascii_whitespace();
    let Some(name) = words.next().and_then(|word| word.strip_prefix("vm=")) else {
        return (None, Err(Fault::NoVm));
    };
    if !is_name(name) {
        return (None, Err(Fault::BadName(name)));
    }
    let kind = parse_settings(words, command_line);
    let kind = kind.and_then(|kind| match &kind {
        Kind::Kernel { settings, .. } => {
            settings.check_count(name).and_then(|()| settings.check_hardware()).map(|()| kind)
        }
        _ => Ok(kind),
    });
    (Some(name), kind)
}

fn parse_settings<'a>(
    words: impl Iterator<Item = &'a str>,
    command_line: Option<&'a str>,
) -> Result<Kind<'a>, Fault<'a>> {
    let mut role = None;
    let mut settings = Settings::default();
    let (mut kernel_only, mut disk_only) = (None, None);
    let (mut read_only, mut serial) = (false, "");
    for word in words {
        let named = match word {
            "kernel" => Some(Role::Kernel),
            "initrd" => Some(Role::Initrd),
            "module" => Some(Role::Module),
            "disk" => Some(Role::Disk),
            _ => word.strip_prefix("fwcfg=").map(Role::File),
        };
        if named.is_some() {
            if role.is_some() {
                return Err(Fault::NoKind);
            }
            role = named;
            continue;
        }
        if word == "readonly" || word.starts_with("serial=") {
            match word.strip_prefix("serial=") {
                Some(text) if is_serial(text) => serial = text,
                Some(text) => return Err(Fault::BadSerial(text)),
                None => read_only = true,
            }
            disk_only = Some(word);
            continue;
        }
        parse_setting(word, &mut settings)?;
        kernel_only = Some(word);
    }
    let text = command_line.unwrap_or_default();
    if let Some(word) = disk_only.filter(|_| role.is_some_and(|role| role != Role::Disk)) {
        return Err(Fault::OnlyForDisk(word));
    }
    match (role, kernel_only) {
        (Some(Role::Kernel), _) => Ok(Kind::Kernel { settings, command_line: text }),
        (None, _) => Err(Fault::NoKind),
        (_, Some(word)) => Err(Fault::OnlyForKernel(word)),
        (Some(Role::Initrd | Role::File(_) | Role::Disk), None) if command_line.is_some() => {
            Err(Fault::OnlyForKernel("--"))
        }
        (Some(Role::Initrd), None) => Ok(Kind::Initrd),
        (Some(Role::Disk), None) => Ok(Kind::Disk { read_only, serial }),
        (Some(Role::Module), None) => Ok(Kind::Module { command_line: text }),
        (Some(Role::File(name)), None) if is_file_name(name) => Ok(Kind::File { name }),
        (Some(Role::File(name)), None) => Err(Fault::BadFile(name)),
    }
}

/// Reads a word of a kernel's line.
fn parse_setting<'a>(word: &'a str, settings: &mut Settings) -> Result<(), Fault<'a>> {
    if let Some(read) = share::parse(word, &mut settings.share) {
        return read;
    }
    if let Some(read) = nic::parse(word, &mut settings.nics) {
        return read.map_err(Fault::Nic);
    }
    match word.split_once('=') {
        Some(("count", value)) => {
            settings.count = Some(parse_number(value, MAX_VMS).ok_or(Fault::BadCount(value))?);
        }
        Some(("cpus", value)) => {
            settings.cpus = parse_number(value, MAX_CPUS).ok_or(Fault::BadCpus(value))?;
        }
        Some(("memory", value)) => settings.memory = parse_memory(value)?,
        Some(("protocol", "firmware")) => settings.firmware = true,
        Some(("protocol", value)) => settings.protocol = Some(parse_protocol(value)?),
        Some(("debug-exit", value)) => settings.devices.debug_exit = Some(parse_port(value)?),
        Some(("restart", value)) => settings.restart = share::parse_restart(value)?,
        Some(("start", "yes")) => settings.starts = true,
        Some(("start", "no")) => settings.starts = false,
        Some(("paravirtual", value)) => {
            settings.paravirtual = Features::parse(value).ok_or(Fault::BadParavirtual(value))?;
        }
        Some(("tsc-khz", value)) => {
            let khz = value.parse().ok().filter(|khz| TSC_KHZ.contains(khz));
            settings.tsc_khz = Some(khz.ok_or(Fault::BadTsc(value))?);
        }
        Some(("console", "virtio")) => settings.devices.virtio_console = true,
        Some(("console", "serial")) => settings.devices.virtio_console = false,
        Some(("port", name)) if !is_name(name) => return Err(Fault::BadPortName(name)),
        Some(("port", name)) => settings.ports.try_push(super::name(name)).map_err(|_| Fault::ManyPorts)?,
        Some(("rng", "yes")) => settings.rng = true,
        Some(("rng", "no")) => settings.rng = false,
        Some(("balloon", "yes")) => settings.balloon = true,
        Some(("balloon", "no")) => settings.balloon = false,
        Some(("vga", "text")) => settings.devices.vga_text = true,
        None if word == "hardware" => settings.hardware = true,
        None if word == "fwcfg" => settings.devices.fw_cfg = true,
        None if word == "e9" => settings.devices.debug_console = true,
        _ => return Err(Fault::UnknownWord(word)),
    }
    Ok(())
}

/// Bytes of memory of the VM that has the machine's own devices, where one of the modules' lines describes such a one. To be known before there is
/// memory for anything.
pub fn hardware_memory<'a>(lines: impl Iterator<Item = &'a str>) -> Option<u64> {
    let words = |line: &'a str| split_command_line(line).0.split_ascii_whitespace();
    let line = lines.into_iter().find(|line| words(line).any(|word| word == "hardware"))?;
    let stated = words(line).find_map(|word| word.strip_prefix("memory="));
    Some(stated.and_then(|value| parse_memory(value).ok()).unwrap_or(DEFAULT_MEMORY))
}

/// Splits a line at its first word `--`.
fn split_command_line(line: &str) -> (&str, Option<&str>) {
    let bytes = line.as_bytes();
    for (start, _) in bytes.windows(2).enumerate().filter(|(_, pair)| pair == b"--") {
        let end = start + 2;
        let alone_before = start == 0 || bytes.get(start - 1).is_some_and(u8::is_ascii_whitespace);
        let alone_after = bytes.get(end).is_none_or(u8::is_ascii_whitespace);
        if alone_before && alone_after {
            return (
                line.get(..start).unwrap_or_default(),
                Some(line.get(end..).unwrap_or_default().trim_ascii()),
            );
        }
    }
    (line, None)
}

pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

fn parse_number(value: &str, most: usize) -> Option<usize> {
    value.parse().ok().filter(|number| (1..=most).contains(number))
}

fn is_file_name(name: &str) -> bool {
    (1..=MAX_FILE_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_serial(text: &str) -> bool {
    (1..=SERIAL_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A port's number, in hexadecimal as ports are known.
fn parse_port(value: &str) -> Result<u16, Fault<'_>> {
    let digits = value.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
    digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()).ok_or(Fault::BadPort(value))
}

fn parse_protocol(value: &str) -> Result<Protocol, Fault<'_>> {
    match value {
        "linux" => Ok(Protocol::Linux),
        "pvh" => Ok(Protocol::Pvh),
        "multiboot" => Ok(Protocol::Multiboot),
        _ => Err(Fault::BadProtocol(value)),
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
