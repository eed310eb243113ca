//! A split virtqueue, from the device's side.
//!
//! What the driver may change at any time (its index, its ring, descriptors, indirect tables) is read once, into a [`Chain`]. Where
//! the parts of the queue are, and how large it is, is fixed when it is made. The device's own indices are kept here and
//! never read back.
//!
//! Source: VIRTIO 1.2, "Split Virtqueues".

mod chain;
#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod tests;

use core::sync::atomic::{Ordering, fence};

use vcpu::{Gpa, GuestMemory, NotRam};

pub use chain::{Chain, Cursor, MAX_SEGMENTS, Segment};

use crate::memory::{behind, load_u16};

/// Entries of a queue at most.
pub const MAX_SIZE: u16 = 256;

/// Bytes of a descriptor, of an entry of the driver's ring, of one of the device's ring; of what comes before the entries
/// of a ring.
const DESCRIPTOR_BYTES: u64 = 16;
const AVAILABLE_BYTES: u64 = 2;
const USED_BYTES: u64 = 8;
const RING_HEADER: u64 = 4;
/// The driver's flag that it wants no interrupts, where events have no index.
const NO_INTERRUPT: u32 = 1;

/// Where the parts of a queue are, as the driver has said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// Entries: a power of two.
    pub size: u16,
    /// The table of descriptors.
    pub descriptors: Gpa,
    /// The driver's ring: what it makes available.
    pub driver: Gpa,
    /// The device's ring: what it has used.
    pub device: Gpa,
}

/// Why a queue cannot be used (any more). The driver is at fault, and has to reset the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The size is none, or a part is not aligned as it must be.
    Layout,
    /// A part of the queue is where there is no RAM.
    NotRam(NotRam),
    /// The driver's index is further ahead than the queue has entries.
    Index,
    /// An entry names a descriptor that there is not.
    Descriptor,
    /// A chain is longer than the queue, comes back to itself, or is more than 4 GiB.
    Length,
    /// A table of descriptors that is not allowed here, or is none.
    Indirect,
    /// Something to be read stands behind something to be written.
    Order,
    /// A request without what every request has.
    Request,
}

impl From<NotRam> for Broken {
    fn from(error: NotRam) -> Self {
        Self::NotRam(error)
    }
}

/// What driver and device have agreed on about queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Abilities {
    /// Descriptors may lie in a table of their own.
    pub indirect: bool,
    /// Each side says from which index on it wants to hear of the other (VIRTIO_F_EVENT_IDX).
    pub event_index: bool,
}

/// A queue that the driver has enabled.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    layout: Layout,
    abilities: Abilities,
    /// The next entry of the driver's ring to look at.
    next: u16,
    /// The driver's index as last seen.
    seen: u16,
    /// Entries of the device's ring so far, and how many the driver was told of.
    used: u16,
    told: u16,
}

impl Queue {
    /// A queue of this layout.
    ///
    /// # Errors
    /// [`Broken::Layout`]. Whether there is RAM shows with the first use.
    pub fn new(layout: Layout, abilities: Abilities) -> Result<Self, Broken> {
        let Layout { size, descriptors, driver, device } = layout;
        let aligned =
            descriptors.0.is_multiple_of(16) && driver.0.is_multiple_of(2) && device.0.is_multiple_of(4);
        if !size.is_power_of_two() || size > MAX_SIZE || !aligned {
            return Err(Broken::Layout);
        }
        Ok(Self { layout, abilities, next: 0, seen: 0, used: 0, told: 0 })
    }

    /// Takes the next request into `chain`. `None` where there is none; the driver tells of the next one then.
    ///
    /// # Errors
    /// [`Broken`]: the queue is of no use any more.
    // A call of it for each frame would cost a quarter of what it does.
    #[inline(always)]
    pub fn take<M: GuestMemory>(&mut self, memory: &M, chain: &mut Chain) -> Result<Option<()>, Broken> {
        if self.next == self.seen && !self.look(memory)? {
            return Ok(None);
        }
        let at = RING_HEADER + AVAILABLE_BYTES * u64::from(self.next & (self.layout.size - 1));
        let head = load_u16(memory, behind(self.layout.driver, at))?;
        chain.read(memory, &self.layout, self.abilities.indirect, head)?;
        self.next = self.next.wrapping_add(1);
        Ok(Some(()))
    }

