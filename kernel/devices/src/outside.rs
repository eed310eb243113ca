//! What lies beyond the devices of a chipset: the machine's own ones, for the one guest that has them.

use crate::bus::Width;
use crate::pci::FunctionAddress;

/// How a pin of the I/O APIC is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinSetting {
    /// Level-triggered, else edge-triggered.
    pub level: bool,
    /// Asserted when low.
    pub active_low: bool,
    /// No interrupt comes.
    pub masked: bool,
}

/// The machine's own devices. For a guest that has none of them, as the provided functions say, nothing is there.
pub trait Outside {
    /// Reads ports that no device of the chipset has.
    fn outside_read(&mut self, _port: u16, width: Width) -> u32 {
        width.mask() as u32
    }

    /// Writes them.
    fn outside_write(&mut self, _port: u16, _width: Width, _value: u32) {}

    /// Reads a register of a PCI function that is not the chipset's.
    fn outside_config_read(&mut self, _function: FunctionAddress, _register: u16, width: Width) -> u32 {
        width.mask() as u32
    }

    /// Writes one.
    fn outside_config_write(
        &mut self,
        _function: FunctionAddress,
        _register: u16,
        _width: Width,
        _value: u32,
    ) {
    }

    /// The guest has set a pin up, of which the chipset drives none itself.
    fn outside_pin(&mut self, _pin: u8, _setting: PinSetting) {}

    /// The guest has ended the interrupt of a level-triggered pin.
    fn outside_pin_ended(&mut self, _pin: u8) {}
}
