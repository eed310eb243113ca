//! What can be wrong with the modules' lines, in words that name the culprit and the remedy.

use core::fmt;

use devices::fw_cfg::MAX_FILE_NAME;
use virtio::block::{SECTOR, SERIAL_BYTES};

use crate::paravirtual::Features;
use crate::schedule::{MAX_POOLS, MAX_WEIGHT};

use super::nic::NicFault;
use super::{
    MAX_CPUS, MAX_DISKS, MAX_FILES, MAX_MEMORY, MAX_MODULES, MAX_NAME, MAX_PORTS, MAX_VMS, MIN_MEMORY, Size,
    TSC_KHZ,
};

/// The words of a line, for messages.
const KNOWN: &str = "count=N, cpus=N, memory=SIZE, weight=N, cap=PERCENT, reservation=PERCENT, pin=CPUS, pool=N, start=no, restart=always, paravirtual=FEATURES, tsc-khz=N, net=NETWORK with words for that device behind it (mac=ADDRESS, mtu=N, vlan=N, trunk=LIST, inbound=RATE, ip=ADDRESS and more), console=virtio, port=NAME, rng=no, balloon=no, protocol=NAME, fwcfg, e9, debug-exit=PORT, vga=text, kernel, initrd, module, disk or fwcfg=NAME";

