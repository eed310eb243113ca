//! The frame table and the buddy allocator in it: one 8-byte entry per frame of RAM.
//!
//! An entry holds, from bit 0:
//!
//! | bits | head of a free block | head of a used block | other frames |
//! |---|---|---|---|
//! | 0-1 | 1 | 2 | 0 |
//! | 2-6 | order | order | 0 |
//! | 7-34 | next free block | kind (7-14), owner (15-30) | 0 |
//! | 35-62 | previous free block | share count (35-48), pins (49-62) | 0 |
//!
//! Only the first frame of a block says what it is, so giving and taking a block of any size costs a few
//! entries. Share counts and pins are zero until something shares or pins frames.
//!
//! The table is sparse: ranges of RAM lie one after another in it, whatever lies between them in memory.
//! Links are indices into the table; 28 bits of them reach 1 TiB of RAM.

use core::ops::Range;

use arrayvec::ArrayVec;

use super::range_set::MAX_RANGES;

#[cfg(test)]
mod tests;

/// The largest block: 2^18 frames are 1 GiB.
pub(crate) const MAX_ORDER: u8 = 18;
/// Frames a table can describe.
pub(crate) const MAX_FRAMES: u64 = NONE as u64;

const ORDERS: usize = MAX_ORDER as usize + 1;
/// The link that leads nowhere.
const NONE: u32 = (1 << LINK_BITS) - 1;
const LINK_BITS: u32 = 28;

const STATE_MASK: u64 = 3;
const FREE: u64 = 1;
const USED: u64 = 2;
const ORDER_SHIFT: u32 = 2;
const NEXT_SHIFT: u32 = 7;
const PREVIOUS_SHIFT: u32 = NEXT_SHIFT + LINK_BITS;
const KIND_SHIFT: u32 = 7;
const OWNER_SHIFT: u32 = 15;

/// What a block of frames is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// The kernel's heap.
    Heap,
    /// CPUs' stacks.
    Stack,
    /// Other data of the kernel's own.
    Kernel,
    /// The kernel's page tables.
    PageTable,
    /// Control structures of the virtualization extensions.
    Control,
    /// Nested page tables.
    NestedTable,
    /// A guest's RAM.
    Guest,
}

/// How many kinds there are.
const KINDS: usize = FrameKind::ALL.len();

impl FrameKind {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 7] = [
        Self::Heap,
        Self::Stack,
        Self::Kernel,
        Self::PageTable,
        Self::Control,
        Self::NestedTable,
        Self::Guest,
    ];
}

/// A block was given back that is not in use in that size. The caller's books are wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotAllocated;

/// A range of RAM: its first frame number, and its entries' place in the table.
#[derive(Clone, Debug)]
struct Span {
    frames: Range<u64>,
    first_index: u32,
}

/// The frame table. Frames are named by frame number: physical address divided by 4096.
#[derive(Debug)]
pub(crate) struct FrameTable<'a> {
    entries: &'a mut [u64],
    spans: ArrayVec<Span, MAX_RANGES>,
    free_lists: [u32; ORDERS],
    free_frames: u64,
    /// Frames in use, by kind.
    used: [u64; KINDS],
}

impl<'a> FrameTable<'a> {
    /// A table without frames, to be kept in `entries`.
    pub(crate) fn new(entries: &'a mut [u64]) -> Self {
        entries.fill(0);
        Self { entries, spans: ArrayVec::new(), free_lists: [NONE; ORDERS], free_frames: 0, used: [0; KINDS] }
    }

    /// Describes a range of RAM, in use by nobody's name until [`Self::add_free`]. Ranges come in ascending
    /// order and do not touch. What the table has no room for is left out.
    pub(crate) fn add_span(&mut self, frames: Range<u64>) {
        let first_index = self.described() as u32;
        let room = (self.entries.len() as u64).min(MAX_FRAMES) - u64::from(first_index);
        let frames = frames.start..frames.end.min(frames.start + room);
        if !frames.is_empty() {
            // A full list leaves the range out.
            let _ = self.spans.try_push(Span { frames, first_index });
        }
    }

    /// Frames the table describes.
    pub(crate) fn described(&self) -> u64 {
        self.spans
            .last()
            .map_or(0, |span| u64::from(span.first_index) + (span.frames.end - span.frames.start))
    }

    /// Frames that are free.
    pub(crate) const fn free_frames(&self) -> u64 {
        self.free_frames
    }

    /// Frames that are in use for this.
    pub(crate) const fn used(&self, kind: FrameKind) -> u64 {
        self.used[kind as usize]
    }

    /// Makes a range of described frames free, in the largest blocks that fit.
    pub(crate) fn add_free(&mut self, frames: Range<u64>) {
        let mut frame = frames.start;
        while frame < frames.end {
            let aligned = frame.trailing_zeros().min(u32::from(MAX_ORDER));
            let fitting = (frames.end - frame).ilog2();
            let largest = aligned.min(fitting) as u8;
            // A range may end early where the table did.
            let block = (0..=largest).rev().find_map(|order| Some((self.index_of(frame, order)?, order)));
            let Some((index, order)) = block else { return };
            self.push(index, order);
            self.free_frames += 1 << order;
            frame += 1 << order;
        }
    }

