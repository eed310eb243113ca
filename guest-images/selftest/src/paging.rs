//! Page tables of tests (SDM vol. 3, "4-Level Paging"). The identity map of the first 4 GiB is fixed; tests map into
//! the windows beside it, which are emptied before each test.

use crate::cpu;
use crate::memory::{self, PAGE};

/// Present.
pub const P: u64 = 1;
/// Writable.
pub const W: u64 = 1 << 1;
/// User.
pub const U: u64 = 1 << 2;
/// Write-through.
pub const PWT: u64 = 1 << 3;
/// Cache disable.
pub const PCD: u64 = 1 << 4;
/// Accessed.
pub const A: u64 = 1 << 5;
/// Dirty.
pub const D: u64 = 1 << 6;
/// Large page (in a PDPT or directory entry).
pub const PS: u64 = 1 << 7;
/// Global.
pub const G: u64 = 1 << 8;
/// No execute.
pub const NX: u64 = 1 << 63;
/// The address in an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A window of tests' own mappings.
pub const WINDOW: u64 = 0x80_0000_0000;
/// A window near enough to the image for RIP-relative operands (the highest 2 GiB).
pub const NEAR_WINDOW: u64 = 0xffff_ffff_f000_0000;

/// A level of the tables, by the size that one entry maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// 4 KiB.
    Page,
    /// 2 MiB.
    Directory,
    /// 1 GiB.
    Pointers,
    /// 512 GiB.
    Root,
}

impl Level {
    const fn shift(self) -> u32 {
        match self {
            Self::Page => 12,
            Self::Directory => 21,
            Self::Pointers => 30,
            Self::Root => 39,
        }
    }
}

unsafe extern "C" {
    static boot_pml4: u8;
}

/// The physical address of the root table.
pub fn root() -> u64 {
    &raw const boot_pml4 as u64
}

/// The address of the entry that maps `address` at `level`. Missing tables on the way are made, with rights that do
/// not restrict.
pub fn entry(address: u64, level: Level) -> u64 {
    let index = |level: Level| (address >> level.shift() & 511) * 8;
    let mut slot = root() + index(Level::Root);
    for next in [Level::Pointers, Level::Directory, Level::Page] {
        if level.shift() > next.shift() {
            break;
        }
        if cpu::read64(slot) & P == 0 {
            cpu::write64(slot, memory::page() | P | W | U);
        }
        slot = (cpu::read64(slot) & ADDRESS) + index(next);
    }
    slot
}

/// Maps a 4 KiB page. `flags` with [`P`].
pub fn map(address: u64, physical: u64, flags: u64) {
    set(address, Level::Page, physical | flags);
}

/// Writes the entry at a level and drops the old translation.
pub fn set(address: u64, level: Level, value: u64) {
    cpu::write64(entry(address, level), value);
    cpu::invlpg(address);
}

/// Reads the entry at a level.
pub fn get(address: u64, level: Level) -> u64 {
    cpu::read64(entry(address, level))
}

/// Empties the windows.
pub(crate) fn reset() {
    for slot in 1..512 {
        cpu::write64(root() + 8 * slot, 0);
    }
    cpu::write_cr3(root());
}

/// Physical-address bits of this processor.
pub fn physical_bits() -> u32 {
    cpu::cpuid(0x8000_0008, 0).eax & 0xff
}

/// Maps `count` pages in a row at [`WINDOW`] + `offset` onto fresh pages; returns the linear address.
pub fn fresh(offset: u64, count: u64, flags: u64) -> u64 {
    let physical = memory::pages(count);
    for i in 0..count {
        map(WINDOW + offset + i * PAGE, physical + i * PAGE, flags);
    }
    WINDOW + offset
}
