//! Registers of the 16550A (National PC16550D data sheet), as offsets from [`crate::serial::COM1`].

/// Receive buffer, transmit holding; divisor low under DLAB.
pub const DATA: u16 = 0;
/// Interrupt enable; divisor high under DLAB.
pub const INTERRUPT_ENABLE: u16 = 1;
/// Interrupt identification (read), FIFO control (write).
pub const IDENTIFICATION: u16 = 2;
/// Line control.
pub const LINE_CONTROL: u16 = 3;
/// Modem control.
pub const MODEM_CONTROL: u16 = 4;
/// Line status.
pub const LINE_STATUS: u16 = 5;
/// Modem status.
pub const MODEM_STATUS: u16 = 6;
/// Scratch.
pub const SCRATCH: u16 = 7;

/// Interrupt enable: received data.
pub const ENABLE_RECEIVE: u8 = 1;
/// Interrupt enable: transmit holding register empty.
pub const ENABLE_TRANSMIT: u8 = 2;
/// Interrupt enable: line status.
pub const ENABLE_LINE: u8 = 4;
/// Modem control: OUT2, the gate of the interrupt line on a PC.
pub const OUT2: u8 = 8;
/// Modem control: loopback.
pub const LOOPBACK: u8 = 0x10;
/// Line status: a byte is there.
pub const DATA_READY: u8 = 1;
/// Line status: overrun.
pub const OVERRUN: u8 = 2;
/// Line status: transmit holding register empty.
pub const HOLDING_EMPTY: u8 = 0x20;
/// Interrupt identification: none pending.
pub const NONE_PENDING: u8 = 1;

/// The UART's ISA interrupt line.
pub const LINE: u8 = 4;

/// Reads a register of COM1.
pub fn read(register: u16) -> u8 {
    crate::cpu::inb(crate::serial::COM1 + register)
}

/// Writes a register of COM1.
pub fn write(register: u16, value: u8) {
    crate::cpu::outb(crate::serial::COM1 + register, value);
}
