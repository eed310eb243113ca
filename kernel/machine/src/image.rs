//! Disks in memory, which begin with a boot module's bytes, or with none. The module itself stays as it is (the kernel maps it read-only); what is
//! written goes to memory of its own, taken where it is first written to. It is kept as long as the image, which is as long as its VM is on the list.

// UNSAFETY: frames as slices, by address.
#![allow(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use core::ops::Range;
use core::{ptr, slice};

use spin::Mutex;
use vcpu::{Image, ImageError, MemoryError, NotRam, PAGE_SIZE};

use crate::memory::direct_map;
use crate::memory::frames::{Block, FrameKind};

/// Frames of a block, as a power of two, and its bytes.
const ORDER: u8 = 4;
const BLOCK_BYTES: usize = (PAGE_SIZE as usize) << ORDER;

/// What is read where nothing is.
static ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];

/// A boot module that can be written to, with zeros behind it.
#[derive(Debug)]
pub struct ModuleImage<'m> {
    base: &'m [u8],
    /// How many bytes there are in all.
    bytes: usize,
    /// What was written: a block for each stretch of [`BLOCK_BYTES`].
    written: Mutex<Vec<Option<Block>>>,
}

/// The piece of a range that is in one block: the block, where in it, and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    block: usize,
    at: usize,
    length: usize,
}

/// The pieces of a range.
fn pieces(offset: usize, length: usize) -> impl Iterator<Item = Piece> {
    let (mut next, end) = (offset, offset + length);
    core::iter::from_fn(move || {
        let at = next % BLOCK_BYTES;
        let piece = Piece { block: next / BLOCK_BYTES, at, length: (BLOCK_BYTES - at).min(end - next) };
        next += piece.length;
        (piece.length != 0).then_some(piece)
    })
}

impl<'m> ModuleImage<'m> {
    /// # Errors
    /// [`MemoryError::OutOfFrames`] where there is no memory for the list of blocks.
    pub(crate) fn new(base: &'m [u8], bytes: u64) -> Result<Self, MemoryError> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let count = bytes.div_ceil(BLOCK_BYTES);
        let mut written = Vec::new();
        written.try_reserve_exact(count).map_err(|_| MemoryError::OutOfFrames {
            wanted: (count as u64).saturating_mul(size_of::<Option<Block>>() as u64),
            free: 0,
        })?;
        written.resize_with(count, || None);
        Ok(Self { base, bytes, written: Mutex::new(written) })
    }

    /// The range inside the image, where it is.
    fn range(&self, offset: u64, length: usize) -> Result<usize, ImageError> {
        let start = usize::try_from(offset).map_err(|_| ImageError::OutOfImage)?;
        let end = start.checked_add(length).ok_or(ImageError::OutOfImage)?;
        if end > self.bytes { Err(ImageError::OutOfImage) } else { Ok(start) }
    }

    /// Shows a part in which nothing was written: the module's bytes, and zeros behind them.
    fn show_unwritten(
        &self,
        range: Range<usize>,
        each: &mut impl FnMut(&[u8]) -> Result<(), NotRam>,
    ) -> Result<(), NotRam> {
        let middle = self.base.len().clamp(range.start, range.end);
        if let Some(bytes) = self.base.get(range.start..middle).filter(|bytes| !bytes.is_empty()) {
            each(bytes)?;
        }
        let mut left = range.end - middle;
        while let Some(zeros) = ZEROS.get(..left.min(ZEROS.len())).filter(|zeros| !zeros.is_empty()) {
            each(zeros)?;
            left -= zeros.len();
        }
        Ok(())
    }

    /// A block with what the module has there.
    fn copied(&self, block: usize) -> Option<Block> {
        let from = self.base.get(block * BLOCK_BYTES..).unwrap_or_default();
        let length = from.len().min(BLOCK_BYTES);
        let fresh = Block::unfilled(ORDER, FrameKind::Kernel).ok()?;
        let start = direct_map(fresh.start());
        // SAFETY: the block's frames are BLOCK_BYTES of RAM of its own; the module is elsewhere.
        unsafe {
            ptr::copy_nonoverlapping(from.as_ptr(), start, length);
            ptr::write_bytes(start.add(length), 0, BLOCK_BYTES - length);
        }
        Some(fresh)
    }
}

