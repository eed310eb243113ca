//! What the kernel has of the machine's memory, counted by those who give it out.

use core::fmt;
use core::ops::Range;

use spin::Once;
use vcpu::PAGE_SIZE;

use super::frames::{self, FrameKind};
use super::startup;
use crate::logger::survivor;
use crate::stacks;

/// What was set aside before there was an allocator, in bytes.
#[derive(Clone, Copy, Debug)]
struct Fixed {
    image: u64,
    frame_table: u64,
    page_tables: u64,
    low: u64,
}

static FIXED: Once<Fixed> = Once::new();

/// Notes what was set aside before there was an allocator: the kernel's image, and bytes of the frame table and of page tables.
pub(super) fn note(image: &Range<u64>, frame_table: u64, page_tables: u64) {
    let image = image.end - image.start;
    FIXED.call_once(|| Fixed { image, frame_table, page_tables, low: survivor::bytes() + startup::bytes() });
}

/// Bytes of the kernel's, boot modules and guests apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    image: u64,
    heap: u64,
    frame_table: u64,
    page_tables: u64,
    stacks: u64,
    other: u64,
}

/// Counts it, without `guests` bytes of the heap that belong to VMs.
pub fn account(guests: u64) -> Account {
    let used = |kind| frames::used_bytes(kind);
    let fixed = FIXED.get().copied().unwrap_or(Fixed { image: 0, frame_table: 0, page_tables: 0, low: 0 });
    let own_stacks = stacks::image_bytes();
    Account {
        image: fixed.image.saturating_sub(own_stacks),
        heap: used(FrameKind::Heap).saturating_sub(guests),
        frame_table: fixed.frame_table.next_multiple_of(PAGE_SIZE),
        page_tables: fixed.page_tables + used(FrameKind::PageTable),
        stacks: own_stacks + used(FrameKind::Stack),
        other: fixed.low + used(FrameKind::Kernel) + used(FrameKind::Control),
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = |bytes: u64| bytes.div_ceil(1024);
        let parts =
            [self.image, self.heap, self.frame_table, self.page_tables, self.stacks, self.other].map(kib);
        let [image, heap, frame_table, page_tables, stacks, other] = parts;
        write!(
            f,
            "the kernel has {} KiB: image {image} heap {heap} frame-table {frame_table} page-tables {page_tables} stacks {stacks} other {other} KiB",
            parts.iter().sum::<u64>()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn the_line_adds_up() {
        let account =
            Account { image: 1, heap: 1024, frame_table: 2 << 20, page_tables: 4096, stacks: 0, other: 2000 };
        assert_eq!(
            account.to_string(),
            "the kernel has 2056 KiB: image 1 heap 1 frame-table 2048 page-tables 4 stacks 0 other 2 KiB"
        );
    }
}
