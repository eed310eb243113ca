//! The machine's free physical memory, in blocks of 4 KiB to 1 GiB.
//!
//! A [`Block`] owns its frames and gives them back when it is dropped, so that what fails half-way leaks
//! nothing. Tables and guest memory, which keep their frames' addresses in entries of their own, use
//! [`allocate`] and [`free`]. One lock, held for a few dozen instructions.

// UNSAFETY: frames that are given back while somebody still uses them are handed out again.
#![allow(unsafe_code)]

use spin::Mutex;
use vcpu::{Hpa, MemoryError, PAGE_SIZE};

pub(crate) use super::buddy::FrameKind;
use super::buddy::FrameTable;
use super::zero_frames;
use crate::cpu;
use crate::fault::lies;

static TABLE: Mutex<Option<FrameTable<'static>>> = Mutex::new(None);

/// Takes 2^`order` frames (4 KiB each, order 0 to 18), aligned to their size, in the name of `owner` (a VM's
/// number; 0 is the kernel). They come dirty. `None` where there is no such block.
pub(crate) fn allocate(order: u8, kind: FrameKind, owner: u16) -> Option<Hpa> {
    if lies::out_of_frames(kind) {
        return None;
    }
    let frame = TABLE.lock().as_mut()?.allocate(order, kind, owner)?;
    if is_counted(kind) {
        cpu::count_taken(PAGE_SIZE << order);
    }
    Some(Hpa(frame * PAGE_SIZE))
}

/// Gives back what [`allocate`] returned, in the same size.
///
/// # Safety
///
/// Nobody uses the frames any more: neither the kernel, nor a CPU through a translation or a control
/// structure.
///
/// # Panics
///
/// Where that block is not in use in that size: the books are wrong, and going on would hand memory out
/// twice.
pub(crate) unsafe fn free(hpa: Hpa, order: u8) {
    let whole = hpa.page_offset() == 0;
    let returned = TABLE.lock().as_mut().filter(|_| whole).map(|table| table.free(hpa.0 / PAGE_SIZE, order));
    let Some(Ok(kind)) = returned else {
        panic!("frames at {hpa:?} (order {order}) were given back but not in use")
    };
    if is_counted(kind) {
        cpu::count_taken((PAGE_SIZE << order).wrapping_neg());
    }
}

/// Whether the CPU that takes frames counts them itself, by [`cpu::count_taken`]. Those of the heap are counted as they are handed out;
/// guests' memory and what maps it have counts of their own.
const fn is_counted(kind: FrameKind) -> bool {
    matches!(kind, FrameKind::Kernel | FrameKind::Control)
}

/// Makes of a block that [`allocate`] returned blocks of 2^`parts` frames, each to be given back by itself.
///
/// # Panics
/// As [`free`].
pub(crate) fn split(hpa: Hpa, order: u8, parts: u8) {
    let divided = TABLE.lock().as_mut().map(|table| table.split(hpa.0 / PAGE_SIZE, order, parts));
    assert!(matches!(divided, Some(Ok(()))), "frames at {hpa:?} (order {order}) were divided but not in use");
}

/// Frames that belong to the kernel as long as this exists.
#[derive(Debug)]
pub(crate) struct Block {
    start: Hpa,
    order: u8,
}

impl Block {
    /// Takes 2^`order` frames and fills them with zeros.
    pub(crate) fn zeroed(order: u8, kind: FrameKind) -> Result<Self, MemoryError> {
        let mut block = Self::unfilled(order, kind)?;
        block.zero();
        Ok(block)
    }

    /// As [`Self::zeroed`], but with whatever was there before: nobody may see it until all of it was written.
    pub(crate) fn unfilled(order: u8, kind: FrameKind) -> Result<Self, MemoryError> {
        let start = allocate(order, kind, 0).ok_or_else(|| MemoryError::OutOfFrames {
            wanted: PAGE_SIZE.checked_shl(order.into()).unwrap_or(u64::MAX),
            free: free_bytes(),
        })?;
        Ok(Self { start, order })
    }

    /// Fills the frames with zeros.
    pub(crate) fn zero(&mut self) {
        // SAFETY: the frames are this block's, and it is borrowed mutably.
        unsafe { zero_frames(self.start, self.order) };
    }

    /// Address of the first byte.
    #[inline]
    pub(crate) const fn start(&self) -> Hpa {
        self.start
    }

    /// Never gives the frames back.
    pub(crate) const fn keep(self) -> Hpa {
        let start = self.start;
        core::mem::forget(self);
        start
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block's owner gives it up, and lends its address only to what ends before it.
        unsafe { free(self.start, self.order) };
    }
}

/// Bytes that are free.
pub fn free_bytes() -> u64 {
    TABLE.lock().as_ref().map_or(0, |table| table.free_frames() * PAGE_SIZE)
}

/// Bytes that are in use for this.
pub(super) fn used_bytes(kind: FrameKind) -> u64 {
    TABLE.lock().as_ref().map_or(0, |table| table.used(kind) * PAGE_SIZE)
}

/// Bytes of RAM in the table, free or not.
pub fn total_bytes() -> u64 {
    TABLE.lock().as_ref().map_or(0, |table| table.described() * PAGE_SIZE)
}

/// Gives the allocator its table.
pub(super) fn install(table: FrameTable<'static>) {
    *TABLE.lock() = Some(table);
}
