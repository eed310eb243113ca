//! Bytes in host memory that outlive a VM: what its disks are kept in.

/// A range reaches behind the end of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfImage;

/// Bytes that outlive the VM. Several users at a time may read and write; who writes and reads the same bytes at the same time
/// finds some of either, as on a disk.
pub trait Image {
    /// How many bytes there are.
    fn bytes(&self) -> u64;

    /// Bytes of host memory that what was written takes.
    fn kept(&self) -> u64;

    /// Copies out of the image.
    ///
    /// # Errors
    /// [`OutOfImage`]; the buffer's content is unspecified then.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), OutOfImage>;

    /// Copies into the image. Returns how many bytes were moved in all: these, and what it took to have a place for them.
    ///
    /// # Errors
    /// [`OutOfImage`]; nothing was written then.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<u32, OutOfImage>;
}
