//! Memory for frames, in blocks of which each has its own lock: nobody waits for it, as a block is one frame's at a time.
//!
//! A port has few blocks at first, and more when more wait. Nothing is allocated on a frame's way: a switch has some in [`Reserve`], and they are made
//! anew elsewhere. A port keeps what it has.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use arrayvec::ArrayVec;
use spin::{Mutex, Once};

use super::{BLOCKS, Waiting};

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 1024;
/// The number that is no block's.
pub(super) const NONE: u16 = u16::MAX;
/// Blocks that come together, and how often that is.
pub(super) const PIECE: usize = 16;
pub(super) const PIECES: usize = BLOCKS / PIECE;
/// Pieces in a reserve: with what a port has from the start, enough for the largest frame and a half.
const RESERVE: usize = 8;

/// A block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) bytes: [u8; BLOCK_BYTES],
    /// What is known of the frame that begins here.
    pub(super) frame: Option<Waiting>,
}

/// Some blocks.
pub(super) type Piece = Box<[Mutex<Block>]>;

/// `None` where there is no memory for it.
#[inline(never)]
pub(super) fn piece() -> Option<Piece> {
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(PIECE).ok()?;
    blocks.resize_with(PIECE, || Mutex::new(Block { bytes: [0; BLOCK_BYTES], frame: None }));
    Some(blocks.into_boxed_slice())
}

/// Pieces that are there before a port needs them.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    pieces: Mutex<ArrayVec<Piece, RESERVE>>,
    /// Some were taken.
    low: AtomicBool,
}

impl Reserve {
    pub(super) fn take(&self) -> Option<Piece> {
        self.low.store(true, SeqCst);
        self.pieces.lock().pop()
    }

    /// Whether some were taken since it was filled.
    pub(crate) fn is_low(&self) -> bool {
        self.low.load(SeqCst)
    }

    /// Makes anew what was taken.
    #[inline]
    pub(crate) fn refill(&self) {
        if self.is_low() && self.low.swap(false, SeqCst) {
            self.fill();
        }
    }

    /// Makes all pieces, as far as there is memory for them. One CPU at a time.
    #[cold]
    #[inline(never)]
    pub(crate) fn fill(&self) {
        for _ in 0..RESERVE {
            if self.pieces.lock().is_full() {
                return;
            }
            let Some(piece) = piece() else { return };
            // Another CPU may have been here since it was low again.
            let _ = self.pieces.lock().try_push(piece);
        }
    }
}

/// A port's blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks([Once<Piece>; PIECES]);

impl Blocks {
    /// These are the blocks from [`PIECE`] times `at` on.
    pub(super) fn add(&self, at: usize, piece: Piece) {
        if let Some(place) = self.0.get(at) {
            place.call_once(|| piece);
        }
    }

    /// A block, where it is there.
    pub(super) fn get(&self, block: u16) -> Option<&Mutex<Block>> {
        let block = usize::from(block);
        self.0.get(block / PIECE)?.get()?.get(block % PIECE)
    }
}
