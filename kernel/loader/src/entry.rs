//! The state in which a kernel is entered, and what that state points to in low memory (Linux documentation,
//! "64-bit Boot Protocol" and "32-bit Boot Protocol"; Xen, "x86/HVM direct boot ABI"; Multiboot, "I386 machine state"; Intel
//! SDM vol. 3, "4-Level Paging", "Segment Descriptors").
//!
//! The low area for Linux, offsets from its start (for the other protocols see `low_area`):
//!
//! | offset   | what                                                        |
//! |----------|-------------------------------------------------------------|
//! | `0x0000` | global descriptor table, 32 bytes                           |
//! | `0x1000` | `boot_params`                                               |
//! | `0x2000` | command line                                                |
//! | `0x3000` | a page of stack                                             |
//! | `0x4000` | PML4, for a 64-bit entry as the rest                        |
//! | `0x5000` | page-directory-pointer table                                |
//! | `0x6000` | four page directories, of 2 MiB pages                       |
//!
//! Linux is done with all of it before it uses low memory for anything else: the area is RAM in the memory
//! map.

use vcpu::{Gpa, PAGE_SIZE};

use crate::memory::MemoryMap;
use crate::{GuestMemory, LoadError, Plan, Range, Request};

/// Where the low area starts unless the request says otherwise.
pub const LOW_AREA: Gpa = Gpa(0x1000);
/// Bytes of the low area.
pub const LOW_AREA_SIZE: u64 = 0xa000;

/// The global descriptor table, from the start of the low area.
pub const GDT_OFFSET: u64 = 0;
pub(crate) const BOOT_PARAMS_OFFSET: u64 = 0x1000;
pub(crate) const COMMAND_LINE_OFFSET: u64 = 0x2000;
const STACK_OFFSET: u64 = 0x3000;
const PML4_OFFSET: u64 = 0x4000;
const PDPT_OFFSET: u64 = 0x5000;
const PAGE_DIRECTORY_OFFSET: u64 = 0x6000;

/// Bytes for the command line without its terminating zero.
pub(crate) const COMMAND_LINE_ROOM: u64 = PAGE_SIZE - 1;

/// `__BOOT_CS`.
pub const CODE_SELECTOR: u16 = 0x10;
/// `__BOOT_DS`.
pub const DATA_SELECTOR: u16 = 0x18;
/// Null, unused, flat 64-bit code, flat data; both accessed.
const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, FLAT_DATA];
/// The same with flat 32-bit code.
const GDT_32: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, FLAT_DATA];
const FLAT_DATA: u64 = 0x00cf_9300_0000_ffff;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const ENTRIES: u64 = 512;
const MIB_2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
const PAGE_DIRECTORIES: u64 = 4;

/// RFLAGS with its constant bit and nothing else: interrupts off.
const RFLAGS: u64 = 0x2;
/// PE, ET, PG; and without paging.
const CR0: u64 = 0x8000_0011;
const CR0_32: u64 = 0x11;
/// PAE.
const CR4: u64 = 0x20;
/// LME and LMA.
const EFER: u64 = 0x500;

/// How much of memory is mapped to itself at the entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdentityMap {
    /// 4 GiB with 2 MiB pages; every x86-64 CPU has these.
    FourGib,
    /// 512 GiB with 1 GiB pages, for a virtual CPU whose CPUID offers them.
    HalfTib,
}

impl IdentityMap {
    /// True where all of `range` is mapped.
    pub(crate) const fn covers(self, range: Range) -> bool {
        let end = match self {
            Self::FourGib => PAGE_DIRECTORIES * GIB,
            Self::HalfTib => ENTRIES * GIB,
        };
        range.end <= end
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentState {
    /// The visible selector.
    pub selector: u16,
    /// Base.
    pub base: u64,
    /// The last valid offset, in bytes.
    pub limit: u32,
    /// Attributes in the layout of the VMCS access-rights field (Intel SDM vol. 3, "Guest Register State").
    pub attributes: u32,
}

/// The mode in which a kernel is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EntryMode {
    /// 64-bit mode with memory mapped to itself.
    Long,
    /// 32-bit protected mode without paging.
    Protected,
}

/// The registers by which a kernel learns of its boot structures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pointers {
    pub(crate) rax: u64,
    pub(crate) rbx: u64,
    pub(crate) rsi: u64,
}

/// The registers of a CPU that enters the kernel. What is not named is as after power-up; general-purpose
/// registers not named are zero. IDTR and TR are not used before the kernel loads its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryState {
    /// The entry point, physical and linear.
    pub rip: u64,
    /// Multiboot's magic number.
    pub rax: u64,
    /// The address of `hvm_start_info` or of Multiboot's information.
    pub rbx: u64,
    /// The address of Linux's `boot_params`.
    pub rsi: u64,
    /// The top of a page of stack, for kernels that need one at once.
    pub rsp: u64,
    /// Interrupts off, direction up.
    pub rflags: u64,
    /// Protected mode on, and paging for a 64-bit entry.
    pub cr0: u64,
    /// The PML4's address; 0 without paging.
    pub cr3: u64,
    /// Physical-address extension for a 64-bit entry, else 0.
    pub cr4: u64,
    /// Long mode enabled and active for a 64-bit entry, else 0.
    pub efer: u64,
    /// The GDT's address.
    pub gdt_base: u64,
    /// The GDT's limit.
    pub gdt_limit: u16,
    /// CS.
    pub code: SegmentState,
    /// DS, ES, SS, FS and GS.
    pub data: SegmentState,
}

