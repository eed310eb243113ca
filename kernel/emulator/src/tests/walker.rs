//! The page walk against a map: the tables are built from a naive list of pages, and every translation has
//! to give what the list says.

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use proptest::prelude::*;
use vcpu::{Gpa, Gva};

use crate::walk::{AccessKind, Controls, PagingMode, PhysicalMemory, WalkError};

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const XD: u64 = 1 << 63;

const WP: u64 = 1 << 16;
const PG: u64 = 1 << 31;
const PSE: u64 = 1 << 4;
const PAE: u64 = 1 << 5;
const LA57: u64 = 1 << 12;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;
const AC: u64 = 1 << 18;

/// Memory in 32-bit words. A number of compare-and-exchanges fail, as if another vCPU were quicker.
#[derive(Default)]
struct Memory {
    words: RefCell<BTreeMap<u64, u32>>,
    lost_races: Cell<u32>,
}

impl Memory {
    fn get(&self, gpa: u64) -> u64 {
        self.read_u64(Gpa(gpa)).unwrap()
    }
    fn put(&self, gpa: u64, value: u64) {
        self.words.borrow_mut().insert(gpa, value as u32);
        self.words.borrow_mut().insert(gpa + 4, (value >> 32) as u32);
    }
}

impl PhysicalMemory for Memory {
    fn read_u32(&self, gpa: Gpa) -> Option<u32> {
        assert_eq!(gpa.0 % 4, 0);
        (gpa.0 < 1 << 40).then(|| self.words.borrow().get(&gpa.0).copied().unwrap_or(0))
    }
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        assert_eq!(gpa.0 % 8, 0);
        let low = self.read_u32(gpa)?;
        Some(u64::from(low) | u64::from(self.read_u32(Gpa(gpa.0 + 4))?) << 32)
    }
    fn compare_exchange_u32(&self, gpa: Gpa, old: u32, new: u32) -> Option<bool> {
        if self.lost_races.get() > 0 {
            self.lost_races.set(self.lost_races.get() - 1);
            return Some(false);
        }
        assert_eq!(self.read_u32(gpa)?, old);
        self.words.borrow_mut().insert(gpa.0, new);
        Some(true)
    }
    fn compare_exchange_u64(&self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        if self.lost_races.get() > 0 {
            self.lost_races.set(self.lost_races.get() - 1);
            return Some(false);
        }
        assert_eq!(self.read_u64(gpa)?, old);
        self.put(gpa.0, new);
        Some(true)
    }
}

/// A kind of paging: registers, bits per level from the top, entry size.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    cr4: u64,
    efer: u64,
    index_bits: &'static [u32],
    entry_bytes: u64,
    /// Page sizes (log2) that an entry above the last level can have.
    large: &'static [u32],
}

const KINDS: [Kind; 4] = [
    Kind { name: "32-bit", cr4: PSE, efer: 0, index_bits: &[10, 10], entry_bytes: 4, large: &[22] },
    Kind { name: "PAE", cr4: PAE, efer: NXE, index_bits: &[2, 9, 9], entry_bytes: 8, large: &[21] },
    Kind {
        name: "4-level",
        cr4: PAE,
        efer: NXE | LMA,
        index_bits: &[9; 4],
        entry_bytes: 8,
        large: &[21, 30],
    },
    Kind {
        name: "5-level",
        cr4: PAE | LA57,
        efer: NXE | LMA,
        index_bits: &[9; 5],
        entry_bytes: 8,
        large: &[21, 30],
    },
];

const ROOT: u64 = 0x10_0000;

/// Builds tables entry by entry, new ones one after the other.
struct Builder {
    kind: Kind,
    memory: Memory,
    next: u64,
}

impl Builder {
    fn new(kind: Kind) -> Self {
        Self { kind, memory: Memory::default(), next: ROOT + 0x1000 }
    }

    /// Maps a page of `1 << size_bits` bytes; `leaf` are its entry's flags, `above` those of the tables.
    /// Returns the addresses of the entries on the way.
    fn map(&mut self, linear: u64, gpa: u64, size_bits: u32, leaf: u64, above: u64) -> std::vec::Vec<u64> {
        let mut low: u32 = 12 + self.kind.index_bits.iter().sum::<u32>();
        let (mut table, mut path) = (ROOT, std::vec![]);
        for (depth, bits) in self.kind.index_bits.iter().enumerate() {
            low -= bits;
            let entry = table + (linear >> low & ((1 << bits) - 1)) * self.kind.entry_bytes;
            path.push(entry);
            let is_pointer = self.kind.name == "PAE" && depth == 0;
            if low == size_bits {
                let large = if low == 12 { 0 } else { PS };
                self.put(entry, gpa | leaf | large);
                break;
            }
            let old = self.get(entry);
            if old & P == 0 {
                self.put(entry, self.next | if is_pointer { P } else { above });
                self.next += 0x1000;
            }
            table = self.get(entry) & 0x000f_ffff_ffff_f000;
        }
        path
    }

