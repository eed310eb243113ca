//! MSI-X (PCI Local Bus Specification 3.0, "MSI-X Capability and Table Structures").

use super::device::{Device, register};
use crate::apic::XAPIC_BASE;
use crate::cpu::{read16, read32, write16, write32};

/// The number that stands for no vector.
pub const NO_VECTOR: u16 = 0xffff;

/// Words of a table's entry.
#[expect(missing_docs, reason = "the specification's names")]
pub mod entry {
    pub const BYTES: u64 = 16;
    pub const ADDRESS: u64 = 0;
    pub const ADDRESS_HIGH: u64 = 4;
    pub const DATA: u64 = 8;
    pub const CONTROL: u64 = 12;
    pub const MASKED: u32 = 1;
}

/// Message control: on, all masked.
const ENABLE: u32 = 1 << 31;
const MASK_ALL: u32 = 1 << 30;

impl Device {
    /// Switches MSI-X on or off, with all vectors masked or not.
    pub fn set_msix(&self, on: bool, masked: bool) {
        let control = if on { ENABLE } else { 0 } | if masked { MASK_ALL } else { 0 };
        self.set_config(self.msix_at, self.config(self.msix_at) & 0xffff | control);
    }

    /// Where a table's word is.
    pub fn entry(&self, vector: u16, word: u64) -> u64 {
        self.table + entry::BYTES * u64::from(vector) + word
    }

    /// Writes a table's entry.
    pub fn set_entry(&self, vector: u16, address: u64, data: u32, masked: bool) {
        write32(self.entry(vector, entry::CONTROL), entry::MASKED);
        write32(self.entry(vector, entry::ADDRESS), address as u32);
        write32(self.entry(vector, entry::ADDRESS_HIGH), (address >> 32) as u32);
        write32(self.entry(vector, entry::DATA), data);
        write32(self.entry(vector, entry::CONTROL), u32::from(masked));
    }

    /// Has a table's entry send an interrupt to the processor with that xAPIC id.
    pub fn route(&self, vector: u16, apic_id: u8, interrupt: u8) {
        self.set_entry(vector, XAPIC_BASE | u64::from(apic_id) << 12, interrupt.into(), false);
    }

    /// Masks a vector, or not.
    pub fn mask(&self, vector: u16, masked: bool) {
        write32(self.entry(vector, entry::CONTROL), u32::from(masked));
    }

    /// Whether a vector waits to be unmasked.
    pub fn is_pending(&self, vector: u16) -> bool {
        read32(self.pending + u64::from(vector / 32) * 4) >> (vector % 32) & 1 != 0
    }

    /// Gives a queue its vector. Returns what the device has made of it.
    pub fn set_queue_vector(&self, queue: u16, vector: u16) -> u16 {
        write16(self.common + register::QUEUE_SELECT, queue);
        write16(self.common + register::QUEUE_VECTOR, vector);
        read16(self.common + register::QUEUE_VECTOR)
    }

    /// Gives changes of the configuration their vector. Returns what the device has made of it.
    pub fn set_configuration_vector(&self, vector: u16) -> u16 {
        write16(self.common + register::CONFIGURATION_VECTOR, vector);
        read16(self.common + register::CONFIGURATION_VECTOR)
    }
}
