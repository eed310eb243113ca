//! Bytes in host memory that outlive a VM: what its disks are kept in.

use crate::NotRam;

/// Why bytes were not copied, or not all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// The range reaches behind the image's end, or there is no memory for what is written.
    OutOfImage,
    /// The guest has no RAM at its end.
    NotRam(NotRam),
}

impl From<NotRam> for ImageError {
    fn from(error: NotRam) -> Self {
        Self::NotRam(error)
    }
}

/// Bytes that outlive the VM. Several users at a time may read and write; who writes and reads the same bytes at the same time
/// finds some of either, as on a disk.
pub trait Image {
    /// How many bytes there are.
    fn bytes(&self) -> u64;

    /// Bytes of host memory that what was written takes.
    fn kept(&self) -> u64;

    /// Shows a range of the image, in one or more pieces in their order. What shows them is locked meanwhile: `each` copies, and does nothing else.
    ///
    /// # Errors
    /// [`ImageError::OutOfImage`], before anything was shown; what `each` says ends it.
    fn read(
        &self,
        offset: u64,
        length: u32,
        each: impl FnMut(&[u8]) -> Result<(), NotRam>,
    ) -> Result<(), ImageError>;

    /// Lets a range of the image be written, in one or more pieces in their order; `each` writes all of its piece. Returns how many bytes were
    /// moved in all: these, and what it took to have a place for them.
    ///
    /// # Errors
    /// [`ImageError::OutOfImage`]; where the range is not in the image nothing was written then. What `each` says ends it: the piece is then what it left
    /// there.
    fn write(
        &self,
        offset: u64,
        length: u32,
        each: impl FnMut(&mut [u8]) -> Result<(), NotRam>,
    ) -> Result<u32, ImageError>;
}
