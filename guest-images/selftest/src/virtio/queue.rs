//! A split queue, from the driver's side.

use crate::cpu::{read16, read32, write16, write64};
use crate::memory::{self, PAGE};
use crate::tsc;

/// Descriptor flags.
#[expect(missing_docs, reason = "the specification's names")]
pub mod descriptor {
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
    /// Bytes of one.
    pub const BYTES: u64 = 16;
}

/// The driver's flag that it wants no interrupts.
const NO_INTERRUPT: u16 = 1;
/// The device's flag that it wants no doorbells.
const NO_NOTIFY: u16 = 1;
/// Bytes before a ring's entries.
const HEADER: u64 = 4;
/// How long a request may take.
const PATIENCE_US: u64 = 2_000_000;

/// Where the parts of a queue are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// Entries.
    pub size: u16,
    /// The table of descriptors.
    pub descriptors: u64,
    /// The driver's ring.
    pub driver: u64,
    /// The device's ring.
    pub device: u64,
}

impl Layout {
    /// In fresh pages, one part after the other.
    pub fn fresh(size: u16) -> Self {
        let pages = |bytes: u64| memory::pages(bytes.div_ceil(PAGE));
        let entries = u64::from(size);
        Self {
            size,
            descriptors: pages(descriptor::BYTES * entries),
            driver: pages(HEADER + 2 * entries + 2),
            device: pages(HEADER + 8 * entries + 2),
        }
    }
}

/// A buffer of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Buffer {
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// [`descriptor::WRITE`], or 0.
    pub flags: u16,
}

impl Buffer {
    /// One that the device reads.
    pub const fn readable(address: u64, length: u32) -> Self {
        Self { address, length, flags: 0 }
    }

    /// One that the device writes.
    pub const fn writable(address: u64, length: u32) -> Self {
        Self { address, length, flags: descriptor::WRITE }
    }
}

/// A request that the device has given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// Its first descriptor.
    pub head: u32,
    /// Bytes that the device says it has written.
    pub written: u32,
}

/// A queue. Descriptors are taken in turn: a chain is the caller's until as many descriptors as the queue has were taken behind it.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// Where it is.
    pub layout: Layout,
    /// Its number.
    pub index: u16,
    /// Where its doorbell is.
    pub doorbell: u64,
    /// The next descriptor.
    pub next: u16,
    /// Requests offered so far.
    pub offered: u16,
    /// Of these, the ones that the device may see.
    pub published: u16,
    /// Of these, the ones of which a doorbell has told.
    pub told: u16,
    /// Requests that have come back.
    pub collected: u16,
    event_index: bool,
}

/// Writes a descriptor into a table.
#[inline]
pub fn describe(table: u64, index: u16, buffer: Buffer, more_flags: u16, next: u16) {
    let at = table + descriptor::BYTES * u64::from(index);
    let flags = u64::from(buffer.flags | more_flags);
    write64(at, buffer.address);
    write64(at + 8, u64::from(next) << 48 | flags << 32 | u64::from(buffer.length));
}

impl Queue {
    /// A queue that the device has been told of.
    pub const fn new(layout: Layout, index: u16, doorbell: u64, event_index: bool) -> Self {
        Self {
            layout,
            index,
            doorbell,
            next: 0,
            offered: 0,
            published: 0,
            told: 0,
            collected: 0,
            event_index,
        }
    }

    /// Writes one of the queue's descriptors.
    #[inline]
    pub fn describe(&self, index: u16, buffer: Buffer, more_flags: u16, next: u16) {
        describe(self.layout.descriptors, index, buffer, more_flags, next);
    }

    /// Writes a chain of buffers into the next descriptors. Returns its head.
    #[inline]
    pub fn chain(&mut self, buffers: &[Buffer]) -> u16 {
        let (head, mask) = (self.next, self.layout.size - 1);
        let last = buffers.len().saturating_sub(1);
        for (at, buffer) in buffers.iter().enumerate() {
            let following = (self.next + 1) & mask;
            self.describe(self.next, *buffer, if at == last { 0 } else { descriptor::NEXT }, following);
            self.next = following;
        }
        head
    }

