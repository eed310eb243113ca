//! Copies between an image and a guest: once, from the one to the other.

use vcpu::{Gpa, GuestMemory, Image, ImageError};

use crate::memory::behind;

/// Bytes that are copied at a time, between two looks at how much a step may move.
pub(crate) const PIECE: u32 = 4096;

/// Copies from the image to the guest.
pub(crate) fn to_guest<I: Image, M: GuestMemory>(
    image: &I,
    offset: u64,
    memory: &M,
    mut gpa: Gpa,
    length: u32,
) -> Result<(), ImageError> {
    image.read(offset, length, |bytes| {
        memory.write(gpa, bytes)?;
        gpa = behind(gpa, bytes.len() as u64);
        Ok(())
    })
}

/// Copies from the guest to the image. Returns how many bytes that has moved in all, as [`Image::write`] does.
pub(crate) fn from_guest<I: Image, M: GuestMemory>(
    image: &I,
    offset: u64,
    memory: &M,
    mut gpa: Gpa,
    length: u32,
) -> Result<u32, ImageError> {
    image.write(offset, length, |bytes| {
        memory.read(gpa, bytes)?;
        gpa = behind(gpa, bytes.len() as u64);
        Ok(())
    })
}

/// Fills a part of the image with zeros. Returns how many bytes that has moved in all.
pub(crate) fn zero<I: Image>(image: &I, offset: u64, length: u32) -> Result<u32, ImageError> {
    image.write(offset, length, |bytes| {
        bytes.fill(0);
        Ok(())
    })
}
