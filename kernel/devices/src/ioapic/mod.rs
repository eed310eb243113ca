//! The I/O APIC: 24 pins, each with a redirection entry that says which message a line sends.
//!
//! Sources: Intel 82093AA data sheet, "I/O APIC Registers"; the EOI register and version 0x20 as in later Intel
//! chipsets (ICH data sheets, "EOI Register"). Differences: a line is asserted or not, and the polarity bit is only
//! stored; an edge on a masked pin is lost; a message always arrives, so delivery status reads 0.

#[cfg(test)]
mod tests;

use crate::bus::{IoError, Width};
use crate::message::{ApicBus, ApicMessage, DeliveryMode, Shorthand, widen_destination};
use crate::outside::PinSetting;
use vcpu::Gpa;

mod offset {
    pub(super) const SELECT: u64 = 0x00;
    pub(super) const WINDOW: u64 = 0x10;
    pub(super) const EOI: u64 = 0x40;
}

mod register {
    pub(super) const ID: u8 = 0;
    pub(super) const VERSION: u8 = 1;
    pub(super) const ARBITRATION: u8 = 2;
    pub(super) const REDIRECTION: u8 = 0x10;
}

const ID_SHIFT: u32 = 24;
const ID_MASK: u8 = 0x0f;

/// One redirection table entry.
#[derive(Clone, Copy, Debug)]
struct Redirection(u64);

impl Redirection {
    const LOGICAL: u64 = 1 << 11;
    const ACTIVE_LOW: u64 = 1 << 13;
    const DELIVERY_STATUS: u64 = 1 << 12;
    const REMOTE_IRR: u64 = 1 << 14;
    const LEVEL: u64 = 1 << 15;
    const MASKED: u64 = 1 << 16;
    const WRITABLE: u64 = 0xff00_0000_0001_ffff & !(Self::DELIVERY_STATUS | Self::REMOTE_IRR);

    const RESET: Self = Self(Self::MASKED);

    const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    const fn vector(self) -> u8 {
        self.0 as u8
    }

    fn message(self) -> Option<ApicMessage> {
        let logical = self.has(Self::LOGICAL);
        Some(ApicMessage {
            destination: widen_destination((self.0 >> 56) as u8, logical),
            logical,
            delivery: DeliveryMode::from_bits((self.0 >> 8) as u8)?,
            vector: self.vector(),
            level_triggered: self.has(Self::LEVEL),
            assert: true,
            shorthand: Shorthand::None,
            source: None,
        })
    }
}

