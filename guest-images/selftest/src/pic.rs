//! The 8259A pair (Intel 8259A data sheet).

use crate::cpu::{inb, outb};

/// Command port of the master.
pub const MASTER: u16 = 0x20;
/// Command port of the slave.
pub const SLAVE: u16 = 0xa0;
/// First vector of the framework's layout: lines 0 to 15 follow.
pub const BASE: u8 = 0x20;
/// Edge/level control register of lines 0 to 7; 8 to 15 follow.
pub const ELCR: u16 = 0x4d0;

const READ_IRR: u8 = 0x0a;
const READ_ISR: u8 = 0x0b;
const EOI: u8 = 0x20;
const SPECIFIC_EOI: u8 = 0x60;
/// The cascade line.
const CASCADE: u8 = 2;

/// Initialises both with ICW1 to ICW4. `extra` goes into ICW4 (auto-EOI is 2).
pub fn init(base: u8, extra: u8) {
    outb(MASTER, 0x11);
    outb(SLAVE, 0x11);
    outb(MASTER + 1, base);
    outb(SLAVE + 1, base + 8);
    outb(MASTER + 1, 1 << CASCADE);
    outb(SLAVE + 1, CASCADE);
    outb(MASTER + 1, 1 | extra);
    outb(SLAVE + 1, 1 | extra);
}

/// Masks the lines whose bits are set.
pub fn set_mask(mask: u16) {
    outb(MASTER + 1, mask as u8);
    outb(SLAVE + 1, (mask >> 8) as u8);
}

/// The mask registers.
pub fn mask() -> u16 {
    u16::from(inb(MASTER + 1)) | u16::from(inb(SLAVE + 1)) << 8
}

/// Unmasks these lines only (and the cascade when one is on the slave).
pub fn unmask_only(lines: u16) {
    let cascade = if lines & 0xff00 == 0 { 0 } else { 1 << CASCADE };
    set_mask(!(lines | cascade));
}

fn read(command: u8) -> u16 {
    outb(MASTER, command);
    outb(SLAVE, command);
    u16::from(inb(MASTER)) | u16::from(inb(SLAVE)) << 8
}

/// The interrupt request registers.
pub fn irr() -> u16 {
    read(READ_IRR)
}

/// The in-service registers.
pub fn isr() -> u16 {
    read(READ_ISR)
}

/// Non-specific EOI for a line: to the slave as well where it is the slave's.
pub fn eoi(line: u8) {
    if line >= 8 {
        outb(SLAVE, EOI);
    }
    outb(MASTER, EOI);
}

/// Specific EOI for a line of the master.
pub fn specific_eoi(line: u8) {
    outb(MASTER, SPECIFIC_EOI | line);
}

/// Initialised, everything masked, nothing in service.
pub fn baseline() {
    init(BASE, 0);
    set_mask(0xffff);
}