    /// Writes a chain of buffers into a table of its own, and the descriptor for that. Returns the head.
    #[inline]
    pub fn indirect(&mut self, table: u64, buffers: &[Buffer]) -> u16 {
        let (head, last) = (self.next, buffers.len().saturating_sub(1));
        for (at, buffer) in buffers.iter().enumerate() {
            describe(table, at as u16, *buffer, if at == last { 0 } else { descriptor::NEXT }, at as u16 + 1);
        }
        let bytes = descriptor::BYTES as u32 * buffers.len() as u32;
        self.describe(head, Buffer::readable(table, bytes), descriptor::INDIRECT, 0);
        self.next = (head + 1) & (self.layout.size - 1);
        head
    }

    /// Puts a chain into the driver's ring; the device does not see it yet.
    #[inline]
    pub fn put(&mut self, head: u16) {
        let slot = u64::from(self.offered & (self.layout.size - 1));
        write16(self.layout.driver + HEADER + 2 * slot, head);
        self.offered = self.offered.wrapping_add(1);
    }

    /// Shows the device what was put there.
    #[inline]
    pub fn publish(&mut self) {
        self.set_index(self.offered);
        self.published = self.offered;
    }

    /// Writes the driver's index.
    #[inline]
    pub fn set_index(&self, index: u16) {
        write16(self.layout.driver + 2, index);
    }

    /// Rings the doorbell where the device wants to be told.
    #[inline]
    pub fn kick(&mut self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        let (from, to) = (self.told, self.published);
        self.told = to;
        let wanted = if self.event_index {
            let event = read16(self.layout.device + HEADER + 8 * u64::from(self.layout.size));
            to.wrapping_sub(event).wrapping_sub(1) < to.wrapping_sub(from)
        } else {
            read16(self.layout.device) & NO_NOTIFY == 0
        };
        if wanted {
            self.ring();
        }
    }

    /// Rings the doorbell.
    #[inline]
    pub fn ring(&self) {
        write16(self.doorbell, self.index);
    }

    /// Offers a chain and tells of it.
    #[inline]
    pub fn offer(&mut self, head: u16) {
        self.put(head);
        self.publish();
        self.kick();
    }

    /// The next request that has come back.
    #[inline]
    pub fn poll(&mut self) -> Option<Used> {
        if self.used_index() == self.collected {
            return None;
        }
        let slot = u64::from(self.collected & (self.layout.size - 1));
        let at = self.layout.device + HEADER + 8 * slot;
        self.collected = self.collected.wrapping_add(1);
        Some(Used { head: read32(at), written: read32(at + 4) })
    }

    /// The device's index.
    #[inline]
    pub fn used_index(&self) -> u16 {
        read16(self.layout.device + 2)
    }

    /// The next request that comes back, within two seconds.
    pub fn wait(&mut self) -> Option<Used> {
        let mut used = self.poll();
        if used.is_none() {
            tsc::wait_us(PATIENCE_US, || {
                used = self.poll();
                used.is_some()
            });
        }
        used
    }

    /// A request from beginning to end.
    pub fn request(&mut self, buffers: &[Buffer]) -> Option<Used> {
        let head = self.chain(buffers);
        self.offer(head);
        self.wait()
    }

    /// Wants interrupts, for the next request that comes back, or none.
    pub fn want_interrupts(&self, wanted: bool) {
        if self.event_index {
            // The one just collected has been: no interrupt until the index has gone around.
            let event = if wanted { self.collected } else { self.collected.wrapping_sub(1) };
            write16(self.layout.driver + HEADER + 2 * u64::from(self.layout.size), event);
        } else {
            write16(self.layout.driver, if wanted { 0 } else { NO_INTERRUPT });
        }
    }
}
