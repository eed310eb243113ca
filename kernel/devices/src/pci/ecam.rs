//! Configuration space in memory: the enhanced configuration access mechanism, one page a function.
//!
//! Source: PCI Express Base Specification, "PCI Express Enhanced Configuration Access Mechanism (ECAM)"; PCI Firmware
//! Specification, "PCI Express Memory-mapped Configuration Space" (the MCFG table says where the window is).
//!
//! The functions are conventional PCI functions: they have 256 bytes, and nobody answers in the rest of their page.

use super::{ConfigWrite, FunctionAddress, PciBus};
use crate::bus::{IoError, Width};
use vcpu::Gpa;

/// Where the window is and what is in it. It holds bus 0, the only one there is.
#[derive(Clone, Copy, Debug)]
pub struct Ecam;

impl Ecam {
    /// First byte of the window: bus 0, where the memory of devices begins.
    pub const BASE: Gpa = Gpa(0xc000_0000);
    /// Bytes of the window.
    pub const SIZE: u64 = (Self::LAST_BUS as u64 + 1) << Self::BUS_SHIFT;
    /// The PCI segment group.
    pub const SEGMENT: u16 = 0;
    /// The last bus in the window; bus 0 is the first.
    pub const LAST_BUS: u8 = 0;

    const BUS_SHIFT: u32 = 20;
    const FUNCTION_SHIFT: u32 = 12;
    const REGISTER_MASK: u64 = (1 << Self::FUNCTION_SHIFT) - 1;

    /// The largest width at which an access of `width` bytes at `offset` can be made piece by piece so that no piece
    /// crosses a multiple of four, as configuration requests must not.
    #[inline]
    pub(crate) const fn piece(offset: u64, width: Width) -> Width {
        match width {
            _ if offset % 4 + width.bytes() as u64 <= 4 => width,
            Width::Qword if offset.is_multiple_of(4) => Width::Dword,
            _ => Width::Byte,
        }
    }

    /// The function and the register at `offset` into the window.
    const fn decode(offset: u64) -> (FunctionAddress, u16) {
        let function = FunctionAddress((offset >> Self::FUNCTION_SHIFT) as u16);
        (function, (offset & Self::REGISTER_MASK) as u16)
    }

    fn target(offset: u64, width: Width) -> Result<(FunctionAddress, u16), IoError> {
        let (function, register) = Self::decode(offset);
        if offset >= Self::SIZE {
            return Err(IoError::NoRegister { offset: register });
        }
        if Self::piece(offset, width) != width {
            return Err(IoError::Width { offset: register, width });
        }
        Ok((function, register))
    }
}

impl PciBus {
    /// The function and the register that an access at `offset` into the window is for, where that is one request.
    pub fn ecam_target(offset: u64, width: Width) -> Option<(FunctionAddress, u8)> {
        let (function, register) = Ecam::target(offset, width).ok()?;
        Some((function, u8::try_from(register).ok()?))
    }

    /// Reads at `offset` into the window; the access must lie within four aligned bytes.
    pub fn ecam_read(&mut self, offset: u64, width: Width) -> Result<u32, IoError> {
        let (function, register) = Ecam::target(offset, width)?;
        self.read(function, register, width)
    }

    /// Writes at `offset` into the window, within four aligned bytes, and says what was written.
    pub fn ecam_write(&mut self, offset: u64, width: Width, value: u32) -> Result<ConfigWrite, IoError> {
        let (function, register) = Ecam::target(offset, width)?;
        self.write(function, register, width, value)
    }
}
