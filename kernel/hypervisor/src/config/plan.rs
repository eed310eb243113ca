//! All modules' lines together: which VMs there are to be.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt::Write as _;

use arrayvec::ArrayVec;
use loader::BootModule;
use virtio::block::SECTOR;

use super::line::{Kind, Settings, parse_line};
use super::{
    ConfigError, Disk, Fault, MAX_DISKS, MAX_FILES, MAX_MODULES, MAX_VMS, Module, Name, NamedFile, VmConfig,
};
use super::{MAX_PORTS, name};
use crate::channel::PORTS;

/// Bytes that firmware may have.
pub(super) const ROM_BYTES: core::ops::RangeInclusive<u64> = 64 << 10..=8 << 20;

/// A VM, or several of a kind, while the modules are being collected.
struct Draft<'a> {
    name: &'a str,
    /// The line of its kernel, or else its first one.
    line: &'a str,
    kernel: Option<(&'a [u8], Settings, &'a str)>,
    initrd: Option<&'a [u8]>,
    modules: ArrayVec<BootModule<'a>, MAX_MODULES>,
    files: ArrayVec<NamedFile<'a>, MAX_FILES>,
    disks: ArrayVec<Disk<'a>, MAX_DISKS>,
    broken: Cell<bool>,
}

/// The VMs that there are to be.
#[derive(Default)]
pub struct Plan<'a> {
    drafts: Vec<Draft<'a>>,
}

