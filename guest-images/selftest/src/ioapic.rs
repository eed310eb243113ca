//! The I/O APIC at its usual place (Intel 82093AA data sheet).

use crate::apic;
use crate::cpu::{read32, write32};

/// Index register.
pub const SELECT: u64 = 0xfec0_0000;
/// Data window.
pub const WINDOW: u64 = SELECT + 0x10;
/// Register number: identification.
pub const ID: u32 = 0;
/// Register number: version and highest pin.
pub const VERSION: u32 = 1;
/// Redirection entry: masked.
pub const MASKED: u32 = 1 << 16;
/// Redirection entry: level-triggered.
pub const LEVEL: u32 = 1 << 15;
/// Redirection entry: a level interrupt waits for its EOI.
pub const REMOTE_IRR: u32 = 1 << 14;
/// Redirection entry: active low.
pub const ACTIVE_LOW: u32 = 1 << 13;
/// Redirection entry: delivery pending.
pub const PENDING: u32 = 1 << 12;
/// Redirection entry: logical destination.
pub const LOGICAL: u32 = 1 << 11;

/// Reads a register.
pub fn read(register: u32) -> u32 {
    write32(SELECT, register);
    read32(WINDOW)
}

/// Writes a register.
pub fn write(register: u32, value: u32) {
    write32(SELECT, register);
    write32(WINDOW, value);
}

/// Register number of the low half of a pin's redirection entry; the high half follows.
pub const fn redirection(pin: u32) -> u32 {
    0x10 + 2 * pin
}

/// Number of pins.
pub fn pins() -> u32 {
    (read(VERSION) >> 16 & 0xff) + 1
}

/// Routes a pin to this processor. `flags`: vector and the bits above.
pub fn route(pin: u32, flags: u32) {
    write(redirection(pin), MASKED);
    write(redirection(pin) + 1, u32::from(apic::id()) << 24);
    write(redirection(pin), flags);
}

/// Masks a pin and leaves the rest of its entry.
pub fn set_masked(pin: u32, masked: bool) {
    let entry = read(redirection(pin)) & !MASKED;
    write(redirection(pin), if masked { entry | MASKED } else { entry });
}

/// Everything masked, edge, vector 0. A remote IRR left over is cleared by the switch to edge.
pub fn baseline() {
    let count = pins();
    if count > 64 {
        return;
    }
    for pin in 0..count {
        if read(redirection(pin)) & (MASKED | LEVEL | REMOTE_IRR) != MASKED {
            write(redirection(pin), MASKED);
        }
    }
}
