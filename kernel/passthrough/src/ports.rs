//! The machine's ports: all pass, but for those by which power is switched, a CPU is reset, or memory is reached.
//!
//! Sources: ACPI Specification, "PM1 Control Registers", "Reset Register"; Intel 8237A data sheet; IBM PC/AT, keyboard controller and port 92H.

use core::ops::Range;

use vcpu::PowerPorts;

/// What becomes of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortWrite {
    /// It goes to the machine.
    Pass,
    /// It goes nowhere.
    Drop,
    /// The domain wants the machine to sleep or go off, with this sleep type.
    Sleep(u8),
    /// The domain wants the machine to restart.
    Reset,
}

/// DMA controllers, and the upper halves of their addresses: they write to memory for whoever programs them, and no driver needs them today.
const DMA: [Range<u32>; 3] = [0x00..0x10, 0x81..0x90, 0xc0..0xe0];
const KEYBOARD_COMMAND: u16 = 0x64;
/// Commands that pulse the lines of the keyboard controller's output port; bit 0 stands for the reset line, and is active low.
const PULSE: u8 = 0xf0;
const SYSTEM_CONTROL_A: u16 = 0x92;
const FAST_RESET: u8 = 1 << 0;
const SLEEP_ENABLE: u32 = 1 << 13;
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_TYPE: u32 = 7;

/// Decides about the machine's ports.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    power: PowerPorts,
}

/// Whether an access of so many bytes touches the port.
const fn touches(port: u16, size: u8, other: u16) -> bool {
    let distance = (other as u32).wrapping_sub(port as u32);
    distance < size as u32
}

fn is_dma(port: u16, size: u8) -> bool {
    let access = u32::from(port)..u32::from(port) + u32::from(size);
    DMA.iter().any(|range| range.start < access.end && access.start < range.end)
}

impl Ports {
    /// For a machine with these.
    pub const fn new(power: PowerPorts) -> Self {
        Self { power }
    }

    /// Whether a read of so many bytes goes to the machine; else all ones are read.
    pub fn may_read(&self, port: u16, size: u8) -> bool {
        !is_dma(port, size)
    }

    /// Whether accesses to a port need not be looked at: neither reads nor writes are ever kept from it.
    pub fn passes(&self, port: u16) -> bool {
        let second = |control: u16| if control == 0 { 0 } else { control.wrapping_add(1) };
        let [a, b] = self.power.pm1_control.map(second);
        // The CPU looks at each port of a wide access.
        !is_dma(port, 1) && ![KEYBOARD_COMMAND, SYSTEM_CONTROL_A, self.power.reset, a, b].contains(&port)
    }

    /// What becomes of a write.
    pub fn write(&self, port: u16, size: u8, value: u32) -> PortWrite {
        if is_dma(port, size) {
            return PortWrite::Drop;
        }
        let byte_at = |other: u16| (value >> (8 * u32::from(other.wrapping_sub(port)))) as u8;
        if touches(port, size, KEYBOARD_COMMAND) {
            let command = byte_at(KEYBOARD_COMMAND);
            if command & PULSE == PULSE && command & 1 == 0 {
                return PortWrite::Reset;
            }
        }
        if touches(port, size, SYSTEM_CONTROL_A) && byte_at(SYSTEM_CONTROL_A) & FAST_RESET != 0 {
            return PortWrite::Reset;
        }
        if self.power.reset != 0 && touches(port, size, self.power.reset) {
            return PortWrite::Reset;
        }
        for control in self.power.pm1_control.into_iter().filter(|control| *control != 0) {
            // The register has two bytes; the second one has the bits that matter.
            let second = control.wrapping_add(1);
            if touches(port, size, second) {
                let word = u32::from(byte_at(second)) << 8;
                if word & SLEEP_ENABLE != 0 {
                    return PortWrite::Sleep((word >> SLEEP_TYPE_SHIFT & SLEEP_TYPE) as u8);
                }
            }
        }
        PortWrite::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PORTS: Ports = Ports::new(PowerPorts { pm1_control: [0x604, 0], reset: 0x0cd0 });

    #[test]
    fn power_is_asked_for_and_not_switched() {
        assert_eq!(PORTS.write(0x604, 2, 0x2000), PortWrite::Sleep(0));
        assert_eq!(PORTS.write(0x605, 1, 0x34), PortWrite::Sleep(5));
        assert_eq!(PORTS.write(0x604, 2, 0x1401), PortWrite::Pass);
        assert_eq!(PORTS.write(0x604, 1, 0xff), PortWrite::Pass);
        assert_eq!(PORTS.write(0x602, 4, 0x2000_0000), PortWrite::Sleep(0));
        assert_eq!(PORTS.write(0xcd0, 1, 6), PortWrite::Reset);
        assert_eq!(PORTS.write(0x64, 1, 0xfe), PortWrite::Reset);
        assert_eq!(PORTS.write(0x64, 1, 0xff), PortWrite::Pass);
        assert_eq!(PORTS.write(0x92, 1, 3), PortWrite::Reset);
        assert_eq!(PORTS.write(0x92, 1, 2), PortWrite::Pass);
    }

    #[test]
    fn dma_controllers_are_out_of_reach() {
        for port in [0, 0xf, 0x87, 0xc4, 0xdf] {
            assert!(!PORTS.may_read(port, 1));
            assert_eq!(PORTS.write(port, 1, 0), PortWrite::Drop);
        }
        assert_eq!(PORTS.write(0x7f, 4, 0), PortWrite::Drop);
        assert!(PORTS.may_read(0x80, 1) && PORTS.may_read(0x1f0, 4));
    }

    proptest! {
        #[test]
        fn nothing_that_sleeps_passes(port: u16, size in prop::sample::select(vec![1_u8, 2, 4]), value: u32) {
            let untouched = (0..u16::from(size)).all(|byte| PORTS.passes(port.wrapping_add(byte)));
            if untouched && u32::from(port) + u32::from(size) <= 0x1_0000 {
                prop_assert_eq!(PORTS.write(port, size, value), PortWrite::Pass);
                prop_assert!(PORTS.may_read(port, size));
            }
            if PORTS.write(port, size, value) == PortWrite::Pass {
                for byte in (0..size).filter(|byte| u32::from(port) + u32::from(*byte) == 0x605) {
                    prop_assert_eq!(value >> (8 * byte) & 0x20, 0);
                }
            }
        }
    }
}
