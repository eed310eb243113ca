//! The filter between the management domain (dom0) and the machine's PCI configuration space.
//!
//! Everything passes, both ways, but for this:
//!
//! - **Message interrupts** (MSI, MSI-X): dom0's addresses and data stay in the filter and read back as they were written; the devices get the kernel's
//!   messages ([`vcpu::Hardware::open_message`]), and [`Filter::deliver`] says what dom0 wanted to come. MSI has one vector.
//! - **What decodes memory** (BARs, expansion ROMs, bridges' windows) never lies over memory or the kernel's registers while a function decodes memory:
//!   such a value is held in the filter, where dom0 reads it, until the whole of it is harmless or decoding is off. That also answers sizing.
//! - **Hidden functions** are absent: those of IOMMUs, and what the owner says ([`Filter::hide`]).
//! - **Host bridges** keep what is beyond the standard header, their BARs and whether they decode: they map RAM.
//! - **Capabilities** that would open a way around this read as null capabilities.
//! - **The kernel's own functions** are in unused device numbers of bus 0 ([`Filter::reserve_slots`]).
//!
//! The hardware's registers are the truth, since a reset changes them behind the filter's back: what it keeps is only what they cannot tell.
//!
//! MSI-X tables lie in BARs. The pages they touch are to be out of dom0's reach before they are there: accesses say so by the callback `withdraw`, which
//! returns when no CPU can reach the pages any more. What traps there goes to [`Filter::table_read`] and [`Filter::table_write`].
//!
//! No locks: the owner has one around the filter, and asks [`Filter::table_at`] and maps a page of device memory under it.
//!
//! Sources: PCI Local Bus Specification 3.0, "Configuration Space", "MSI Capability Structure", "MSI-X Capability and Table Structures"; PCI-to-PCI
//! Bridge Architecture Specification 1.2, "Bridge Configuration Header"; PCI Code and ID Assignment Specification, "Capability IDs".

mod bars;
mod bus;
mod capability;
mod function;
mod ground;
mod header;
mod lanes;
mod msi;
mod msix;
mod ports;
mod table;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::ops::Range;

use arrayvec::ArrayVec;
use devices::{ApicMessage, Width};
use vcpu::{Hardware, Hpa, PciFunction, SourceId};

use function::Function;
use ground::Ground;
pub use ground::{Pages, Refused, Withdraw};

/// Functions that are remembered. What dom0 finds beyond is absent for it.
pub const MAX_FUNCTIONS: usize = 1024;
/// Functions that the owner can hide.
pub const MAX_HIDDEN: usize = 64;
/// Device numbers that can be set aside for the kernel's own functions.
pub const MAX_SLOTS: usize = 8;
/// Ranges of registers that the owner can guard.
pub const MAX_GUARDED: usize = 32;
/// Bytes of a function's configuration space.
const CONFIG_BYTES: u16 = 4096;

/// What became of an access to configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<T> {
    /// It is done; what was read.
    Done(T),
    /// The function is one of the kernel's own ([`Filter::reserve_slots`]): the owner passes the access on to these.
    Other {
        /// The function.
        function: PciFunction,
        /// The first byte of the access.
        register: u16,
    },
}

/// The filter. See the module.
pub struct Filter<'m> {
    ground: Ground<'m>,
    /// Those dom0 has found, by their address.
    functions: Vec<Function>,
    hidden: ArrayVec<PciFunction, MAX_HIDDEN>,
    guarded: ArrayVec<(PciFunction, u16, u16), MAX_GUARDED>,
    slots: ArrayVec<u8, MAX_SLOTS>,
    /// Dom0's address register; the machine's own is the machine's.
    address: u32,
}

impl<'m> Filter<'m> {
    /// A filter that knows no function yet. No hardware is touched.
    pub fn new(hardware: &'m dyn Hardware) -> Self {
        Self {
            ground: Ground::new(hardware),
            functions: Vec::new(),
            hidden: ArrayVec::new(),
            guarded: ArrayVec::new(),
            slots: ArrayVec::new(),
            address: 0,
        }
    }

    /// Keeps device memory free of dom0's devices: the kernel's registers (I/O APICs, IOMMUs, the configuration window, BARs of hidden functions).
    /// The machine's memory map and the local APICs are kept free anyway. `bytes` of 0 is nothing. False where there is no room for another range.
    pub fn protect(&mut self, start: Hpa, bytes: u64) -> bool {
        self.ground.protect(start, bytes)
    }

