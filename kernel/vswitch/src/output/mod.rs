//! What waits for a port's device: whole frames in blocks of memory that is the port's own, and who of those that sent them is next.
//!
//! Who sends takes blocks, fills them without a lock that others need, and only then puts the frame into its list. Who receives has one frame at a time in
//! its hand. So the lock is held for a few steps each time, never while bytes are copied.
//!
//! - **Shares**: a sender may have as many blocks as are free beside (Choudhury and Hahne, "Dynamic queue length thresholds"), so one that
//!   floods leaves room for others, and always for their first frame.
//! - **Order**: first who has not yet had what it is guaranteed, then by priority, then whoever has had least so far (start-time fair queueing).
//!   What one sender sends with one priority stays in order.

mod blocks;
mod order;
#[cfg(test)]
mod quality;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use spin::Mutex;

use crate::Nanos;
use crate::meter::Meter;
use crate::offload::Offload;
use crate::port::{PortId, PortSet};
pub use blocks::BLOCK_BYTES;
pub(crate) use blocks::Reserve;
use blocks::{Blocks, NONE, PIECE, PIECES, Piece};
use order::Order;

/// Blocks of a port at most.
const BLOCKS: usize = 256;
/// Priorities: 7 is served first.
pub const PRIORITIES: usize = 8;

/// A frame that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Who has sent it.
    pub from: PortId,
    /// Its priority, 0 to 7.
    pub priority: u8,
    /// Its length in bytes.
    pub length: u32,
    /// What its sender has left to others.
    pub offload: Offload,
    /// Packets and bytes on a wire.
    pub packets: u32,
    /// Bytes on a wire.
    pub wire_bytes: u64,
    /// It is a copy of which the end may be missing.
    pub cut: bool,
}

/// Blocks for a frame that is being copied.
#[derive(Debug)]
pub struct Room {
    first: u16,
    blocks: u16,
    from: PortId,
    filled: u32,
    /// Whose port it was when the blocks were taken.
    era: u32,
}

/// The frame that is next. It stays so until it is [popped](Output::pop).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Front {
    first: u16,
    /// What is known of it.
    pub frame: Waiting,
}

/// What is next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// Something, but not before this time: the port has had what it may.
    NotBefore(Nanos),
    /// This.
    Frame(Front),
}

#[derive(Debug)]
struct State {
    /// The block behind each: the next one of the frame, or of those that are free.
    links: [u16; BLOCKS],
    /// Of the blocks, so many pieces are there.
    pieces: usize,
    free: u16,
    free_blocks: u16,
    /// Blocks that each sender has.
    held: [u16; crate::MAX_PORTS],
    order: Order,
    /// The frame that is being received.
    current: Option<u16>,
    /// How often the port has been taken away.
    era: u32,
}

/// The frames that wait for a port's device.
#[derive(Debug)]
pub struct Output {
    state: Mutex<State>,
    blocks: Blocks,
    /// Frames in the lists, for who does not hold the lock.
    count: AtomicU32,
    /// How much the port receives.
    pub rate: Meter,
}

impl Output {
    /// Room for frames, of which none is there. `None` where there is no memory for it.
    pub(crate) fn new() -> Option<Self> {
        let output = Self {
            state: Mutex::new(State {
                links: [NONE; BLOCKS],
                pieces: 0,
                free: NONE,
                free_blocks: 0,
                held: [0; crate::MAX_PORTS],
                order: Order::new(),
                current: None,
                era: 0,
            }),
            blocks: Blocks::default(),
            count: AtomicU32::new(0),
            rate: Meter::default(),
        };
        output.add(&mut output.state.lock(), blocks::piece()?);
        Some(output)
    }

    /// Has more blocks.
    #[inline(never)]
    fn add(&self, state: &mut State, piece: Piece) {
        self.blocks.add(state.pieces, piece);
        for block in state.pieces * PIECE..(state.pieces + 1) * PIECE {
            state.set_link(block as u16, state.free);
            state.free = block as u16;
        }
        state.free_blocks += PIECE as u16;
        state.pieces += 1;
    }

    /// Has as many blocks free as are wanted. False where the reserve has not so many.
    #[cold]
    #[inline(never)]
    fn grow(&self, state: &mut State, wanted: u16, reserve: &Reserve) -> bool {
        while state.free_blocks < wanted && state.pieces < PIECES {
            let Some(piece) = reserve.take() else { return false };
            self.add(state, piece);
        }
        true
    }