    /// Takes a block of 2^`order` frames, aligned to its size.
    pub(crate) fn allocate(&mut self, order: u8, kind: FrameKind, owner: u16) -> Option<u64> {
        let found = (order..=MAX_ORDER).find(|larger| self.free_lists[usize::from(*larger)] != NONE)?;
        let index = self.free_lists[usize::from(found)];
        self.unlink(index, found);
        // Halves that are not needed go back, the upper one each time.
        for half in (order..found).rev() {
            self.push(index + (1 << half), half);
        }
        self.entries[index as usize] = USED
            | u64::from(order) << ORDER_SHIFT
            | (kind as u64) << KIND_SHIFT
            | u64::from(owner) << OWNER_SHIFT;
        self.free_frames -= 1 << order;
        self.used[kind as usize] += 1 << order;
        self.frame_of(index)
    }

    /// Makes of a block in use blocks of a lower order, each of which is given back by itself.
    pub(crate) fn split(&mut self, frame: u64, order: u8, parts: u8) -> Result<(), NotAllocated> {
        let index = self.index_of(frame, order).filter(|_| parts <= order).ok_or(NotAllocated)?;
        let entry = self.entries[index as usize];
        if entry & STATE_MASK != USED || entry_order(entry) != order {
            return Err(NotAllocated);
        }
        let part = entry & !(0x1f << ORDER_SHIFT) | u64::from(parts) << ORDER_SHIFT;
        for number in 0..1_u32 << (order - parts) {
            self.entries[(index + (number << parts)) as usize] = part;
        }
        Ok(())
    }

    /// Gives a block back, which joins its free neighbours, and tells what it was used for.
    pub(crate) fn free(&mut self, frame: u64, order: u8) -> Result<FrameKind, NotAllocated> {
        let mut index = self.index_of(frame, order).ok_or(NotAllocated)?;
        let entry = self.entries[index as usize];
        if entry & STATE_MASK != USED || entry_order(entry) != order {
            return Err(NotAllocated);
        }
        self.entries[index as usize] = 0;
        self.free_frames += 1 << order;
        let kind = entry_kind(entry);
        self.used[kind as usize] -= 1 << order;
        let (mut frame, mut order) = (frame, order);
        while order < MAX_ORDER {
            let buddy_frame = frame ^ (1 << order);
            let Some(buddy) = self.index_of(buddy_frame, order) else { break };
            let entry = self.entries[buddy as usize];
            if entry & STATE_MASK != FREE || entry_order(entry) != order {
                break;
            }
            self.unlink(buddy, order);
            frame = frame.min(buddy_frame);
            index = index.min(buddy);
            order += 1;
        }
        self.push(index, order);
        Ok(kind)
    }

    /// The table index of the block of 2^`order` frames at `frame`, if it is one and lies in one range.
    fn index_of(&self, frame: u64, order: u8) -> Option<u32> {
        let frames = 1_u64.checked_shl(u32::from(order))?;
        if order > MAX_ORDER || !frame.is_multiple_of(frames) {
            return None;
        }
        let after = self.spans.partition_point(|span| span.frames.start <= frame);
        let span = self.spans.get(after.checked_sub(1)?)?;
        let fits = span.frames.end.checked_sub(frame)? >= frames;
        fits.then(|| span.first_index + (frame - span.frames.start) as u32)
    }

    fn frame_of(&self, index: u32) -> Option<u64> {
        let after = self.spans.partition_point(|span| span.first_index <= index);
        let span = self.spans.get(after.checked_sub(1)?)?;
        Some(span.frames.start + u64::from(index - span.first_index))
    }

    /// Puts a block at the head of its free list.
    fn push(&mut self, index: u32, order: u8) {
        let next = self.free_lists[usize::from(order)];
        self.entries[index as usize] = FREE
            | u64::from(order) << ORDER_SHIFT
            | u64::from(next) << NEXT_SHIFT
            | u64::from(NONE) << PREVIOUS_SHIFT;
        if next != NONE {
            self.set_link(next, PREVIOUS_SHIFT, index);
        }
        self.free_lists[usize::from(order)] = index;
    }

    /// Takes a free block out of its list; its entry becomes that of a frame inside a block.
    fn unlink(&mut self, index: u32, order: u8) {
        let entry = self.entries[index as usize];
        let (next, previous) = (link(entry, NEXT_SHIFT), link(entry, PREVIOUS_SHIFT));
        if previous == NONE {
            self.free_lists[usize::from(order)] = next;
        } else {
            self.set_link(previous, NEXT_SHIFT, next);
        }
        if next != NONE {
            self.set_link(next, PREVIOUS_SHIFT, previous);
        }
        self.entries[index as usize] = 0;
    }

    fn set_link(&mut self, index: u32, shift: u32, to: u32) {
        let entry = &mut self.entries[index as usize];
        *entry = *entry & !(u64::from(NONE) << shift) | u64::from(to) << shift;
    }
}

const fn entry_order(entry: u64) -> u8 {
    ((entry >> ORDER_SHIFT) & 0x1f) as u8
}

const fn entry_kind(entry: u64) -> FrameKind {
    let number = (entry >> KIND_SHIFT) as u8 as usize;
    // `allocate` writes no others.
    if number < KINDS { FrameKind::ALL[number] } else { FrameKind::Kernel }
}

const fn link(entry: u64, shift: u32) -> u32 {
    (entry >> shift) as u32 & NONE
}
