//! PCI configuration mechanism 1 (PCI Local Bus Specification, "Configuration Space Access Mechanism").

use crate::cpu::{inl, outl};

/// The address register.
pub const ADDRESS: u16 = 0xcf8;
/// The data window.
pub const DATA: u16 = 0xcfc;
/// The address register's enable bit.
pub const ENABLE: u32 = 1 << 31;

/// The address register's value for a register of a function.
pub const fn address(bus: u8, device: u8, function: u8, register: u8) -> u32 {
    ENABLE | (bus as u32) << 16 | (device as u32) << 11 | (function as u32) << 8 | (register & 0xfc) as u32
}

/// Reads 32 bits.
pub fn read(bus: u8, device: u8, function: u8, register: u8) -> u32 {
    outl(ADDRESS, address(bus, device, function, register));
    inl(DATA)
}

/// Writes 32 bits.
pub fn write(bus: u8, device: u8, function: u8, register: u8, value: u32) {
    outl(ADDRESS, address(bus, device, function, register));
    outl(DATA, value);
}
