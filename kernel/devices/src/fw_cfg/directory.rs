//! The list of files ("File Directory"): a count, and for each file its size, its number and its name; all big-endian.

use alloc::vec::Vec;

/// The number of the first file.
pub(super) const FIRST_FILE: u16 = 0x20;
/// Files at most.
pub(super) const MAX_FILES: u16 = 64;
/// Longest name: the field is one longer, for a zero.
pub const MAX_FILE_NAME: usize = NAME_FIELD - 1;
const NAME_FIELD: usize = 56;
/// An entry: size (4 bytes), number (2), reserved (2), name.
const ENTRY: usize = 8 + NAME_FIELD;
const COUNT: usize = 4;

/// A list without files.
pub(super) const EMPTY: [u8; COUNT] = [0; COUNT];

/// Why a file cannot be put on the shelf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileError {
    /// The name is empty, too long or not of printable ASCII characters.
    BadName,
    /// There is a file of this name.
    Twice,
    /// There are too many files.
    TooMany,
    /// It has 4 GiB or more.
    TooLarge,
}

/// Adds a file to the list.
pub(super) fn append(list: &mut Vec<u8>, name: &str, size: usize, key: u16) -> Result<(), FileError> {
    let is_name =
        (1..=MAX_FILE_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_name {
        return Err(FileError::BadName);
    }
    let size = u32::try_from(size).map_err(|_| FileError::TooLarge)?;
    let mut field = [0; NAME_FIELD];
    for (slot, byte) in field.iter_mut().zip(name.bytes()) {
        *slot = byte;
    }
    let entries = list.get(COUNT..).unwrap_or_default();
    if entries.chunks_exact(ENTRY).any(|entry| entry.ends_with(&field)) {
        return Err(FileError::Twice);
    }
    let count = (entries.len() / ENTRY + 1) as u32;
    list.extend(size.to_be_bytes());
    list.extend(key.to_be_bytes());
    list.extend([0; 2]);
    list.extend(field);
    for (slot, byte) in list.iter_mut().zip(count.to_be_bytes()) {
        *slot = byte;
    }
    Ok(())
}