    fn get(&self, entry: u64) -> u64 {
        if self.kind.entry_bytes == 4 {
            u64::from(self.memory.read_u32(Gpa(entry)).unwrap())
        } else {
            self.memory.get(entry)
        }
    }

    fn put(&self, entry: u64, value: u64) {
        if self.kind.entry_bytes == 4 {
            self.memory.words.borrow_mut().insert(entry, value as u32);
        } else {
            self.memory.put(entry, value);
        }
    }

    fn controls(&self) -> Controls {
        Controls {
            cr0: PG | WP | 1,
            cr3: ROOT,
            cr4: self.kind.cr4,
            efer: self.kind.efer,
            rflags: 2,
            cpl: 0,
            physical_address_bits: 46,
        }
    }
}

/// `flag` where bit `number` of `choice` is set.
fn flag(choice: u64, number: u32, flag: u64) -> u64 {
    if (choice >> number) & 1 == 1 { flag } else { 0 }
}

fn fault(code: u32) -> Result<u64, WalkError> {
    Err(WalkError::PageFault { error_code: code })
}

fn walk(builder: &Builder, controls: Controls, linear: u64, access: AccessKind) -> Result<u64, WalkError> {
    PagingMode::from(controls).translate(&builder.memory, Gva(linear), access).map(|found| found.gpa.0)
}

