//! Output on COM1, a 16550 at 115,200 baud, polled.

use core::fmt::{self, Write};

use crate::cpu::{inb, outb};

/// First port of COM1.
pub const COM1: u16 = 0x3f8;

const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 0x40;
const HOLDING_EMPTY: u8 = 0x20;
/// Polls before a character is given up: a missing UART must not hang the test.
const PATIENCE: u32 = 1_000_000;

/// 115,200 baud, 8 bits, no parity, FIFOs on, no interrupts.
pub fn init() {
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x80);
    outb(COM1, 1);
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x03);
    outb(COM1 + 2, 0x07);
    outb(COM1 + 4, 0x03);
}

fn wait_for(bits: u8) {
    for _ in 0..PATIENCE {
        if inb(LINE_STATUS) & bits == bits {
            return;
        }
    }
}

/// Waits until the last byte is on the wire.
pub fn drain() {
    wait_for(TRANSMITTER_EMPTY | HOLDING_EMPTY);
}

/// Writes one byte.
pub fn put(byte: u8) {
    wait_for(HOLDING_EMPTY);
    outb(COM1, byte);
}

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

/// Formats a line onto COM1; [`println!`](crate::println) is its front.
pub fn print_line(text: fmt::Arguments<'_>) {
    let _ = Console.write_fmt(text);
    let _ = Console.write_str("\n");
}

/// Prints a line on COM1.
#[macro_export]
macro_rules! println {
    ($($format:tt)+) => {
        $crate::serial::print_line(format_args!($($format)+))
    };
}
