//! Little-endian numbers in a file that may end too early.

use crate::{LoadError, Part};

/// `N` bytes at `offset` of `part`'s file.
pub(crate) fn array_at<const N: usize>(file: &[u8], offset: u64, part: Part) -> Result<[u8; N], LoadError> {
    let slice = slice_at(file, offset, N as u64, part)?;
    slice.try_into().map_err(|_| truncated(file, offset, N as u64, part))
}

/// `length` bytes at `offset`.
pub(crate) fn slice_at(file: &[u8], offset: u64, length: u64, part: Part) -> Result<&[u8], LoadError> {
    let range = || {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        file.get(start..end)
    };
    range().ok_or_else(|| truncated(file, offset, length, part))
}

fn truncated(file: &[u8], offset: u64, length: u64, part: Part) -> LoadError {
    LoadError::Truncated { part, wanted: offset.saturating_add(length), have: file.len() as u64 }
}

pub(crate) fn u8_at(file: &[u8], offset: u64, part: Part) -> Result<u8, LoadError> {
    array_at(file, offset, part).map(u8::from_le_bytes)
}

pub(crate) fn u16_at(file: &[u8], offset: u64, part: Part) -> Result<u16, LoadError> {
    array_at(file, offset, part).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(file: &[u8], offset: u64, part: Part) -> Result<u32, LoadError> {
    array_at(file, offset, part).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(file: &[u8], offset: u64, part: Part) -> Result<u64, LoadError> {
    array_at(file, offset, part).map(u64::from_le_bytes)
}
