//! The MC146818 real-time clock and its memory (Motorola MC146818A data sheet).

use crate::cpu::{inb, outb};

/// Index port.
pub const INDEX: u16 = 0x70;
/// Data port.
pub const DATA: u16 = 0x71;
/// Seconds.
pub const SECONDS: u8 = 0x00;
/// Status A: update in progress (bit 7), divider, rate.
pub const STATUS_A: u8 = 0x0a;
/// Status B: interrupt enables, format.
pub const STATUS_B: u8 = 0x0b;
/// Status C: interrupt flags, cleared by reading.
pub const STATUS_C: u8 = 0x0c;
/// Status D: valid.
pub const STATUS_D: u8 = 0x0d;
/// Status B: update-ended interrupt.
pub const UPDATE_INTERRUPT: u8 = 0x10;
/// Status B: alarm interrupt.
pub const ALARM_INTERRUPT: u8 = 0x20;
/// Status B: periodic interrupt.
pub const PERIODIC_INTERRUPT: u8 = 0x40;
/// Status B: the clock stands.
pub const SET: u8 = 0x80;
/// Status B: binary, not BCD.
pub const BINARY: u8 = 0x04;
/// Status B: 24 hours.
pub const HOURS_24: u8 = 0x02;

/// Reads a register.
pub fn read(register: u8) -> u8 {
    outb(INDEX, register);
    inb(DATA)
}

/// Writes a register.
pub fn write(register: u8, value: u8) {
    outb(INDEX, register);
    outb(DATA, value);
}

/// No interrupts, none pending, the divider running at 1024 Hz.
pub fn baseline() {
    write(STATUS_A, 0x26);
    write(STATUS_B, HOURS_24);
    read(STATUS_C);
}
