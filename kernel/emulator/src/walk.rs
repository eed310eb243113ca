//! A walk of the guest's own page tables: from a linear to a guest-physical address, with the page fault
//! that the CPU would raise (SDM vol. 3, "Paging": "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level
//! Paging", "Access Rights", "Page-Fault Exceptions", "Accessed and Dirty Flags").
//!
//! Walked are 32-bit paging with 4 MiB pages (PSE-36 included), PAE, 4-level and 5-level paging. Not modelled:
//! protection keys, shadow stacks, and a CPU without 1 GiB pages. PAE's four directory pointers are read
//! from memory at each walk, as AMD CPUs do under nested paging.
//!
//! A walk reads at most five entries and starts over at most [`MAX_RESTARTS`] times, where another vCPU changed
//! an entry while its accessed or dirty flag was being set.

mod entry;

use vcpu::{Gpa, Gva};

pub use entry::Levels;
use entry::{Entry, Table};

/// How often a walk starts over before it gives up.
pub const MAX_RESTARTS: u32 = 8;

/// The guest's physical memory, as far as its page tables are concerned. Addresses are aligned to the entry.
pub trait PhysicalMemory {
    /// A 32-bit entry, read once; `None` where there is no RAM.
    fn read_u32(&self, gpa: Gpa) -> Option<u32>;

    /// A 64-bit entry, read once; `None` where there is no RAM.
    fn read_u64(&self, gpa: Gpa) -> Option<u64>;

    /// Atomically writes `new` where memory holds `old`; `Some(false)` where it holds something else.
    fn compare_exchange_u32(&self, gpa: Gpa, old: u32, new: u32) -> Option<bool>;

    /// Atomically writes `new` where memory holds `old`; `Some(false)` where it holds something else.
    fn compare_exchange_u64(&self, gpa: Gpa, old: u64, new: u64) -> Option<bool>;
}

/// What an access wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessKind {
    /// Read data.
    Read,
    /// Write data.
    Write,
    /// Fetch an instruction.
    Execute,
}

/// The registers that decide how a linear address is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Controls {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// RFLAGS, for AC.
    pub rflags: u64,
    /// Current privilege level. For an access that is implicitly a supervisor's (descriptor tables, the
    /// task-state segment) give 0, and RFLAGS without AC.
    pub cpl: u8,
    /// Width of a guest-physical address, as the guest's CPUID tells it: 32 to 52.
    pub physical_address_bits: u8,
}

/// How linear addresses are translated at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagingMode {
    /// The tables' form; `None` without paging.
    pub levels: Option<Levels>,
    root: u64,
    /// CR0.WP: supervisors too respect read-only pages.
    write_protect: bool,
    /// EFER.NXE with a 64-bit entry format.
    no_execute: bool,
    /// A supervisor may not execute user pages (CR4.SMEP).
    smep: bool,
    /// A supervisor may not touch user pages now (CR4.SMAP, RFLAGS.AC clear).
    smap: bool,
    user: bool,
    /// Address bits that no entry may have, up to bit 51.
    beyond_physical: u64,
}

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const RFLAGS_AC: u64 = 1 << 18;

/// A page's address in an 8-byte entry: bits 12 to 51.
const ADDRESS_BITS: u64 = 0x000f_ffff_ffff_f000;

/// The bits of a page fault's error code (SDM vol. 3, "Page-Fault Exceptions").
pub mod error_code {
    /// A protection violation; clear: a page that is not present.
    pub const PRESENT: u32 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access was a user's.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set in an entry.
    pub const RESERVED: u32 = 1 << 3;
    /// The access was an instruction fetch.
    pub const FETCH: u32 = 1 << 4;
}

impl From<Controls> for PagingMode {
    #[inline(always)]
    fn from(controls: Controls) -> Self {
        let cr4 = |bit| controls.cr4 & bit != 0;
        let levels = if controls.cr0 & CR0_PG == 0 {
            None
        } else if !cr4(CR4_PAE) {
            Some(Levels::ThirtyTwoBit { large_pages: cr4(CR4_PSE) })
        } else if controls.efer & EFER_LMA == 0 {
            Some(Levels::Pae)
        } else if cr4(CR4_LA57) {
            Some(Levels::Five)
        } else {
            Some(Levels::Four)
        };
        let width = u32::from(controls.physical_address_bits).clamp(32, 52);
        Self {
            levels,
            root: controls.cr3,
            write_protect: controls.cr0 & CR0_WP != 0,
            no_execute: controls.efer & EFER_NXE != 0 && cr4(CR4_PAE),
            smep: cr4(CR4_SMEP),
            smap: cr4(CR4_SMAP) && controls.rflags & RFLAGS_AC == 0,
            user: controls.cpl == 3,
            beyond_physical: ADDRESS_BITS & !((1 << width) - 1),
        }
    }
}

