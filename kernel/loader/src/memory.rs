//! Guest memory as the loader sees it: where RAM is and how it is written.

use vcpu::{Gpa, PAGE_SIZE};

/// A write outside guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfRange {
    /// An address that was not there.
    pub gpa: Gpa,
}

/// Writes guest memory.
pub trait GuestMemory {
    /// Copies `bytes` to `gpa`.
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), OutOfRange>;

    /// Sets `length` bytes from `gpa` on to zero.
    fn zero(&mut self, gpa: Gpa, length: u64) -> Result<(), OutOfRange>;
}

/// The type of a region in the memory map (ACPI, "Address Range Types"; the numbers of INT 15h, function
/// E820h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct MemoryKind(pub u32);

impl MemoryKind {
    /// Usable RAM.
    pub const RAM: Self = Self(1);
    /// Not to be used.
    pub const RESERVED: Self = Self(2);
    /// ACPI tables; RAM once they have been read.
    pub const ACPI: Self = Self(3);
    /// ACPI non-volatile storage.
    pub const NVS: Self = Self(4);
}

/// A region of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct E820Entry {
    /// First address.
    pub base: Gpa,
    /// Bytes.
    pub length: u64,
    /// What it is.
    pub kind: MemoryKind,
}

impl E820Entry {
    /// As addresses; one that leaves the address space ends with it.
    const fn range(&self) -> Range {
        Range { start: self.base.0, end: self.base.0.saturating_add(self.length) }
    }
}

/// Guest-physical addresses from `start` up to but not including `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

impl Range {
    /// `length` bytes from `start` on, where they end inside the address space.
    pub const fn new(start: u64, length: u64) -> Option<Self> {
        match start.checked_add(length) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Bytes.
    pub const fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// True where the two share a byte.
    pub const fn overlaps(&self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// True where `address` is inside.
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }
}

/// Questions to a memory map.
#[derive(Clone, Copy)]
pub(crate) struct MemoryMap<'a>(pub(crate) &'a [E820Entry]);

impl MemoryMap<'_> {
    fn ram(&self) -> impl Iterator<Item = Range> {
        self.0.iter().filter(|entry| entry.kind == MemoryKind::RAM).map(E820Entry::range)
    }

    fn other(&self) -> impl Iterator<Item = Range> {
        self.0.iter().filter(|entry| entry.kind != MemoryKind::RAM).map(E820Entry::range)
    }

    /// True where all of `range` is RAM, of one entry or of several that touch.
    pub(crate) fn is_ram(&self, range: Range) -> bool {
        if self.other().any(|other| other.overlaps(range)) {
            return false;
        }
        let mut reached = range.start;
        // Each round ends in another entry, so there are at most as many as entries.
        for _ in 0..self.0.len() {
            if reached >= range.end {
                break;
            }
            match self.ram().find(|ram| ram.contains(reached)) {
                Some(ram) => reached = ram.end,
                None => return false,
            }
        }
        reached >= range.end
    }

    /// Where the RAM that `address` is in ends; `address` itself where there is none.
    pub(crate) fn ram_end(&self, address: u64) -> u64 {
        let ram = self.ram().find(|ram| ram.contains(address));
        let above = self.other().map(|other| other.start).filter(|start| *start >= address).min();
        ram.map_or(address, |ram| ram.end.min(above.unwrap_or(u64::MAX)))
    }

    /// The highest page-aligned place for `size` bytes of RAM between `floor` and `limit` that touches none
    /// of `taken`.
    pub(crate) fn highest(&self, size: u64, floor: u64, limit: u64, taken: &[Range]) -> Option<Range> {
        self.ram()
            .filter_map(|ram| self.highest_in(ram, size, floor, limit, taken))
            .max_by_key(|found| found.start)
    }

    fn highest_in(&self, ram: Range, size: u64, floor: u64, limit: u64, taken: &[Range]) -> Option<Range> {
        let mut end = ram.end.min(limit);
        // Each round goes below another obstacle, so there are at most as many as obstacles, and one.
        for _ in 0..=self.0.len() + taken.len() {
            let start = end.checked_sub(size)? & !(PAGE_SIZE - 1);
            if start < ram.start.max(floor) {
                return None;
            }
            let found = Range::new(start, size)?;
            match taken.iter().copied().chain(self.other()).find(|obstacle| obstacle.overlaps(found)) {
                Some(obstacle) => end = obstacle.start,
                None => return Some(found),
            }
        }
        None
    }

    /// The lowest multiple of `alignment` (a power of two) at or above `floor` with `size` bytes of RAM that do
    /// not touch `taken`; else the longest stretch of RAM above `floor`.
    pub(crate) fn lowest(&self, size: u64, alignment: u64, floor: u64, taken: Range) -> Result<Range, u64> {
        self.ram()
            .filter_map(|ram| self.lowest_in(ram, size, alignment, floor, taken))
            .min_by_key(|found| found.start)
            .ok_or_else(|| {
                self.ram().map(|ram| ram.end.saturating_sub(ram.start.max(floor))).max().unwrap_or(0)
            })
    }

    fn lowest_in(&self, ram: Range, size: u64, alignment: u64, floor: u64, taken: Range) -> Option<Range> {
        let mut start = ram.start.max(floor);
        for _ in 0..self.0.len() + 2 {
            let found = Range::new(start.checked_next_multiple_of(alignment)?, size)?;
            if found.end > ram.end {
                return None;
            }
            match self.other().chain([taken]).find(|obstacle| obstacle.overlaps(found)) {
                Some(obstacle) => start = obstacle.end,
                None => return Some(found),
            }
        }
        None
    }
}
