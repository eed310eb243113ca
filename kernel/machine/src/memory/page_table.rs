//! Long-mode page tables, written entry by entry.
//!
//! Source: Intel SDM vol. 3, "4-Level Paging and 5-Level Paging".

use core::fmt;

use bitflags::bitflags;
use vcpu::{Hpa, PAGE_SIZE};

bitflags! {
    /// An entry's access bits.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct PageFlags: u64 {
        /// There is a page or table.
        const PRESENT = 1 << 0;
        /// It may be written.
        const WRITABLE = 1 << 1;
        /// Selects by IA32_PAT: alone write-combining, with [`Self::NO_CACHE`] uncached whatever the MTRRs say.
        const WRITE_THROUGH = 1 << 3;
        /// Not cached.
        const NO_CACHE = 1 << 4;
        /// A large page and not a table.
        const LARGE = 1 << 7;
        /// Survives a change of CR3.
        const GLOBAL = 1 << 8;
        /// It may not be executed.
        const NO_EXECUTE = 1 << 63;
    }
}

impl PageFlags {
    /// Read-only data.
    pub(crate) const READ: Self = Self::PRESENT.union(Self::GLOBAL).union(Self::NO_EXECUTE);
    /// Data.
    pub(crate) const READ_WRITE: Self = Self::READ.union(Self::WRITABLE);
    /// Code.
    pub(crate) const READ_EXECUTE: Self = Self::PRESENT.union(Self::GLOBAL);
    /// Device registers.
    pub(crate) const DEVICE: Self = Self::READ_WRITE.union(Self::WRITE_THROUGH).union(Self::NO_CACHE);
    /// A framebuffer: writes are collected, reads uncached. For the value that the kernel gives IA32_PAT.
    pub(crate) const WRITE_COMBINING: Self = Self::READ_WRITE.union(Self::WRITE_THROUGH);
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES_BITS: u32 = 9;
const PAGE_BITS: u32 = 12;
/// Level of the root table; pages are entries of levels 2 (1 GiB), 1 (2 MiB) and 0 (4 KiB).
const ROOT_LEVEL: u32 = 3;

/// Frames that hold tables.
pub(crate) trait TableFrames {
    /// A zeroed frame.
    fn allocate(&mut self) -> Option<Hpa>;
    /// Reads an entry; `index` is below 512.
    fn read(&self, table: Hpa, index: usize) -> u64;
    /// Writes an entry.
    fn write(&mut self, table: Hpa, index: usize, entry: u64);
}

/// Why a range was not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No frame left for a table.
    OutOfFrames,
    /// Something is mapped there already.
    AlreadyMapped {
        /// Virtual address.
        address: u64,
    },
    /// Addresses or length are not whole pages, or leave the address space.
    BadRange {
        /// Virtual address.
        address: u64,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrames => f.write_str("no memory left for page tables"),
            Self::AlreadyMapped { address } => write!(f, "{address:#x} is already mapped"),
            Self::BadRange { address } => write!(f, "the range at {address:#x} cannot be mapped"),
        }
    }
}

/// A tree of page tables.
#[derive(Debug)]
pub(crate) struct PageTable<F> {
    root: Hpa,
    frames: F,
    /// The largest level at which a page may be: 2 where the CPU has 1 GiB pages, else 1.
    largest: u32,
}

impl<F: TableFrames> PageTable<F> {
    /// An empty tree.
    pub(crate) fn new(mut frames: F, gib_pages: bool) -> Result<Self, MapError> {
        let root = frames.allocate().ok_or(MapError::OutOfFrames)?;
        Ok(Self::of(root, frames, gib_pages))
    }

    /// A tree that is in use already.
    pub(crate) const fn of(root: Hpa, frames: F, gib_pages: bool) -> Self {
        Self { root, frames, largest: if gib_pages { 2 } else { 1 } }
    }

    /// The root table's address, for CR3.
    pub(crate) const fn root(&self) -> Hpa {
        self.root
    }

    /// Continues with frames from elsewhere.
    pub(crate) fn with_frames<G>(self, make: impl FnOnce(F) -> G) -> PageTable<G> {
        PageTable { root: self.root, frames: make(self.frames), largest: self.largest }
    }

    /// Maps `length` bytes in the largest pages that fit.
    pub(crate) fn map(&mut self, start: u64, to: Hpa, length: u64, flags: PageFlags) -> Result<(), MapError> {
        let whole = (start | to.0 | length).is_multiple_of(PAGE_SIZE);
        if !whole
            || start.checked_add(length).is_none()
            || to.0.checked_add(length).is_none_or(|end| end > ADDRESS)
        {
            return Err(MapError::BadRange { address: start });
        }
        let mut done = 0;
        while done < length {
            let (address, frame) = (start + done, to.0 + done);
            let level = (0..=self.largest)
                .rev()
                .find(|level| {
                    let bytes = page_bytes(*level);
                    (address | frame).is_multiple_of(bytes) && bytes <= length - done
                })
                .unwrap_or(0);
            self.map_page(address, Hpa(frame), level, flags)?;
            done += page_bytes(level);
        }
        Ok(())
    }

    fn map_page(&mut self, address: u64, to: Hpa, level: u32, flags: PageFlags) -> Result<(), MapError> {
        let mut table = self.root;
        for above in (level + 1..=ROOT_LEVEL).rev() {
            table = self.descend(table, index(address, above), address)?;
        }
        let slot = index(address, level);
        if self.frames.read(table, slot) & PageFlags::PRESENT.bits() != 0 {
            return Err(MapError::AlreadyMapped { address });
        }
        let large = if level == 0 { PageFlags::empty() } else { PageFlags::LARGE };
        self.frames.write(table, slot, to.0 | (flags | large).bits());
        Ok(())
    }

