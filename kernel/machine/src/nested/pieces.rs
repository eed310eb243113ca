//! Guest memory in pieces: pages on their way into a guest, and bytes that are copied or cleared.

// UNSAFETY: guest RAM is reached through the kernel's direct map by raw address.
#![allow(unsafe_code)]

use core::arch::asm;

use vcpu::{Gpa, Hpa};

use super::table::Level;
use crate::bring_up;
use crate::memory::{self, frames};

/// Bytes that are cleared in one step.
pub(super) const STEP_BYTES: u64 = 64 << 10;

/// A page on its way into the guest: its frames are nobody else's, and it is not mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling {
    pub(super) gpa: Gpa,
    pub(super) page: Hpa,
    pub(super) level: Level,
    /// Bytes that are zero.
    pub(super) cleared: u64,
}

impl Filling {
    /// The page around `gpa`, of which nothing is cleared.
    pub(super) const fn new(gpa: Gpa, page: Hpa, level: Level) -> Self {
        Self { gpa: Gpa(gpa.0 & !(level.bytes() - 1)), page, level, cleared: 0 }
    }

    /// Clears some more of it; true when all is zero.
    pub(super) fn clear(&mut self) -> bool {
        let size = STEP_BYTES.min(self.level.bytes() - self.cleared);
        let start = memory::direct_map(Hpa(self.page.0 + self.cleared));
        // SAFETY: the frames are this value's, and the bytes lie in them.
        bring_up::scrubbing(|| unsafe { memory::zero_bytes(start, size as usize) });
        self.cleared += size;
        self.cleared == self.level.bytes()
    }

    /// Gives the frames back.
    pub(super) fn give_up(self) {
        // SAFETY: the page is not mapped, and nobody else knows of it.
        unsafe { frames::free(self.page, self.level.order()) };
    }
}

/// Copies memory that a guest may change meanwhile. The string instruction is opaque to the compiler, so
/// no reference to the memory is ever assumed stable.
///
/// # Safety
/// 1. `source` is readable and `target` writable for `size` bytes.
/// 2. They do not overlap, or both are guest memory, of which nothing is assumed: then bytes go in ascending order, eight at a time.
#[inline]
pub(super) unsafe fn copy(source: *const u8, target: *mut u8, size: usize) {
    // SAFETY: by 1 and 2 of the caller; the kernel runs with the direction flag clear.
    unsafe {
        asm!(
            "rep movsq",
            "mov ecx, {tail:e}",
            "rep movsb",
            tail = in(reg) size & 7,
            inout("rcx") size >> 3 => _,
            inout("rsi") source => _,
            inout("rdi") target => _,
            options(nostack, preserves_flags)
        );
    }
}
