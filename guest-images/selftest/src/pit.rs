//! The 8254 interval timer (Intel 8254 data sheet).

use crate::cpu::{inb, outb};

/// Ticks a second.
pub const HZ: u64 = 1_193_182;
/// Port of counter 0; 1 and 2 follow.
pub const COUNTER: u16 = 0x40;
/// The control word's port.
pub const CONTROL: u16 = 0x43;
/// System control port B: gate (bit 0) and output (bit 5) of counter 2.
pub const PORT_B: u16 = 0x61;

/// Programs a counter: low then high byte, binary.
pub fn program(counter: u8, mode: u8, count: u16) {
    outb(CONTROL, counter << 6 | 0x30 | mode << 1);
    write(counter, count);
}

/// Writes a new count, low byte first.
pub fn write(counter: u8, count: u16) {
    outb(COUNTER + u16::from(counter), count as u8);
    outb(COUNTER + u16::from(counter), (count >> 8) as u8);
}

/// Reads two bytes of a counter, low byte first, as programmed.
pub fn read(counter: u8) -> u16 {
    let port = COUNTER + u16::from(counter);
    u16::from(inb(port)) | u16::from(inb(port)) << 8
}

/// Latches and reads a counter.
pub fn latch(counter: u8) -> u16 {
    outb(CONTROL, counter << 6);
    read(counter)
}

/// Latches and reads a counter's status byte (read-back command).
pub fn status(counter: u8) -> u8 {
    outb(CONTROL, 0xe0 | 2 << counter);
    inb(COUNTER + u16::from(counter))
}

/// No interrupts from counter 0: mode 0 awaiting its count.
pub fn baseline() {
    outb(CONTROL, 0x30);
}
