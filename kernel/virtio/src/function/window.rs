//! What a driver reads and writes in the BAR.
//!
//! Source: VIRTIO 1.2, "Virtio Over PCI Bus"; PCI Local Bus Specification 3.0, "MSI-X Table Structure".

use core::sync::atomic::Ordering::SeqCst;

use devices::Width;
use vcpu::Image;

use super::Function;
use crate::interrupts::Signals;
use crate::pci::{self, PAGE_SHIFT, page};
use crate::queue::Queue;
use crate::transport::{Effect, register, status};

impl<I: Image> Function<I> {
    /// Reads in the BAR. All ones where nothing is read that way.
    pub fn read(&self, offset: u64, width: Width, signals: &mut impl Signals) -> u64 {
        let (page, at) = (offset >> PAGE_SHIFT, offset & ((1 << PAGE_SHIFT) - 1));
        let found = match page {
            page::COMMON => self.read_common(at, width),
            page::ISR if at == 0 => Some(self.interrupts.read_isr(signals).into()),
            page::DEVICE => self.read_device(at, width),
            page::TABLE => self.read_words(at, width, |at| self.interrupts.read_table(at)),
            page::PENDING => self.read_words(at, width, |at| Some(self.interrupts.read_pending(at))),
            _ => None,
        };
        found.unwrap_or(width.mask())
    }

    fn read_common(&self, at: u64, width: Width) -> Option<u64> {
        let value = self.registers.lock().read(at, width, self.interrupts.configuration_vector())?;
        let broken = at == register::STATUS && self.broken.load(SeqCst);
        Some(if broken { value | u64::from(status::NEEDS_RESET) } else { value })
    }

    fn read_device(&self, at: u64, width: Width) -> Option<u64> {
        let bytes = self.kind.configuration(self.places.len());
        let part = bytes.get(at as usize..)?.get(..width.bytes().into())?;
        Some(part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn read_words(&self, at: u64, width: Width, read: impl Fn(u64) -> Option<u32>) -> Option<u64> {
        match width {
            Width::Dword if at.is_multiple_of(4) => read(at).map(u64::from),
            Width::Qword if at.is_multiple_of(8) => {
                Some(u64::from(read(at + 4)?) << 32 | u64::from(read(at)?))
            }
            _ => None,
        }
    }

    /// Writes in the BAR. What nothing takes is lost.
    pub fn write(&self, offset: u64, width: Width, value: u64, signals: &mut impl Signals) {
        let (page, at) = (offset >> PAGE_SHIFT, offset & ((1 << PAGE_SHIFT) - 1));
        match page {
            page::NOTIFY => self.ring(pci::doorbell(offset).unwrap_or(usize::MAX)),
            page::COMMON => self.write_common(at, width, value, signals),
            page::TABLE => self.write_table(at, width, value, signals),
            page::DEVICE => self.kind.write_configuration(at, value),
            _ => {}
        }
    }

    fn write_table(&self, at: u64, width: Width, value: u64, signals: &mut impl Signals) {
        match width {
            Width::Dword if at.is_multiple_of(4) => {
                let _ = self.interrupts.write_table(at, value as u32, signals);
            }
            Width::Qword if at.is_multiple_of(8) => {
                let _ = self.interrupts.write_table(at, value as u32, signals);
                let _ = self.interrupts.write_table(at + 4, (value >> 32) as u32, signals);
            }
            _ => {}
        }
    }

    fn write_common(&self, at: u64, width: Width, value: u64, signals: &mut impl Signals) {
        let mut registers = self.registers.lock();
        match registers.write(at, width, value).unwrap_or(Effect::None) {
            Effect::None => {}
            Effect::Reset => {
                self.forget();
                self.interrupts.reset(false, signals);
            }
            Effect::Live => {
                let features = registers.features();
                self.kind.go_live(features);
                self.live.store(!self.broken.load(SeqCst), SeqCst);
            }
            Effect::ConfigurationVector(vector) => self.interrupts.set_configuration_vector(vector),
            Effect::Vector { queue, vector } => {
                if let Some(place) = self.places.get(queue) {
                    place.lock().vector = vector;
                }
            }
            Effect::Enable { queue, layout, abilities } => {
                if let Some(place) = self.places.get(queue) {
                    match Queue::new(layout, abilities) {
                        Ok(made) => place.lock().queue = Some(made),
                        Err(_) => self.break_down(signals),
                    }
                }
            }
        }
    }
}
