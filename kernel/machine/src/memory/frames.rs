//! The machine's free physical memory, in blocks of 4 KiB to 1 GiB.
//!
//! Blocks come dirty: who needs zeros calls [`super::zero_frames`]. One lock, held for a few dozen
//! instructions.

use spin::Mutex;
use vcpu::{Hpa, PAGE_SIZE};

pub use super::buddy::FrameKind;
use super::buddy::FrameTable;

static TABLE: Mutex<Option<FrameTable<'static>>> = Mutex::new(None);

/// Takes 2^`order` frames (4 KiB each, order 0 to 18), aligned to their size, in the name of `owner` (a VM's
/// number; 0 is the kernel). `None` where there is no such block.
pub fn allocate(order: u8, kind: FrameKind, owner: u16) -> Option<Hpa> {
    let frame = TABLE.lock().as_mut()?.allocate(order, kind, owner)?;
    Some(Hpa(frame * PAGE_SIZE))
}

/// Gives back what [`allocate`] returned, in the same size.
///
/// # Panics
///
/// Where that block is not in use in that size: the books are wrong, and going on would hand memory out
/// twice.
pub fn free(hpa: Hpa, order: u8) {
    let returned = TABLE.lock().as_mut().map(|table| table.free(hpa.0 / PAGE_SIZE, order));
    assert!(
        hpa.page_offset() == 0 && matches!(returned, Some(Ok(()))),
        "frames at {hpa:?} (order {order}) were given back but not in use"
    );
}

/// Bytes that are free.
pub fn free_bytes() -> u64 {
    TABLE.lock().as_ref().map_or(0, |table| table.free_frames() * PAGE_SIZE)
}

/// Bytes of RAM in the table, free or not.
pub fn total_bytes() -> u64 {
    TABLE.lock().as_ref().map_or(0, |table| table.described() * PAGE_SIZE)
}

/// Gives the allocator its table.
pub(super) fn install(table: FrameTable<'static>) {
    *TABLE.lock() = Some(table);
}