/// Where a linear address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// Bytes of the page that holds it, a power of two; `u64::MAX` without paging.
    pub page_size: u64,
    /// Its entries allow writes.
    pub writable: bool,
    /// Its entries allow user accesses.
    pub user: bool,
    /// Its entries allow instruction fetches.
    pub executable: bool,
}

/// Why there is no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError {
    /// The CPU raises #PF with this error code.
    PageFault {
        /// Its error code.
        error_code: u32,
    },
    /// A table lies where there is no RAM.
    NoTable {
        /// The entry's address.
        gpa: Gpa,
    },
    /// Other vCPUs keep changing the entries: try again later.
    Contended,
}

/// Levels of tables that a [`Path`] goes through at most.
pub const MAX_LEVELS: usize = 4;

/// The entries that a translation has gone by, from the root on, with their addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    entries: [(Gpa, u64); MAX_LEVELS],
    length: usize,
}

impl Path {
    /// The entries.
    #[inline(always)]
    pub fn entries(&self) -> &[(Gpa, u64)] {
        self.entries.get(..self.length).unwrap_or(&self.entries)
    }
}

/// Why one attempt ended.
enum Attempt {
    Failed(WalkError),
    Changed,
}

/// The permissions that all entries on the way share.
#[derive(Clone, Copy)]
struct Rights {
    writable: bool,
    user: bool,
    executable: bool,
}

impl PagingMode {
    /// Translates `linear` for an access of `kind` and sets the accessed and dirty flags that it implies.
    /// The caller has done the canonical check; outside 4- and 5-level paging the upper 32 bits are ignored.
    ///
    /// # Errors
    /// See [`WalkError`].
    #[inline]
    pub fn translate<M: PhysicalMemory + ?Sized>(
        &self,
        memory: &M,
        linear: Gva,
        kind: AccessKind,
    ) -> Result<Translation, WalkError> {
        let Some(levels) = self.levels else {
            let gpa = Gpa(linear.0 & 0xffff_ffff);
            return Ok(Translation {
                gpa,
                page_size: u64::MAX,
                writable: true,
                user: true,
                executable: true,
            });
        };
        if levels == Levels::Four
            && let Some(translation) = self.walk_as_it_is(memory, linear.0, kind)
        {
            return Ok(translation);
        }
        self.translate_by(levels, memory, linear, kind)
    }

    /// Nearly every translation: four levels, whose entries have all that this access needs of them, so that nothing is to be set and nothing is wrong.
    /// `None` where there is more to it.
    #[inline(always)]
    fn walk_as_it_is<M: PhysicalMemory + ?Sized>(
        &self,
        memory: &M,
        linear: u64,
        kind: AccessKind,
    ) -> Option<Translation> {
        const FIRST: u32 = 39;
        const LAST: u32 = 12;
        const LARGE_PAT: u64 = 1 << 12;
        let (mut table, mut shift) = (self.root & ADDRESS_BITS, FIRST);
        let (mut all, mut any) = (u64::MAX, 0);
        let last = loop {
            let entry = memory.read_u64(Gpa(table + (linear >> shift & 0x1ff) * 8))?;
            if entry & (entry::P | entry::A) != entry::P | entry::A {
                return None;
            }
            (all, any) = (all & entry, any | entry);
            if shift == LAST || entry & entry::PS != 0 {
                break entry;
            }
            table = entry & ADDRESS_BITS;
            shift -= 9;
        };
        let page_size = 1_u64 << shift;
        // In a large page's entry the lowest bit of the address says which memory type it has.
        let low = if shift == LAST { 0 } else { last & ADDRESS_BITS & (page_size - 1) & !LARGE_PAT };
        let reserved = any & self.beyond_physical | low;
        let is_marked = kind != AccessKind::Write || last & entry::D != 0;
        let is_plain = any & entry::XD == 0 || self.no_execute;
        if shift == FIRST || reserved != 0 || !is_marked || !is_plain {
            return None;
        }
        let rights = Rights {
            writable: all & entry::RW != 0,
            user: all & entry::US != 0,
            executable: any & entry::XD == 0,
        };
        self.check(rights, kind).ok()?;
        let gpa = Gpa(last & ADDRESS_BITS & !(page_size - 1) | linear & (page_size - 1));
        let Rights { writable, user, executable } = rights;
        Some(Translation { gpa, page_size, writable, user, executable })
    }

