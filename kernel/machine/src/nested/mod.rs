//! Nested page tables and the guest memory they map: one engine for Intel's EPT and AMD's NPT, which differ
//! only in the layout of an entry ([`EntryFormat`]).
//!
//! Sources: Intel SDM vol. 3, "The Extended Page Table Mechanism (EPT)"; AMD APM vol. 2, "Nested Paging".
//! Not its job: which addresses are RAM (the hypervisor says so), flushing translations (the vCPU's backend
//! does that). No locks: an address space belongs to one VM, whose owner has it mutably while mapping.

mod holes;
mod pieces;
mod recent;
mod reclaim;
mod space;
mod table;
#[cfg(test)]
mod tests;
mod walkers;

pub use space::GuestSpace;
pub use table::{EntryFormat, Level};
pub(crate) use walkers::Walker;

/// Bits 12 to 51: the address in an entry of either vendor.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Extended page tables. Entries are readable, writable and executable; leaves are write-back whatever the
/// guest's PAT says, because all of them are RAM, which the kernel maps write-back too: one memory must not be
/// used with two memory types.
#[derive(Clone, Copy, Debug)]
pub struct Ept;

impl Ept {
    const READ_WRITE_EXECUTE: u64 = 0b111;
    const WRITE_BACK: u64 = 6 << 3;
    const IGNORE_PAT: u64 = 1 << 6;
    const LARGE: u64 = 1 << 7;
}

impl EntryFormat for Ept {
    fn table(address: u64) -> u64 {
        address | Self::READ_WRITE_EXECUTE
    }

    fn leaf(address: u64, level: Level) -> u64 {
        let large = if level == Level::Page4K { 0 } else { Self::LARGE };
        address | Self::READ_WRITE_EXECUTE | Self::WRITE_BACK | Self::IGNORE_PAT | large
    }

    fn is_present(entry: u64) -> bool {
        entry & Self::READ_WRITE_EXECUTE != 0
    }

    fn is_large(entry: u64) -> bool {
        entry & Self::LARGE != 0
    }
}

/// AMD's nested page tables: ordinary long-mode entries. The user bit is needed, because the nested walk
/// is a user access.
#[derive(Clone, Copy, Debug)]
pub struct Npt;

impl Npt {
    const PRESENT_WRITABLE_USER: u64 = 0b111;
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
}

impl EntryFormat for Npt {
    fn table(address: u64) -> u64 {
        address | Self::PRESENT_WRITABLE_USER
    }

    fn leaf(address: u64, level: Level) -> u64 {
        let large = if level == Level::Page4K { 0 } else { Self::LARGE };
        address | Self::PRESENT_WRITABLE_USER | large
    }

    fn is_present(entry: u64) -> bool {
        entry & Self::PRESENT != 0
    }

    fn is_large(entry: u64) -> bool {
        entry & Self::LARGE != 0
    }
}
