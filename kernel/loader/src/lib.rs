//! Puts a kernel and the files that come with it into guest memory and says in what state the CPU has to enter it.
//!
//! | [`Protocol`] | kernels                                          | entered in                              |
//! |--------------|--------------------------------------------------|-----------------------------------------|
//! | `Linux`      | bzImage 2.12 with a 64-bit entry, ELF64          | 64-bit mode, RSI = `boot_params`        |
//! | `Linux`      | other bzImage from 2.10                          | 32-bit mode, ESI = `boot_params`        |
//! | `Pvh`        | ELF with the note `XEN_ELFNOTE_PHYS32_ENTRY`     | 32-bit mode, EBX = `hvm_start_info`     |
//! | `Multiboot`  | ELF or any file, with the header                 | 32-bit mode, EBX = Multiboot information |
//!
//! ELF files (`vmlinux` and other static ones) are loaded by their program headers' physical addresses. A request that
//! names no protocol gets what the file suggests: see [`default_protocol`].
//!
//! Images are not trusted: all arithmetic is checked, nothing is written outside the RAM of the given memory
//! map, and everything is checked before the first byte is written. Work is bounded by the size of the
//! images and of the RAM they name; [`load_some`] does a bounded piece of it. Nothing is allocated.
//!
//! Not its job: compressed `vmlinux` files, the files' content, ACPI tables, real-mode entry, Multiboot2.
//!
//! Sources: Linux documentation, "The Linux/x86 Boot Protocol" and "Zero Page"; "ELF-64 Object File Format"; Xen, "x86/HVM
//! direct boot ABI"; Multiboot Specification version 0.6.96; Intel SDM vol. 3, "4-Level Paging", "Segment
//! Descriptors". No locks.
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
mod low_area;
mod memory;
mod modules;
mod multiboot;
mod pvh;
#[cfg(test)]
mod tests;
mod window;

use core::fmt;

use vcpu::{Framebuffer, Gpa};

use elf::EntryPoint;
pub use elf::MAX_PROGRAM_HEADERS;
use entry::{EntryMode, Pointers};
use window::Window;

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
    /// How it is started; `None` for what the file suggests.
    pub protocol: Option<Protocol>,
    /// The initial file system's file. For protocols with modules it is the first of them.
    pub initrd: Option<&'a [u8]>,
    /// More files, for protocols that take them; at most [`MAX_MODULES`] with the initial file system.
    pub modules: &'a [BootModule<'a>],
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
    /// The screen that the kernel is told of.
    pub screen: Option<TextScreen>,
    /// Or the framebuffer; only Linux is told of one.
    pub framebuffer: Option<Framebuffer>,
}

impl<'a> Request<'a> {
    /// A kernel alone on this memory, everything else as usual.
    pub const fn new(kernel: &'a [u8], memory_map: &'a [E820Entry]) -> Self {
        Self {
            kernel,
            protocol: None,
            initrd: None,
            modules: &[],
            command_line: &[],
            memory_map,
            rsdp: None,
            load_address: None,
            low_area: LOW_AREA,
            identity_map: IdentityMap::FourGib,
            screen: None,
            framebuffer: None,
        }
    }
}

/// Files that a kernel can be given at most.
pub const MAX_MODULES: usize = 16;

/// A file for the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootModule<'a> {
    /// Its content.
    pub bytes: &'a [u8],
    /// What the kernel is told with it, without a terminating zero.
    pub command_line: &'a [u8],
}

/// A VGA adapter's screen in text mode: two bytes a character, a byte of colours behind each code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextScreen {
    /// Where its first character lies.
    pub base: Gpa,
    /// Characters in a row.
    pub columns: u8,
    /// Rows.
    pub rows: u8,
}

/// How a kernel is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// The Linux/x86 boot protocol, by its 64-bit entry where there is one, else by its 32-bit entry.
    Linux,
    /// Xen's direct boot, PVH.
    Pvh,
    /// Multiboot, the first version.
    Multiboot,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux => "linux",
            Self::Pvh => "pvh",
            Self::Multiboot => "multiboot",
        })
    }
}

