//! The memory map: the I/O APIC's registers and the PCI configuration window.

use super::{Chipset, Environment};
use crate::bus::Width;
use crate::ioapic::IoApic;
use crate::pci::Ecam;
use vcpu::{Gpa, Nanos};

/// What memory-mapped registers belong to, with the offset into them.
#[derive(Clone, Copy, Debug)]
enum MemoryDevice {
    IoApic(u64),
    Ecam(u64),
}

impl MemoryDevice {
    #[inline]
    fn find(gpa: Gpa) -> Option<Self> {
        let within = |base: Gpa, size| gpa.0.checked_sub(base.0).filter(|offset| *offset < size);
        if let Some(offset) = within(IoApic::BASE, IoApic::SIZE) {
            return Some(Self::IoApic(offset));
        }
        within(Ecam::BASE, Ecam::SIZE).map(Self::Ecam)
    }
}

impl MemoryDevice {
    /// Configuration space of the machine's own is where the machine has it.
    const fn is_here(&self, outside: bool) -> bool {
        matches!(self, Self::IoApic(_)) || !outside
    }
}

impl Chipset<'_> {
    /// Reads memory-mapped registers at `gpa`; `None` when no device is there.
    pub fn mmio_read(
        &mut self,
        gpa: Gpa,
        width: Width,
        _now: Nanos,
        _env: &mut impl Environment,
    ) -> Option<u64> {
        match MemoryDevice::find(gpa).filter(|device| device.is_here(self.outside))? {
            MemoryDevice::IoApic(offset) => Some(self.ioapic.read(offset, width).unwrap_or_else(|_| {
                self.counters.refused += 1;
                width.mask()
            })),
            MemoryDevice::Ecam(offset) => Some(self.read_ecam(offset, width)),
        }
    }

    /// Writes memory-mapped registers at `gpa`; `None` when no device is there.
    pub fn mmio_write(
        &mut self,
        gpa: Gpa,
        width: Width,
        value: u64,
        _now: Nanos,
        env: &mut impl Environment,
    ) -> Option<()> {
        match MemoryDevice::find(gpa).filter(|device| device.is_here(self.outside))? {
            MemoryDevice::IoApic(offset) => {
                if self.ioapic.write(offset, width, value, env).is_err() {
                    self.counters.refused += 1;
                }
                if self.outside {
                    self.tell_pins(env);
                }
            }
            MemoryDevice::Ecam(offset) => self.write_ecam(offset, width, value),
        }
        Some(())
    }

    /// A function or register that is not there is no error: it reads all ones.
    fn read_ecam(&mut self, offset: u64, width: Width) -> u64 {
        let piece = Ecam::piece(offset, width);
        let mut value = 0;
        for index in (0..width.bytes()).step_by(piece.bytes().into()) {
            let absent = piece.mask() as u32;
            let part = self.pci.ecam_read(offset + u64::from(index), piece).unwrap_or(absent);
            value |= u64::from(part) << (8 * index);
        }
        value
    }

    fn write_ecam(&mut self, offset: u64, width: Width, value: u64) {
        let piece = Ecam::piece(offset, width);
        for index in (0..width.bytes()).step_by(piece.bytes().into()) {
            let part = (value >> (8 * index) & piece.mask()) as u32;
            let written = self.pci.ecam_write(offset + u64::from(index), piece, part);
            self.note_configured(written);
        }
    }
}
