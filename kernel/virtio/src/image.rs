//! Copies between an image and a guest.

use vcpu::{Gpa, GuestMemory, Image, NotRam, OutOfImage};

/// Why a copy between an image and a guest was not made, or not wholly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CopyError {
    /// The range reaches behind the image's end.
    Image(OutOfImage),
    /// The guest has no RAM there.
    Guest(NotRam),
}

impl From<NotRam> for CopyError {
    fn from(error: NotRam) -> Self {
        Self::Guest(error)
    }
}

/// Bytes that travel between image and guest at a time.
pub(crate) const BOUNCE: usize = 4096;

/// Calls `copy` with a bounce buffer for each piece of a range, the image's offset and the guest's address of it.
fn in_pieces(
    mut offset: u64,
    mut gpa: Gpa,
    mut length: u32,
    mut copy: impl FnMut(u64, Gpa, &mut [u8]) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    let mut bounce = [0; BOUNCE];
    while length != 0 {
        let size = length.min(BOUNCE as u32);
        copy(offset, gpa, bounce.get_mut(..size as usize).unwrap_or_default())?;
        (offset, gpa) = (offset + u64::from(size), crate::memory::behind(gpa, size.into()));
        length -= size;
    }
    Ok(())
}

/// Copies from the image to the guest.
pub(crate) fn to_guest<I: Image, M: GuestMemory>(
    image: &I,
    offset: u64,
    memory: &M,
    gpa: Gpa,
    length: u32,
) -> Result<(), CopyError> {
    in_pieces(offset, gpa, length, |offset, gpa, bytes| {
        image.read(offset, bytes).map_err(CopyError::Image)?;
        Ok(memory.write(gpa, bytes)?)
    })
}

/// Copies from the guest to the image. Returns how many bytes that has moved in all, as [`Image::write`] does.
pub(crate) fn from_guest<I: Image, M: GuestMemory>(
    image: &I,
    offset: u64,
    memory: &M,
    gpa: Gpa,
    length: u32,
) -> Result<u32, CopyError> {
    let mut moved = 0;
    in_pieces(offset, gpa, length, |offset, gpa, bytes| {
        memory.read(gpa, bytes)?;
        moved += image.write(offset, bytes).map_err(CopyError::Image)?;
        Ok(())
    })?;
    Ok(moved)
}

/// Fills a part of the image with zeros. Returns how many bytes that has moved in all.
pub(crate) fn zero<I: Image>(image: &I, mut offset: u64, mut length: u32) -> Result<u32, OutOfImage> {
    const ZEROS: [u8; BOUNCE] = [0; BOUNCE];
    let mut moved = 0;
    while length != 0 {
        let size = length.min(BOUNCE as u32);
        moved += image.write(offset, ZEROS.get(..size as usize).unwrap_or_default())?;
        offset += u64::from(size);
        length -= size;
    }
    Ok(moved)
}
