//! Memory for frames, in blocks of which each has its own lock: nobody waits for it, as a block is one frame's at a time.

use alloc::boxed::Box;
use alloc::vec::Vec;

use spin::Mutex;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 1024;
/// The number that is no block's.
pub(super) const NONE: u16 = u16::MAX;

#[derive(Debug)]
pub(super) struct Blocks(Box<[Mutex<[u8; BLOCK_BYTES]>]>);

impl Blocks {
    /// So many. `None` where there is no memory for them.
    pub(super) fn new(count: usize) -> Option<Self> {
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count).ok()?;
        blocks.resize_with(count, || Mutex::new([0; BLOCK_BYTES]));
        Some(Self(blocks.into_boxed_slice()))
    }

    /// Uses a block's bytes; nothing happens where there is no such block.
    pub(super) fn with<E>(
        &self,
        block: u16,
        with: impl FnOnce(&mut [u8; BLOCK_BYTES]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.0.get(usize::from(block)).map_or(Ok(()), |block| with(&mut block.lock()))
    }
}