    /// The entries by which four-level paging translates `linear` for an access of `kind`, and where that leads, if nothing is to be set in them: as
    /// long as all of them are the same, so is the translation.
    pub fn path<M: PhysicalMemory + ?Sized>(
        &self,
        memory: &M,
        linear: Gva,
        kind: AccessKind,
    ) -> Option<(Path, Gpa)> {
        let is_four = self.levels == Some(Levels::Four);
        let Translation { gpa, page_size, .. } =
            self.walk_as_it_is(memory, linear.0, kind).filter(|_| is_four)?;
        let mut path = Path { entries: [(Gpa(0), 0); MAX_LEVELS], length: 0 };
        let (mut table, mut shift) = (self.root & ADDRESS_BITS, 39);
        for slot in &mut path.entries {
            let at = Gpa(table + (linear.0 >> shift & 0x1ff) * 8);
            let entry = memory.read_u64(at)?;
            *slot = (at, entry);
            path.length += 1;
            if 1 << shift == page_size {
                // Somebody may have changed the tables in between.
                let is_same =
                    self.walk_as_it_is(memory, linear.0, kind).is_some_and(|found| found.gpa == gpa);
                let leads_there = entry & ADDRESS_BITS & !(page_size - 1) == gpa.0 & !(page_size - 1);
                return (is_same && leads_there).then_some((path, gpa));
            }
            table = entry & ADDRESS_BITS;
            shift -= 9;
        }
        None
    }

    /// Any translation.
    #[inline(never)]
    fn translate_by<M: PhysicalMemory + ?Sized>(
        &self,
        levels: Levels,
        memory: &M,
        linear: Gva,
        kind: AccessKind,
    ) -> Result<Translation, WalkError> {
        let linear = if levels.is_long() { linear.0 } else { linear.0 & 0xffff_ffff };
        for _ in 0..=MAX_RESTARTS {
            match self.attempt(memory, levels, linear, kind) {
                Ok(translation) => return Ok(translation),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::Changed) => {}
            }
        }
        Err(WalkError::Contended)
    }

    fn attempt<M: PhysicalMemory + ?Sized>(
        &self,
        memory: &M,
        levels: Levels,
        linear: u64,
        kind: AccessKind,
    ) -> Result<Translation, Attempt> {
        let mut path: [Option<Entry>; 5] = [None; 5];
        let mut rights = Rights { writable: true, user: true, executable: true };
        let mut table = Table::root(levels, self.root);
        for slot in &mut path {
            let entry =
                table.entry(memory, linear).ok_or(WalkError::NoTable { gpa: table.entry_gpa(linear) })?;
            if !entry.is_present() {
                return Err(self.fault(kind, 0).into());
            }
            if entry.reserved(self.beyond_physical, self.no_execute) != 0 {
                return Err(self.fault(kind, error_code::PRESENT | error_code::RESERVED).into());
            }
            rights.writable &= entry.writable();
            rights.user &= entry.user();
            rights.executable &= !(self.no_execute && entry.no_execute());
            *slot = Some(entry);
            if let Some((base, page_size)) = entry.page() {
                self.check(rights, kind)?;
                mark(memory, &path, kind)?;
                let gpa = Gpa(base | (linear & (page_size - 1)));
                let Rights { writable, user, executable } = rights;
                return Ok(Translation { gpa, page_size, writable, user, executable });
            }
            table = entry.next();
        }
        // Not reached: the last level's entry is always a page.
        Err(self.fault(kind, 0).into())
    }

    /// SDM vol. 3, "Determination of Access Rights".
    #[inline(always)]
    fn check(&self, rights: Rights, kind: AccessKind) -> Result<(), WalkError> {
        let allowed = if self.user {
            rights.user
                && match kind {
                    AccessKind::Read => true,
                    AccessKind::Write => rights.writable,
                    AccessKind::Execute => rights.executable,
                }
        } else {
            match kind {
                AccessKind::Read => !(self.smap && rights.user),
                AccessKind::Write => !(self.smap && rights.user) && (rights.writable || !self.write_protect),
                AccessKind::Execute => rights.executable && !(self.smep && rights.user),
            }
        };
        if allowed { Ok(()) } else { Err(self.fault(kind, error_code::PRESENT)) }
    }

    /// The page fault of an access, `cause` being its bits P and RSVD.
    fn fault(&self, kind: AccessKind, cause: u32) -> WalkError {
        let mut code = cause;
        if self.user {
            code |= error_code::USER;
        }
        match kind {
            AccessKind::Read => {}
            AccessKind::Write => code |= error_code::WRITE,
            AccessKind::Execute => {
                if self.no_execute || self.smep {
                    code |= error_code::FETCH;
                }
            }
        }
        WalkError::PageFault { error_code: code }
    }
}

impl From<WalkError> for Attempt {
    fn from(error: WalkError) -> Self {
        Self::Failed(error)
    }
}

/// Sets the accessed flag in every entry of the path, and the dirty flag in the last one for a write.
fn mark<M: PhysicalMemory + ?Sized>(
    memory: &M,
    path: &[Option<Entry>; 5],
    kind: AccessKind,
) -> Result<(), Attempt> {
    for entry in path.iter().flatten() {
        if !entry.mark(memory, kind == AccessKind::Write).ok_or(WalkError::NoTable { gpa: entry.gpa() })? {
            return Err(Attempt::Changed);
        }
    }
    Ok(())
}