/// All VMs that the modules describe, in order of their first module; `report` hears of every wrong line.
pub fn collect<'a>(modules: &[Module<'a>], mut report: impl FnMut(ConfigError<'a>)) -> Plan<'a> {
    let mut drafts = Vec::new();
    for module in modules {
        let line = module.line.trim_ascii();
        let (name, kind) = parse_line(line);
        let Some(name) = name else {
            if let Err(fault) = kind {
                report(ConfigError { line, fault });
            }
            continue;
        };
        let added = draft_of(&mut drafts, name, line).and_then(|draft| draft.add(kind, line, module.bytes));
        if let Err(fault) = added {
            report(ConfigError { line, fault });
        }
    }
    let mut vms = 0;
    for draft in drafts.iter().filter(|draft| !draft.broken.get()) {
        match draft.check(&drafts, MAX_VMS - vms) {
            Ok(count) => vms += count,
            Err(fault) => {
                draft.broken.set(true);
                report(ConfigError { line: draft.line, fault });
            }
        }
    }
    drafts.retain(|draft| !draft.broken.get());
    Plan { drafts }
}

impl<'a> Plan<'a> {
    /// How many VMs there are to be.
    pub fn vms(&self) -> usize {
        self.kinds().map(|settings| settings.count.unwrap_or(1)).sum()
    }

    /// How many vCPUs they have together.
    pub fn vcpus(&self) -> usize {
        self.kinds().map(|settings| settings.count.unwrap_or(1) * settings.cpus).sum()
    }

    /// Whether one of them is the management domain, which makes others.
    pub fn has_domain(&self) -> bool {
        self.drafts.iter().any(Draft::drives)
    }

    fn kinds(&self) -> impl Iterator<Item = &Settings> {
        self.drafts.iter().filter_map(|draft| draft.kernel.as_ref().map(|(_, settings, _)| settings))
    }

    /// The VMs, in their order: `each(name, config)`. Those of a kind share their description.
    pub fn each(self, mut each: impl FnMut(Name, &Arc<VmConfig<'a>>)) {
        for draft in self.drafts {
            let (name, count) = (draft.name, draft.count());
            let Some(config) = draft.config().map(Arc::new) else { continue };
            for number in 1..=count.unwrap_or(1) {
                each(if count.is_some() { numbered(name, number) } else { super::name(name) }, &config);
            }
        }
    }
}

/// The management domain has ports to the kernel, before all others.
fn with_channel(mut ports: ArrayVec<Name, MAX_PORTS>, hardware: bool) -> ArrayVec<Name, MAX_PORTS> {
    if hardware {
        ports.truncate(MAX_PORTS - PORTS.len());
        PORTS.iter().rev().for_each(|port| ports.insert(0, name(port)));
    }
    ports
}

/// Whether a ROM can have so many bytes: whole pages, at least those below 1 MiB.
pub(super) fn is_rom(bytes: u64) -> bool {
    ROM_BYTES.contains(&bytes) && bytes.is_multiple_of(vcpu::PAGE_SIZE)
}

fn draft_of<'a, 'd>(
    drafts: &'d mut Vec<Draft<'a>>,
    name: &'a str,
    line: &'a str,
) -> Result<&'d mut Draft<'a>, Fault<'a>> {
    let at = match drafts.iter().position(|draft| draft.name == name) {
        Some(at) => at,
        None => {
            drafts.try_reserve(1).map_err(|_| Fault::NoMemory)?;
            drafts.push(Draft {
                name,
                line,
                kernel: None,
                initrd: None,
                modules: ArrayVec::new(),
                files: ArrayVec::new(),
                disks: ArrayVec::new(),
                broken: Cell::new(false),
            });
            drafts.len() - 1
        }
    };
    drafts.get_mut(at).ok_or(Fault::NoMemory)
}

impl<'a> Draft<'a> {
    fn add(
        &mut self,
        kind: Result<Kind<'a>, Fault<'a>>,
        line: &'a str,
        bytes: &'a [u8],
    ) -> Result<(), Fault<'a>> {
        let too_many = match kind {
            Err(fault) => Some(fault),
            Ok(Kind::Kernel { settings, .. }) if settings.firmware && !is_rom(bytes.len() as u64) => {
                Some(Fault::BadRom(bytes.len()))
            }
            Ok(Kind::Kernel { settings, command_line }) => {
                self.line = line;
                self.kernel.replace((bytes, settings, command_line)).map(|_| Fault::Twice("kernel"))
            }
            Ok(Kind::Initrd) => self.initrd.replace(bytes).map(|_| Fault::Twice("initrd")),
            Ok(Kind::Module { command_line }) => {
                let module = BootModule { bytes, command_line: command_line.as_bytes() };
                self.modules.try_push(module).err().map(|_| Fault::ManyModules)
            }
            Ok(Kind::File { name }) => {
                self.files.try_push(NamedFile { name, bytes }).err().map(|_| Fault::ManyFiles)
            }
            Ok(Kind::Disk { .. }) if (bytes.len() as u64) < SECTOR => Some(Fault::SmallDisk),
            Ok(Kind::Disk { read_only, serial }) => {
                let disk = Disk { bytes, size: bytes.len() as u64, read_only, serial, served: false };
                self.disks.try_push(disk).err().map(|_| Fault::ManyDisks)
            }
        };
        match too_many {
            None => Ok(()),
            Some(fault) => {
                self.broken.set(true);
                Err(fault)
            }
        }
    }

    /// Whether it has the machine's own devices.
    fn drives(&self) -> bool {
        self.kernel.as_ref().is_some_and(|(_, settings, _)| settings.hardware)
    }

    /// How many VMs its line asks for, by `count=`.
    fn count(&self) -> Option<usize> {
        self.kernel.as_ref().and_then(|(_, settings, _)| settings.count)
    }

    /// What is wrong with it beside the others, where there may be so many VMs more; else how many it is.
    fn check(&self, all: &[Self], most: usize) -> Result<usize, Fault<'a>> {
        if self.kernel.is_none() {
            return Err(Fault::NoKernel(self.name));
        }
        let mut drivers = all.iter().filter(|other| other.drives());
        if self.drives()
            && let Some(first) = drivers.next()
            && first.name != self.name
        {
            return Err(Fault::HardwareTaken(first.name));
        }
        let count = self.count();
        if count.is_none()
            && let Some(taken) = all.iter().find(|other| other.makes(self.name))
        {
            return Err(Fault::NameTaken(taken.name));
        }
        let count = count.unwrap_or(1);
        if count > most { Err(Fault::TooMany) } else { Ok(count) }
    }

    /// Whether one of the VMs that its `count=` makes has this name.
    fn makes(&self, name: &str) -> bool {
        let number = name.strip_prefix(self.name).and_then(|rest| rest.strip_prefix('-'));
        let number =
            number.filter(|digits| digits.starts_with(|first: char| first.is_ascii_digit() && first != '0'));
        let number = number.and_then(|digits| digits.parse().ok());
        number.zip(self.count()).is_some_and(|(number, count): (usize, usize)| number <= count)
    }

    fn config(self) -> Option<VmConfig<'a>> {
        let (kernel, settings, command_line) = self.kernel?;
        Some(VmConfig {
            name: super::name(self.name),
            cpus: settings.cpus,
            memory: settings.memory,
            kernel,
            firmware: settings.firmware.then_some(kernel.len() as u64),
            held: false,
            hardware: settings.hardware,
            protocol: settings.protocol,
            command_line,
            initrd: self.initrd,
            modules: self.modules,
            files: self.files,
            disks: self.disks,
            nics: settings.nics,
            ports: with_channel(settings.ports, settings.hardware),
            rng: settings.rng,
            balloon: settings.balloon && !settings.hardware,
            devices: settings.devices,
            share: settings.share,
            restart: settings.restart,
            starts: settings.starts,
            paravirtual: settings.paravirtual,
            tsc_khz: settings.tsc_khz,
        })
    }
}

/// A name with a number.
fn numbered(name: &str, number: usize) -> Name {
    let mut text = Name::new();
    // There is room: see `Settings::check_count`.
    let _ = write!(text, "{name}-{number}");
    text
}