    /// Reads a request anew that was taken before and not given back.
    ///
    /// # Errors
    /// [`Broken`]: it is none any more.
    pub fn reread<M: GuestMemory>(&self, memory: &M, chain: &mut Chain, head: u16) -> Result<(), Broken> {
        chain.read(memory, &self.layout, self.abilities.indirect, head)
    }

    /// Looks for new requests. Where there are none, asks to be told of the next one, and looks again, as it may have come in
    /// between.
    #[inline(never)]
    fn look<M: GuestMemory>(&mut self, memory: &M) -> Result<bool, Broken> {
        if self.refresh(memory)? {
            return Ok(true);
        }
        if !self.abilities.event_index {
            return Ok(false);
        }
        let at = RING_HEADER + USED_BYTES * u64::from(self.layout.size);
        memory.write(behind(self.layout.device, at), &self.next.to_le_bytes())?;
        fence(Ordering::SeqCst);
        self.refresh(memory)
    }

    fn refresh<M: GuestMemory>(&mut self, memory: &M) -> Result<bool, Broken> {
        self.seen = load_u16(memory, behind(self.layout.driver, 2))?;
        if self.seen.wrapping_sub(self.next) > self.layout.size {
            return Err(Broken::Index);
        }
        Ok(self.seen != self.next)
    }

    /// Gives a request back, of whose buffers `written` bytes were written. The driver sees it with the next call of [`Self::wants_interrupt`].
    ///
    /// # Errors
    /// [`Broken::NotRam`].
    // A call of it for each frame would cost a quarter of what it does.
    #[inline(always)]
    pub fn give<M: GuestMemory>(&mut self, memory: &M, head: u16, written: u32) -> Result<(), Broken> {
        let at = RING_HEADER + USED_BYTES * u64::from(self.used & (self.layout.size - 1));
        memory.store_two_u32(behind(self.layout.device, at), [head.into(), written])?;
        self.used = self.used.wrapping_add(1);
        Ok(())
    }

    fn publish<M: GuestMemory>(&self, memory: &M) -> Result<(), Broken> {
        // Flags, which are zero, and index are one word, so that the index is seen behind the entry.
        memory.store_u32(self.layout.device, u32::from(self.used) << 16)?;
        Ok(())
    }

    /// Requests that are taken and given back together, or not at all: the queue is as before where [`Batch::keep`] is not reached.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch { now: *self, queue: self }
    }

    /// Shows the driver what was given back since the last call. Returns whether it wants an interrupt for that.
    ///
    /// # Errors
    /// [`Broken::NotRam`].
    pub fn wants_interrupt<M: GuestMemory>(&mut self, memory: &M) -> Result<bool, Broken> {
        let (from, to) = (core::mem::replace(&mut self.told, self.used), self.used);
        if from == to {
            return Ok(false);
        }
        self.publish(memory)?;
        // What was given back must be seen before the driver is found not to wait for it.
        fence(Ordering::SeqCst);
        if !self.abilities.event_index {
            return Ok(memory.load_u32(self.flags_word())? >> self.flags_shift() & NO_INTERRUPT == 0);
        }
        let at = RING_HEADER + AVAILABLE_BYTES * u64::from(self.layout.size);
        let event = load_u16(memory, behind(self.layout.driver, at))?;
        Ok(to.wrapping_sub(event).wrapping_sub(1) < to.wrapping_sub(from))
    }

    const fn flags_word(&self) -> Gpa {
        Gpa(self.layout.driver.0 & !3)
    }

    const fn flags_shift(&self) -> u64 {
        8 * (self.layout.driver.0 & 2)
    }
}

/// Requests that belong together.
#[derive(Debug)]
pub struct Batch<'q> {
    queue: &'q mut Queue,
    now: Queue,
}

impl Batch<'_> {
    /// As [`Queue::take`].
    ///
    /// # Errors
    /// [`Broken`].
    pub fn take<M: GuestMemory>(&mut self, memory: &M, chain: &mut Chain) -> Result<Option<()>, Broken> {
        self.now.take(memory, chain)
    }

    /// As [`Queue::give`].
    ///
    /// # Errors
    /// [`Broken::NotRam`].
    pub fn give<M: GuestMemory>(&mut self, memory: &M, head: u16, written: u32) -> Result<(), Broken> {
        self.now.give(memory, head, written)
    }

    /// All was given back.
    pub const fn keep(self) {
        *self.queue = self.now;
    }
}
