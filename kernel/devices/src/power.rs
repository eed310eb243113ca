//! What a guest can ask of the machine as a whole, and the two registers that only do that: the reset control register
//! (0xcf9) and system control port A (0x92).
//!
//! Sources: Intel 82371AB (PIIX4) data sheet, "Reset Control Register" and "Port 92 Register".

/// The guest has asked for this. The machine goes on until the owner acts on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerEvent {
    /// Restart the machine.
    Reset,
    /// Soft off (S5).
    PowerOff,
    /// A write to the debug-exit port: the value written.
    DebugExit(u32),
}

/// The register at port 0xcf9.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResetControl {
    value: u8,
}

impl ResetControl {
    /// The port.
    pub const PORT: u16 = 0xcf9;
    /// Written at once, resets the machine: a hard reset, and the bit that starts it.
    pub const FULL_RESET: u8 = Self::SYSTEM_RESET | Self::START;
    const SYSTEM_RESET: u8 = 1 << 1;
    const START: u8 = 1 << 2;
    const WRITABLE: u8 = 0x0e;

    /// Reads the port.
    pub const fn read(self) -> u8 {
        self.value
    }

    /// Writes the port. The reset starts when the start bit rises.
    pub fn write(&mut self, value: u8) -> Option<PowerEvent> {
        let rising = value & !self.value & Self::START != 0;
        self.value = value & Self::WRITABLE;
        rising.then_some(PowerEvent::Reset)
    }
}

/// The register at port 0x92. A20 is always open, whatever is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemControlA {
    fast_reset: bool,
}

impl SystemControlA {
    /// The port.
    pub const PORT: u16 = 0x92;
    const FAST_RESET: u8 = 1 << 0;
    const A20: u8 = 1 << 1;

    /// Reads the port.
    pub const fn read(self) -> u8 {
        Self::A20 | self.fast_reset as u8
    }

    /// Writes the port. A rising bit 0 resets.
    pub fn write(&mut self, value: u8) -> Option<PowerEvent> {
        let rising = value & Self::FAST_RESET != 0 && !self.fast_reset;
        self.fast_reset = value & Self::FAST_RESET != 0;
        rising.then_some(PowerEvent::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_on_the_rising_bit_only() {
        let mut register = ResetControl::default();
        assert_eq!(register.write(0x02), None);
        assert_eq!(register.write(0x06), Some(PowerEvent::Reset));
        assert_eq!(register.write(0x06), None);
        assert_eq!(register.read(), 0x06);
        let mut port = SystemControlA::default();
        assert_eq!(port.read(), 0x02);
        assert_eq!(port.write(0x02), None);
        assert_eq!(port.write(0x01), Some(PowerEvent::Reset));
        assert_eq!(port.write(0x01), None);
    }
}
