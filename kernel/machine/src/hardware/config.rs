//! PCI configuration space by its first mechanism, two ports, which reach its first 256 bytes.
//!
//! Source: PCI Local Bus Specification 3.0, "Software Generation of Configuration Transactions".

// UNSAFETY: uses the two ports.
#![allow(unsafe_code)]

use spin::Mutex;
use vcpu::PciFunction;
use x86_64::instructions::port::Port;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// Registers that the mechanism reaches.
const REGISTERS: u16 = 0x100;

/// Both ports belong together.
static PORTS: Mutex<()> = Mutex::new(());

/// What the address port takes, and the data port.
const fn place(function: PciFunction, register: u16) -> Option<(u32, u16)> {
    if register >= REGISTERS {
        return None;
    }
    Some((ENABLE | (function.0 as u32) << 8 | register as u32 & 0xfc, DATA + (register & 3)))
}

pub(super) fn read(function: PciFunction, register: u16, size: u8) -> u32 {
    let Some((address, data)) = place(function, register) else { return u32::MAX };
    let _ports = PORTS.lock();
    // SAFETY: reading configuration space changes nothing that the kernel uses.
    unsafe {
        Port::new(ADDRESS).write(address);
        match size {
            1 => Port::<u8>::new(data).read().into(),
            2 => Port::<u16>::new(data).read().into(),
            _ => Port::<u32>::new(data).read(),
        }
    }
}

pub(super) fn write(function: PciFunction, register: u16, size: u8, value: u32) {
    let Some((address, data)) = place(function, register) else { return };
    let _ports = PORTS.lock();
    // SAFETY: what may be written is decided by the filter above.
    unsafe {
        Port::new(ADDRESS).write(address);
        match size {
            1 => Port::new(data).write(value as u8),
            2 => Port::new(data).write(value as u16),
            _ => Port::new(data).write(value),
        }
    }
}