/// A kernel file's format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A Linux bzImage.
    BzImage,
    /// An ELF64 executable.
    Elf64,
    /// An ELF32 executable.
    Elf32,
    /// A file whose Multiboot header says where it goes.
    Flat,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BzImage => "bzImage",
            Self::Elf64 => "ELF64",
            Self::Elf32 => "ELF32",
            Self::Flat => "Multiboot image",
        })
    }
}

/// A loaded kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What the kernel's file was.
    pub format: Format,
    /// How it is started.
    pub protocol: Protocol,
    /// How to enter it.
    pub entry: EntryState,
    /// The memory that the kernel takes, the room that it asks for to start in included.
    pub kernel: Range,
    /// Where the initial file system lies.
    pub initrd: Option<Range>,
}

/// What a format's reader found out: where the kernel goes and what it takes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    format: Format,
    protocol: Protocol,
    mode: EntryMode,
    kernel: Range,
    entry: Gpa,
    /// Highest address that the last byte of a module may have.
    module_addr_max: u64,
    /// The kernel finds an initrd above 4 GiB.
    modules_above_4g: bool,
    /// Longest command line without its zero.
    command_line_max: u64,
}

/// Loads a kernel. On an error from the file nothing has been written.
///
/// # Errors
/// See [`LoadError`].
pub fn load<M: GuestMemory + ?Sized>(request: &Request<'_>, memory: &mut M) -> Result<Loaded, LoadError> {
    let format = format_of(request.kernel)?;
    let protocol = match request.protocol {
        Some(protocol) => protocol,
        None => default_protocol(request.kernel)?,
    };
    let low_area = entry::check_low_area(request)?;
    let plan = plan(request, format, protocol, low_area)?;
    check(request, &plan)?;
    let places = modules::place(request, &plan, low_area)?;

    match plan.format {
        Format::BzImage => bzimage::write(request.kernel, plan.kernel.start, memory)?,
        Format::Elf64 | Format::Elf32 => elf::write(request, memory)?,
        Format::Flat => {
            let header = multiboot::Header::find(request.kernel).ok_or(LoadError::NoMultibootHeader)?;
            multiboot::write(request.kernel, header, memory)?;
        }
    }
    modules::write(request, &places, memory)?;
    let initrd = request.initrd.filter(|file| !file.is_empty()).and(places.ranges().first().copied());
    let pointers = match plan.protocol {
        Protocol::Linux => {
            Pointers { rsi: boot_params::write(request, &plan, initrd, memory)?, ..Pointers::default() }
        }
        Protocol::Pvh => Pointers { rbx: pvh::write(request, &places, memory)?, ..Pointers::default() },
        Protocol::Multiboot => {
            let rbx = multiboot::write_info(request, &places, memory)?;
            Pointers { rax: multiboot::LOADER_MAGIC, rbx, ..Pointers::default() }
        }
    };
    let entry = entry::write(request, &plan, pointers, memory)?;
    Ok(Loaded { format: plan.format, protocol, entry, kernel: plan.kernel, initrd })
}

/// What a piece of a load has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// So many bytes are written; go on from there.
    Until(u64),
    /// All is loaded.
    Done(Loaded),
}

/// Loads a piece of a kernel: at most `budget` bytes, after the first `done` ones of all that is written. What is written in
/// which order depends on the request alone, so pieces of the same request, from 0 on, one after the other, are the
/// same as [`load`]. Beside the copying, each reads the headers again, at most [`MAX_PROGRAM_HEADERS`] of them.
///
/// # Errors
/// See [`LoadError`]. Those of the files come with the first piece, before anything is written.
pub fn load_some<M: GuestMemory + ?Sized>(
    request: &Request<'_>,
    memory: &mut M,
    done: u64,
    budget: u64,
) -> Result<Progress, LoadError> {
    let until = done.saturating_add(budget);
    let mut window = Window::new(memory, done..until);
    let loaded = load(request, &mut window)?;
    Ok(if window.total() > until { Progress::Until(until) } else { Progress::Done(loaded) })
}

