//! Puts a Linux kernel (or any other ELF64 kernel) and its initial file system into guest memory and says in
//! what state the CPU has to enter it.
//!
//! - A **bzImage** is loaded by the 64-bit boot protocol, version 2.12 and later.
//! - A **`vmlinux`**, or another static ELF64 file, is loaded by its program headers' physical addresses and
//!   entered by the same protocol: 64-bit mode, RSI pointing to `boot_params`, interrupts off.
//!
//! Images are not trusted: all arithmetic is checked, nothing is written outside the RAM of the given memory
//! map, and everything is checked before the first byte is written. Work is bounded by the size of the
//! images and of the RAM they name; it is long nevertheless, and meant for bring-up or for a job. Nothing
//! is allocated.
//!
//! Not its job: compressed `vmlinux` files, initial file systems' content, ACPI tables, real-mode entry.
//!
//! Sources: Linux documentation, "The Linux/x86 Boot Protocol" and "Zero Page"; "ELF-64 Object File Format";
//! Intel SDM vol. 3, "4-Level Paging", "Segment Descriptors". No locks.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod boot_params;
mod bytes;
mod bzimage;
mod elf;
mod entry;
mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod initrd;
mod memory;
#[cfg(test)]
mod tests;

use vcpu::Gpa;

pub use entry::{
    CODE_SELECTOR, DATA_SELECTOR, EntryState, GDT_OFFSET, IdentityMap, LOW_AREA, LOW_AREA_SIZE, SegmentState,
};
pub use error::{LoadError, Part};
pub use memory::{E820Entry, GuestMemory, MemoryKind, OutOfRange, Range};

/// What to load, and where it may go.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The initial file system's file.
    pub initrd: Option<&'a [u8]>,
    /// The command line, without a terminating zero.
    pub command_line: &'a [u8],
    /// The guest's memory map as the kernel will see it. What is not [`MemoryKind::RAM`] is kept free, even
    /// where it lies inside a RAM entry.
    pub memory_map: &'a [E820Entry],
    /// Where the caller puts the ACPI root pointer, told to the kernel as `acpi_rsdp_addr`.
    pub rsdp: Option<Gpa>,
    /// Where the kernel is to lie instead of where it prefers. For a bzImage it has to be relocatable; an ELF
    /// file's segments are moved together (Linux's 64-bit entry runs at any multiple of 2 MiB).
    pub load_address: Option<Gpa>,
    /// Start of the [`LOW_AREA_SIZE`] bytes of RAM that hold the boot structures; page-aligned and below
    /// 4 GiB. [`LOW_AREA`] serves wherever the guest has conventional memory.
    pub low_area: Gpa,
    /// How much the first page tables map.
    pub identity_map: IdentityMap,
}

impl<'a> Request<'a> {
    /// A kernel alone on this memory, everything else as usual.
    pub const fn new(kernel: &'a [u8], memory_map: &'a [E820Entry]) -> Self {
        Self {
            kernel,
            initrd: None,
            command_line: &[],
            memory_map,
            rsdp: None,
            load_address: None,
            low_area: LOW_AREA,
            identity_map: IdentityMap::FourGib,
        }
    }
}

/// A kernel file's format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A Linux bzImage.
    BzImage,
    /// An ELF64 executable.
    Elf64,
}

/// A loaded kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What the kernel's file was.
    pub format: Format,
    /// How to enter it.
    pub entry: EntryState,
    /// The memory that the kernel takes, the room that it asks for to start in included.
    pub kernel: Range,
    /// Where the initial file system lies.
    pub initrd: Option<Range>,
}

/// What a format's reader found out: where the kernel goes and how Linux is told.
#[derive(Clone, Copy, Debug)]
struct Plan {
    format: Format,
    kernel: Range,
    entry: Gpa,
    /// Highest address that the last byte of the initrd may have.
    initrd_addr_max: u64,
    /// The kernel finds an initrd above 4 GiB.
    initrd_above_4g: bool,
    /// Longest command line without its zero.
    command_line_max: u64,
}

/// Loads a kernel. On an error from the file nothing has been written.
///
/// # Errors
/// See [`LoadError`].
pub fn load<M: GuestMemory + ?Sized>(request: &Request<'_>, memory: &mut M) -> Result<Loaded, LoadError> {
    let format = format_of(request.kernel)?;
    let low_area = entry::check_low_area(request)?;
    let plan = match format {
        Format::BzImage => bzimage::plan(request, low_area)?,
        Format::Elf64 => elf::plan(request, low_area)?,
    };
    if !request.identity_map.covers(plan.kernel) {
        return Err(LoadError::NotIdentityMapped { end: plan.kernel.end });
    }
    let max = plan.command_line_max.min(entry::COMMAND_LINE_ROOM);
    if request.command_line.len() as u64 > max {
        return Err(LoadError::CommandLineTooLong { length: request.command_line.len(), max });
    }
    if request.memory_map.len() > boot_params::E820_MAX {
        return Err(LoadError::TooManyRegions {
            count: request.memory_map.len(),
            max: boot_params::E820_MAX,
        });
    }
    let initrd = match request.initrd {
        Some(file) if !file.is_empty() => Some(initrd::place(request, file, &plan, low_area)?),
        _ => None,
    };

    match format {
        Format::BzImage => bzimage::write(request.kernel, plan.kernel.start, memory)?,
        Format::Elf64 => elf::write(request, memory)?,
    }
    if let (Some(range), Some(file)) = (initrd, request.initrd) {
        memory.write(Gpa(range.start), file)?;
    }
    boot_params::write(request, &plan, initrd, memory)?;
    let entry = entry::write(request, plan.entry, memory)?;
    Ok(Loaded { format, entry, kernel: plan.kernel, initrd })
}

/// Recognises a kernel's file by its first bytes.
///
/// # Errors
/// [`LoadError::NotAKernel`], [`LoadError::Truncated`].
pub fn format_of(kernel: &[u8]) -> Result<Format, LoadError> {
    if elf::is_elf(kernel) {
        return Ok(Format::Elf64);
    }
    let magic = bytes::u32_at(kernel, 0, Part::Kernel)?;
    if bzimage::has_boot_flag(kernel) { Ok(Format::BzImage) } else { Err(LoadError::NotAKernel { magic }) }
}
