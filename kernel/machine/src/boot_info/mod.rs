//! What the boot loader says about the machine: memory map, modules, command line, ACPI's root pointer.
//!
//! Each boot protocol has a submodule that reads its form of the information; what they find is the same
//! [`BootInfo`]. The information stays where the loader put it (its frames are never given out), so texts are
//! borrowed for the life of the kernel.

mod efi;
mod memory_map;
mod multiboot2;
mod pvh;
mod tags;

use core::fmt;
use core::ops::Range;

use arrayvec::ArrayVec;
use vcpu::Hpa;

use crate::smp::Trampoline;

pub use self::memory_map::{MAX_MEMORY_RANGES, MemoryKind, MemoryMap, MemoryRange};
pub use self::pvh::PVH_MAGIC;

/// Modules that are kept.
pub const MAX_MODULES: usize = 128;
/// Bytes of ACPI's root pointer, revision 2.
pub const RSDP_BYTES: usize = 36;
/// Pieces of boot information that the kernel goes on reading: the texts of the kernel and of all modules.
const MAX_INFORMATION: usize = MAX_MODULES + 1;
/// Boot information lies in the first 4 GiB, which the entry code has mapped.
const MAPPED_AT_ENTRY: u64 = 1 << 32;

/// A file the boot loader put into memory.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// The words after the file name in the boot menu.
    pub command_line: &'static str,
    /// Where it lies.
    pub start: Hpa,
    length: usize,
    data: &'static [u8],
}

impl Module {
    /// The file's bytes. They are mapped read-only and their frames are never given out.
    pub const fn data(&self) -> &'static [u8] {
        self.data
    }

    /// The physical addresses of the file.
    pub(crate) fn range(&self) -> Range<u64> {
        self.start.0..self.start.0.saturating_add(self.length as u64)
    }

    /// The bytes from `start` to `end` as a module of their own; less where there are not so many.
    #[cfg(feature = "faults")]
    pub(crate) fn part(&self, start: usize, end: usize) -> Self {
        let data = self.data.get(start..end.min(self.data.len())).unwrap_or_default();
        Self { start: Hpa(self.start.0 + start as u64), length: data.len(), data, ..*self }
    }

    /// The same as if it lay elsewhere.
    #[cfg(feature = "faults")]
    pub(crate) const fn moved(&self, start: Hpa) -> Self {
        Self { start, ..*self }
    }
}

/// Where the kernel's image is. Virtual addresses are page aligned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelImage {
    /// The whole of it in physical memory, entry code included.
    pub physical: Range<u64>,
    /// Code: virtual addresses.
    pub text: Range<u64>,
    /// Constants.
    pub rodata: Range<u64>,
    /// Variables, zeroed ones included.
    pub data: Range<u64>,
    /// The code with which other CPUs start.
    pub trampoline: Trampoline,
}

/// Why the boot information cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootInfoError {
    /// The magic number is neither Multiboot2's nor PVH's.
    WrongMagic(u32),
    /// The information's tags do not hold together.
    Malformed,
    /// The loader gave no memory map.
    NoMemoryMap,
    /// Something of the information lies beyond the first 4 GiB.
    OutOfReach {
        /// Where.
        address: u64,
    },
}

impl fmt::Display for BootInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongMagic(magic) => {
                write!(f, "the boot loader's magic number {magic:#x} is neither Multiboot2's nor PVH's")
            }
            Self::Malformed => f.write_str("the boot loader's information is malformed"),
            Self::NoMemoryMap => f.write_str("the boot loader gave no memory map"),
            Self::OutOfReach { address } => {
                write!(f, "the boot loader left something at {address:#x}, beyond the first 4 GiB")
            }
        }
    }
}

/// What the kernel knows at its start. That one exists is the proof that the machine is ours: only the
/// entry code makes one.
#[derive(Debug)]
pub struct BootInfo {
    /// The kernel's own command line.
    pub command_line: &'static str,
    /// The boot loader's name, for the log.
    pub loader: &'static str,
    /// The firmware's memory map.
    pub(crate) memory: MemoryMap,
    /// Modules in the order of the boot menu.
    pub(crate) modules: ArrayVec<Module, MAX_MODULES>,
    /// Memory-map entries that are broken, and entries and modules beyond what is kept.
    pub dropped: usize,
    /// A copy of ACPI's root pointer, zero-padded where it is of revision 0.
    pub(crate) rsdp: Option<[u8; RSDP_BYTES]>,
    /// Where the kernel's image is.
    pub(crate) image: KernelImage,
    /// Where the parts of the boot information are that the kernel goes on reading.
    pub(crate) information: ArrayVec<Range<u64>, MAX_INFORMATION>,
}

impl BootInfo {
    /// The firmware's memory map, sorted by start.
    pub fn memory(&self) -> &[MemoryRange] {
        self.memory.ranges()
    }

    /// Modules in the order of the boot menu.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }
}
