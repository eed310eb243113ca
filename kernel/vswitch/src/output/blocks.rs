//! Memory for frames, in blocks of which each has its own lock: nobody waits for it, as a block is one frame's at a time.
//!
//! A port has few blocks at first, and more when more wait. Nothing is allocated on a frame's way: a switch has some in [`Reserve`], and they are made
//! anew elsewhere.

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
pub(super) const PIECE: usize = 32;
pub(super) const PIECES: usize = BLOCKS / PIECE;
/// Pieces in a reserve: with what a port has from the start, enough for the largest frame and a half.
const RESERVE: usize = 4;

type Block = Mutex<[u8; BLOCK_BYTES]>;

fn boxed<T>(make: impl FnMut() -> T) -> Option<Box<[T]>> {
    let mut all = Vec::new();
    all.try_reserve_exact(PIECE).ok()?;
    all.resize_with(PIECE, make);
    Some(all.into_boxed_slice())
}

/// Some blocks, with places for what is known of the frames that begin in them.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) blocks: Box<[Block]>,
    pub(super) frames: Box<[Option<Waiting>]>,
}

impl Piece {
    /// `None` where there is no memory for it.
    pub(super) fn new() -> Option<Self> {
        Some(Self { blocks: boxed(|| Mutex::new([0; BLOCK_BYTES]))?, frames: boxed(|| None)? })
    }
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

    /// Makes anew what was taken.
    #[inline]
    pub(crate) fn refill(&self) {
        if self.low.load(SeqCst) {
            self.fill();
        }
    }

    /// Makes all pieces, as far as there is memory for them.
    #[cold]
    pub(crate) fn fill(&self) {
        self.low.store(false, SeqCst);
        while !self.pieces.lock().is_full() {
            // One that has become too many is dropped.
            let Some(piece) = Piece::new() else { return };
            let _ = self.pieces.lock().try_push(piece);
        }
    }
}

/// A port's blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks([Once<Box<[Block]>>; PIECES]);

impl Blocks {
    /// These are the blocks from [`PIECE`] times `at` on.
    pub(super) fn add(&self, at: usize, blocks: Box<[Block]>) {
        if let Some(place) = self.0.get(at) {
            place.call_once(|| blocks);
        }
    }

    /// Uses a block's bytes; nothing happens where there is no such block.
    pub(super) fn with<E>(
        &self,
        block: u16,
        with: impl FnOnce(&mut [u8; BLOCK_BYTES]) -> Result<(), E>,
    ) -> Result<(), E> {
        let block = usize::from(block);
        let found = self.0.get(block / PIECE).and_then(Once::get).and_then(|piece| piece.get(block % PIECE));
        found.map_or(Ok(()), |block| with(&mut block.lock()))
    }
}