/// What is wrong with a module's line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault<'a> {
    /// It does not begin with `vm=`.
    NoVm,
    /// The name is not one.
    BadName(&'a str),
    /// A word that has no meaning.
    UnknownWord(&'a str),
    /// None of the words that say what the module is, or two of them.
    NoKind,
    /// A word that only a kernel's line may have.
    OnlyForKernel(&'a str),
    /// There is no such boot protocol.
    BadProtocol(&'a str),
    /// The number of CPUs is not a number from 1 to 64.
    BadCpus(&'a str),
    /// A word about its share of the CPUs has no such value.
    BadShare(&'a str),
    /// When it restarts cannot be told.
    BadRestart(&'a str),
    /// A paravirtual feature is not known.
    BadParavirtual(&'a str),
    /// The rate of the TSC is no rate.
    BadTsc(&'a str),
    /// The memory is not a size.
    BadMemory(&'a str),
    /// The memory is too little or too much.
    MemoryRange(u64),
    /// This VM has a module of this kind already.
    Twice(&'static str),
    /// The debug-exit port is not a port.
    BadPort(&'a str),
    /// The name of a file for the firmware cannot be one.
    BadFile(&'a str),
    /// There are more files for the firmware than it can be told of.
    ManyFiles,
    /// A word that only a disk's line may have.
    OnlyForDisk(&'a str),
    /// The serial number of a disk cannot be one.
    BadSerial(&'a str),
    /// A network device cannot be as its words say.
    Nic(NicFault<'a>),
    /// No name of a port.
    BadPortName(&'a str),
    /// There are more ports than a VM can have.
    ManyPorts,
    /// A file of so many bytes cannot be firmware.
    BadRom(usize),
    /// A disk of less than one sector.
    SmallDisk,
    /// There are more disks than a VM can have.
    ManyDisks,
    /// There are more modules for the kernel than it can be told of.
    ManyModules,
    /// An initrd without a kernel.
    NoKernel(&'a str),
    /// There are too many VMs.
    TooMany,
    /// The number of VMs of a kind is none.
    BadCount(&'a str),
    /// With the numbers behind it, the name would be longer than a name can be; how long it may be.
    LongName(&'a str, usize),
    /// What only one VM can have is said of several.
    ForOne(&'static str),
    /// The VMs that another line makes by `count=` include one of this name.
    NameTaken(&'a str),
    /// Another VM has the machine's own devices.
    HardwareTaken(&'a str),
    /// A VM with the machine's own devices cannot have this besides.
    NotWithHardware(&'static str),
    /// There is no memory for the description of a VM.
    NoMemory,
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
                "does not begin with vm=NAME; write 'vm=NAME kernel -- COMMAND LINE', 'vm=NAME initrd' or 'vm=NAME module'",
            ),
            Fault::BadName(name) => write!(
                f,
                "'{name}' is no name; write 1 to {MAX_NAME} of the characters a-z, 0-9 and '-' after vm="
            ),
            Fault::UnknownWord(word) => write!(
                f,
                "'{word}' is unknown; write {KNOWN}, and the guest's own words after ' -- '"
            ),
            Fault::NoKind => {
                f.write_str("says not what it is; write one of 'kernel', 'initrd', 'module', 'disk' and 'fwcfg=NAME' after the settings")
            }
            Fault::OnlyForKernel(word) => write!(f, "'{word}' has its place in the line of the VM's kernel"),
            Fault::BadProtocol(value) => write!(
                f,
                "protocol='{value}' is unknown; write protocol=linux, pvh, multiboot or firmware, or leave it out"
            ),
            Fault::BadPort(value) => {
                write!(f, "debug-exit='{value}' is no port; write a hexadecimal number such as debug-exit=0x501")
            }
            Fault::Nic(fault) => fault.fmt(f),
            Fault::BadCpus(value) => {
                write!(f, "cpus='{value}' is no number from 1 to {MAX_CPUS}; write cpus=1")
            }
            Fault::BadShare(word) => write!(
                f,
                "'{word}' is not possible; write weight=1 to {MAX_WEIGHT}, cap= or reservation= in percent of a CPU, pool=0 to {}, or pin= with CPUs such as 0-1,3",
                MAX_POOLS - 1
            ),
            Fault::BadRestart(value) => {
                write!(f, "restart='{value}' is unknown; write restart=no, restart=always or how many times")
            }
            Fault::BadParavirtual(value) => write!(
                f,
                "paravirtual='{value}' is unknown; write all, none, or names of {} with commas between them, with '-' before them for all but those",
                Features::KNOWN
            ),
            Fault::BadTsc(value) => write!(
                f,
                "tsc-khz='{value}' is no rate; write kHz from {} to {}, or leave it out for the host's rate",
                TSC_KHZ.start(),
                TSC_KHZ.end()
            ),
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
            of_a_file => of_a_file.write_of_a_file(f),
        }
    }
}

impl Fault<'_> {
    /// What is wrong with several VMs of a kind.
    fn write_of_many(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCount(value) => {
                write!(f, "count='{value}' is no number from 1 to {MAX_VMS}; write count=2")
            }
            Self::LongName(name, most) => write!(
                f,
                "'{name}' is too long for the numbers that count= puts behind it; write at most {most} characters"
            ),
            Self::ForOne(word) => write!(
                f,
                "'{word}' is for one VM, and count= makes several; leave it out, or give one VM a line without count="
            ),
            Self::NameTaken(name) => {
                write!(f, "count= in the line of vm={name} makes a VM of this name, too; give it another")
            }
            Self::HardwareTaken(name) => {
                write!(f, "the machine's own devices are vm={name}'s; leave out 'hardware' here or there")
            }
            Self::NotWithHardware(word) => {
                write!(f, "a VM with the machine's own devices cannot have '{word}'; leave it out")
            }
            Self::NoMemory => f.write_str("no memory for its description; leave some VMs out"),
            _ => Ok(()),
        }
    }

    /// What is wrong with a file of the VM's beside its kernel, with its ROM, or with a port.
    fn write_of_a_file(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadFile(name) => write!(
                f,
                "'{name}' is no name of a file for the firmware; write 1 to {MAX_FILE_NAME} printable characters, \
                 such as fwcfg=opt/NAME"
            ),
            Self::ManyFiles => too_many(f, MAX_FILES, "files for its firmware"),
            Self::OnlyForDisk(word) => write!(f, "'{word}' has its place in the line of a disk"),
            Self::BadSerial(text) => write!(
                f,
                "'{text}' is no serial number; write 1 to {SERIAL_BYTES} printable characters, such as serial=disk1"
            ),
            Self::BadRom(bytes) => write!(
                f,
                "a file of {bytes} bytes is no firmware for protocol=firmware: that is 64 KiB to 8 MiB in whole pages, such as SeaBIOS' bios-256k.bin"
            ),
            Self::BadPortName(name) => write!(
                f,
                "'{name}' is no name of a port; write 1 to {MAX_NAME} of the characters a-z, 0-9 and '-' after port="
            ),
            Self::ManyPorts => too_many(f, MAX_PORTS, "ports"),
            Self::SmallDisk => {
                write!(f, "the disk is smaller than a sector of {SECTOR} bytes; give it a larger file")
            }
            Self::ManyDisks => too_many(f, MAX_DISKS, "disks"),
            Self::ManyModules => too_many(f, MAX_MODULES, "modules"),
            of_many => of_many.write_of_many(f),
        }
    }
}

fn too_many(f: &mut fmt::Formatter<'_>, most: usize, what: &str) -> fmt::Result {
    write!(f, "this VM has more than {most} {what}; leave some out")
}
