//! What can be wrong with a kernel, its companions or the memory they are to go to.

use core::fmt;

use vcpu::Gpa;

use crate::{Format, OutOfRange, Protocol};

/// A part of what is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The kernel's file as a whole.
    Kernel,
    /// A bzImage's setup header.
    SetupHeader,
    /// A bzImage's protected-mode code.
    ProtectedModeCode,
    /// The ELF file header.
    ElfHeader,
    /// The ELF program headers.
    ProgramHeaders,
    /// A segment's content.
    Segment,
    /// The ELF notes.
    Notes,
    /// The Multiboot header.
    MultibootHeader,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel file",
            Self::SetupHeader => "setup header",
            Self::ProtectedModeCode => "protected-mode code",
            Self::ElfHeader => "ELF header",
            Self::ProgramHeaders => "ELF program headers",
            Self::Segment => "segment",
            Self::Notes => "ELF notes",
            Self::MultibootHeader => "Multiboot header",
        })
    }
}

/// Why a kernel cannot be loaded. Addresses are guest-physical, sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// The file ends inside `part`.
    Truncated {
        /// Where it ends.
        part: Part,
        /// The length that the file would need at least.
        wanted: u64,
        /// Its length.
        have: u64,
    },
    /// Neither a bzImage nor an ELF file nor a Multiboot image.
    NotAKernel {
        /// Its first four bytes, the first one lowest.
        magic: u32,
    },
    /// An ELF file for another kind of CPU.
    NotX86 {
        /// `e_machine`.
        machine: u16,
    },
    /// A kernel of this format cannot be started by this protocol.
    WrongProtocol {
        /// The file's format.
        format: Format,
        /// What was asked for.
        protocol: Protocol,
    },
    /// A 32-bit ELF file that says in no way how to start it.
    NoProtocol,
    /// No note names a PVH entry.
    NoPvhEntry,
    /// No Multiboot header in the first 8 KiB.
    NoMultibootHeader,
    /// The Multiboot header demands something unknown.
    UnknownRequirement {
        /// Those bits of its `flags`.
        flags: u32,
    },
    /// The kernel reaches past 4 GiB, where its 32-bit entry cannot.
    Above4Gib {
        /// Its end.
        end: u64,
    },
    /// Linux takes an initrd, but no modules.
    ModulesNotTaken {
        /// How many there are.
        count: usize,
    },
    /// There are more modules than fit into the list.
    TooManyModules {
        /// How many, the initrd included.
        count: usize,
        /// The most.
        max: usize,
    },
    /// The modules' command lines do not fit.
    ModuleLinesTooLong {
        /// Bytes of all of them with their zeros.
        length: u64,
        /// The most.
        max: u64,
    },
    /// A bzImage of a boot protocol older than 2.10.
    TooOld {
        /// Its protocol version: major number in the high byte, minor in the low one.
        version: u16,
    },
    /// A header field has a value that cannot be.
    BadHeader {
        /// The field, as the specification names it.
        field: &'static str,
        /// Its value.
        raw: u64,
    },
    /// No stretch of RAM is long enough for the kernel where it can run.
    NoRoom {
        /// Bytes that it needs.
        needed: u64,
        /// The longest stretch at the allowed addresses.
        available: u64,
    },
    /// A segment lies over the boot structures or over another segment.
    Overlap {
        /// The segment's address.
        paddr: u64,
        /// Its size.
        size: u64,
    },
    /// A segment lies where the guest has no RAM.
    SegmentOutsideMemory {
        /// The segment's address.
        paddr: u64,
        /// Its size.
        size: u64,
    },
    /// The entry point lies in no segment.
    EntryOutsideKernel {
        /// The entry point as the file has it.
        entry: u64,
    },
    /// The kernel reaches past what the first page tables map.
    NotIdentityMapped {
        /// Its end.
        end: u64,
    },
    /// The command line is longer than the kernel takes.
    CommandLineTooLong {
        /// Its length.
        length: usize,
        /// The longest.
        max: u64,
    },
    /// No free stretch of RAM is long enough for the initial file system or a module.
    ModuleDoesNotFit {
        /// Its size.
        size: u64,
        /// It has to end at or below this address.
        limit: u64,
    },
    /// The memory map has more entries than `boot_params` holds.
    TooManyRegions {
        /// How many.
        count: usize,
        /// The most.
        max: usize,
    },
    /// The area for the boot structures is not page-aligned RAM below 4 GiB.
    BadLowArea {
        /// Its address.
        gpa: Gpa,
    },
    /// Guest memory did not take a write that the memory map allows.
    OutOfRange {
        /// Where.
        gpa: Gpa,
    },
}

