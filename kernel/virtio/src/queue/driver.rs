//! A driver for tests: it lays out a queue in fake memory and makes requests.

use std::vec::Vec;

use vcpu::fake::FakeSpace;
use vcpu::{AddressSpace, Gpa, GuestMemory};

use super::Layout;

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// RAM of the fake guest.
pub(crate) const RAM: u64 = 1 << 20;
/// Where the queue is; buffers are free to use from [`BUFFERS`] on.
const DESCRIPTORS: u64 = 0x1000;
const DRIVER: u64 = 0x2002;
const DEVICE: u64 = 0x3004;
const QUEUE_BYTES: u64 = 0x4000;
pub(crate) const BUFFERS: u64 = 0x1_0000;

/// A buffer: address, length, whether the device writes it.
pub(crate) type Buffer = (u64, u32, bool);

pub(crate) struct Driver {
    pub(crate) memory: FakeSpace,
    pub(crate) layout: Layout,
    offered: u16,
    collected: u16,
    next_descriptor: u16,
}

impl Driver {
    pub(crate) fn new(size: u16) -> Self {
        let mut memory = FakeSpace::with_memory(RAM);
        memory.grow_all(Gpa(0), RAM).expect("there is memory");
        Self::at(memory, 0, size)
    }

    /// Another queue in the same memory. There is room for three in all.
    pub(crate) fn beside(&self, number: u64) -> Self {
        Self::at(self.memory.clone(), number, self.layout.size)
    }

    fn at(memory: FakeSpace, number: u64, size: u16) -> Self {
        let base = number * QUEUE_BYTES;
        let layout = Layout {
            size,
            descriptors: Gpa(DESCRIPTORS + base),
            driver: Gpa(DRIVER + base),
            device: Gpa(DEVICE + base),
        };
        Self { memory, layout, offered: 0, collected: 0, next_descriptor: 0 }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write(Gpa(at), bytes).expect("RAM");
    }

    fn word(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read(Gpa(at), &mut bytes).expect("RAM");
        u16::from_le_bytes(bytes)
    }

    /// Writes a descriptor into a table.
    pub(crate) fn describe(&self, table: u64, index: u16, (gpa, length): (u64, u32), flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&gpa.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.put(table + 16 * u64::from(index), &bytes);
    }

    /// Writes a descriptor into the queue's own table.
    pub(crate) fn own(&self, index: u16, buffer: (u64, u32), flags: u16, next: u16) {
        self.describe(self.layout.descriptors.0, index, buffer, flags, next);
    }

    /// Makes a chain of these buffers from the next descriptors on and offers it. Returns its head.
    pub(crate) fn offer_chain(&mut self, buffers: &[Buffer]) -> u16 {
        let size = self.layout.size;
        let first = self.next_descriptor;
        for (at, (gpa, length, write)) in buffers.iter().enumerate() {
            let index = (first + at as u16) % size;
            let more = if at + 1 == buffers.len() { 0 } else { NEXT };
            let flags = more | if *write { WRITE } else { 0 };
            self.own(index, (*gpa, *length), flags, (index + 1) % size);
        }
        self.next_descriptor = (first + buffers.len() as u16) % size;
        self.offer(first);
        first
    }

    /// Makes the chain that begins with `head` available.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.offered % self.layout.size);
        self.put(self.layout.driver.0 + 4 + 2 * slot, &head.to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        self.set_index(self.offered);
    }

    pub(crate) fn set_index(&self, index: u16) {
        self.put(self.layout.driver.0 + 2, &index.to_le_bytes());
    }

    /// Wants no interrupts.
    pub(crate) fn set_flags(&self, flags: u16) {
        self.put(self.layout.driver.0, &flags.to_le_bytes());
    }

    /// Wants an interrupt once the device has used the entry of this index.
    pub(crate) fn set_event(&self, index: u16) {
        self.put(self.layout.driver.0 + 4 + 2 * u64::from(self.layout.size), &index.to_le_bytes());
    }

    /// From which index on the device wants to be told.
    pub(crate) fn device_event(&self) -> u16 {
        self.word(self.layout.device.0 + 4 + 8 * u64::from(self.layout.size))
    }

    /// What the device has given back since the last call: heads, and bytes written.
    pub(crate) fn collect(&mut self) -> Vec<(u32, u32)> {
        let mut found = Vec::new();
        while self.word(self.layout.device.0 + 2) != self.collected {
            let mut bytes = [0; 8];
            let slot = u64::from(self.collected % self.layout.size);
            self.memory.read(Gpa(self.layout.device.0 + 4 + 8 * slot), &mut bytes).expect("RAM");
            let entry = u64::from_le_bytes(bytes);
            found.push((entry as u32, (entry >> 32) as u32));
            self.collected = self.collected.wrapping_add(1);
        }
        found
    }
}