/// A path names the entries that decide about a translation, and no other.
#[test]
fn a_path_is_made_of_the_entries_on_the_way() {
    for (size_bits, depth) in [(12, 4), (21, 3), (30, 2)] {
        let mut builder = Builder::new(KINDS[2]);
        let entries = builder.map(0x40_1234_5000, 0x4000_0000, size_bits, P | A, P | A);
        let mode = PagingMode::from(builder.controls());
        let linear = Gva(0x40_1234_5678);
        let (path, gpa) = mode.path(&builder.memory, linear, AccessKind::Execute).expect("mapped");
        assert_eq!(gpa.0, 0x4000_0000 | linear.0 & ((1 << size_bits) - 1));
        let wanted: std::vec::Vec<_> = entries.iter().map(|at| (Gpa(*at), builder.get(*at))).collect();
        assert_eq!((path.entries(), wanted.len()), (&wanted[..], depth));
        // Where something is to be set first, there is none yet.
        builder.put(entries[0], builder.get(entries[0]) & !A);
        assert_eq!(mode.path(&builder.memory, linear, AccessKind::Execute), None);
        assert!(walk(&builder, builder.controls(), linear.0, AccessKind::Execute).is_ok());
        assert!(mode.path(&builder.memory, linear, AccessKind::Execute).is_some());
    }
    let other = Builder::new(KINDS[3]);
    let mode = PagingMode::from(other.controls());
    assert_eq!(mode.path(&other.memory, Gva(0), AccessKind::Execute), None, "five levels");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Random pages of random sizes in every kind of paging; what the walker finds is what was mapped.
    #[test]
    fn translations_are_what_was_mapped(
        which in 0..4_usize,
        pages in prop::collection::vec((any::<u64>(), any::<u64>(), 0..3_usize), 1..12),
        offset in any::<u64>(),
    ) {
        let kind = KINDS[which];
        let mut builder = Builder::new(kind);
        let linear_bits = 12 + kind.index_bits.iter().sum::<u32>();
        let mut mapped: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (linear, gpa, size) in pages {
            let size_bits = *[12].iter().chain(kind.large).nth(size).unwrap_or(&12);
            let bytes = 1_u64 << size_bits;
            let linear = (linear & ((1 << linear_bits) - 1)) & !(bytes - 1);
            let gpa_bits = if kind.entry_bytes == 4 { 32 } else { 46 };
            let gpa = (gpa & ((1 << gpa_bits) - 1)) & !(bytes - 1);
            // Keep pages apart by the widest region that an entry can cover.
            if mapped.keys().any(|&other| other >> 30 == linear >> 30) {
                continue;
            }
            builder.map(linear, gpa, size_bits, P | RW, P | RW | US);
            mapped.insert(linear, (gpa, bytes));
        }
        let mode = PagingMode::from(builder.controls());
        for (linear, (gpa, bytes)) in &mapped {
            let inside = offset & (bytes - 1);
            let found = mode.translate(&builder.memory, Gva(linear + inside), AccessKind::Write).unwrap();
            prop_assert_eq!((found.gpa.0, found.page_size), (gpa + inside, *bytes), "{}", kind.name);
            prop_assert!(found.writable && !found.user && found.executable);
            let beside = walk(&builder, builder.controls(), linear ^ bytes, AccessKind::Read);
            prop_assert_eq!(beside, fault(0), "{}", kind.name);
        }
    }

    /// Every combination of rights and accesses against the manual's table, written out as conditions.
    #[test]
    fn rights(
        which in 0..4_usize, leaf_bits in 0..8_u64, table_bits in 0..4_u64, access in 0..3_usize,
        user in any::<bool>(), wp in any::<bool>(), smep in any::<bool>(), smap in any::<bool>(), ac in any::<bool>(),
    ) {
        let kind = KINDS[which];
        let mut builder = Builder::new(kind);
        let has_xd = kind.entry_bytes == 8;
        let xd = has_xd && leaf_bits & 4 != 0;
        let leaf = P | flag(leaf_bits, 0, RW) | flag(leaf_bits, 1, US) | if xd { XD } else { 0 };
        let above = P | flag(table_bits, 0, RW) | flag(table_bits, 1, US);
        builder.map(0x40_0000, 0x7000, 12, leaf, above);
        let mut controls = builder.controls();
        controls.cpl = if user { 3 } else { 0 };
        controls.cr0 = PG | 1 | if wp { WP } else { 0 };
        controls.cr4 |= if smep { SMEP } else { 0 } | if smap { SMAP } else { 0 };
        controls.rflags = if ac { AC } else { 0 };
        let access = [AccessKind::Read, AccessKind::Write, AccessKind::Execute][access];

        let (writable, user_page) = (leaf & above & RW != 0, leaf & above & US != 0);
        let denied = match (access, user) {
            (_, true) if !user_page => true,
            (AccessKind::Read, true) => false,
            (AccessKind::Write, true) => !writable,
            (AccessKind::Execute, true) => xd,
            (AccessKind::Execute, false) => xd || (smep && user_page),
            (_, false) if smap && !ac && user_page => true,
            (AccessKind::Write, false) => wp && !writable,
            (AccessKind::Read, false) => false,
        };
        let mut code = 1;
        if access == AccessKind::Write { code |= 2; }
        if user { code |= 4; }
        if access == AccessKind::Execute && (has_xd || smep) { code |= 16; }
        let expected = if denied { fault(code) } else { Ok(0x7123) };
        prop_assert_eq!(walk(&builder, controls, 0x40_0123, access), expected, "{}", kind.name);
    }
}

#[test]
fn without_paging_addresses_are_physical() {
    let builder = Builder::new(KINDS[0]);
    let controls = Controls { cr0: 1, ..builder.controls() };
    assert_eq!(walk(&builder, controls, 0x1_2345_6789, AccessKind::Write), Ok(0x2345_6789));
}

#[test]
fn accessed_and_dirty_flags() {
    for kind in KINDS {
        let mut builder = Builder::new(kind);
        let path = builder.map(0x80_0000, 0x20_0000, 12, P | RW, P | RW);
        let leaf = *path.last().unwrap();
        // A fault leaves them clear.
        let user = Controls { cpl: 3, ..builder.controls() };
        assert_eq!(walk(&builder, user, 0x80_0000, AccessKind::Read), fault(5));
        assert!(path.iter().all(|entry| builder.get(*entry) & (A | D) == 0), "{}", kind.name);
        walk(&builder, builder.controls(), 0x80_0000, AccessKind::Read).unwrap();
        for (depth, entry) in path.iter().enumerate() {
            let is_pointer = kind.name == "PAE" && depth == 0;
            assert_eq!(builder.get(*entry) & (A | D), if is_pointer { 0 } else { A }, "{}", kind.name);
        }
        walk(&builder, builder.controls(), 0x80_0000, AccessKind::Write).unwrap();
        assert_eq!(builder.get(leaf) & (A | D), A | D);
        assert!(path[..path.len() - 1].iter().all(|entry| builder.get(*entry) & D == 0));
    }
}

