//! A disk in a host vector.

use std::cell::RefCell;
use std::vec::Vec;

use crate::{Image, OutOfImage};

/// Bytes that can be written.
#[derive(Debug)]
pub struct FakeImage(RefCell<Vec<u8>>);

impl FakeImage {
    /// With this content.
    pub fn new(content: &[u8]) -> Self {
        Self(RefCell::new(content.to_vec()))
    }
}

impl Image for FakeImage {
    fn bytes(&self) -> u64 {
        self.0.borrow().len() as u64
    }

    fn kept(&self) -> u64 {
        0
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), OutOfImage> {
        let bytes = self.0.borrow();
        let from =
            bytes.get(offset as usize..).and_then(|rest| rest.get(..buffer.len())).ok_or(OutOfImage)?;
        buffer.copy_from_slice(from);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<u32, OutOfImage> {
        let mut all = self.0.borrow_mut();
        let to =
            all.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..bytes.len())).ok_or(OutOfImage)?;
        to.copy_from_slice(bytes);
        Ok(bytes.len() as u32)
    }
}
