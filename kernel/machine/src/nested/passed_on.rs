//! Device memory of the machine that a guest reaches without an exit, at its own address, and ports.

// UNSAFETY: writes the map of ports by its address.
#![allow(unsafe_code)]

use core::ops::Range;

use spin::Mutex;
use vcpu::{Gpa, Hpa, MemoryError, PAGE_SIZE};

use super::table::{DEVICE, Kind, Level, NestedTable, TableMemory};
use crate::hardware;
use crate::memory::{self, frames::Block, frames::FrameKind};
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

/// log2 of the pages of a map of ports: VMX reads two, and SVM a third one's beginning.
const PORT_MAP_ORDER: u8 = 2;
const PORTS: usize = 1 << 16;

/// A map of ports, a bit each: those that do not pass, exit. VMX and SVM have the same; of what lies behind the last port all exits, as SVM wants it.
///
/// Sources: Intel SDM vol. 3, "I/O-Bitmap Addresses"; AMD APM vol. 2, "I/O Permissions Map".
pub(super) fn port_map(passes: &mut dyn FnMut(u16) -> bool) -> Result<Block, MemoryError> {
    let block = Block::zeroed(PORT_MAP_ORDER, FrameKind::Control)?;
    let bytes = (PAGE_SIZE as usize) << PORT_MAP_ORDER;
    // SAFETY: the block was just taken, is so large, and nobody else has it yet.
    let map = unsafe { core::slice::from_raw_parts_mut(memory::direct_map(block.start()), bytes) };
    for (index, byte) in map.iter_mut().enumerate() {
        *byte = (0..8).fold(0, |byte, bit| {
            let port = index * 8 + bit;
            let exits = port >= PORTS || !passes(port as u16);
            byte | u8::from(exits) << bit
        });
    }
    Ok(block)
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
