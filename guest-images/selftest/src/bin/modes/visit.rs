//! Goes to another mode, runs a payload there, and comes back.

use core::mem::size_of;

use selftest::descriptor::{self, CODE32, DATA, KERNEL_CODE32, SCRATCH};
use selftest::memory::{self, PAGE};
use selftest::{apic, cpu, paging};

use crate::trampoline::{
    self, Fields, LOW, trampoline_enter, trampoline_stub_bp, trampoline_stub_gp, trampoline_stub_irq,
    trampoline_stub_pf, trampoline_stub_ud,
};

/// The registers of a mode below long mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mode {
    pub(crate) cr0: u32,
    pub(crate) cr3: u32,
    pub(crate) cr4: u32,
    pub(crate) efer: u32,
}

/// Where to run a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// 32-bit code under long mode.
    Compatibility,
    /// Below long mode.
    Legacy(Mode),
}

const PROTECTED: u32 = 0x33;

/// Protected mode, flat, without paging.
pub(crate) const UNPAGED: Mode = Mode { cr0: PROTECTED, cr3: 0, cr4: 0, efer: 0 };

/// Linear address of the page that the tables below map apart: a frame, the local APIC, nothing, a read-only frame.
pub(crate) const APART: u32 = 0x4000_0000;

/// Where a label of the trampoline runs.
pub(crate) fn low(label: *const u8) -> u32 {
    (LOW + (label as u64 - &raw const trampoline::trampoline as u64)) as u32
}

/// A mode with its own tables: everything is mapped one to one in large pages, for CPL 3 as well, but the four pages at [`APART`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Paged {
    pub(crate) mode: Mode,
    /// The frame at APART.
    pub(crate) frame: u64,
    /// The table of the pages at APART.
    pub(crate) table: u64,
    /// Bytes of one of its entries.
    pub(crate) entry_size: u64,
}

impl Paged {
    /// The entry of page `index` at APART.
    pub(crate) fn entry(&self, index: u64) -> u64 {
        let slot = self.table + index * self.entry_size;
        if self.entry_size == 4 { u64::from(cpu::read32(slot)) } else { cpu::read64(slot) }
    }

    fn fill(&self) {
        let read_only = memory::page();
        let entries = [
            self.frame | paging::P | paging::W,
            apic::XAPIC_BASE | paging::P | paging::W,
            0,
            read_only | paging::P,
        ];
        for (index, entry) in entries.into_iter().enumerate() {
            let slot = self.table + index as u64 * self.entry_size;
            if self.entry_size == 4 { cpu::write32(slot, entry as u32) } else { cpu::write64(slot, entry) }
        }
    }
}

pub(crate) const CR0_PAGED: u32 = PROTECTED | 1 << 31 | 1 << 16;
const CR4_PSE: u32 = 1 << 4;
const CR4_PAE: u32 = 1 << 5;
const EFER_NXE: u32 = 1 << 11;

/// 32-bit paging with 4 MiB pages.
pub(crate) fn two_level() -> Paged {
    let directory = memory::page();
    for i in 0..1024_u32 {
        cpu::write32(directory + 4 * u64::from(i), i << 22 | 0x87);
    }
    let table = memory::page();
    cpu::write32(directory + 4 * u64::from(APART >> 22), table as u32 | 3);
    let mode = Mode { cr0: CR0_PAGED, cr3: directory as u32, cr4: CR4_PSE, efer: 0 };
    let paged = Paged { mode, frame: memory::page(), table, entry_size: 4 };
    paged.fill();
    paged
}

/// PAE paging with 2 MiB pages.
pub(crate) fn physical_address_extension() -> Paged {
    let pointers = memory::page();
    let directories = memory::pages(4);
    for i in 0..4 {
        cpu::write64(pointers + 8 * i, (directories + i * PAGE) | 1);
    }
    for i in 0..2048 {
        cpu::write64(directories + 8 * i, i << 21 | 0x87);
    }
    let table = memory::page();
    cpu::write64(directories + 8 * u64::from(APART >> 21), table | 3);
    let mode = Mode { cr0: CR0_PAGED, cr3: pointers as u32, cr4: CR4_PAE, efer: EFER_NXE };
    let paged = Paged { mode, frame: memory::page(), table, entry_size: 8 };
    paged.fill();
    paged
}

