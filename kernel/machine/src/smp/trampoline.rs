//! The code with which a CPU starts, and what that code must know. The code itself is `boot`'s: it runs in 16-bit mode
//! first, at the start of a page below 1 MiB.

// UNSAFETY: writes into the page where other CPUs begin.
#![allow(unsafe_code)]

use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use vcpu::Hpa;

use super::arrival;
use crate::cpu::PerCpu;
use crate::memory::{StartupSpace, direct_map};

/// Where in the page the code finds its [`Parameters`]: right behind its first jump.
pub const PARAMETERS_OFFSET: usize = 8;
const PAGE_BYTES: usize = vcpu::PAGE_SIZE as usize;

/// Nobody is waited for.
const TICKET_NONE: u32 = 0;
/// A CPU is waited for: the first that comes takes the ticket.
pub const TICKET_OFFERED: u32 = 1;
/// It has come.
pub const TICKET_TAKEN: u32 = 2;
/// It has come and has no 64-bit mode or no no-execute pages.
pub const TICKET_UNFIT: u32 = 3;

const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
const CODE_32_SELECTOR: u16 = 0x08;
const CODE_64_SELECTOR: u16 = 0x10;

/// The start-up code as the boot binary has it. It runs wherever a page of it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trampoline {
    /// Its bytes, with room for the parameters at [`PARAMETERS_OFFSET`].
    pub code: &'static [u8],
    /// Where its 32-bit part begins, in bytes.
    pub entry_32: u32,
    /// Where its 64-bit part begins, in bytes.
    pub entry_64: u32,
}

impl Trampoline {
    /// No code: other CPUs cannot be started.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self { code: &[], entry_32: 0, entry_64: 0 };
}

/// An address and a selector as a far jump wants them: low and high half of the address, selector.
type FarPointer = [u16; 3];

/// What the code must know, in the order in which it lies in the page.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Parameters {
    /// One of the `TICKET_` values.
    pub ticket: u32,
    /// The root of the first page tables, below 4 GiB.
    pub root: u32,
    /// For LGDT: limit, low and high half of the base.
    pub gdt_pointer: [u16; 3],
    /// To the 32-bit code.
    pub far_32: FarPointer,
    /// To the 64-bit code.
    pub far_64: FarPointer,
    reserved: [u16; 3],
    gdt: [u64; 4],
    /// The kernel's stack.
    pub stack: u64,
    /// The kernel's code.
    pub entry: u64,
    /// What that gets in RDI.
    pub argument: u64,
}

// The code addresses them by eight bits with a sign.
const _: () = assert!(PARAMETERS_OFFSET + size_of::<Parameters>() < 128);
const _: () = assert!((PARAMETERS_OFFSET + offset_of!(Parameters, gdt)).is_multiple_of(8));

impl Parameters {
    fn new(space: StartupSpace, trampoline: &Trampoline) -> Option<Self> {
        let page = u32::try_from(space.page.0).ok()?;
        let gdt = page + (PARAMETERS_OFFSET + offset_of!(Self, gdt)) as u32;
        Some(Self {
            ticket: TICKET_NONE,
            root: u32::try_from(space.root.0).ok()?,
            gdt_pointer: [size_of::<[u64; 4]>() as u16 - 1, gdt as u16, (gdt >> 16) as u16],
            far_32: far(page + trampoline.entry_32, CODE_32_SELECTOR),
            far_64: far(page + trampoline.entry_64, CODE_64_SELECTOR),
            reserved: [0; 3],
            gdt: [0, CODE_32, CODE_64, DATA],
            stack: 0,
            entry: arrival::entry as *const () as u64,
            argument: 0,
        })
    }
}

const fn far(address: u32, selector: u16) -> FarPointer {
    [address as u16, (address >> 16) as u16, selector]
}

/// The page with the code in place.
pub(super) struct Trap {
    page: Hpa,
    parameters: *mut Parameters,
}

