//! The four-level table: map, look up, take down.

use core::sync::atomic::{AtomicU32, Ordering};

use vcpu::{Gpa, Hpa, MemoryError};

use super::ADDRESS;

/// Entries in a table.
pub(super) const ENTRIES: usize = 512;
/// Guest-physical addresses reach to 2^48 (four levels).
pub(crate) const GPA_LIMIT: u64 = 1 << 48;

/// How much a leaf maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// 4 KiB.
    Page4K,
    /// 2 MiB.
    Page2M,
    /// 1 GiB.
    Page1G,
}

impl Level {
    /// Largest first.
    pub(crate) const DESCENDING: [Self; 3] = [Self::Page1G, Self::Page2M, Self::Page4K];

    /// Bytes that a leaf at this level maps.
    pub(crate) const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The frame allocator's order of a leaf: log2 of its 4 KiB frames.
    pub(crate) const fn order(self) -> u8 {
        self.shift() - 12
    }

    /// Levels between the root and this leaf.
    const fn depth(self) -> usize {
        match self {
            Self::Page4K => 3,
            Self::Page2M => 2,
            Self::Page1G => 1,
        }
    }

    pub(super) const fn at_depth(depth: usize) -> Option<Self> {
        match depth {
            1 => Some(Self::Page1G),
            2 => Some(Self::Page2M),
            3 => Some(Self::Page4K),
            _ => None,
        }
    }

    const fn shift(self) -> u8 {
        match self {
            Self::Page4K => 12,
            Self::Page2M => 21,
            Self::Page1G => 30,
        }
    }
}

/// The layout of an entry: which bits go with an address.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Bits of an entry that points to the next table.
    pub(super) table: u64,
    /// Bits of an entry that maps memory.
    pub(super) leaf: u64,
    /// Bits of an entry that maps device memory: data only, and of the memory type that the guest's own tables say.
    pub(super) device: u64,
    /// The CPU may use an entry that has one of these.
    pub(super) present: u64,
}

/// Bits that the CPU does not look at (Intel SDM vol. 3, "Format of EPT Paging-Structure Entries"; AMD APM vol. 2, "Page-Translation-Table
/// Entry Fields"): the page is not out of the frame allocator.
pub(super) const ADOPTED: u64 = 1 << 55;
/// Nor is it RAM.
pub(super) const DEVICE: u64 = 1 << 56;

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// RAM out of the frame allocator.
    Ram,
    /// RAM that was set aside.
    Adopted,
    /// Device memory.
    Device,
}

impl Format {
    /// An entry above the last level maps memory itself. The bit is the same for both vendors.
    const LARGE: u64 = 1 << 7;

    /// An entry that points to the next table.
    pub(super) const fn table(&self, address: u64) -> u64 {
        address | self.table
    }

    /// An entry that maps memory.
    pub(super) fn leaf(&self, address: u64, level: Level) -> u64 {
        let large = if level == Level::Page4K { 0 } else { Self::LARGE };
        address | self.leaf | large
    }

    /// The same for a page of this kind.
    fn page(&self, address: u64, level: Level, kind: Kind) -> u64 {
        match kind {
            Kind::Ram => self.leaf(address, level),
            Kind::Adopted => self.leaf(address, level) | ADOPTED,
            Kind::Device => self.leaf(address, level) & !self.leaf | self.device | ADOPTED | DEVICE,
        }
    }

    /// Whether the CPU may use the entry.
    #[inline]
    pub(super) const fn is_present(&self, entry: u64) -> bool {
        entry & self.present != 0
    }

    /// Whether an entry above the last level maps memory itself.
    #[inline]
    pub(super) const fn is_large(entry: u64) -> bool {
        entry & Self::LARGE != 0
    }
}

/// Where tables live. The kernel's implementation uses physical frames; tests use a recording fake.
pub(crate) trait TableMemory {
    /// A zeroed table.
    fn allocate(&self) -> Result<Hpa, MemoryError>;
    /// Gives a table back.
    fn free(&self, table: Hpa);
    /// Reads an entry; `index` is below 512.
    fn read(&self, table: Hpa, index: usize) -> u64;
    /// Writes an entry; `index` is below 512.
    fn write(&self, table: Hpa, index: usize, entry: u64);
}

/// A mapping found by a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    /// Host address of the start of the page.
    pub(crate) page: Hpa,
    /// Size of the page.
    pub(crate) level: Level,
}

/// A nested page table. Changes come one after the other, as their caller sees to; a look-up may come at any time.
#[derive(Debug)]
pub(crate) struct NestedTable<M> {
    root: Hpa,
    pub(super) memory: M,
    pub(super) format: Format,
    /// How many there are, the root included.
    pub(super) tables: AtomicU32,
}

pub(super) const fn index(gpa: u64, depth: usize) -> usize {
    (gpa >> (39 - 9 * depth)) as usize & (ENTRIES - 1)
}