    /// Hides a function: it reads as absent and takes no writes. To be called before dom0 runs; from then on the filter does not touch the function.
    /// Where function 0 of a device is hidden, most software does not look for the others. False where there is no room for another.
    pub fn hide(&mut self, function: PciFunction) -> bool {
        if self.hidden.contains(&function) {
            return true;
        }
        if self.hidden.is_full() {
            return false;
        }
        if let Ok(index) = self.find(function) {
            self.forget(index, true);
        }
        self.hidden.try_push(function).is_ok()
    }

    /// Lets dom0 read `registers` of a function but not write them: what moves ranges of the chipset that no BAR tells of. False where there is no room.
    pub fn guard(&mut self, function: PciFunction, registers: Range<u16>) -> bool {
        self.guarded.try_push((function, registers.start, registers.end)).is_ok()
    }

    /// Sets aside up to `count` device numbers of bus 0 at which nothing answers, the highest below 31 first, and says how many there are now. To be
    /// called after [`Self::hide`] and before dom0 runs.
    pub fn reserve_slots(&mut self, count: usize) -> usize {
        for device in (1..31).rev() {
            if self.slots.len() >= count.min(MAX_SLOTS) {
                break;
            }
            let mut functions = (0..8).map(|function| PciFunction::new(0, device, function));
            let hidden = self.hidden.iter().any(|at| at.bus() == 0 && at.device() == device);
            if !hidden
                && !self.slots.contains(&device)
                && functions.all(|at| self.ground.vendor(at) == 0xffff)
            {
                let _ = self.slots.try_push(device);
            }
        }
        self.slots.len()
    }

    /// The device number on bus 0 of the kernel's own function `index`; `None` where so many were not set aside.
    pub fn virtual_slot(&self, index: usize) -> Option<u8> {
        self.slots.get(index).copied()
    }

    /// Reads `width` bytes of a function's configuration space from `register` on. All ones where there is nothing, and where the access crosses
    /// a multiple of four, which no configuration request does.
    pub fn read(
        &mut self,
        function: PciFunction,
        register: u16,
        width: Width,
        withdraw: &mut Withdraw<'_>,
    ) -> Answer<u32> {
        if self.is_virtual(function) {
            return Answer::Other { function, register };
        }
        let mut value = 0;
        for (index, part, width) in lanes::pieces(register, width) {
            value |= self.read_piece(function, part, width, withdraw) << (8 * index);
        }
        Answer::Done(if lanes::crosses(register, width) { lanes::ones(width) } else { value })
    }

    /// Writes. Nothing happens where [`Self::read`] reads all ones.
    pub fn write(
        &mut self,
        function: PciFunction,
        register: u16,
        width: Width,
        value: u32,
        withdraw: &mut Withdraw<'_>,
    ) -> Answer<()> {
        if self.is_virtual(function) {
            return Answer::Other { function, register };
        }
        for (index, part, width) in lanes::pieces(register, width) {
            self.write_piece(function, part, width, value >> (8 * index) & lanes::ones(width), withdraw);
        }
        Answer::Done(())
    }

    /// The pages that MSI-X tables lie in now. They are not to be mapped for dom0.
    pub fn tables(&self) -> impl Iterator<Item = Pages> + '_ {
        self.functions.iter().filter_map(Function::table_pages)
    }

    /// Changes whenever [`Self::tables`] does.
    pub const fn generation(&self) -> u64 {
        self.ground.generation
    }

    /// The function whose MSI-X table lies in the page of `address`, where one does (the first of several).
    pub fn table_at(&self, address: Hpa) -> Option<PciFunction> {
        let page = address.page();
        let has = |function: &&Function| function.table_pages().is_some_and(|pages| pages.has(page));
        self.functions.iter().find(has).map(Function::at)
    }

    /// The interrupt that dom0 set for a source that came. `None` where the source is none of the filter's (any more), or what dom0 set is no interrupt.
    pub fn deliver(&self, source: SourceId) -> Option<ApicMessage> {
        let (function, entry) = self.ground.owner(source)?;
        let function = self.functions.get(self.find(function).ok()?)?;
        let (address, data) = function.message(entry)?;
        devices::msi(address, data)
    }

    /// What was refused so far.
    pub const fn refused(&self) -> Refused {
        self.ground.refused
    }
}