impl Trap {
    /// Puts the code into its page. `None` where it does not fit.
    pub(super) fn lay(space: StartupSpace, trampoline: &Trampoline) -> Option<Self> {
        let length = trampoline.code.len();
        if !(PARAMETERS_OFFSET + size_of::<Parameters>()..=PAGE_BYTES).contains(&length) {
            return None;
        }
        let parameters = Parameters::new(space, trampoline)?;
        let page = direct_map(space.page);
        // SAFETY: the page is reserved for this, in the direct map, and no CPU runs there yet; the code is at most
        // a page, and the parameters lie within it, aligned.
        unsafe {
            ptr::copy_nonoverlapping(trampoline.code.as_ptr(), page, length);
            let at = page.add(PARAMETERS_OFFSET).cast::<Parameters>();
            at.write(parameters);
            Some(Self { page: space.page, parameters: at })
        }
    }

    /// The page's number, as a start-up message has it.
    pub(super) const fn page(&self) -> u8 {
        (self.page.0 / vcpu::PAGE_SIZE) as u8
    }

    /// Lets one CPU in: it gets this block and its stack. `None` where the block has no stack.
    pub(super) fn offer(&self, cpu: &'static PerCpu) -> Option<Ticket<'_>> {
        let stack = cpu.stacks()?.main.end;
        // SAFETY: the pointer leads into the page (`lay`); nobody reads these words while no ticket is offered.
        let ticket = unsafe {
            (&raw mut (*self.parameters).stack).write_volatile(stack);
            (&raw mut (*self.parameters).argument).write_volatile(ptr::from_ref(cpu) as u64);
            AtomicU32::from_ptr(&raw mut (*self.parameters).ticket)
        };
        ticket.store(TICKET_OFFERED, Ordering::SeqCst);
        Some(Ticket(ticket))
    }
}

/// The right of one CPU to start.
pub(super) struct Ticket<'a>(&'a AtomicU32);

impl Ticket<'_> {
    /// A CPU has come.
    pub(super) fn is_taken(&self) -> bool {
        self.0.load(Ordering::SeqCst) != TICKET_OFFERED
    }

    /// The CPU that came cannot run the kernel.
    pub(super) fn is_unfit(&self) -> bool {
        self.0.load(Ordering::SeqCst) == TICKET_UNFIT
    }

    /// Lets nobody in any more. False where a CPU has come meanwhile.
    pub(super) fn withdraw(&self) -> bool {
        self.0.compare_exchange(TICKET_OFFERED, TICKET_NONE, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: Trampoline = Trampoline { code: &[0; 200], entry_32: 0x95, entry_64: 0xc3 };

    #[test]
    fn parameters_point_into_the_page() {
        let space = StartupSpace { page: Hpa(0x9_a000), root: Hpa(0x9_b000) };
        let parameters = Parameters::new(space, &CODE).unwrap();
        assert_eq!(parameters.root, 0x9_b000);
        assert_eq!(parameters.gdt_pointer, [31, 0xa028, 9]);
        assert_eq!(parameters.far_32, [0xa095, 9, 8]);
        assert_eq!(parameters.far_64, [0xa0c3, 9, 0x10]);
        assert_eq!(offset_of!(Parameters, gdt) + PARAMETERS_OFFSET, 0x28);
    }

    #[test]
    fn tables_beyond_4_gib_do_not_serve() {
        let space = StartupSpace { page: Hpa(0x9_a000), root: Hpa(1 << 32) };
        assert!(Parameters::new(space, &CODE).is_none());
    }

    #[test]
    fn a_ticket_serves_one_cpu() {
        let word = AtomicU32::new(TICKET_OFFERED);
        let ticket = Ticket(&word);
        assert!(!ticket.is_taken());
        assert!(ticket.withdraw() && !ticket.withdraw());
        word.store(TICKET_TAKEN, Ordering::SeqCst);
        assert!(ticket.is_taken() && !ticket.is_unfit() && !ticket.withdraw());
    }
}
