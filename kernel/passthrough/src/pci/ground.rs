//! What all functions share: the hardware, the sources that are open, the ranges that stay free, and what was refused.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use devices::Width;
use vcpu::{Hardware, HostMemory, Hpa, Message, PAGE_SIZE, PciFunction, SourceId};

use super::bars::Region;

/// Where local APICs have their registers, and what messages are written to (SDM vol. 3, "Message Address Register Format").
const INTERRUPTS: Region = Region { first: 0xfee0_0000, last: 0xfeef_ffff };
/// Ranges that the owner can protect.
const MAX_PROTECTED: usize = 32;

/// Whole pages of device memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// The first.
    pub start: Hpa,
    /// Bytes, a multiple of [`PAGE_SIZE`].
    pub bytes: u64,
}

impl Pages {
    /// The pages that a range touches.
    pub(super) const fn around(region: Region) -> Self {
        let start = region.first & !(PAGE_SIZE - 1);
        Self { start: Hpa(start), bytes: (region.last - start) / PAGE_SIZE * PAGE_SIZE + PAGE_SIZE }
    }

    /// Whether the address is in them.
    pub(super) const fn has(self, at: Hpa) -> bool {
        at.0 >= self.start.0 && at.0 - self.start.0 < self.bytes
    }
}

/// Takes pages out of dom0's reach, at once: when it returns, no CPU can reach them any more, and they are not mapped again while
/// [`super::Filter::tables`] has them.
pub type Withdraw<'w> = dyn FnMut(Pages) + 'w;

/// How often something was refused, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refused {
    /// BARs or windows that would have lain over memory or the kernel's registers; each such write is held back, one that only sizes does not count.
    pub ranges: u32,
    /// Times that decoding memory was not switched on because of such a range.
    pub decode: u32,
    /// Writes to host bridges.
    pub host_bridge: u32,
    /// Writes to registers that are guarded, and to capabilities that are not shown.
    pub guarded: u32,
    /// Changes of bus numbers that would have moved a hidden function.
    pub buses: u32,
    /// Message interrupts that could not be had: none is left, or the table cannot be reached.
    pub messages: u32,
    /// Functions and capabilities that were not shown because there is no room to remember them.
    pub room: u32,
}

/// What all functions share.
pub(super) struct Ground<'m> {
    pub(super) hardware: &'m dyn Hardware,
    pub(super) refused: Refused,
    /// Counts changes of where tables are.
    pub(super) generation: u64,
    protected: ArrayVec<Region, MAX_PROTECTED>,
    /// Open sources in ascending order, with the function and the entry of its table that they are for.
    sources: Vec<(SourceId, PciFunction, u16)>,
}

impl<'m> Ground<'m> {
    pub(super) const fn new(hardware: &'m dyn Hardware) -> Self {
        Self {
            hardware,
            refused: Refused {
                ranges: 0,
                decode: 0,
                host_bridge: 0,
                guarded: 0,
                buses: 0,
                messages: 0,
                room: 0,
            },
            generation: 0,
            protected: ArrayVec::new_const(),
            sources: Vec::new(),
        }
    }

    pub(super) fn protect(&mut self, start: Hpa, bytes: u64) -> bool {
        Region::new(start.0, bytes).is_none_or(|region| self.protected.try_push(region).is_ok())
    }

    /// Whether a range is device memory that dom0's devices may have.
    pub(super) fn is_free(&self, region: Region) -> bool {
        // What firmware keeps may be device memory, to which it has mapped functions itself.
        let memory = self.hardware.memory_map().iter().filter(|at| at.kind != HostMemory::Firmware);
        let memory = memory.filter_map(|at| Region::new(at.start.0, at.length));
        let mut taken = memory.chain(self.protected.iter().copied()).chain([INTERRUPTS]);
        !taken.any(|range| range.overlaps(region))
    }

    /// A function's vendor; all ones where none answers.
    pub(super) fn vendor(&self, at: PciFunction) -> u32 {
        self.hardware.config_read(at, 0, 2) & 0xffff
    }

    /// A message for an entry of a function. `None`, and counted, where there is none.
    pub(super) fn open(&mut self, at: PciFunction, entry: u16) -> Option<(SourceId, Message)> {
        let room = self.sources.try_reserve(1).is_ok();
        let opened = if room { self.hardware.open_message() } else { None };
        let Some((source, message)) = opened else {
            count(&mut self.refused.messages);
            return None;
        };
        let place = self.sources.partition_point(|(other, ..)| *other < source);
        self.sources.insert(place, (source, at, entry));
        Some((source, message))
    }

    /// The hardware does not send it any more.
    pub(super) fn close(&mut self, source: SourceId) {
        self.sources.retain(|(other, ..)| *other != source);
        self.hardware.close_message(source);
    }

    /// Whose a source is.
    pub(super) fn owner(&self, source: SourceId) -> Option<(PciFunction, u16)> {
        let place = self.sources.binary_search_by_key(&source, |(other, ..)| *other).ok()?;
        self.sources.get(place).map(|(_, function, entry)| (*function, *entry))
    }
}

/// An access to a function that is under way.
pub(super) struct Access<'a, 'm> {
    pub(super) at: PciFunction,
    pub(super) ground: &'a mut Ground<'m>,
    pub(super) withdraw: &'a mut Withdraw<'a>,
}

impl Access<'_, '_> {
    pub(super) fn read(&self, register: u16, width: Width) -> u32 {
        self.ground.hardware.config_read(self.at, register, width.bytes())
    }

    pub(super) fn write(&self, register: u16, width: Width, value: u32) {
        self.ground.hardware.config_write(self.at, register, width.bytes(), value);
    }

    pub(super) fn refused(&mut self) -> &mut Refused {
        &mut self.ground.refused
    }
}

/// One more of a kind.
pub(super) fn count(counter: &mut u32) {
    *counter = counter.saturating_add(1);
}
