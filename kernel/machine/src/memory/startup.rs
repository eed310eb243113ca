//! Memory below 1 MiB for starting other CPUs, reserved before anything else takes it: a page for the code that they
//! begin with, in 16-bit mode, and their first page tables.

// UNSAFETY: writes page tables into memory that it has reserved.
#![allow(unsafe_code)]

use core::ops::Range;

use spin::Once;
use vcpu::{Hpa, PAGE_SIZE};

use super::kernel_space::{self, STARTUP_TABLES};
use super::range_set::RangeSet;

/// Where the page may be: a start-up message has eight bits for its number, page 0 is firmware's, and from A0000H on
/// there is no RAM.
const PLACE: Range<u64> = PAGE_SIZE..0xa_0000;
const BYTES: u64 = (1 + STARTUP_TABLES) * PAGE_SIZE;

static RESERVED: Once<Option<Hpa>> = Once::new();

/// Reserves the memory, as high as it may be, so that what is left is in one piece. The frame allocator has nothing
/// below 1 MiB anyway. The first call counts.
pub(super) fn reserve(usable: &RangeSet, loaded: &RangeSet) {
    RESERVED.call_once(|| find(usable, loaded));
}

/// What is reserved.
pub(super) fn reserved() -> Option<Range<u64>> {
    let start = (*RESERVED.get()?)?.0;
    Some(start..start + BYTES)
}

/// Bytes that are reserved.
pub(super) fn bytes() -> u64 {
    if RESERVED.get().is_some_and(Option::is_some) { BYTES } else { 0 }
}

fn find(usable: &RangeSet, loaded: &RangeSet) -> Option<Hpa> {
    let mut low = usable.clone();
    low.remove(0..PLACE.start);
    low.remove(PLACE.end..u64::MAX);
    for range in loaded.ranges() {
        low.remove(range.clone());
    }
    low.take(BYTES, PLACE.end).map(Hpa)
}

/// Where a CPU starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StartupSpace {
    /// The page with the code, below 1 MiB; writable in the direct map.
    pub(crate) page: Hpa,
    /// The root of the page tables that map the kernel, and the page at its physical address.
    pub(crate) root: Hpa,
}

/// Makes the page tables. `None` where the machine has no memory for it below 640 KiB. To be called on the boot CPU
/// alone, while no other CPU is being started.
pub(crate) fn startup_space() -> Option<StartupSpace> {
    let page = (*RESERVED.get()?)?;
    // SAFETY: `reserve` set the frames behind the page aside: usable RAM, which the direct map covers, and the frame
    // allocator does not have; only this function uses them.
    let root = unsafe { kernel_space::startup_space(page, Hpa(page.0 + PAGE_SIZE))? };
    Some(StartupSpace { page, root })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<const N: usize>(ranges: [Range<u64>; N]) -> RangeSet {
        let mut set = RangeSet::new();
        ranges.into_iter().for_each(|range| set.add(range));
        set
    }

    fn one(start: u64, end: u64) -> RangeSet {
        let mut set = RangeSet::new();
        set.add(start..end);
        set
    }

    #[test]
    fn the_place_is_the_highest_that_is_free() {
        let usable = set([0..0x9_f000, 0x10_0000..0x8000_0000]);
        assert_eq!(find(&usable, &RangeSet::new()), Some(Hpa(0x9_a000)));
        assert_eq!(find(&usable, &one(0x9_c000, 0x9_d000)), Some(Hpa(0x9_7000)));
    }

    #[test]
    fn neither_page_zero_nor_what_is_no_low_memory_serves() {
        let found = |start, end| find(&one(start, end), &RangeSet::new());
        assert_eq!(found(0, BYTES), None);
        assert_eq!(found(0, BYTES + PAGE_SIZE), Some(Hpa(PAGE_SIZE)));
        assert_eq!(found(0xa_0000, 0x8000_0000), None);
        assert_eq!(found(0x9_f000, 0x8000_0000), None);
    }
}