impl Image for ModuleImage<'_> {
    fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    fn kept(&self) -> u64 {
        let blocks = self.written.lock().iter().flatten().count();
        (blocks * BLOCK_BYTES) as u64
    }

    fn read(
        &self,
        offset: u64,
        length: u32,
        mut each: impl FnMut(&[u8]) -> Result<(), NotRam>,
    ) -> Result<(), ImageError> {
        let start = self.range(offset, length as usize)?;
        let mut from = start;
        let written = self.written.lock();
        for piece in pieces(start, length as usize) {
            match written.get(piece.block) {
                // SAFETY: the piece is inside the block, which is kept while the lock is held, and written to with the lock only.
                Some(Some(block)) => each(unsafe {
                    slice::from_raw_parts(direct_map(block.start()).add(piece.at), piece.length)
                })?,
                _ => self.show_unwritten(from..from + piece.length, &mut each)?,
            }
            from += piece.length;
        }
        Ok(())
    }

    fn write(
        &self,
        offset: u64,
        length: u32,
        mut each: impl FnMut(&mut [u8]) -> Result<(), NotRam>,
    ) -> Result<u32, ImageError> {
        let start = self.range(offset, length as usize)?;
        let mut moved = length;
        let mut written = self.written.lock();
        for piece in pieces(start, length as usize) {
            let place = written.get_mut(piece.block).ok_or(ImageError::OutOfImage)?;
            if place.is_none() {
                *place = self.copied(piece.block);
                moved += BLOCK_BYTES as u32;
            }
            let block = place.as_ref().ok_or(ImageError::OutOfImage)?;
            // SAFETY: as in `read`; the lock is held, so nobody else has the bytes.
            each(unsafe {
                slice::from_raw_parts_mut(direct_map(block.start()).add(piece.at), piece.length)
            })?;
        }
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    use proptest::prelude::*;

    #[test]
    fn what_is_outside_is_refused() {
        let image = ModuleImage::new(&[7; 1000], 1000).expect("memory");
        let mut seen = Vec::new();
        let shown = image.read(990, 10, |bytes| {
            seen.extend_from_slice(bytes);
            Ok(())
        });
        assert_eq!((shown, &seen[..]), (Ok(()), &[7; 10][..]));
        for offset in [991, 1000, u64::MAX, u64::MAX - 5] {
            let outside = Err(ImageError::OutOfImage);
            assert_eq!(image.read(offset, 10, |_| panic!("nothing is there")), outside);
            assert_eq!(image.write(offset, 10, |_| panic!("nothing is there")), outside.map(|()| 0));
        }
        let no_ram = NotRam { gpa: vcpu::Gpa(5) };
        assert_eq!(image.read(0, 1, |_| Err(no_ram)), Err(ImageError::NotRam(no_ram)));
    }

    #[test]
    fn behind_the_module_are_zeros() {
        let (zeros, whole) = (3 * PAGE_SIZE as usize + 5, 100_000);
        let image = ModuleImage::new(&[7; 1000], whole).expect("memory");
        let mut seen = Vec::new();
        let length = 10 + zeros;
        let shown = image.read(990, length as u32, |bytes| {
            seen.extend_from_slice(bytes);
            Ok(())
        });
        assert_eq!(shown, Ok(()));
        assert_eq!((&seen[..10], seen.len()), (&[7; 10][..], length));
        assert!(seen[10..].iter().all(|byte| *byte == 0));
        assert_eq!(image.read(whole, 1, |_| panic!("nothing is there")), Err(ImageError::OutOfImage));
        assert_eq!(image.bytes(), whole);
    }

    proptest! {
        #[test]
        fn pieces_are_the_range(offset in 0_usize..1 << 20, length in 0_usize..1 << 19) {
            let all: Vec<_> = pieces(offset, length).collect();
            let mut next = offset;
            for piece in &all {
                prop_assert_eq!(piece.block * BLOCK_BYTES + piece.at, next);
                prop_assert!(piece.at + piece.length <= BLOCK_BYTES && piece.length > 0);
                next += piece.length;
            }
            prop_assert_eq!(next, offset + length);
        }
    }
}
