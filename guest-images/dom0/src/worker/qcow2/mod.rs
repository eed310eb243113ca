//! Whether a qcow2 file is whole, before anything of it is used (QEMU's documentation, "qcow2": the format's specification). Formats have many ways
//! to be broken, and who brings an image may have made it to do harm: what is not as it should be is refused here, in words, and the library that
//! reads and writes images sees the rest.

mod header;
mod tables;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{Error, ErrorKind, Result};

use api::image::Format;
use imago::{Storage, StorageExt};

use header::Header;

/// Checks an image. `backing` is what its owner says of the image below it: how that may be called, and its format.
///
/// # Errors
/// What is wrong, and what to do.
pub(super) fn check(storage: &impl Storage, write: bool, backing: Option<(&[String], Format)>) -> Result<()> {
    let file = Image { storage, bytes: storage.size()? };
    let header = Header::read(&file, write)?;
    header.check_backing(&file, backing)?;
    tables::check(&file, &header, write)
}

/// The file, read within its bounds.
struct Image<'a, S> {
    storage: &'a S,
    bytes: u64,
}

impl<S: Storage> Image<'_, S> {
    /// Reads bytes, all of which are in the file.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if !self.has(offset, buffer.len() as u64) {
            return Err(broken(format_args!("it ends before what should be at {offset:#x}")));
        }
        self.storage.read(buffer, offset)
    }

    fn has(&self, offset: u64, length: u64) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.bytes)
    }
}

/// It is broken.
fn broken(what: impl fmt::Display) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("not a whole qcow2 image: {what}; `qemu-img check` may mend it"),
    )
}

/// It is whole, and of a kind that cannot be used here.
fn unsupported(what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what}; `qemu-img convert -O qcow2` makes one without"))
}
