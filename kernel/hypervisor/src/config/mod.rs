//! Which VMs there are: read from the boot modules' command lines.
//!
//! ```text
//! vm=NAME [count=N] [cpus=N] [memory=SIZE] [weight=N] [cap=PERCENT] [reservation=PERCENT] [pin=CPUS] [pool=N]
//!     [start=yes|no] [restart=no|always|N] [paravirtual=FEATURES] [tsc-khz=N] [protocol=linux|pvh|multiboot|firmware]
//!     [net=NETWORK [mac=ADDRESS] [mtu=N] [vlan=N] [trunk=LIST|all [native=N|none]] [priority=N] [inbound=RATE] [outbound=RATE]
//!         [guaranteed=RATE] [broadcast=N|off] [multicast=N|off] [unknown=N|off] [ip=ADDRESS[/BITS][,...]] [spoof=yes|no]
//!         [isolated=yes|no] [link=up|down]]... [console=virtio] [port=NAME]... [rng=no] [balloon=no]
//!     [fwcfg] [e9] [debug-exit=PORT] [vga=text] kernel -- COMMAND LINE
//! vm=NAME initrd
//! vm=NAME module -- COMMAND LINE OF THE MODULE
//! vm=NAME fwcfg=NAME OF THE FILE
//! vm=NAME disk [readonly] [serial=TEXT]
//! ```
//!
//! With `count=` there are so many VMs, NAME-1, NAME-2 and so on, which share the bytes of their modules.
//!
//! Modules come in any order, those of one VM's kernel in the order of their lines. A line that is wrong costs its VM, with
//! an error that names the line, the culprit and what to write instead; the other VMs start. Not its job: what is in the
//! modules ([`loader`]).

mod description;
mod fault;
mod line;
pub(crate) mod network;
pub(crate) mod nic;
mod options;
mod plan;
mod share;
mod size;
#[cfg(test)]
mod tests;
pub(crate) mod values;

use alloc::vec::Vec;

use arrayvec::{ArrayString, ArrayVec};

use crate::paravirtual::Features;
use loader::{BootModule, Protocol};

pub use description::{BlankDisk, Description};
pub use fault::{ConfigError, Fault};
pub use line::hardware_memory;
pub(crate) use line::is_name;
pub use nic::{MAX_NICS, Nic, NicFault};
pub use options::{End, FirstView, Options};
pub use plan::{Plan, collect};
pub use share::{Restart, Share};
pub use size::{Size, parse_size};

/// VMs at most.
pub const MAX_VMS: usize = virtio::MAX_VMS;
/// Virtual CPUs of a VM at most.
pub const MAX_CPUS: usize = crate::mailbox::MAX_VCPUS;
/// Longest name of a VM.
pub const MAX_NAME: usize = 31;
/// A name of a VM, a network or a port.
pub type Name = ArrayString<MAX_NAME>;

/// A name that was looked at ([`is_name`]) to keep. What is too long for one is none.
pub(crate) fn name(text: &str) -> Name {
    Name::from(text).unwrap_or_default()
}

/// Least memory of a VM, in bytes: below it no kernel that we can load starts.
pub const MIN_MEMORY: u64 = 16 << 20;
/// Most memory of a VM, in bytes.
pub const MAX_MEMORY: u64 = 1 << 40;
/// The rates that a VM's TSC may have, in kHz.
pub const TSC_KHZ: core::ops::RangeInclusive<u32> = 100_000..=20_000_000;
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

/// Modules of one VM's kernel at most, its initial file system not counted.
pub const MAX_MODULES: usize = loader::MAX_MODULES - 1;

/// Files for one VM's firmware at most.
pub const MAX_FILES: usize = 16;

/// Named ports of one VM at most.
pub const MAX_PORTS: usize = virtio::console::MAX_PORTS - 1;

/// Disks of one VM at most.
pub const MAX_DISKS: usize = 8;

/// A disk of a VM: a boot module's bytes, and what the VM writes over them until the machine is switched off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disk<'a> {
    /// Its content at first; zeros are behind it.
    pub bytes: &'a [u8],
    /// How many bytes it has in all.
    pub size: u64,
    /// Nothing can be written to it.
    pub read_only: bool,
    /// Its serial number, which guests show, printable ASCII.
    pub serial: &'a str,
    /// The management domain has its content.
    pub served: bool,
}

/// Devices of a VM that others have not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceOptions {
    /// The firmware configuration device; also switched on by a file for it.
    pub fw_cfg: bool,
    /// The console at port 0xe9.
    pub debug_console: bool,
    /// The port that ends the VM.
    pub debug_exit: Option<u16>,
    /// A VGA adapter in text mode, shown on the VM's console.
    pub vga_text: bool,
    /// A virtio console, beside the serial port.
    pub virtio_console: bool,
}

/// A file for a VM's firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamedFile<'a> {
    /// Its name, printable ASCII, 1 to 55 characters.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// A VM as the modules describe it.
#[derive(Clone, Debug)]
pub struct VmConfig<'a> {
    /// Its name, `[a-z0-9-]`, 1 to 31 characters; of several of a kind, what stands before their numbers.
    pub name: Name,
    /// Virtual CPUs, 1 to [`MAX_CPUS`].
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// The kernel's file, or the firmware's.
    pub kernel: &'a [u8],
    /// It is firmware: a ROM of so many bytes, in which the VM begins as at power-up.
    pub firmware: Option<u64>,
    /// Nobody loads a kernel: what is in its memory comes from outside, and where its first vCPU begins.
    pub held: bool,
    /// It has the machine's own devices, and memory where the machine has it.
    pub hardware: bool,
    /// How the kernel is started; `None` for what its file suggests.
    pub protocol: Option<Protocol>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The initial file system's file.
    pub initrd: Option<&'a [u8]>,
    /// More files for the kernel.
    pub modules: ArrayVec<BootModule<'a>, MAX_MODULES>,
    /// Files for its firmware.
    pub files: ArrayVec<NamedFile<'a>, MAX_FILES>,
    /// Its disks, in the order of their lines.
    pub disks: ArrayVec<Disk<'a>, MAX_DISKS>,
    /// Its network devices, in the order of their words.
    pub nics: Vec<Nic>,
    /// Named ports of its virtio console device, each joined to that of another VM.
    pub ports: ArrayVec<Name, MAX_PORTS>,
    /// It has an entropy device.
    pub rng: bool,
    /// It has a balloon: memory may be taken from it while it runs.
    pub balloon: bool,
    /// Its devices.
    pub devices: DeviceOptions,
    /// Its share of the CPUs.
    pub share: Share,
    /// What happens when it has ended by itself.
    pub restart: Restart,
    /// Whether it starts with the machine.
    pub starts: bool,
    /// The paravirtual features that it is offered.
    pub paravirtual: Features,
    /// The rate of its TSC in kHz; `None` for the host's.
    pub tsc_khz: Option<u32>,
}