impl<M: TableMemory> NestedTable<M> {
    /// An empty table.
    pub(crate) fn new(format: Format, memory: M) -> Result<Self, MemoryError> {
        let root = memory.allocate()?;
        Ok(Self { root, memory, format, tables: AtomicU32::new(1) })
    }

    /// The root's address, for EPTP or N_CR3.
    pub(crate) const fn root(&self) -> Hpa {
        self.root
    }

    /// How many tables there are, the root included.
    pub(crate) fn tables(&self) -> u64 {
        self.tables.load(Ordering::Relaxed).into()
    }

    /// Maps one page of RAM. `gpa` and `hpa` are aligned to its size.
    pub(crate) fn map(&mut self, gpa: Gpa, hpa: Hpa, level: Level) -> Result<(), MemoryError> {
        self.map_page(gpa, hpa, level, Kind::Ram)
    }

    /// Maps one page. `gpa` and `hpa` are aligned to its size. One caller at a time.
    pub(super) fn map_page(&self, gpa: Gpa, hpa: Hpa, level: Level, kind: Kind) -> Result<(), MemoryError> {
        if gpa.0 >= GPA_LIMIT || (gpa.0 | hpa.0) & (level.bytes() - 1) != 0 {
            return Err(MemoryError::BadRange { gpa, length: level.bytes() });
        }
        let mut table = self.root;
        for depth in 0..level.depth() {
            let slot = index(gpa.0, depth);
            let entry = self.memory.read(table, slot);
            table = if !self.format.is_present(entry) {
                let next = self.memory.allocate()?;
                self.tables.fetch_add(1, Ordering::Relaxed);
                self.memory.write(table, slot, self.format.table(next.0));
                next
            } else if depth > 0 && Format::is_large(entry) {
                return Err(MemoryError::Overlap { gpa });
            } else {
                Hpa(entry & ADDRESS)
            };
        }
        let slot = index(gpa.0, level.depth());
        if self.format.is_present(self.memory.read(table, slot)) {
            return Err(MemoryError::Overlap { gpa });
        }
        self.memory.write(table, slot, self.format.page(hpa.0, level, kind));
        Ok(())
    }

    /// The page of RAM that maps `gpa`.
    #[inline]
    pub(crate) fn lookup(&self, gpa: Gpa) -> Option<Mapping> {
        if gpa.0 >= GPA_LIMIT {
            return None;
        }
        let mut table = self.root;
        for depth in 0..4 {
            let entry = self.memory.read(table, index(gpa.0, depth));
            if !self.format.is_present(entry) {
                return None;
            }
            match Level::at_depth(depth) {
                Some(level) if level == Level::Page4K || Format::is_large(entry) => {
                    if entry & DEVICE != 0 {
                        return None;
                    }
                    return Some(Mapping { page: Hpa(entry & ADDRESS & !(level.bytes() - 1)), level });
                }
                _ => table = Hpa(entry & ADDRESS),
            }
        }
        None
    }

    /// Takes the whole table down: hands every page that is out of the frame allocator to `release`, then frees the tables, the root
    /// included. The table is unusable afterwards.
    pub(crate) fn clear(&mut self, mut release: impl FnMut(Mapping)) {
        self.clear_some(usize::MAX, &mut release);
        self.memory.free(self.root);
    }

    /// Takes up to `pages` pages out and hands them to `release`; tables that become empty are freed. True when the
    /// table is empty.
    pub(crate) fn clear_some(&mut self, mut pages: usize, mut release: impl FnMut(Mapping)) -> bool {
        self.clear_below(self.root, 0, &mut pages, &mut release)
    }

    /// Depth is at most 3, so the recursion is bounded. True where the table is empty.
    fn clear_below(
        &mut self,
        table: Hpa,
        depth: usize,
        pages: &mut usize,
        release: &mut impl FnMut(Mapping),
    ) -> bool {
        for slot in 0..ENTRIES {
            let entry = self.memory.read(table, slot);
            if !self.format.is_present(entry) {
                continue;
            }
            match Level::at_depth(depth) {
                Some(level) if level == Level::Page4K || Format::is_large(entry) => {
                    let Some(left) = pages.checked_sub(1) else { return false };
                    *pages = left;
                    self.memory.write(table, slot, 0);
                    if entry & ADOPTED != 0 {
                        continue;
                    }
                    release(Mapping { page: Hpa(entry & ADDRESS & !(level.bytes() - 1)), level });
                }
                _ => {
                    let next = Hpa(entry & ADDRESS);
                    if !self.clear_below(next, depth + 1, pages, release) {
                        return false;
                    }
                    self.memory.write(table, slot, 0);
                    self.memory.free(next);
                    self.tables.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        true
    }

    /// The memory behind the tables.
    #[cfg(test)]
    pub(crate) const fn memory(&self) -> &M {
        &self.memory
    }
}
