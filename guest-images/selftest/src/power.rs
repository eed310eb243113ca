//! Ends the run.

use crate::cpu::{inw, outb, outw};
use crate::{acpi, cpu, serial, tsc};

const SCI_ENABLE: u16 = 1;
const SLEEP_ENABLE: u16 = 1 << 13;
/// The reset control register, and the value that resets processors and devices.
const RESET_CONTROL: (u16, u8) = (0xcf9, 6);
/// Bochs' own power-off port.
const BOCHS_SHUTDOWN: u16 = 0x8900;
/// How long the last bytes may take on the wire.
const LAST_BYTES_US: u64 = 20_000;

/// Powers off through ACPI S5, or stops for good where there is no ACPI.
pub fn off() -> ! {
    cpu::cli();
    serial::drain();
    tsc::delay_us(LAST_BYTES_US);
    if let Some(fadt) = acpi::fadt()
        && fadt.pm1a_control != 0
    {
        let sleep_type = u16::from(acpi::s5_sleep_type().unwrap_or(0)) << 10;
        let kept = inw(fadt.pm1a_control) & SCI_ENABLE;
        outw(fadt.pm1a_control, kept | sleep_type | SLEEP_ENABLE);
        tsc::delay_us(LAST_BYTES_US);
    }
    if !crate::platform::hypervisor() {
        b"Shutdown".iter().for_each(|&byte| outb(BOCHS_SHUTDOWN, byte));
    }
    cpu::halt_forever()
}

/// Resets the machine.
pub fn reset() -> ! {
    cpu::cli();
    serial::drain();
    outb(RESET_CONTROL.0, RESET_CONTROL.1);
    cpu::halt_forever()
}
