//! The firmware's memory map: bounded, sorted, and read cautiously.
//!
//! Firmware's entries come in any order, in any number, touch, overlap, are empty or run over the end of the
//! address space. An entry that makes no sense as RAM is not believed; one that reserves memory always is.
//! Where there are more entries than fit, memory is given up, never a reservation, and as little as possible.

use arrayvec::ArrayVec;
use vcpu::Hpa;

/// Entries of the memory map that are kept.
pub const MAX_MEMORY_RANGES: usize = 128;

/// What a range of physical memory is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// Free for the kernel.
    Usable,
    /// Holds ACPI tables.
    AcpiTables,
    /// Firmware needs it later (ACPI NVS).
    AcpiNvs,
    /// Anything else: devices, firmware, bad memory.
    Reserved,
}

/// A range of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRange {
    /// First byte.
    pub start: Hpa,
    /// Bytes; the end fits 64 bits.
    pub length: u64,
    /// What it is.
    pub kind: MemoryKind,
}

impl MemoryRange {
    /// One past the last byte.
    pub const fn end(&self) -> Hpa {
        Hpa(self.start.0.saturating_add(self.length))
    }

    /// The smallest range that covers both.
    fn hull(&self, other: &Self, kind: MemoryKind) -> Self {
        let start = self.start.0.min(other.start.0);
        let end = self.end().0.max(other.end().0);
        Self { start: Hpa(start), length: end - start, kind }
    }

    fn touches(&self, other: &Self) -> bool {
        self.start.0 <= other.end().0 && other.start.0 <= self.end().0
    }
}

/// The firmware's memory map, sorted by start. Ranges of one kind are apart from each other; those of different
/// kinds may overlap, and then what is not [`MemoryKind::Usable`] counts.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    /// One more than are kept, for the moment in which one has to go.
    ranges: ArrayVec<MemoryRange, { MAX_MEMORY_RANGES + 1 }>,
    /// Entries that were not believed, and ranges that were given up.
    dropped: usize,
}

/// How to get by with one range less.
#[derive(Clone, Copy)]
enum Saving {
    /// Forget this usable range.
    Forget(usize),
    /// Let the first range, which is not usable, reach to the end of the second.
    Join(usize, usize),
}

