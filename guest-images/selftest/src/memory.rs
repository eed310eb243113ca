//! Pages for tests: handed out one after the other, all taken back before the next test.

use crate::boot::{self, RAM};
use crate::{Global, cpu};

/// Bytes of a small page.
pub const PAGE: u64 = 4096;
/// Bytes of a 2 MiB page.
pub const LARGE_PAGE: u64 = 2 << 20;
/// Memory above this is left alone: the identity map ends at 4 GiB, and less is faster to clear.
const CEILING: u64 = 3 << 30;

#[derive(Clone, Copy)]
struct Pool {
    start: u64,
    next: u64,
    end: u64,
}

static POOL: Global<Pool> = Global::new(Pool { start: 0, next: 0, end: 0 });

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
}

/// First address behind the image.
pub fn image_end() -> u64 {
    &raw const __image_end as u64
}

/// First address of the image.
pub fn image_start() -> u64 {
    &raw const __image_start as u64
}

/// Takes the largest piece of RAM below the identity map's end that the image leaves.
pub(crate) fn init() {
    let mut best = Pool { start: 0, next: 0, end: 0 };
    for region in boot::regions().iter().filter(|region| region.kind == RAM) {
        let start = region.start.max(image_end()).next_multiple_of(LARGE_PAGE);
        let end = region.end.min(CEILING) & !(PAGE - 1);
        if end > start && end - start > best.end - best.start {
            best = Pool { start, next: start, end };
        }
    }
    POOL.set(best);
}

/// Takes all pages back.
pub fn reset() {
    POOL.with(|pool| pool.next = pool.start);
}

/// Bytes that can still be had.
pub fn available() -> u64 {
    POOL.with(|pool| pool.end - pool.next)
}

/// All of the memory that tests can have: its start, and how many pages. For a guest that takes no pages.
pub fn all() -> (u64, u64) {
    POOL.with(|pool| (pool.start, (pool.end - pool.start) / PAGE))
}

/// `count` zeroed pages in a row. The physical address, which is also where the identity map shows them.
///
/// # Panics
/// When the machine has no memory left: the test fails.
pub fn pages(count: u64) -> u64 {
    pages_aligned(count, PAGE)
}

/// `count` zeroed pages in a row from a multiple of `alignment` (a power of two).
///
/// # Panics
/// When the machine has no memory left: the test fails.
pub fn pages_aligned(count: u64, alignment: u64) -> u64 {
    let address = POOL.with(|pool| {
        let address = pool.next.next_multiple_of(alignment);
        assert!(address + count * PAGE <= pool.end, "out of test memory");
        pool.next = address + count * PAGE;
        address
    });
    fill(address, 0, count * PAGE);
    address
}

/// One zeroed page.
///
/// # Panics
/// When the machine has no memory left: the test fails.
pub fn page() -> u64 {
    pages(1)
}

/// Fills `size` bytes at `address`.
pub fn fill(address: u64, byte: u8, size: u64) {
    crate::probe!("rep stosb", inout("rdi") address => _, inout("rcx") size => _, in("al") byte, options(nostack));
}

/// Copies bytes to `address`.
pub fn store(address: u64, bytes: &[u8]) {
    for (i, byte) in bytes.iter().enumerate() {
        cpu::write8(address + i as u64, *byte);
    }
}
