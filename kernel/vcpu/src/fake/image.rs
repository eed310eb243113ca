//! A disk in a host vector.

use std::cell::RefCell;
use std::vec::Vec;

use crate::{Image, ImageError, NotRam};

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

    fn read(
        &self,
        offset: u64,
        length: u32,
        mut each: impl FnMut(&[u8]) -> Result<(), NotRam>,
    ) -> Result<(), ImageError> {
        let bytes = self.0.borrow();
        let range = bytes.get(offset as usize..).and_then(|rest| rest.get(..length as usize));
        Ok(each(range.ok_or(ImageError::OutOfImage)?)?)
    }

    fn write(
        &self,
        offset: u64,
        length: u32,
        mut each: impl FnMut(&mut [u8]) -> Result<(), NotRam>,
    ) -> Result<u32, ImageError> {
        let mut bytes = self.0.borrow_mut();
        let range = bytes.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..length as usize));
        each(range.ok_or(ImageError::OutOfImage)?)?;
        Ok(length)
    }
}
