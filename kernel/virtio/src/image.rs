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
const BOUNCE: usize = 4096;

/// Copies from the image to the guest.
pub(crate) fn to_guest<I: Image, M: GuestMemory>(
    image: &I,
    mut offset: u64,
    memory: &M,
    mut gpa: Gpa,
    mut length: u32,
) -> Result<(), CopyError> {
    let mut bounce = [0; BOUNCE];
    while length != 0 {
        let size = length.min(BOUNCE as u32);
        let part = bounce.get_mut(..size as usize).unwrap_or_default();
        image.read(offset, part).map_err(CopyError::Image)?;
        memory.write(gpa, part)?;
        (offset, gpa) = (offset + u64::from(size), crate::memory::behind(gpa, size.into()));
        length -= size;
    }
    Ok(())
}

/// Copies from the guest to the image.
pub(crate) fn from_guest<I: Image, M: GuestMemory>(
    image: &I,
    mut offset: u64,
    memory: &M,
    mut gpa: Gpa,
    mut length: u32,
) -> Result<(), CopyError> {
    let mut bounce = [0; BOUNCE];
    while length != 0 {
        let size = length.min(BOUNCE as u32);
        let part = bounce.get_mut(..size as usize).unwrap_or_default();
        memory.read(gpa, part)?;
        image.write(offset, part).map_err(CopyError::Image)?;
        (offset, gpa) = (offset + u64::from(size), crate::memory::behind(gpa, size.into()));
        length -= size;
    }
    Ok(())
}

/// Fills a part of the image with zeros.
pub(crate) fn zero<I: Image>(image: &I, mut offset: u64, mut length: u32) -> Result<(), OutOfImage> {
    const ZEROS: [u8; BOUNCE] = [0; BOUNCE];
    while length != 0 {
        let size = length.min(BOUNCE as u32);
        image.write(offset, ZEROS.get(..size as usize).unwrap_or_default())?;
        offset += u64::from(size);
        length -= size;
    }
    Ok(())
}
