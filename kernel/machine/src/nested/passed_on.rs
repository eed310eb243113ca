//! Device memory of the machine that a guest reaches without an exit, at its own address.

use core::ops::Range;

use spin::Mutex;
use vcpu::{Gpa, Hpa, MemoryError};

use super::table::{DEVICE, Kind, Level, NestedTable, TableMemory};
use crate::hardware;
use crate::smp;

/// Maps the page of an address, the largest that lies within `clear` and has nothing that is kept. False where the smallest is kept, too.
pub(super) fn map<M: TableMemory>(
    table: &NestedTable<M>,
    lock: &Mutex<()>,
    gpa: Gpa,
    clear: &Range<u64>,
    largest: Level,
) -> Result<bool, MemoryError> {
    let _one = lock.lock();
    for level in Level::DESCENDING.into_iter().filter(|level| *level <= largest.min(Level::Page2M)) {
        let start = gpa.0 & !(level.bytes() - 1);
        let page = start..start + level.bytes();
        let within = level == Level::Page4K || clear.start <= page.start && page.end <= clear.end;
        if !within || hardware::keeps(&page) {
            continue;
        }
        match table.map_page(Gpa(start), Hpa(start), level, Kind::Device) {
            // Another CPU was faster, or a part of it is there already.
            Err(MemoryError::Overlap { .. }) if level == Level::Page4K => return Ok(true),
            Err(MemoryError::Overlap { .. }) => {}
            done => return done.map(|()| true),
        }
    }
    Ok(false)
}

/// Takes the device memory of a range out again; no CPU knows it any more once the epoch that begins here has passed.
pub(super) fn unmap<M: TableMemory>(table: &NestedTable<M>, lock: &Mutex<()>, range: &Range<u64>) {
    let _one = lock.lock();
    let mut at = range.start & !(Level::Page4K.bytes() - 1);
    let mut any = false;
    while at < range.end {
        let bytes = table.remove(Gpa(at), DEVICE, &mut any);
        at = (at & !(bytes - 1)).saturating_add(bytes);
    }
    if any {
        smp::begin_epoch();
    }
}
