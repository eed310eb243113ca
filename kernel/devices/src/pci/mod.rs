//! PCI configuration space by mechanism 1 and by the memory-mapped window ([`Ecam`]), and the host bridge.
//!
//! Source: PCI Local Bus Specification 3.0, "Configuration Space Decoding" ("Software Generation of Configuration
//! Transactions") and "Configuration Space Organization". Functions that are added later keep a [`ConfigSpace`] here;
//! [`PciBus::write_data`] and [`PciBus::ecam_write`] tell their owner what was written, so that it can move BARs and the
//! like.

mod config;
mod ecam;
#[cfg(test)]
mod tests;

use crate::bus::{IoError, Width};
use arrayvec::ArrayVec;
pub use config::{ConfigSpace, Header, register};
pub use ecam::Ecam;

/// Bus, device and function number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FunctionAddress(u16);

impl FunctionAddress {
    /// The host bridge's, 00:00.0.
    pub const HOST_BRIDGE: Self = Self::new(0, 0, 0);

    /// `device` is taken modulo 32, `function` modulo 8.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | (device as u16 & 0x1f) << 3 | function as u16 & 7)
    }

    /// The bus.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device on its bus, 0 to 31.
    pub const fn device(self) -> u8 {
        (self.0 >> 3 & 0x1f) as u8
    }

    /// The function of its device, 0 to 7.
    pub const fn function(self) -> u8 {
        (self.0 & 7) as u8
    }
}

/// A configuration write that reached a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigWrite {
    /// Which function.
    pub function: FunctionAddress,
    /// First byte written.
    pub register: u8,
    /// Bytes written.
    pub width: Width,
}

/// Why a function cannot be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddFunctionError {
    /// The address is taken.
    Taken(FunctionAddress),
    /// There are as many as the bus can hold.
    Full,
}

/// The host bridge's identity: an Intel memory controller that no system has special treatment for.
const HOST_BRIDGE: Header = Header {
    vendor: 0x8086,
    device: 0x0d57,
    revision: 0,
    // Bridge, host bridge.
    class: 0x06_00_00,
    // By these SeaBIOS knows that there is a firmware configuration device.
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// The configuration mechanisms (ports 0xcf8 to 0xcff, and the window in memory) and the functions behind them.
#[derive(Clone, Debug)]
pub struct PciBus {
    /// The address register as written.
    address: u32,
    functions: ArrayVec<(FunctionAddress, ConfigSpace), { Self::MAX_FUNCTIONS }>,
}

impl Default for PciBus {
    fn default() -> Self {
        Self::new()
    }
}

impl PciBus {
    /// The address register; the data register follows it.
    pub const PORT: u16 = 0xcf8;
    /// Offset of the data register from [`Self::PORT`].
    pub const DATA: u16 = 4;
    /// Functions it can hold.
    pub const MAX_FUNCTIONS: usize = 16;

    const ADDRESS_ENABLE: u32 = 1 << 31;
    const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;

    /// A bus with the host bridge alone.
    pub fn new() -> Self {
        let mut functions = ArrayVec::new();
        functions.push((FunctionAddress::HOST_BRIDGE, ConfigSpace::new(&HOST_BRIDGE)));
        Self { address: 0, functions }
    }

    /// A bus with nothing.
    pub const fn empty() -> Self {
        Self { address: 0, functions: ArrayVec::new_const() }
    }

    /// Adds a function with its configuration space.
    pub fn add(&mut self, address: FunctionAddress, space: ConfigSpace) -> Result<(), AddFunctionError> {
        if self.function(address).is_some() {
            return Err(AddFunctionError::Taken(address));
        }
        self.functions.try_push((address, space)).map_err(|_| AddFunctionError::Full)
    }

    /// A function's configuration space.
    pub fn function(&mut self, address: FunctionAddress) -> Option<&mut ConfigSpace> {
        self.functions.iter_mut().find(|(at, _)| *at == address).map(|(_, space)| space)
    }

    /// Reads the address register.
    pub const fn read_address(&self) -> u32 {
        self.address
    }

    /// Writes the address register.
    pub fn write_address(&mut self, value: u32) {
        self.address = value & Self::ADDRESS_WRITABLE;
    }

    /// The function and the register that an access to the data register from byte `lane` on is for.
    pub fn data_target(&self, lane: u16, width: Width) -> Option<(FunctionAddress, u8)> {
        self.target(lane, width).ok()
    }

    /// Reads the data register from byte `lane` (0 to 3) on; the access must end within it.
    pub fn read_data(&mut self, lane: u16, width: Width) -> Result<u32, IoError> {
        let (function, register) = self.target(lane, width)?;
        self.read(function, register.into(), width)
    }

    /// Writes the data register from byte `lane` on, and says what was written.
    pub fn write_data(&mut self, lane: u16, width: Width, value: u32) -> Result<ConfigWrite, IoError> {
        let (function, register) = self.target(lane, width)?;
        self.write(function, register.into(), width, value)
    }

    /// Reads a function's register; the access lies within four aligned bytes.
    fn read(&mut self, function: FunctionAddress, register: u16, width: Width) -> Result<u32, IoError> {
        let (space, register) = self.space(function, register)?;
        Ok(space.read(register, width))
    }

    /// Writes a function's register; the access lies within four aligned bytes.
    fn write(
        &mut self,
        function: FunctionAddress,
        register: u16,
        width: Width,
        value: u32,
    ) -> Result<ConfigWrite, IoError> {
        let (space, register) = self.space(function, register)?;
        space.write(register, width, value);
        Ok(ConfigWrite { function, register, width })
    }

    /// The configuration space that has a register, if a function has it.
    fn space(&mut self, function: FunctionAddress, register: u16) -> Result<(&mut ConfigSpace, u8), IoError> {
        let absent = IoError::NoRegister { offset: register };
        // Beyond 256 bytes no function has registers.
        let register = u8::try_from(register).map_err(|_| absent)?;
        Ok((self.function(function).ok_or(absent)?, register))
    }

    fn target(&self, lane: u16, width: Width) -> Result<(FunctionAddress, u8), IoError> {
        if lane + u16::from(width.bytes()) > 4 {
            return Err(IoError::Width { offset: Self::DATA + lane, width });
        }
        if self.address & Self::ADDRESS_ENABLE == 0 {
            return Err(IoError::NoRegister { offset: Self::DATA + lane });
        }
        Ok((FunctionAddress((self.address >> 8) as u16), self.address as u8 & 0xfc | lane as u8))
    }
}