impl MemoryMap {
    /// The ranges, lowest start first.
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.ranges
    }

    /// Entries that were not believed, and ranges that were given up because there are too many.
    pub const fn dropped(&self) -> usize {
        self.dropped
    }

    /// Takes an entry of the firmware's map.
    pub(crate) fn add(&mut self, start: u64, length: u64, kind: MemoryKind) {
        if length == 0 {
            return;
        }
        if start.checked_add(length).is_none() && kind == MemoryKind::Usable {
            self.dropped += 1;
            return;
        }
        let length = length.min(u64::MAX - start);
        let mut range = MemoryRange { start: Hpa(start), length, kind };
        self.ranges.retain(|old| {
            let joins = old.kind == kind && old.touches(&range);
            if joins {
                range = range.hull(old, kind);
            }
            !joins
        });
        self.insert(range);
        if self.ranges.len() > MAX_MEMORY_RANGES {
            self.save();
        }
    }

    fn insert(&mut self, range: MemoryRange) {
        let at = self.ranges.partition_point(|old| old.start.0 < range.start.0);
        // There is room: `add` leaves no more than `MAX_MEMORY_RANGES`.
        let _ = self.ranges.try_insert(at, range);
    }

    /// Gives up the range that costs least.
    fn save(&mut self) {
        self.dropped += 1;
        match self.cheapest() {
            Some(Saving::Forget(at)) => {
                self.ranges.remove(at);
            }
            Some(Saving::Join(first, second)) => {
                let taken = self.ranges.remove(second);
                let into = self.ranges[first];
                let kind = if into.kind == taken.kind { into.kind } else { MemoryKind::Reserved };
                self.ranges[first] = into.hull(&taken, kind);
            }
            None => {}
        }
    }

    /// The saving that loses the least memory.
    fn cheapest(&self) -> Option<Saving> {
        let ranges = || self.ranges.iter().enumerate();
        let forget = ranges()
            .filter(|(_, range)| range.kind == MemoryKind::Usable)
            .map(|(at, range)| (range.length, Saving::Forget(at)));
        let reserved = || ranges().filter(|(_, range)| range.kind != MemoryKind::Usable);
        let join = reserved().zip(reserved().skip(1)).map(|((at, range), (next_at, next))| {
            (next.start.0.saturating_sub(range.end().0), Saving::Join(at, next_at))
        });
        forget.chain(join).min_by_key(|(cost, _)| *cost).map(|(_, saving)| saving)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use MemoryKind::{AcpiNvs, AcpiTables, Reserved, Usable};

    fn map(entries: &[(u64, u64, MemoryKind)]) -> MemoryMap {
        let mut map = MemoryMap::default();
        entries.iter().for_each(|(start, length, kind)| map.add(*start, *length, *kind));
        map
    }

    fn plain(map: &MemoryMap) -> Vec<(u64, u64, MemoryKind)> {
        map.ranges().iter().map(|range| (range.start.0, range.length, range.kind)).collect()
    }

    #[test]
    fn entries_are_sorted_and_neighbours_of_one_kind_joined() {
        let map = map(&[
            (0x3000, 0x1000, Usable),
            (0, 0x1000, Usable),
            (0x1000, 0x1000, AcpiTables),
            (0x4000, 0, Reserved),
            (0x2000, 0x1000, Usable),
            (0x2800, 0x2000, Usable),
        ]);
        assert_eq!(
            plain(&map),
            [(0, 0x1000, Usable), (0x1000, 0x1000, AcpiTables), (0x2000, 0x2800, Usable)]
        );
        assert_eq!(map.dropped(), 0);
    }

    #[test]
    fn what_runs_over_the_end_is_no_memory_but_reserved() {
        let top = 0xffff_ffff_ffff_f000;
        let map = map(&[(0x1000, u64::MAX, Usable), (top, 0x1000, Usable), (top, u64::MAX, Reserved)]);
        assert_eq!(plain(&map), [(top, 0xfff, Reserved)]);
        assert_eq!(map.dropped(), 2);
    }

    #[test]
    fn of_too_many_the_biggest_are_kept() {
        let small = (0..MAX_MEMORY_RANGES as u64).map(|at| (at << 20, 0x1000, Usable));
        let mut entries: Vec<_> = small.collect();
        entries.push((1 << 32, 4 << 30, Usable));
        entries.push((3 << 32, 0xfff, Usable));
        let map = map(&entries);
        assert_eq!(map.ranges().len(), MAX_MEMORY_RANGES);
        assert_eq!(map.dropped(), 2);
        assert_eq!(plain(&map).last(), Some(&(1 << 32, 4 << 30, Usable)));
    }

    #[test]
    fn of_too_many_reservations_the_nearest_become_one() {
        let mut entries: Vec<_> =
            (0..MAX_MEMORY_RANGES as u64).map(|at| (at << 20, 0x1000, Reserved)).collect();
        entries.push((5 << 20 | 0x1800, 0x800, AcpiNvs));
        let mut map = map(&entries);
        assert!(plain(&map).contains(&(5 << 20, 0x2000, Reserved)));
        map.add(1 << 32, 4 << 30, Usable);
        assert_eq!(map.ranges().len(), MAX_MEMORY_RANGES);
        assert_eq!(plain(&map).last(), Some(&(1 << 32, 4 << 30, Usable)));
    }

    const PAGES: usize = 600;

    fn kinds() -> impl Strategy<Value = MemoryKind> {
        prop_oneof![3 => Just(Usable), 1 => Just(AcpiTables), 1 => Just(AcpiNvs), 2 => Just(Reserved)]
    }

    /// Which pages a map gives to the kernel.
    fn free(ranges: impl Iterator<Item = (u64, u64, MemoryKind)>) -> Vec<bool> {
        let (mut usable, mut taken) = (vec![false; PAGES], vec![false; PAGES]);
        for (start, length, kind) in ranges {
            let marks = if kind == Usable { &mut usable } else { &mut taken };
            marks[start as usize..(start + length) as usize].fill(true);
        }
        usable.iter().zip(taken).map(|(usable, taken)| *usable && !taken).collect()
    }

    proptest! {
        #[test]
        fn nothing_reserved_is_ever_free_and_nothing_is_lost_that_fits(
            entries in proptest::collection::vec((0..PAGES as u64 - 8, 0..8_u64, kinds()), 0..400),
        ) {
            let map = map(&entries);
            let (model, found) = (free(entries.iter().copied()), free(plain(&map).into_iter()));
            prop_assert!(found.iter().zip(&model).all(|(found, model)| *model || !found));
            if map.dropped() == 0 {
                prop_assert_eq!(found, model);
            }
            prop_assert!(map.ranges().len() <= MAX_MEMORY_RANGES);
            prop_assert!(map.ranges().windows(2).all(|pair| pair[0].start.0 <= pair[1].start.0));
        }

        #[test]
        fn arbitrary_entries_never_panic(entries in proptest::collection::vec((any::<u64>(), any::<u64>(), kinds()), 0..300)) {
            prop_assert!(map(&entries).ranges().iter().all(|range| range.start.0.checked_add(range.length).is_some()));
        }
    }
}
