//! A window onto one device while the entry code's page tables are still in use: for a screen above what they map, so
//! that a machine without usable memory can say so.

// UNSAFETY: page tables are memory that the CPU reads behind the compiler's back.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::ops::Range;

use vcpu::Hpa;
use x86_64::registers::control::Cr3;

use super::page_table::{PageFlags, PageTable, TableFrames};
use super::{IMAGE_OFFSET, WINDOWS, is_started, kernel_space};
use crate::cpu;

/// Pages of the window: no larger ones, which old CPUs have not.
const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// What one table of large pages maps.
const MOST_BYTES: u64 = 1 << 30;
/// A directory of such tables, and one of them.
const TABLES: usize = 2;
/// Uncached, whatever is known of the memory there. The entry code has not switched no-execute pages on.
const FLAGS: PageFlags =
    PageFlags::PRESENT.union(PageFlags::WRITABLE).union(PageFlags::WRITE_THROUGH).union(PageFlags::NO_CACHE);

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: no reference to the entries is ever made; see `SpareTables`.
unsafe impl Sync for Table {}

static SPARE: [Table; TABLES] = [const { Table(UnsafeCell::new([0; 512])) }; TABLES];

/// Hands out the spare tables, which are zeroed when the image is loaded.
struct SpareTables(usize);

impl TableFrames for SpareTables {
    fn allocate(&mut self) -> Option<Hpa> {
        let table = SPARE.get(self.0)?;
        self.0 += 1;
        Some(Hpa((table.0.get() as u64).wrapping_sub(IMAGE_OFFSET)))
    }

    fn read(&self, table: Hpa, index: usize) -> u64 {
        kernel_space::read_entry(table, index)
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        kernel_space::write_entry(table, index, entry);
    }
}

/// Maps physical memory until the final page tables are loaded, and returns the address of its first byte. Works
/// once, and for at most 1 GiB.
pub(crate) fn map(memory: &Range<u64>) -> Option<*mut u8> {
    if is_started() || memory.end > cpu::features().reach() {
        return None;
    }
    let start = memory.start / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
    let length = memory.end.checked_next_multiple_of(LARGE_PAGE_BYTES)? - start;
    if length > MOST_BYTES {
        return None;
    }
    let (root, _) = Cr3::read();
    let mut table = PageTable::of(Hpa(root.start_address().as_u64()), SpareTables(0), false);
    // A second call finds the first one's pages and fails.
    table.map(WINDOWS, Hpa(start), length, FLAGS).ok()?;
    Some((WINDOWS + (memory.start - start)) as *mut u8)
}