    /// The table below an entry, made where there is none.
    fn descend(&mut self, table: Hpa, slot: usize, address: u64) -> Result<Hpa, MapError> {
        let entry = self.frames.read(table, slot);
        if entry & PageFlags::PRESENT.bits() == 0 {
            let below = self.frames.allocate().ok_or(MapError::OutOfFrames)?;
            // The page's own entry restricts; tables allow.
            let flags = PageFlags::PRESENT | PageFlags::WRITABLE;
            self.frames.write(table, slot, below.0 | flags.bits());
            return Ok(below);
        }
        if entry & PageFlags::LARGE.bits() != 0 {
            return Err(MapError::AlreadyMapped { address });
        }
        Ok(Hpa(entry & ADDRESS))
    }

    /// Where an address leads and with which flags.
    #[cfg(test)]
    fn translate(&self, address: u64) -> Option<(Hpa, PageFlags)> {
        let mut table = self.root;
        for level in (0..=ROOT_LEVEL).rev() {
            let entry = self.frames.read(table, index(address, level));
            if entry & PageFlags::PRESENT.bits() == 0 {
                return None;
            }
            if level == 0 || entry & PageFlags::LARGE.bits() != 0 {
                let offset = address % page_bytes(level);
                return Some((
                    Hpa((entry & ADDRESS) + offset),
                    PageFlags::from_bits_retain(entry & !ADDRESS),
                ));
            }
            table = Hpa(entry & ADDRESS);
        }
        None
    }
}

const fn page_bytes(level: u32) -> u64 {
    1 << (PAGE_BITS + ENTRIES_BITS * level)
}

const fn index(address: u64, level: u32) -> usize {
    ((address >> (PAGE_BITS + ENTRIES_BITS * level)) & 0x1ff) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::vec::Vec;

    use super::*;

    #[derive(Default)]
    struct Fake {
        entries: HashMap<(u64, usize), u64>,
        frames: u64,
        limit: u64,
    }

    impl TableFrames for Fake {
        fn allocate(&mut self) -> Option<Hpa> {
            self.frames += 1;
            (self.frames <= self.limit).then(|| Hpa(0x7000_0000 + self.frames * PAGE_SIZE))
        }
        fn read(&self, table: Hpa, index: usize) -> u64 {
            self.entries.get(&(table.0, index)).copied().unwrap_or(0)
        }
        fn write(&mut self, table: Hpa, index: usize, entry: u64) {
            self.entries.insert((table.0, index), entry);
        }
    }

    fn table(gib_pages: bool) -> PageTable<Fake> {
        PageTable::new(Fake { limit: 1000, ..Fake::default() }, gib_pages).unwrap()
    }

    const BASE: u64 = 0xffff_8000_0000_0000;

    #[test]
    fn an_odd_range_is_mapped_exactly() {
        let mut table = table(true);
        let (start, end) = (0x1f_d000, 0x8020_3000);
        table.map(BASE + start, Hpa(start), end - start, PageFlags::READ_WRITE).unwrap();
        for at in [start, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0x7fff_f123, 0x8020_2fff] {
            let (hpa, flags) = table.translate(BASE + at).unwrap();
            assert_eq!(hpa, Hpa(at));
            assert!(flags.contains(PageFlags::READ_WRITE));
        }
        assert_eq!(table.translate(BASE + start - 1), None);
        assert_eq!(table.translate(BASE + end), None);
        // Root, one table of each level, and one more page table and directory at the far end.
        assert_eq!(table.frames.frames, 6);
    }

    #[test]
    fn without_gib_pages_2_mib_pages_serve() {
        let mut table = table(false);
        table.map(BASE, Hpa(0), 2 << 30, PageFlags::READ).unwrap();
        assert_eq!(table.translate(BASE + (1 << 30) + 5).unwrap().0, Hpa((1 << 30) + 5));
        assert_eq!(table.frames.frames, 4);
    }

    #[test]
    fn mapping_over_a_page_is_refused_whatever_the_sizes() {
        let mut table = table(true);
        table.map(BASE, Hpa(0), 2 << 20, PageFlags::READ).unwrap();
        for (start, length) in [(0x1000, 0x1000), (0, 2 << 20), (0, 1 << 30)] {
            let result = table.map(BASE + start, Hpa(start), length, PageFlags::READ);
            assert_eq!(result, Err(MapError::AlreadyMapped { address: BASE + start }));
        }
    }

    #[test]
    fn bad_ranges_and_lack_of_frames_are_errors() {
        let mut table = table(true);
        let bad = [(BASE + 1, 0, 4096), (BASE, 8, 4096), (BASE, 0, 100), (u64::MAX - 4095, 0, 8192)];
        for (start, to, length) in bad {
            let result = table.map(start, Hpa(to), length, PageFlags::READ);
            assert_eq!(result, Err(MapError::BadRange { address: start }));
        }
        table.frames.limit = 2;
        assert_eq!(table.map(BASE, Hpa(0), 4096, PageFlags::READ), Err(MapError::OutOfFrames));
    }

    #[test]
    fn executable_and_writable_exclude_each_other() {
        let all: Vec<PageFlags> =
            [PageFlags::READ, PageFlags::READ_WRITE, PageFlags::READ_EXECUTE, PageFlags::DEVICE].into();
        assert!(
            all.iter().all(|flags| {
                !flags.contains(PageFlags::WRITABLE) || flags.contains(PageFlags::NO_EXECUTE)
            })
        );
    }
}