impl From<OutOfRange> for LoadError {
    fn from(error: OutOfRange) -> Self {
        Self::OutOfRange { gpa: error.gpa }
    }
}

/// Bytes in whole MiB, rounded up, for messages.
const fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { part, wanted, have } => write!(
                f,
                "the kernel file ends in its {part}: {have} bytes, at least {wanted} expected; copy the file again"
            ),
            Self::NotAKernel { magic } => write!(
                f,
                "this is no kernel (it begins with {:02x?}); give a Linux bzImage (vmlinuz), a vmlinux or \
                 other ELF file, or a Multiboot image, not compressed further",
                magic.to_le_bytes()
            ),
            Self::NotX86 { machine } => {
                write!(f, "the kernel is for another kind of CPU (ELF machine {machine}); use an x86 kernel")
            }
            Self::WrongProtocol { format, protocol } => write!(
                f,
                "a kernel of the format {format} cannot be started with protocol={protocol}; leave the word out"
            ),
            Self::NoProtocol => f.write_str(
                "the 32-bit ELF file has neither a Multiboot header nor a PVH note; use a kernel that has one",
            ),
            Self::NoPvhEntry => {
                f.write_str("the kernel has no note with a PVH entry; use another protocol, or a kernel with CONFIG_PVH")
            }
            Self::NoMultibootHeader => f.write_str(
                "the kernel has no Multiboot header in its first 8 KiB; use another protocol, or place the header first",
            ),
            Self::UnknownRequirement { flags } => write!(
                f,
                "the kernel's Multiboot header demands something unknown (flags {flags:#x}); is it damaged?"
            ),
            Self::TooOld { version } => write!(
                f,
                "the kernel speaks boot protocol {}.{:02}, 2.10 is needed; use Linux 2.6.31 or later",
                version >> 8,
                version & 0xff
            ),
            Self::BadHeader { field, raw } => {
                write!(f, "the kernel's header field {field} cannot be {raw:#x}; the file is damaged")
            }
            Self::NoRoom { needed, available } => write!(
                f,
                "the kernel needs {} MiB of RAM in one piece where it can run, {} MiB are there; give the VM more \
                 memory",
                mib(needed),
                available >> 20
            ),
            Self::Overlap { paddr, size } => write!(
                f,
                "the kernel's segment of {size:#x} bytes at {paddr:#x} lies over another one or over the boot \
                 structures in low memory; link it elsewhere"
            ),
            Self::SegmentOutsideMemory { paddr, size } => write!(
                f,
                "the kernel's segment of {size:#x} bytes at {paddr:#x} lies outside the VM's RAM; give the VM more \
                 memory or link the kernel elsewhere"
            ),
            Self::EntryOutsideKernel { entry } => {
                write!(
                    f,
                    "the kernel's entry point {entry:#x} lies in none of its segments; the file is damaged"
                )
            }
            Self::NotIdentityMapped { end } => {
                write!(f, "the kernel ends at {end:#x}, past what is mapped at its entry; load it lower")
            }
            Self::TooManyRegions { count, max } => {
                write!(f, "the memory map has {count} entries, at most {max} can be told to the kernel")
            }
            Self::BadLowArea { gpa } => {
                write!(f, "the boot structures cannot lie at {gpa}: no page-aligned RAM below 4 GiB")
            }
            Self::OutOfRange { gpa } => {
                write!(f, "guest memory at {gpa} could not be written although the memory map has RAM there")
            }
            _ => self.fmt_place(f),
        }
    }
}

impl LoadError {
    /// What is wrong with the kernel's place, its command line and its modules.
    fn fmt_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Above4Gib { end } => {
                write!(
                    f,
                    "the kernel ends at {end:#x}, but is entered in 32-bit mode; link or load it below 4 GiB"
                )
            }
            Self::ModulesNotTaken { count } => write!(
                f,
                "Linux takes one initrd and no modules, this VM has {count}; join them to one initrd, or use \
                 protocol=pvh or multiboot"
            ),
            Self::TooManyModules { count, max } => {
                write!(
                    f,
                    "the VM has {count} modules, at most {max} can be told to the kernel; leave some out"
                )
            }
            Self::ModuleLinesTooLong { length, max } => {
                write!(f, "the modules' command lines need {length} bytes, {max} are there; shorten them")
            }
            Self::CommandLineTooLong { length, max } => {
                write!(f, "the command line has {length} bytes, this kernel takes {max}; shorten it")
            }
            Self::ModuleDoesNotFit { size, limit } => write!(
                f,
                "no room for an initrd or module of {} MiB below {limit:#x}; give the VM more memory or use a smaller one",
                mib(size)
            ),
            // The others have their words above.
            _ => Ok(()),
        }
    }
}

impl core::error::Error for LoadError {}
