//! The firmware configuration device: a shelf of numbered items and named files that the guest's firmware reads, through two
//! ports byte by byte or by a copy into guest memory.
//!
//! Everything on the shelf is read-only for the guest. A copy is a [`Transfer`] that its owner carries out in bounded
//! steps, while the vCPU that asked for it waits.
//!
//! Not its job: what is on the shelf beyond signature, features and directory; guest memory.
//!
//! Source: QEMU's documentation, "QEMU Firmware Configuration (fw_cfg) Device".

mod directory;
mod dma;
#[cfg(test)]
mod tests;

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::bus::{IoError, Width};
use directory::{FIRST_FILE, MAX_FILES};
use dma::Transfer;

pub use directory::{FileError, MAX_FILE_NAME};
pub use dma::STEP;

/// The numbers of items without a name ("Selector (Control) Register" and the numbers in use).
pub mod key {
    /// `QEMU`.
    pub const SIGNATURE: u16 = 0x00;
    /// The device's features.
    pub const ID: u16 = 0x01;
    /// Bytes of RAM, 64 bits.
    pub const RAM_SIZE: u16 = 0x03;
    /// Processors at the start, 16 bits.
    pub const NB_CPUS: u16 = 0x05;
    /// Processors at most, 16 bits.
    pub const MAX_CPUS: u16 = 0x0f;
    /// Bytes of the kernel's command line with its zero, 32 bits.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The kernel's command line with its zero.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// The list of files.
    pub const FILE_DIR: u16 = 0x19;
}

const SIGNATURE: &[u8] = b"QEMU";
/// The features: the traditional interface, and DMA.
const FEATURES: u32 = 1 << 0 | 1 << 1;
/// A selector's bit 14 asks for writing, which is gone; bit 15 belongs to the number.
const WRITE: u16 = 1 << 14;

/// Something on the shelf.
#[derive(Clone, Debug)]
struct Item<'a> {
    key: u16,
    content: Cow<'a, [u8]>,
}

/// The device.
#[derive(Clone, Debug)]
pub struct FwCfg<'a> {
    items: Vec<Item<'a>>,
    files: u16,
    selected: u16,
    /// The next byte of the selected item.
    offset: usize,
    /// The upper half of the next DMA address.
    address_high: u32,
    transfer: Option<Transfer>,
}

impl Default for FwCfg<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> FwCfg<'a> {
    /// The first of its ports: selector (16 bits wide) and, at the second, data.
    pub const PORT: u16 = 0x510;
    /// Ports of selector and data.
    pub const PORTS: u16 = 2;
    /// The DMA address register: eight bytes, big-endian.
    pub const DMA_PORT: u16 = 0x514;
    /// Ports of the DMA address register.
    pub const DMA_PORTS: u16 = 8;
    /// Offset of the data register.
    const DATA: u16 = 1;

    /// A shelf with signature, features and an empty directory.
    pub fn new() -> Self {
        let mut new =
            Self { items: Vec::new(), files: 0, selected: 0, offset: 0, address_high: 0, transfer: None };
        new.add(key::SIGNATURE, Cow::Borrowed(SIGNATURE));
        new.add(key::ID, Cow::Owned(FEATURES.to_le_bytes().to_vec()));
        new.add(key::FILE_DIR, Cow::Owned(directory::EMPTY.to_vec()));
        new
    }

    /// Puts an item on the shelf, instead of one that has this number already.
    pub fn add(&mut self, key: u16, content: Cow<'a, [u8]>) {
        match self.items.iter_mut().find(|item| item.key == key) {
            Some(item) => item.content = content,
            None => self.items.push(Item { key, content }),
        }
    }

    /// Puts a file on the shelf and into the directory.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn add_file(&mut self, name: &str, content: Cow<'a, [u8]>) -> Result<(), FileError> {
        if self.files == MAX_FILES {
            return Err(FileError::TooMany);
        }
        let key = FIRST_FILE + self.files;
        let directory = self.items.iter_mut().find(|item| item.key == key::FILE_DIR);
        if let Some(Item { content: Cow::Owned(list), .. }) = directory {
            directory::append(list, name, content.len(), key)?;
        }
        self.files += 1;
        self.add(key, content);
        Ok(())
    }

    /// The machine's reset: the shelf stays.
    pub fn reset(&mut self) {
        (self.selected, self.offset, self.address_high, self.transfer) = (0, 0, 0, None);
    }

    fn select(&mut self, selector: u16) {
        self.selected = selector & !WRITE;
        self.offset = 0;
    }

    /// What is left of the selected item; empty where there is none.
    fn rest(&self) -> &[u8] {
        let item = self.items.iter().find(|item| item.key == self.selected);
        item.and_then(|item| item.content.get(self.offset..)).unwrap_or_default()
    }

    /// Reads the selector's or the data port: the next byte of the selected item, zero behind its end.
    pub(crate) fn read(&mut self, offset: u16) -> Result<u8, IoError> {
        if offset != Self::DATA {
            return Err(IoError::NoRegister { offset });
        }
        let byte = self.rest().first().copied();
        self.offset += usize::from(byte.is_some());
        Ok(byte.unwrap_or(0))
    }

    /// Writes the selector. Data cannot be written.
    pub(crate) fn write(&mut self, offset: u16, width: Width, value: u32) -> Result<(), IoError> {
        match (offset, width) {
            (0, Width::Word) => self.select(value as u16),
            _ => return Err(IoError::Width { offset, width }),
        }
        Ok(())
    }

    /// Reads the DMA address register, big-endian as it is: a second signature.
    pub(crate) fn read_dma(offset: u16, width: Width) -> Result<u32, IoError> {
        let bytes = dma::SIGNATURE.get(usize::from(offset)..).unwrap_or_default();
        let bytes = bytes.get(..width.bytes().into()).ok_or(IoError::Width { offset, width })?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    /// Writes half of the DMA address register, big-endian; the lower half starts the transfer. While one is under way
    /// another is refused.
    pub(crate) fn write_dma(&mut self, offset: u16, width: Width, value: u32) -> Result<(), IoError> {
        let half = u64::from(value.swap_bytes());
        match (offset, width) {
            (0, Width::Dword) => self.address_high = half as u32,
            (4, Width::Dword) if self.transfer.is_none() => {
                let high = u64::from(core::mem::take(&mut self.address_high));
                self.transfer = Some(Transfer::at(high << 32 | half));
            }
            _ => return Err(IoError::Width { offset, width }),
        }
        Ok(())
    }

    /// Whether the port takes this access in one piece.
    #[inline]
    pub(crate) fn takes_whole(offset: u16, width: Width) -> bool {
        offset == 0 && width == Width::Word
    }

    /// Whether the DMA register takes this access in one piece.
    #[inline]
    pub(crate) fn dma_takes_whole(offset: u16, width: Width) -> bool {
        width == Width::Dword && offset.is_multiple_of(4)
    }
}
