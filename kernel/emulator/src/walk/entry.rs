//! Page-table entries of every paging mode behind one face.

use vcpu::Gpa;

use super::{ADDRESS_BITS, PhysicalMemory};

/// The form of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Levels {
    /// Two levels of 4-byte entries.
    ThirtyTwoBit {
        /// CR4.PSE: directory entries can be 4 MiB pages.
        large_pages: bool,
    },
    /// Three levels, the first of four entries.
    Pae,
    /// Four levels.
    Four,
    /// Five levels.
    Five,
}

impl Levels {
    pub(super) const fn is_long(self) -> bool {
        matches!(self, Self::Four | Self::Five)
    }
}

/// Present.
pub(super) const P: u64 = 1 << 0;
/// Writable.
pub(super) const RW: u64 = 1 << 1;
/// User.
pub(super) const US: u64 = 1 << 2;
/// Accessed.
pub(super) const A: u64 = 1 << 5;
/// Dirty.
pub(super) const D: u64 = 1 << 6;
/// Page size: this entry is a page.
pub(super) const PS: u64 = 1 << 7;
/// No execute.
pub(super) const XD: u64 = 1 << 63;
/// Bits 52 to 62: free for software in long mode, reserved in PAE.
const UPPER: u64 = 0x7ff0_0000_0000_0000;
/// What a PAE directory pointer may not have: bits 1, 2 and 5 to 8.
const POINTER_RESERVED: u64 = 0x1e6;

/// A table and which one it is.
#[derive(Clone, Copy)]
pub(super) struct Table {
    levels: Levels,
    /// 1 for the table of 4 KiB pages, up to 5.
    level: u32,
    base: u64,
}

impl Table {
    pub(super) const fn root(levels: Levels, cr3: u64) -> Self {
        let (level, mask) = match levels {
            Levels::ThirtyTwoBit { .. } => (2, 0xffff_f000),
            Levels::Pae => (3, 0xffff_ffe0),
            Levels::Four => (4, ADDRESS_BITS),
            Levels::Five => (5, ADDRESS_BITS),
        };
        Self { levels, level, base: cr3 & mask }
    }

    /// The address of the entry for `linear`.
    pub(super) const fn entry_gpa(&self, linear: u64) -> Gpa {
        let index = linear >> shift(self.levels, self.level);
        Gpa(match self.levels {
            Levels::ThirtyTwoBit { .. } => self.base + (index & 0x3ff) * 4,
            _ => self.base + (index & 0x1ff) * 8,
        })
    }

    pub(super) fn entry<M: PhysicalMemory + ?Sized>(&self, memory: &M, linear: u64) -> Option<Entry> {
        let gpa = self.entry_gpa(linear);
        let raw = match self.levels {
            Levels::ThirtyTwoBit { .. } => u64::from(memory.read_u32(gpa)?),
            _ => memory.read_u64(gpa)?,
        };
        Some(Entry { levels: self.levels, level: self.level, gpa, raw })
    }
}

/// The lowest bit of a linear address that selects in a table of this level.
const fn shift(levels: Levels, level: u32) -> u32 {
    let bits = if matches!(levels, Levels::ThirtyTwoBit { .. }) { 10 } else { 9 };
    12 + (level - 1) * bits
}

/// An entry as it was read.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    levels: Levels,
    level: u32,
    gpa: Gpa,
    raw: u64,
}

impl Entry {
    pub(super) const fn gpa(&self) -> Gpa {
        self.gpa
    }

    pub(super) const fn is_present(&self) -> bool {
        self.raw & P != 0
    }

    /// A PAE directory pointer, which has no rights and no flags.
    const fn is_pointer(&self) -> bool {
        matches!(self.levels, Levels::Pae) && self.level == 3
    }

    pub(super) const fn writable(&self) -> bool {
        self.is_pointer() || self.raw & RW != 0
    }

    pub(super) const fn user(&self) -> bool {
        self.is_pointer() || self.raw & US != 0
    }

    pub(super) const fn no_execute(&self) -> bool {
        !self.is_pointer() && self.raw & XD != 0
    }

    /// True where the PS bit makes this entry a page, not a table.
    const fn is_large_page(&self) -> bool {
        let can = match self.levels {
            Levels::ThirtyTwoBit { large_pages } => large_pages && self.level == 2,
            Levels::Pae => self.level == 2,
            Levels::Four | Levels::Five => self.level == 2 || self.level == 3,
        };
        can && self.raw & PS != 0
    }

    /// The bits set that this entry may not have. `beyond_physical`: address bits past the guest's width;
    /// `no_execute`: whether XD exists.
    pub(super) fn reserved(&self, beyond_physical: u64, no_execute: bool) -> u64 {
        let mask = match self.levels {
            Levels::ThirtyTwoBit { .. } if self.is_large_page() => {
                // PSE-36: bits 13 to 20 are address bits 32 to 39 as far as those exist, bit 21 is reserved.
                (1 << 21) | ((beyond_physical >> 19) & 0x001f_e000)
            }
            Levels::ThirtyTwoBit { .. } => 0,
            // Loading CR3 has checked them all but one: QEMU sets the accessed bit in memory.
            Levels::Pae if self.is_pointer() => POINTER_RESERVED & !A | beyond_physical | UPPER | XD,
            Levels::Pae => self.long_reserved(beyond_physical, no_execute) | UPPER,
            Levels::Four | Levels::Five => self.long_reserved(beyond_physical, no_execute),
        };
        self.raw & mask
    }

    fn long_reserved(&self, beyond_physical: u64, no_execute: bool) -> u64 {
        let mut mask = beyond_physical;
        if !no_execute {
            mask |= XD;
        }
        if self.level >= 4 {
            mask |= PS;
        }
        if self.is_large_page() {
            // Between PAT (bit 12) and the page's address nothing may be set.
            mask |= ((1 << shift(self.levels, self.level)) - 1) & !0x1fff;
        }
        mask
    }

    /// Base and size in bytes of the page, where this entry is one.
    pub(super) fn page(&self) -> Option<(u64, u64)> {
        if self.level != 1 && !self.is_large_page() {
            return None;
        }
        let size = 1_u64 << shift(self.levels, self.level);
        let base = self.raw & ADDRESS_BITS & !(size - 1);
        let high = match self.levels {
            Levels::ThirtyTwoBit { .. } if self.level == 2 => (self.raw & 0x001f_e000) << 19,
            _ => 0,
        };
        Some((base | high, size))
    }

    /// The table that this entry points to.
    pub(super) const fn next(&self) -> Table {
        Table { levels: self.levels, level: self.level.saturating_sub(1), base: self.raw & ADDRESS_BITS }
    }

    /// Sets the accessed flag, and the dirty flag of a page that is written. `Some(false)` where the entry
    /// has changed since it was read; `None` where its memory is gone.
    pub(super) fn mark<M: PhysicalMemory + ?Sized>(&self, memory: &M, write: bool) -> Option<bool> {
        if self.is_pointer() {
            return Some(true);
        }
        let dirty = if write && self.page().is_some() { D } else { 0 };
        let new = self.raw | A | dirty;
        if new == self.raw {
            return Some(true);
        }
        match self.levels {
            Levels::ThirtyTwoBit { .. } => memory.compare_exchange_u32(self.gpa, self.raw as u32, new as u32),
            _ => memory.compare_exchange_u64(self.gpa, self.raw, new),
        }
    }
}
