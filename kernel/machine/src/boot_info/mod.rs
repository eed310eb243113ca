//! What the boot loader says about the machine: memory map, modules, command line, ACPI's root pointer.
//!
//! Each boot protocol has a submodule that reads its form of the information; what they find is the same
//! [`BootInfo`]. The information stays where the loader put it (its frames are never given out), so texts are
//! borrowed for the life of the kernel.

mod multiboot2;

use core::fmt;
use core::ops::Range;

use arrayvec::ArrayVec;
use vcpu::Hpa;

/// Entries of the firmware's memory map that are kept.
pub const MAX_MEMORY_RANGES: usize = 128;
/// Modules that are kept.
pub const MAX_MODULES: usize = 32;
/// Bytes of ACPI's root pointer, revision 2.
pub const RSDP_BYTES: usize = 36;

/// What a range of physical memory is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// Free for the kernel.
    Usable,
    /// Holds ACPI tables.
    AcpiTables,
    /// Firmware needs it later (ACPI NVS).
    AcpiNvs,
    /// Anything else: devices, firmware, bad memory.
    Reserved,
}

/// An entry of the firmware's memory map. Entries come in any order and may overlap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRange {
    /// First byte.
    pub start: Hpa,
    /// Bytes; saturated so that the end fits 64 bits.
    pub length: u64,
    /// What it is.
    pub kind: MemoryKind,
}

impl MemoryRange {
    /// One past the last byte.
    pub const fn end(&self) -> Hpa {
        Hpa(self.start.0.saturating_add(self.length))
    }
}

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
}

/// Why the boot information cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootInfoError {
    /// The loader's magic number is not Multiboot2's.
    WrongMagic(u32),
    /// The information's tags do not hold together.
    Malformed,
    /// The loader gave no memory map.
    NoMemoryMap,
}

impl fmt::Display for BootInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongMagic(magic) => {
                write!(f, "the boot loader's magic number {magic:#x} is not Multiboot2's")
            }
            Self::Malformed => f.write_str("the boot loader's information is malformed"),
            Self::NoMemoryMap => f.write_str("the boot loader gave no memory map"),
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
    /// The firmware's memory map, in its order.
    pub(crate) memory: ArrayVec<MemoryRange, MAX_MEMORY_RANGES>,
    /// Modules in the order of the boot menu.
    pub(crate) modules: ArrayVec<Module, MAX_MODULES>,
    /// Memory-map entries and modules beyond what is kept.
    pub dropped: usize,
    /// A copy of ACPI's root pointer, zero-padded where it is of revision 0.
    pub(crate) rsdp: Option<[u8; RSDP_BYTES]>,
    /// Where the kernel's image is.
    pub(crate) image: KernelImage,
    /// Where the boot information itself is.
    pub(crate) information: Range<u64>,
}

impl BootInfo {
    /// The firmware's memory map, in its order.
    pub fn memory(&self) -> &[MemoryRange] {
        &self.memory
    }

    /// Modules in the order of the boot menu.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }
}
