//! The log that survives a warm reset: two banks at a fixed place in memory, of which this boot writes one and
//! finds in the other what the boot before has left.
//!
//! The place is the 64 KiB below the kernel's image. Boot loaders leave it alone as a rule: GRUB's own code and
//! modules are at 1 MiB and below, what it allocates comes from the upper end of memory, and what it loads for
//! the kernel goes above the image; firmware's is below 1 MiB or high up. Where the rule does not hold, the check
//! sums show it, and the log lives in ordinary memory alone. The frame allocator never gets the place.

// UNSAFETY: claims memory by its physical address, and writes cache lines back.
#![allow(unsafe_code)]

use core::arch::asm;
use core::ops::Range;
use core::slice;

use arrayvec::ArrayVec;
use spin::Mutex;
use vcpu::Hpa;

use super::bank::{Bank, LINE_BYTES};
pub(crate) use super::bank::{Ending, Left};
use crate::boot_info::BootInfo;
use crate::memory::{self, direct_map};

/// The place: 64 KiB, which end where the kernel's image starts.
pub(crate) const PLACE: Range<u64> = 0x1f_0000..0x20_0000;
const BYTES: usize = (PLACE.end - PLACE.start) as usize;
/// Bytes of a cache line on every 64-bit CPU; one with longer lines has more written back.
const CACHE_LINE: usize = 64;

struct Survivor {
    bank: Bank<'static>,
    /// The line that last words are building.
    line: ArrayVec<u8, LINE_BYTES>,
}

static SURVIVOR: Mutex<Option<Survivor>> = Mutex::new(None);

/// Bytes that it has.
pub(crate) fn bytes() -> u64 {
    if SURVIVOR.lock().is_some() { BYTES as u64 } else { 0 }
}

/// Begins to keep the log, and gives what the boot before has left. To be called once, while the entry code's
/// or the final page tables are loaded. `Err` where the place is not ours.
pub(crate) fn open(boot: &BootInfo) -> Result<Option<Left>, Occupied> {
    let mut survivor = SURVIVOR.lock();
    if survivor.is_some() || !memory::is_free(boot, &PLACE) {
        return Err(Occupied);
    }
    // SAFETY: the memory map calls the place RAM, nothing was loaded there, and the frame allocator never gets
    // it; so it is this module's alone, through this one call (the option above). It is mapped at the direct
    // map's address before and after the final page tables. Any bytes are valid.
    let bytes = unsafe { slice::from_raw_parts_mut(direct_map(Hpa(PLACE.start)), BYTES) };
    let (first, second) = bytes.split_at_mut(BYTES / 2);
    let number = |bank: &[u8]| Left::number_in(bank);
    let (ours, theirs) = if number(first) > number(second) { (second, first) } else { (first, second) };
    let left = Left::read(theirs);
    let number = left.as_ref().map_or(0, Left::number).wrapping_add(1);
    *survivor = Some(Survivor { bank: Bank::begin(ours, number, write_back), line: ArrayVec::new() });
    Ok(left)
}

/// The place is not free memory on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Occupied;

/// Keeps a line.
pub(super) fn push(line: &[u8]) {
    // The lock is held only where a panic interrupted its holder.
    if let Some(survivor) = SURVIVOR.try_lock().as_deref_mut().and_then(Option::as_mut) {
        survivor.bank.push(line);
    }
}

/// Keeps last words, which come in pieces.
pub(super) fn push_piece(text: &str) {
    let mut survivor = SURVIVOR.try_lock();
    let Some(Survivor { bank, line }) = survivor.as_deref_mut().and_then(Option::as_mut) else { return };
    for byte in text.bytes() {
        if byte == b'\n' {
            if !line.is_empty() {
                bank.push(line);
            }
            line.clear();
        } else {
            // The rest of a line that is too long is cut.
            let _ = line.try_push(byte);
        }
    }
}

/// Notes how this boot ends. The first word stands.
pub(crate) fn set_ending(ending: Ending) {
    if let Some(survivor) = SURVIVOR.try_lock().as_deref_mut().and_then(Option::as_mut) {
        survivor.bank.set_ending(ending);
    }
}

/// A reset may drop what is only in the cache.
fn write_back(bytes: &[u8]) {
    for line in bytes.chunks(CACHE_LINE).chain(bytes.last().map(slice::from_ref)) {
        // SAFETY: CLFLUSH, which every 64-bit CPU has, of an address that was just written.
        unsafe { asm!("clflush [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags)) };
    }
    // SAFETY: waits for the lines to be on their way; no other effect.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}