#[test]
fn reserved_bits() {
    // Kind, page size, depth of the entry from the top, bit, whether it is reserved at 46 address bits.
    let rows: &[(usize, u32, usize, u64, bool)] = &[
        (0, 22, 0, 1 << 21, true),
        (0, 22, 0, 1 << 13, false), // PSE-36: address bit 32
        (0, 12, 0, 1 << 9, false),
        (1, 12, 0, 1 << 1, true), // a PAE directory pointer has no R/W
        (1, 12, 0, 1 << 7, true),
        (1, 12, 0, 1 << 63, true),
        (1, 12, 2, 1 << 52, true), // PAE reserves the upper bits
        (1, 12, 2, 1 << 46, true),
        (1, 21, 1, 1 << 13, true),
        (1, 12, 2, 1 << 63, false),
        (2, 12, 3, 1 << 52, false), // free for software in long mode
        (2, 12, 3, 1 << 46, true),
        (2, 12, 3, 1 << 45, false),
        (2, 12, 0, 1 << 7, true),
        (2, 21, 2, 1 << 12, false), // PAT
        (2, 21, 2, 1 << 20, true),
        (2, 30, 1, 1 << 29, true),
        (3, 12, 0, 1 << 7, true),
        (3, 12, 0, 1 << 51, true),
    ];
    for (which, size_bits, depth, bit, reserved) in rows {
        let mut builder = Builder::new(KINDS[*which]);
        let path = builder.map(0x4000_0000, 0x8000_0000, *size_bits, P | RW, P | RW);
        let entry = path[*depth];
        builder.put(entry, builder.get(entry) | bit);
        let result = walk(&builder, builder.controls(), 0x4000_0000, AccessKind::Read);
        let is_rsvd = result == fault(9);
        assert_eq!(is_rsvd, *reserved, "{} depth {depth} bit {bit:#x}: {result:?}", KINDS[*which].name);
    }
    // Without EFER.NXE the XD bit is reserved; a write by a user tells so too.
    let mut builder = Builder::new(KINDS[2]);
    builder.map(0, 0x8000_0000, 12, P | RW | US | XD, P | RW | US);
    let controls = Controls { efer: LMA, cpl: 3, ..builder.controls() };
    assert_eq!(walk(&builder, controls, 0, AccessKind::Write), fault(1 | 2 | 4 | 8));
}

#[test]
fn large_pages_of_32_bit_paging() {
    let mut builder = Builder::new(KINDS[0]);
    let path = builder.map(0xc000_0000, 0x40_0000, 22, P | RW, P | RW);
    assert_eq!(walk(&builder, builder.controls(), 0xc012_3456, AccessKind::Read), Ok(0x52_3456));
    builder.put(path[0], builder.get(path[0]) | 3 << 13); // PSE-36
    assert_eq!(walk(&builder, builder.controls(), 0xc012_3456, AccessKind::Read), Ok(0x3_0052_3456));
    let narrow = Controls { physical_address_bits: 32, ..builder.controls() };
    assert_eq!(walk(&builder, narrow, 0xc000_0000, AccessKind::Read), fault(9));
    // Without CR4.PSE the bit means nothing and the entry names a table.
    let without = Controls { cr4: 0, ..builder.controls() };
    assert_eq!(walk(&builder, without, 0xc000_0000, AccessKind::Read), fault(0));
}

#[test]
fn races_restart_the_walk_and_end() {
    let mut builder = Builder::new(KINDS[2]);
    builder.map(0x1000, 0x5000, 12, P | RW, P | RW);
    builder.memory.lost_races.set(3);
    assert_eq!(walk(&builder, builder.controls(), 0x1000, AccessKind::Write), Ok(0x5000));
    let mut builder = Builder::new(KINDS[2]);
    builder.map(0x1000, 0x5000, 12, P | RW, P | RW);
    builder.memory.lost_races.set(u32::MAX);
    assert_eq!(walk(&builder, builder.controls(), 0x1000, AccessKind::Write), Err(WalkError::Contended));
}

#[test]
fn tables_outside_ram() {
    let builder = Builder::new(KINDS[2]);
    let controls = Controls { cr3: 1 << 41, ..builder.controls() };
    let expected = Err(WalkError::NoTable { gpa: Gpa((1 << 41) + 8) });
    assert_eq!(walk(&builder, controls, 1 << 39, AccessKind::Read), expected);
}