    /// Whether frames wait.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(SeqCst) == 0
    }

    /// Takes blocks for a frame of so many bytes from a port, of a reserve where it has too few. `None` where the port's share is full.
    pub(crate) fn room(&self, from: PortId, length: u32, reserve: &Reserve) -> Option<Room> {
        let wanted = u16::try_from(length.div_ceil(BLOCK_BYTES as u32).max(1)).ok()?;
        let mut state = self.state.lock();
        let held = *state.held.get(from.index())?;
        let free = state.free_blocks + (BLOCKS - PIECE * state.pieces) as u16;
        if wanted > free || held != 0 && held + wanted > free {
            return None;
        }
        if wanted > state.free_blocks && !self.grow(&mut state, wanted, reserve) {
            return None;
        }
        let first = state.free;
        let mut last = first;
        for _ in 1..wanted {
            last = state.link(last);
        }
        state.free = state.link(last);
        state.set_link(last, NONE);
        state.free_blocks -= wanted;
        if let Some(held) = state.held.get_mut(from.index()) {
            *held += wanted;
        }
        Some(Room { first, blocks: wanted, from, filled: 0, era: state.era })
    }

    /// Appends bytes to a frame: `with` gets the places for them, one after the other, `length` bytes in all.
    ///
    /// # Errors
    /// What `with` returns.
    pub fn fill<E>(
        &self,
        room: &mut Room,
        length: u32,
        mut with: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let from = room.filled;
        room.filled += length;
        self.parts(room.first, from, length, |part| with(part))
    }

    /// Gives the blocks back.
    pub fn cancel(&self, room: &Room) {
        self.state.lock().release(room.first, room.blocks, room.from);
    }

    /// Puts a frame that was filled into its list. It is lost where the port was taken away meanwhile.
    pub fn push(&self, room: &Room, frame: Waiting) {
        let mut state = self.state.lock();
        if room.era != state.era {
            state.release(room.first, room.blocks, room.from);
            return;
        }
        if let Some(block) = self.blocks.get(room.first) {
            block.lock().frame = Some(frame);
        }
        state.order.push(room.first, &frame);
        self.count.fetch_add(1, SeqCst);
    }

    /// The frame that is next. `guaranteed` are the ports that have not yet had what they are guaranteed.
    pub fn next(&self, guaranteed: PortSet, now: Nanos) -> Next {
        if self.is_empty() {
            return Next::Nothing;
        }
        if let Some(at) = self.rate.opens_at(now) {
            return Next::NotBefore(at);
        }
        let mut state = self.state.lock();
        let first = match state.current {
            Some(first) => first,
            None => match state.order.take(guaranteed) {
                Some(first) => first,
                None => return Next::Nothing,
            },
        };
        state.current = Some(first);
        match self.blocks.get(first).and_then(|block| block.lock().frame) {
            Some(frame) => Next::Frame(Front { first, frame }),
            None => Next::Nothing,
        }
    }

    /// `length` bytes of a frame from `at` on: `with` gets them in parts.
    ///
    /// # Errors
    /// What `with` returns.
    pub fn read<E>(
        &self,
        front: &Front,
        at: u32,
        length: u32,
        mut with: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.parts(front.first, at, length, |part| with(part))
    }

    /// That frame is done with; `passed` where it was received.
    pub fn pop(&self, front: &Front, passed: bool, now: Nanos) {
        let mut state = self.state.lock();
        if state.current != Some(front.first) {
            // All was forgotten meanwhile.
            return;
        }
        state.current = None;
        self.blocks.get(front.first).map(|block| block.lock().frame.take());
        let blocks = front.frame.length.div_ceil(BLOCK_BYTES as u32).max(1) as u16;
        state.release(front.first, blocks, front.frame.from);
        drop(state);
        self.count.fetch_sub(1, SeqCst);
        if passed {
            self.rate.take(front.frame.wire_bytes, now);
        }
    }

    /// Forgets all frames that wait, and those that are just being copied.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.era = state.era.wrapping_add(1);
        drop(state);
        self.clear();
    }

    /// Forgets all frames that wait.
    pub fn clear(&self) {
        if self.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        let State { links, free, free_blocks, held, order, current, .. } = &mut *state;
        let mut cleared = 0;
        let mut forget = |first: u16| {
            let frame = self.blocks.get(first).and_then(|block| block.lock().frame.take());
            let Some(frame) = frame else { return };
            let mut last = usize::from(first);
            let mut blocks = 1;
            while let Some(next) = links.get(last).filter(|next| **next != NONE) {
                (last, blocks) = (usize::from(*next), blocks + 1);
            }
            if let Some(link) = links.get_mut(last) {
                *link = *free;
            }
            (*free, *free_blocks) = (first, *free_blocks + blocks);
            if let Some(held) = held.get_mut(frame.from.index()) {
                *held = held.saturating_sub(blocks);
            }
            cleared += 1;
        };
        if let Some(first) = current.take() {
            forget(first);
        }
        order.clear(forget);
        drop(state);
        self.count.fetch_sub(cleared, SeqCst);
    }

    /// The bytes from `at` on of the frame that begins with a block.
    fn parts<E>(
        &self,
        first: u16,
        at: u32,
        length: u32,
        mut with: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if length == 0 {
            return Ok(());
        }
        let (skip, mut at) = (at as usize / BLOCK_BYTES, at as usize % BLOCK_BYTES);
        let mut block = self.state.lock().nth(first, skip);
        let mut left = length as usize;
        loop {
            let now = left.min(BLOCK_BYTES - at);
            if let Some(block) = self.blocks.get(block) {
                block.lock().bytes.get_mut(at..at + now).map_or(Ok(()), &mut with)?;
            }
            (left, at) = (left - now, 0);
            if left == 0 {
                return Ok(());
            }
            block = self.state.lock().link(block);
        }
    }
}

impl State {
    fn link(&self, block: u16) -> u16 {
        self.links.get(usize::from(block)).copied().unwrap_or(NONE)
    }

    fn set_link(&mut self, block: u16, next: u16) {
        if let Some(link) = self.links.get_mut(usize::from(block)) {
            *link = next;
        }
    }

    fn nth(&self, mut block: u16, steps: usize) -> u16 {
        for _ in 0..steps {
            block = self.link(block);
        }
        block
    }

    fn release(&mut self, first: u16, blocks: u16, from: PortId) {
        let last = self.nth(first, usize::from(blocks).saturating_sub(1));
        self.set_link(last, self.free);
        self.free = first;
        self.free_blocks += blocks;
        if let Some(held) = self.held.get_mut(from.index()) {
            *held = held.saturating_sub(blocks);
        }
    }
}
