//! What the boot protocols of 32-bit kernels put into the low area, and the means to write it.
//!
//! | offset   | what                                                                  |
//! |----------|-----------------------------------------------------------------------|
//! | `0x0000` | global descriptor table, 32 bytes                                      |
//! | `0x1000` | `hvm_start_info`, or the Multiboot information                         |
//! | `0x1100` | memory map                                                             |
//! | `0x1d00` | list of modules                                                        |
//! | `0x1f00` | the loader's name                                                      |
//! | `0x2000` | command line                                                           |
//! | `0x3000` | a page of stack                                                        |
//! | `0x4000` | the modules' command lines                                             |
//!
//! A kernel that wants to keep any of it copies it before it uses low memory, as with any other loader.

use vcpu::Gpa;

use crate::entry::{COMMAND_LINE_OFFSET, LOW_AREA_SIZE};
use crate::{GuestMemory, LoadError, Request};

pub(crate) const INFO: u64 = 0x1000;
pub(crate) const MEMORY_MAP: u64 = 0x1100;
pub(crate) const MODULES: u64 = 0x1d00;
pub(crate) const LOADER_NAME: u64 = 0x1f00;
const STRINGS: u64 = 0x4000;

/// Bytes for the modules' command lines with their zeros.
const STRINGS_ROOM: u64 = LOW_AREA_SIZE - STRINGS;

/// Checks that the modules' command lines fit.
pub(crate) fn check_strings(request: &Request<'_>) -> Result<(), LoadError> {
    let needed: u64 = request.files().map(|file| file.command_line.len() as u64 + 1).sum();
    if needed > STRINGS_ROOM {
        return Err(LoadError::ModuleLinesTooLong { length: needed, max: STRINGS_ROOM });
    }
    Ok(())
}

/// Writes into the low area.
pub(crate) struct LowArea<'a, M: GuestMemory + ?Sized> {
    memory: &'a mut M,
    base: u64,
    next_string: u64,
}

impl<'a, M: GuestMemory + ?Sized> LowArea<'a, M> {
    pub(crate) fn new(request: &Request<'_>, memory: &'a mut M) -> Self {
        Self { memory, base: request.low_area.0, next_string: STRINGS }
    }

    /// The address of an offset.
    pub(crate) const fn at(&self, offset: u64) -> u64 {
        self.base + offset
    }

    pub(crate) fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), LoadError> {
        Ok(self.memory.write(Gpa(self.base + offset), bytes)?)
    }

    pub(crate) fn put_u32(&mut self, offset: u64, value: u64) -> Result<(), LoadError> {
        self.put(offset, &(value as u32).to_le_bytes())
    }

    pub(crate) fn put_u64(&mut self, offset: u64, value: u64) -> Result<(), LoadError> {
        self.put(offset, &value.to_le_bytes())
    }

    pub(crate) fn zero(&mut self, offset: u64, length: u64) -> Result<(), LoadError> {
        Ok(self.memory.zero(Gpa(self.base + offset), length)?)
    }

    /// Writes the kernel's command line and gives its address.
    pub(crate) fn put_command_line(&mut self, line: &[u8]) -> Result<u64, LoadError> {
        self.put_text(COMMAND_LINE_OFFSET, line)
    }

    /// Writes a text with its zero and gives its address.
    pub(crate) fn put_text(&mut self, offset: u64, text: &[u8]) -> Result<u64, LoadError> {
        self.put(offset, text)?;
        self.put(offset + text.len() as u64, &[0])?;
        Ok(self.at(offset))
    }

    /// Writes a module's command line behind the others. [`check_strings`] has seen that it fits.
    pub(crate) fn put_module_line(&mut self, line: &[u8]) -> Result<u64, LoadError> {
        let offset = self.next_string;
        self.next_string += line.len() as u64 + 1;
        self.put_text(offset, line)
    }
}
