//! Memory that is set aside for the management domain before anything else takes it: it has it at its own address, so that its devices' accesses to
//! memory arrive where it means them.

use core::ops::Range;

use arrayvec::ArrayVec;
use spin::Once;
use vcpu::{HostMemory, HostRange, Hpa, PAGE_SIZE};

use super::range_set::{RangeSet, pages_of};
use super::startup;
use crate::boot_info::{BootInfo, MemoryKind};

/// Where devices reach that know 32 bits of an address, and where a kernel can be.
const BELOW: u64 = 1 << 32;
/// Its memory comes in pieces that are aligned to this, so that large pages map it.
const ALIGNMENT: u64 = 2 << 20;
/// Below this a system has its own start-up code; the page at 0 is firmware's.
const LOW: Range<u64> = PAGE_SIZE..0xa_0000;
/// Pieces at most.
const PIECES: usize = 8;
/// Ranges of the map at most: those of firmware, and what is cut out of them.
const MOST: usize = 120;

/// What was set aside.
#[derive(Debug)]
struct Aside {
    own: RangeSet,
    /// All RAM.
    ram: RangeSet,
    map: ArrayVec<HostRange, MOST>,
}

static ASIDE: Once<Aside> = Once::new();

/// Sets `bytes` aside, in whole 2 MiB, and what is free of low memory. False where there is not so much.
pub(super) fn set_aside(
    bytes: u64,
    boot: &BootInfo,
    (usable, loaded): (&RangeSet, &RangeSet),
    free: &mut RangeSet,
) -> bool {
    let Some(mut own) = take(bytes.next_multiple_of(ALIGNMENT), free) else { return false };
    let mut low = usable.clone();
    low.remove(0..LOW.start);
    low.remove(LOW.end..u64::MAX);
    if let Some(taken) = startup::reserved() {
        low.remove(taken);
    }
    for range in loaded.ranges().iter().chain([&pages_of(&boot.image.physical)]) {
        low.remove(range.clone());
    }
    low.ranges().iter().for_each(|range| own.add(range.clone()));
    let map = describe(&own, usable, boot);
    ASIDE.call_once(|| Aside { own, ram: usable.clone(), map });
    true
}

/// The highest place below 4 GiB that has it in one piece, or else the largest pieces.
fn take(bytes: u64, free: &mut RangeSet) -> Option<RangeSet> {
    let mut own = RangeSet::new();
    let mut left = bytes;
    for _ in 0..PIECES {
        let whole = |range: &Range<u64>| {
            let end = range.end.min(BELOW) & !(ALIGNMENT - 1);
            range.start.next_multiple_of(ALIGNMENT)..end
        };
        let places = || free.ranges().iter().map(whole).filter(|range| !range.is_empty());
        let fits = places().rev().find(|range| range.end - range.start >= left);
        let place = fits.or_else(|| places().max_by_key(|range| range.end - range.start))?;
        let size = left.min(place.end - place.start);
        let piece = place.end - size..place.end;
        free.remove(piece.clone());
        own.add(piece);
        left -= size;
        if left == 0 {
            return Some(own);
        }
    }
    None
}

/// The machine's memory map, with what is whose. Ranges of which there are too many are left out from the end, but for its own.
fn describe(own: &RangeSet, usable: &RangeSet, boot: &BootInfo) -> ArrayVec<HostRange, MOST> {
    let mut kept = usable.clone();
    own.ranges().iter().for_each(|range| kept.remove(range.clone()));
    let mut sets = [const { RangeSet::new() }; 3];
    for range in boot.memory() {
        let set = match range.kind {
            MemoryKind::Usable => continue,
            MemoryKind::AcpiTables => 0,
            MemoryKind::AcpiNvs => 1,
            MemoryKind::Reserved => 2,
        };
        if let Some(set) = sets.get_mut(set) {
            set.add(range.start.0..range.end().0);
        }
    }
    let [tables, nvs, mut firmware] = sets;
    for range in tables.ranges().iter().chain(nvs.ranges()) {
        firmware.remove(range.clone());
    }
    let kinds = [
        (own, HostMemory::Own),
        (&kept, HostMemory::Kept),
        (&tables, HostMemory::AcpiTables),
        (&nvs, HostMemory::AcpiNvs),
        (&firmware, HostMemory::Firmware),
    ];
    let mut map = ArrayVec::new();
    for (set, kind) in kinds {
        for range in set.ranges() {
            let _ =
                map.try_push(HostRange { start: Hpa(range.start), length: range.end - range.start, kind });
        }
    }
    map.sort_unstable_by_key(|range: &HostRange| range.start);
    map
}

/// The machine's memory map for the management domain; empty where there is none.
pub(crate) fn map() -> &'static [HostRange] {
    ASIDE.get().map_or(&[], |aside| &aside.map)
}

/// Whether all of a range was set aside.
pub(crate) fn is_own(range: &Range<u64>) -> bool {
    ASIDE.get().is_some_and(|aside| aside.own.contains(range))
}

/// Whether any of a range is RAM. Without knowing better it is.
pub(crate) fn has_ram(range: &Range<u64>) -> bool {
    ASIDE.get().is_none_or(|aside| aside.ram.overlaps(range))
}