/// A 32-bit IDT with the trampoline's stubs.
fn interrupt_table() -> u64 {
    const DPL3: u64 = 3 << 45;
    let table = memory::page();
    let gates = [
        (6, &raw const trampoline_stub_ud, 0),
        (3, &raw const trampoline_stub_bp, DPL3),
        (13, &raw const trampoline_stub_gp, 0),
        (14, &raw const trampoline_stub_pf, 0),
        (u64::from(selftest::pic::BASE), &raw const trampoline_stub_irq, 0),
    ];
    for (vector, stub, dpl) in gates {
        let target = u64::from(low(stub));
        let gate =
            target & 0xffff | u64::from(KERNEL_CODE32) << 16 | 0x8e00 << 32 | dpl | (target >> 16) << 48;
        cpu::write64(table + 8 * vector, gate);
    }
    table
}

/// TCG marks PAE's directory pointers accessed, as no processor does: a reserved bit, should they be loaded again.
fn clear_pointer_flags(mode: Mode) {
    let long = u64::from(mode.efer) & cpu::efer::LME != 0;
    if mode.cr0 & CR0_PAGED == CR0_PAGED && mode.cr4 & CR4_PAE != 0 && !long {
        for i in 0..4 {
            let slot = u64::from(mode.cr3) + 8 * i;
            cpu::write64(slot, cpu::read64(slot) & !paging::A);
        }
    }
}

/// Runs a payload somewhere. Returns what the trampoline noted.
pub(crate) fn visit(place: Place, payload: *const u8, argument: [u32; 2]) -> Fields {
    let start = &raw const trampoline::trampoline;
    let length = &raw const trampoline::trampoline_end as u64 - start as u64;
    // SAFETY: the bytes between both labels are constants of the image.
    memory::store(LOW, unsafe { core::slice::from_raw_parts(start, length as usize) });
    let idt = interrupt_table();
    let mode = match place {
        Place::Legacy(mode) => mode,
        Place::Compatibility => UNPAGED,
    };
    clear_pointer_flags(mode);
    let first = LOW as u32 + core::mem::offset_of!(Fields, results) as u32;
    let compatibility = u32::from(place == Place::Compatibility);
    let fields = Fields {
        rsp: 0,
        idt64: [0; 8],
        idt32: [0x7ff, idt as u16, (idt >> 16) as u16, 0],
        cr0: mode.cr0,
        cr3: mode.cr3,
        cr4: mode.cr4,
        efer: mode.efer,
        compatibility,
        payload: low(payload),
        long_cr3: paging::root() as u32,
        argument,
        resume: [0; 2],
        exception: [0; 6],
        interrupts: 0,
        // The first result is EFER on the way down, which compatibility mode does not go.
        next_result: first + 4 * compatibility,
        results: [0; trampoline::RESULTS],
    };
    // SAFETY: LOW holds the copied trampoline, which starts with its fields.
    unsafe { (LOW as *mut Fields).write_volatile(fields) };
    selftest::snippet::call(u64::from(low(&raw const trampoline_enter)), 0);
    descriptor::install();
    const { assert!(size_of::<Fields>().is_multiple_of(8)) };
    // SAFETY: as above.
    unsafe { (LOW as *const Fields).read_volatile() }
}

/// Sets the scratch descriptors: code with base [`LOW`], data with the local APIC's base.
pub(crate) fn set_based_segments() {
    let based = |base: u64| (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56;
    descriptor::set_descriptor(SCRATCH, CODE32 | based(LOW));
    descriptor::set_descriptor(SCRATCH + 8, DATA | based(apic::XAPIC_BASE));
}
