//! The 256 bytes of a function's configuration space, with what software may change of them.

use crate::bus::{Width, read_by_bytes, write_by_bytes};

/// Registers of the type 0 header.
pub mod register {
    /// Vendor identifier, 16 bits.
    pub const VENDOR: u8 = 0x00;
    /// Device identifier, 16 bits.
    pub const DEVICE: u8 = 0x02;
    /// Command, 16 bits.
    pub const COMMAND: u8 = 0x04;
    /// Revision, 8 bits; the class code follows it, 24 bits.
    pub const REVISION: u8 = 0x08;
    /// Subsystem vendor, 16 bits; the subsystem follows it.
    pub const SUBSYSTEM_VENDOR: u8 = 0x2c;
    /// Interrupt line, 8 bits.
    pub const INTERRUPT_LINE: u8 = 0x3c;
}

/// Command bits that software may set: I/O, memory, bus master, SERR, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0507;

/// What a function says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Vendor identifier.
    pub vendor: u16,
    /// Device identifier.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass and programming interface, from high to low byte.
    pub class: u32,
    /// Subsystem vendor identifier.
    pub subsystem_vendor: u16,
    /// Subsystem identifier.
    pub subsystem: u16,
}

/// One function's configuration space. Bytes beyond the header read 0 until they are set.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
}

impl ConfigSpace {
    /// A type 0 header without BARs, capabilities and interrupt pin.
    pub fn new(header: &Header) -> Self {
        let mut space = Self { bytes: [0; 256], writable: [0; 256] };
        space.set(register::VENDOR, Width::Word, header.vendor.into(), 0);
        space.set(register::DEVICE, Width::Word, header.device.into(), 0);
        space.set(register::COMMAND, Width::Word, 0, COMMAND_WRITABLE.into());
        space.set(register::REVISION, Width::Dword, header.class << 8 | u32::from(header.revision), 0);
        let subsystem = u32::from(header.subsystem) << 16 | u32::from(header.subsystem_vendor);
        space.set(register::SUBSYSTEM_VENDOR, Width::Dword, subsystem, 0);
        space.set(register::INTERRUPT_LINE, Width::Byte, 0, 0xff);
        space
    }

    /// Sets a register to `value`, of which software may change the bits in `writable`. A register that would run past
    /// the end of the space wraps to its start.
    pub fn set(&mut self, register: u8, width: Width, value: u32, writable: u32) {
        write_by_bytes(width, value.into(), |index, byte| {
            self.bytes[usize::from(register.wrapping_add(index))] = byte;
        });
        write_by_bytes(width, writable.into(), |index, byte| {
            self.writable[usize::from(register.wrapping_add(index))] = byte;
        });
    }

    /// Reads as software does.
    pub fn read(&self, register: u8, width: Width) -> u32 {
        read_by_bytes(width, |index| self.bytes[usize::from(register.wrapping_add(index))]) as u32
    }

    /// Writes as software does: bits that are not writable stay.
    pub fn write(&mut self, register: u8, width: Width, value: u32) {
        write_by_bytes(width, value.into(), |index, byte| {
            let at = usize::from(register.wrapping_add(index));
            self.bytes[at] = self.bytes[at] & !self.writable[at] | byte & self.writable[at];
        });
    }
}
