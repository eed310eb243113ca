//! Nested page tables and the guest memory they map: one engine for Intel's EPT and AMD's NPT, which differ
//! only in the layout of an entry ([`Format`]).
//!
//! Sources: Intel SDM vol. 3, "The Extended Page Table Mechanism (EPT)"; AMD APM vol. 2, "Nested Paging".
//! Not its job: which addresses are RAM (the hypervisor says so), flushing translations (the vCPU's backend
//! does that). No locks: an address space belongs to one VM, whose owner has it mutably while mapping.

mod holes;
mod passed_on;
mod pieces;
mod recent;
mod reclaim;
mod space;
mod table;
#[cfg(test)]
mod tests;
mod walkers;

pub use space::GuestSpace;
pub use table::{Format, Level};
pub(crate) use walkers::Walker;

/// Bits 12 to 51: the address in an entry of either vendor.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Extended page tables. Entries are readable, writable and executable; leaves are write-back whatever the
/// guest's PAT says, because all of them are RAM, which the kernel maps write-back too: one memory must not be
/// used with two memory types.
pub(crate) const EPT: Format = {
    const READ_WRITE: u64 = 0b011;
    const READ_WRITE_EXECUTE: u64 = 0b111;
    const WRITE_BACK: u64 = 6 << 3;
    const IGNORE_PAT: u64 = 1 << 6;
    Format {
        table: READ_WRITE_EXECUTE,
        leaf: READ_WRITE_EXECUTE | WRITE_BACK | IGNORE_PAT,
        // Uncached, which the guest's PAT can make write-combining.
        device: READ_WRITE,
        present: READ_WRITE_EXECUTE,
    }
};

/// AMD's nested page tables: ordinary long-mode entries. The user bit is needed, because the nested walk
/// is a user access.
pub(crate) const NPT: Format = {
    const PRESENT: u64 = 1;
    const PRESENT_WRITABLE_USER: u64 = 0b111;
    const NO_EXECUTE: u64 = 1 << 63;
    Format {
        table: PRESENT_WRITABLE_USER,
        leaf: PRESENT_WRITABLE_USER,
        device: PRESENT_WRITABLE_USER | NO_EXECUTE,
        present: PRESENT,
    }
};