/// The I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    id: u8,
    select: u8,
    entries: [Redirection; Self::PINS],
    /// Pins whose line is asserted.
    lines: u32,
    /// Pins that were set up since somebody has asked.
    set_up: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// Number of pins, which are the global system interrupts 0 to 23.
    pub const PINS: usize = 24;
    /// Where it sits.
    pub const BASE: Gpa = Gpa(0xfec0_0000);
    /// Bytes it claims.
    pub const SIZE: u64 = 0x1000;
    /// Version with an EOI register.
    const VERSION: u32 = 0x20;

    /// All pins masked, id 0.
    pub const fn new() -> Self {
        Self { id: 0, select: 0, entries: [Redirection::RESET; Self::PINS], lines: 0, set_up: 0 }
    }

    /// Reads the register at `offset`, 32 bits wide. Narrower aligned reads give the low part.
    pub fn read(&self, offset: u64, width: Width) -> Result<u64, IoError> {
        let value = match offset {
            offset::SELECT => u32::from(self.select),
            offset::WINDOW => self.read_window(),
            _ => return Err(IoError::NoRegister { offset: offset as u16 }),
        };
        if width == Width::Qword {
            return Err(IoError::Width { offset: offset as u16, width });
        }
        Ok(u64::from(value) & width.mask())
    }

    /// Writes the register at `offset`: the select register takes any width up to 32 bits, the others 32 bits.
    pub fn write(
        &mut self,
        offset: u64,
        width: Width,
        value: u64,
        bus: &mut impl ApicBus,
    ) -> Result<(), IoError> {
        let wide_enough = width == Width::Dword || offset == offset::SELECT && width != Width::Qword;
        match offset {
            offset::SELECT | offset::WINDOW | offset::EOI if !wide_enough => {
                return Err(IoError::Width { offset: offset as u16, width });
            }
            offset::SELECT => self.select = value as u8,
            offset::WINDOW => self.write_window(value as u32, bus),
            offset::EOI => self.end_of_interrupt(value as u8, bus),
            _ => return Err(IoError::NoRegister { offset: offset as u16 }),
        }
        Ok(())
    }

    /// Makes the line of `pin` high from the start: that is no edge.
    pub fn start_high(&mut self, pin: u8) {
        self.lines |= 1u32.unbounded_shl(pin.into());
    }

    /// Drives the line of `pin`; pins that are not there are ignored.
    #[inline]
    pub fn set_line(&mut self, pin: u8, level: bool, bus: &mut impl ApicBus) {
        if usize::from(pin) >= Self::PINS {
            return;
        }
        let bit = 1 << pin;
        let rising = level && self.lines & bit == 0;
        if level {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if rising {
            self.assert_pin(pin.into(), bus);
        }
    }

    /// A local APIC's EOI for the level-triggered `vector`: pins whose line is still asserted send again.
    pub fn end_of_interrupt(&mut self, vector: u8, bus: &mut impl ApicBus) {
        for pin in 0..Self::PINS {
            let entry = &mut self.entries[pin];
            if entry.vector() == vector && entry.has(Redirection::LEVEL) && entry.has(Redirection::REMOTE_IRR)
            {
                entry.0 &= !Redirection::REMOTE_IRR;
                self.resend_level(pin, bus);
            }
        }
    }

    /// The messages that pins are set up to send and that no interrupt flag holds back: NMI and INIT.
    pub fn unmaskable(&self) -> impl Iterator<Item = ApicMessage> {
        let messages = self.entries.iter().filter(|entry| !entry.has(Redirection::MASKED));
        messages
            .filter_map(|entry| entry.message())
            .filter(|message| matches!(message.delivery, DeliveryMode::Nmi | DeliveryMode::Init))
    }

    /// Sends the message of a pin that has just been asserted, if it may.
    fn assert_pin(&mut self, pin: usize, bus: &mut impl ApicBus) {
        let entry = &mut self.entries[pin];
        if entry.has(Redirection::MASKED)
            || entry.has(Redirection::LEVEL) && entry.has(Redirection::REMOTE_IRR)
        {
            return;
        }
        let Some(message) = entry.message() else { return };
        // Remote IRR holds a level line back until its EOI; modes without a vector never get one.
        if message.level_triggered && message.delivery.carries_vector() {
            entry.0 |= Redirection::REMOTE_IRR;
        }
        bus.deliver(message);
    }

    fn resend_level(&mut self, pin: usize, bus: &mut impl ApicBus) {
        if self.lines & 1 << pin != 0 && self.entries[pin].has(Redirection::LEVEL) {
            self.assert_pin(pin, bus);
        }
    }

    fn read_window(&self) -> u32 {
        match self.select {
            register::ID | register::ARBITRATION => u32::from(self.id) << ID_SHIFT,
            register::VERSION => Self::VERSION | (Self::PINS as u32 - 1) << 16,
            index => match self.entry_index(index) {
                Some((pin, high)) => (self.entries[pin].0 >> (32 * u32::from(high))) as u32,
                None => 0,
            },
        }
    }

    fn write_window(&mut self, value: u32, bus: &mut impl ApicBus) {
        if self.select == register::ID {
            self.id = (value >> ID_SHIFT) as u8 & ID_MASK;
            return;
        }
        let Some((pin, high)) = self.entry_index(self.select) else { return };
        let entry = &mut self.entries[pin];
        let shift = 32 * u32::from(high);
        let writable = Redirection::WRITABLE & u64::from(u32::MAX) << shift;
        entry.0 = entry.0 & !writable | u64::from(value) << shift & writable;
        if !entry.has(Redirection::LEVEL) {
            // Turning a pin to edge forgets the EOI it waits for.
            entry.0 &= !Redirection::REMOTE_IRR;
        }
        self.set_up |= 1 << pin;
        self.resend_level(pin, bus);
    }

    /// A pin that was written since the last call, with how it is set up now.
    pub(crate) fn take_set_up(&mut self) -> Option<(u8, PinSetting)> {
        let pin = self.set_up.trailing_zeros() as u8;
        self.set_up &= self.set_up.wrapping_sub(1);
        let entry = *self.entries.get(usize::from(pin))?;
        let setting = PinSetting {
            level: entry.has(Redirection::LEVEL),
            active_low: entry.has(Redirection::ACTIVE_LOW),
            masked: entry.has(Redirection::MASKED),
        };
        Some((pin, setting))
    }

    /// Pins whose level-triggered interrupts wait for the end of this vector.
    pub(crate) fn waiting_for(&self, vector: u8) -> impl Iterator<Item = u8> + use<> {
        let waits = |entry: &Redirection| {
            entry.vector() == vector && entry.has(Redirection::LEVEL) && entry.has(Redirection::REMOTE_IRR)
        };
        let mut pins = [false; Self::PINS];
        for (pin, entry) in pins.iter_mut().zip(&self.entries) {
            *pin = waits(entry);
        }
        (0..Self::PINS as u8).zip(pins).filter_map(|(pin, waits)| waits.then_some(pin))
    }

    /// The pin and the half of its entry that a register index names.
    fn entry_index(&self, index: u8) -> Option<(usize, bool)> {
        let index = usize::from(index.checked_sub(register::REDIRECTION)?);
        (index / 2 < Self::PINS).then_some((index / 2, index % 2 == 1))
    }
}
