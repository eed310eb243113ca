//! A VM's own file, as it is read from its folder.

use std::fmt;
use std::fs;
use std::io::{Error, Result};
use std::path::Path;

pub(super) use api::vm::FILE as NAME;
use api::vm::VmFile;

const SECTOR: u64 = 512;
/// More than anybody writes into such a file.
const MOST_BYTES: u64 = 256 << 10;

/// Reads the file of a folder.
///
/// # Errors
/// It cannot be read, or a key is not known, missing or has no such value: key and line are named.
pub(super) fn read(folder: &Path) -> Result<VmFile> {
    let path = folder.join(NAME);
    let metadata = fs::metadata(&path).map_err(|error| named(&path, error))?;
    if metadata.len() > MOST_BYTES {
        return Err(named(&path, "it is too large for such a file"));
    }
    let text = fs::read_to_string(&path).map_err(|error| named(&path, error))?;
    VmFile::parse(&text).map_err(|error| named(&path, error))
}

/// Whether a VM has disks in files. One whose file cannot be read has none: that is told where it is made.
pub(super) fn has_files(folder: &Path) -> bool {
    read(folder).is_ok_and(|file| file.disks.iter().any(|disk| disk.format.is_some()))
}

/// An error that names a file.
pub(super) fn named(path: &Path, error: impl fmt::Display) -> Error {
    Error::other(format!("{}: {error}", path.display()))
}

/// Whole sectors for so many bytes.
pub(super) const fn sectors(bytes: u64) -> u64 {
    bytes.div_ceil(SECTOR)
}
