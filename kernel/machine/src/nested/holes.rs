//! Pages that a guest has given back: their entries say so, and the first touch gets a new page.
//!
//! An entry that is not present has bits that the CPU does not look at (Intel SDM vol. 3, "EPT Paging-Structure Entries"; AMD APM vol. 2,
//! "Page-Translation-Table Entry Fields"). A large page of which a part is given back becomes a table of smaller ones, of the same
//! frames; a CPU may know the large page until it forgets what it knows, as it must anyway before the part is anybody else's.

use core::sync::atomic::Ordering;

use vcpu::{Gpa, Hole, Hpa, MemoryError};

use super::ADDRESS;
use super::table::{ADOPTED, ENTRIES, Format, GPA_LIMIT, Level, Mapping, NestedTable, TableMemory, index};

/// Entries of pages that were given back.
const FREE: u64 = 1 << 53;
const KEPT: u64 = 1 << 54;

const fn entry_of(hole: Hole) -> u64 {
    match hole {
        Hole::Free => FREE,
        Hole::Kept => KEPT,
    }
}

const fn hole_of(entry: u64) -> Option<Hole> {
    match entry {
        FREE => Some(Hole::Free),
        KEPT => Some(Hole::Kept),
        _ => None,
    }
}

/// What was done with a page that is to be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// It is out of the table.
    Page(Mapping),
    /// It was so before, for so many bytes from the address on.
    Before(u64),
    /// There is no RAM.
    NotRam,
}

/// A place in the table: the entry for an address, and at which depth it is.
struct Slot {
    table: Hpa,
    slot: usize,
    entry: u64,
    level: Level,
}

impl<M: TableMemory> NestedTable<M> {
    /// The last entry on the way to an address. `None` where the way ends above the pages.
    fn slot(&self, gpa: Gpa) -> Option<Slot> {
        if gpa.0 >= GPA_LIMIT {
            return None;
        }
        let mut table = self.root();
        for depth in 0..4 {
            let slot = index(gpa.0, depth);
            let entry = self.memory.read(table, slot);
            match Level::at_depth(depth) {
                Some(level)
                    if level == Level::Page4K
                        || !self.format.is_present(entry)
                        || Format::is_large(entry) =>
                {
                    return Some(Slot { table, slot, entry, level });
                }
                None if !self.format.is_present(entry) => return None,
                _ => table = Hpa(entry & ADDRESS),
            }
        }
        None
    }

    /// Whether, and how, the page at an address was given back.
    pub(super) fn hole(&self, gpa: Gpa) -> Option<Hole> {
        hole_of(self.slot(gpa)?.entry)
    }

    /// Makes of a large page, or a large hole, a table of smaller ones. `divide` is told of a page's frames.
    fn divide(&self, at: &Slot, divide: &mut impl FnMut(Mapping, Level)) -> Result<(), MemoryError> {
        let smaller = if at.level == Level::Page1G { Level::Page2M } else { Level::Page4K };
        let next = self.memory.allocate()?;
        self.tables.fetch_add(1, Ordering::Relaxed);
        let page = Hpa(at.entry & ADDRESS & !(at.level.bytes() - 1));
        let present = self.format.is_present(at.entry);
        if present {
            divide(Mapping { page, level: at.level }, smaller);
        }
        for part in 0..ENTRIES {
            let start = page.0 + part as u64 * smaller.bytes();
            self.memory.write(next, part, if present { self.format.leaf(start, smaller) } else { at.entry });
        }
        self.memory.write(at.table, at.slot, self.format.table(next.0));
        Ok(())
    }

    /// Takes the page at `gpa` out, or the largest part of it that begins there and is no longer than `length`.
    ///
    /// # Errors
    /// There is no memory for a table.
    pub(super) fn take(
        &self,
        gpa: Gpa,
        length: u64,
        hole: Hole,
        mut divide: impl FnMut(Mapping, Level),
    ) -> Result<Taken, MemoryError> {
        loop {
            let Some(at) = self.slot(gpa) else { return Ok(Taken::NotRam) };
            let bytes = at.level.bytes();
            let whole = gpa.0 & (bytes - 1) == 0 && length >= bytes;
            match (self.format.is_present(at.entry), hole_of(at.entry)) {
                (true, _) if at.entry & ADOPTED != 0 => return Ok(Taken::NotRam),
                (true, _) if whole || at.level == Level::Page4K => {
                    self.memory.write(at.table, at.slot, entry_of(hole));
                    let page = Hpa(at.entry & ADDRESS & !(bytes - 1));
                    return Ok(Taken::Page(Mapping { page, level: at.level }));
                }
                (false, None) => return Ok(Taken::NotRam),
                (false, Some(before)) if whole || before == hole || at.level == Level::Page4K => {
                    if whole || at.level == Level::Page4K {
                        self.memory.write(at.table, at.slot, entry_of(hole));
                    }
                    return Ok(Taken::Before(bytes - (gpa.0 & (bytes - 1))));
                }
                _ => self.divide(&at, &mut divide)?,
            }
        }
    }

    /// Takes the page at an address out where its entry has this bit. Returns the bytes of what is there, be it a page or a hole in the table.
    pub(super) fn remove(&self, gpa: Gpa, bit: u64, removed: &mut bool) -> u64 {
        let Some(at) = self.slot(gpa) else { return Level::Page1G.bytes() };
        if self.format.is_present(at.entry) && at.entry & bit != 0 {
            self.memory.write(at.table, at.slot, 0);
            *removed = true;
        }
        at.level.bytes()
    }

    /// What was kept at `gpa` is free. Returns for how many bytes from there on that is so.
    pub(super) fn let_go(&self, gpa: Gpa) -> u64 {
        let Some(at) = self.slot(gpa) else { return Level::Page4K.bytes() };
        if at.entry == KEPT {
            self.memory.write(at.table, at.slot, FREE);
        }
        at.level.bytes() - (gpa.0 & (at.level.bytes() - 1))
    }

    /// Where the next free hole is behind an address, in the same 2 MiB, whose end is followed by their beginning.
    pub(super) fn next_free(&self, gpa: Gpa) -> Option<Gpa> {
        let at = self.slot(gpa).filter(|at| at.level == Level::Page4K)?;
        let free = (1..ENTRIES)
            .map(|further| (at.slot + further) % ENTRIES)
            .find(|slot| self.memory.read(at.table, *slot) == FREE)?;
        Some(Gpa((gpa.0 & !(Level::Page2M.bytes() - 1)) + free as u64 * Level::Page4K.bytes()))
    }

    /// Whether all of the 2 MiB around an address is one free hole.
    pub(super) fn is_large_hole(&self, gpa: Gpa) -> bool {
        self.slot(gpa).is_some_and(|at| at.level >= Level::Page2M && at.entry == FREE)
    }

    /// Maps a page where one was given back, `gpa` being aligned to its size.
    ///
    /// # Errors
    /// There is no memory for a table. The page is not mapped then; nor is it where there is no hole of its size: `Ok(false)`.
    pub(super) fn fill(&self, gpa: Gpa, page: Hpa, level: Level) -> Result<bool, MemoryError> {
        loop {
            let Some(at) = self.slot(gpa).filter(|at| at.level >= level && hole_of(at.entry).is_some())
            else {
                return Ok(false);
            };
            if at.level == level {
                self.memory.write(at.table, at.slot, self.format.leaf(page.0, level));
                return Ok(true);
            }
            self.divide(&at, &mut |_, _| ())?;
        }
    }
}