/// The low area, where the request's is one.
pub(crate) fn check_low_area(request: &Request<'_>) -> Result<Range, LoadError> {
    let gpa = request.low_area;
    Range::new(gpa.0, LOW_AREA_SIZE)
        .filter(|area| gpa.page_offset() == 0 && IdentityMap::FourGib.covers(*area))
        .filter(|area| MemoryMap(request.memory_map).is_ram(*area))
        .ok_or(LoadError::BadLowArea { gpa })
}

/// Writes GDT and, for a 64-bit entry, page tables, and gives the state that uses them.
pub(crate) fn write<M: GuestMemory + ?Sized>(
    request: &Request<'_>,
    plan: &Plan,
    pointers: Pointers,
    memory: &mut M,
) -> Result<EntryState, LoadError> {
    let base = request.low_area.0;
    memory.zero(Gpa(base + STACK_OFFSET), PAGE_SIZE)?;
    let (gdt, [cr0, cr3, cr4, efer]) = match plan.mode {
        EntryMode::Long => {
            write_page_tables(base, request.identity_map, memory)?;
            (&GDT, [CR0, base + PML4_OFFSET, CR4, EFER])
        }
        EntryMode::Protected => (&GDT_32, [CR0_32, 0, 0, 0]),
    };
    for (index, descriptor) in gdt.iter().enumerate() {
        memory.write(Gpa(base + GDT_OFFSET + index as u64 * 8), &descriptor.to_le_bytes())?;
    }
    let flat = |selector, attributes| SegmentState { selector, base: 0, limit: u32::MAX, attributes };
    let [_, _, code, data] = *gdt;
    let Pointers { rax, rbx, rsi } = pointers;
    Ok(EntryState {
        rip: plan.entry.0,
        rax,
        rbx,
        rsi,
        rsp: base + STACK_OFFSET + PAGE_SIZE,
        rflags: RFLAGS,
        cr0,
        cr3,
        cr4,
        efer,
        gdt_base: base + GDT_OFFSET,
        gdt_limit: (size_of_val(gdt) - 1) as u16,
        code: flat(CODE_SELECTOR, attributes(code)),
        data: flat(DATA_SELECTOR, attributes(data)),
    })
}

/// A descriptor's bits 40 to 47 and 52 to 55, as the access-rights field has them.
const fn attributes(descriptor: u64) -> u32 {
    ((descriptor >> 40) & 0xf0ff) as u32
}

fn write_page_tables<M: GuestMemory + ?Sized>(
    base: u64,
    identity_map: IdentityMap,
    memory: &mut M,
) -> Result<(), LoadError> {
    let (pml4, pdpt) = (base + PML4_OFFSET, base + PDPT_OFFSET);
    let directories = base + PAGE_DIRECTORY_OFFSET;
    memory.zero(Gpa(pml4), PAGE_SIZE)?;
    memory.zero(Gpa(pdpt), PAGE_SIZE)?;
    memory.write(Gpa(pml4), &(pdpt | PRESENT_WRITABLE).to_le_bytes())?;
    match identity_map {
        IdentityMap::HalfTib => {
            write_entries(pdpt, ENTRIES, memory, |index| (index * GIB) | LARGE_PAGE | PRESENT_WRITABLE)
        }
        IdentityMap::FourGib => {
            let directory = |index| (directories + index * PAGE_SIZE) | PRESENT_WRITABLE;
            write_entries(pdpt, PAGE_DIRECTORIES, memory, directory)?;
            let page = |index| (index * MIB_2) | LARGE_PAGE | PRESENT_WRITABLE;
            write_entries(directories, PAGE_DIRECTORIES * ENTRIES, memory, page)
        }
    }
}

/// Writes `count` entries, a few at a time: kernel stacks are small.
fn write_entries<M: GuestMemory + ?Sized>(
    table: u64,
    count: u64,
    memory: &mut M,
    entry: impl Fn(u64) -> u64,
) -> Result<(), LoadError> {
    const GROUP: u64 = 32;
    let mut first = 0;
    while first < count {
        let mut bytes = [0; GROUP as usize * 8];
        let group = GROUP.min(count - first);
        for (index, slot) in (first..first + group).zip(bytes.chunks_exact_mut(8)) {
            slot.copy_from_slice(&entry(index).to_le_bytes());
        }
        let used = bytes.get(..group as usize * 8).unwrap_or(&bytes);
        memory.write(Gpa(table + first * 8), used)?;
        first += group;
    }
    Ok(())
}