/// Reads the kernel's headers for a protocol.
fn plan(
    request: &Request<'_>,
    format: Format,
    protocol: Protocol,
    low_area: Range,
) -> Result<Plan, LoadError> {
    let protected = |format, (kernel, entry)| Plan {
        format,
        protocol,
        mode: EntryMode::Protected,
        kernel,
        entry,
        module_addr_max: u32::MAX.into(),
        modules_above_4g: false,
        command_line_max: entry::COMMAND_LINE_ROOM,
    };
    match (protocol, format) {
        (Protocol::Linux, Format::BzImage) => bzimage::plan(request, low_area),
        (Protocol::Linux, Format::Elf64) => {
            let (kernel, entry) = elf::plan(request, low_area, EntryPoint::Header)?;
            Ok(Plan {
                mode: EntryMode::Long,
                module_addr_max: u64::MAX,
                modules_above_4g: true,
                command_line_max: boot_params::VMLINUX_COMMAND_LINE_MAX,
                ..protected(format, (kernel, entry))
            })
        }
        (Protocol::Pvh, Format::Elf64 | Format::Elf32) => {
            Ok(protected(format, elf::plan(request, low_area, EntryPoint::PvhNote)?))
        }
        (Protocol::Multiboot, Format::Elf64 | Format::Elf32 | Format::Flat) => {
            let header = multiboot::Header::find(request.kernel).ok_or(LoadError::NoMultibootHeader)?;
            header.check()?;
            if header.has_addresses() {
                return Ok(protected(Format::Flat, multiboot::plan(request, header, low_area)?));
            }
            Ok(protected(format, elf::plan(request, low_area, EntryPoint::Header)?))
        }
        _ => Err(LoadError::WrongProtocol { format, protocol }),
    }
}

/// Checks what the kernel is given, and that it can be where it is.
fn check(request: &Request<'_>, plan: &Plan) -> Result<(), LoadError> {
    match plan.mode {
        EntryMode::Long if !request.identity_map.covers(plan.kernel) => {
            return Err(LoadError::NotIdentityMapped { end: plan.kernel.end });
        }
        EntryMode::Protected if plan.kernel.end > 1 << 32 => {
            return Err(LoadError::Above4Gib { end: plan.kernel.end });
        }
        _ => {}
    }
    let max = plan.command_line_max.min(entry::COMMAND_LINE_ROOM);
    if request.command_line.len() as u64 > max {
        return Err(LoadError::CommandLineTooLong { length: request.command_line.len(), max });
    }
    let regions = request.memory_map.len();
    if regions > boot_params::E820_MAX {
        return Err(LoadError::TooManyRegions { count: regions, max: boot_params::E820_MAX });
    }
    if plan.protocol == Protocol::Linux {
        if !request.modules.is_empty() {
            return Err(LoadError::ModulesNotTaken { count: request.modules.len() });
        }
        return Ok(());
    }
    low_area::check_strings(request)
}

/// Recognises a kernel's file by its first bytes.
///
/// # Errors
/// [`LoadError::NotAKernel`], [`LoadError::Truncated`].
pub fn format_of(kernel: &[u8]) -> Result<Format, LoadError> {
    if elf::is_elf(kernel) {
        return elf::format(kernel);
    }
    let magic = bytes::u32_at(kernel, 0, Part::Kernel)?;
    if bzimage::has_boot_flag(kernel) {
        return Ok(Format::BzImage);
    }
    match multiboot::Header::find(kernel) {
        Some(header) if header.has_addresses() => Ok(Format::Flat),
        _ => Err(LoadError::NotAKernel { magic }),
    }
}

/// How a kernel is started of which nothing is said: a bzImage and an ELF64 file as Linux; an ELF32 file by Multiboot where
/// it has the header, else by PVH; any other file by Multiboot.
///
/// # Errors
/// [`LoadError::NoProtocol`] for an ELF32 file that has neither, and those of [`format_of`].
pub fn default_protocol(kernel: &[u8]) -> Result<Protocol, LoadError> {
    match format_of(kernel)? {
        Format::BzImage | Format::Elf64 => Ok(Protocol::Linux),
        Format::Flat => Ok(Protocol::Multiboot),
        Format::Elf32 if multiboot::Header::find(kernel).is_some() => Ok(Protocol::Multiboot),
        Format::Elf32 if elf::has_pvh_entry(kernel)? => Ok(Protocol::Pvh),
        Format::Elf32 => Err(LoadError::NoProtocol),
    }
}
