//! The entry state and what it points to, read as the CPU reads it.

use super::images::*;
use crate::{E820Entry, IdentityMap, LOW_AREA, LOW_AREA_SIZE, LoadError, MemoryKind, Request, load};

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Walks the four levels by hand.
fn translate(ram: &Ram, cr3: u64, linear: u64) -> Option<u64> {
    let mut table = cr3;
    for shift in [39, 30, 21, 12] {
        let entry = ram.u64_at(table + ((linear >> shift) & 511) * 8);
        if entry & 1 == 0 {
            return None;
        }
        assert_eq!(entry & 2, 2, "writable");
        if entry & 0x80 != 0 || shift == 12 {
            let mask = (1 << shift) - 1;
            return Some((entry & ADDRESS & !mask) | (linear & mask));
        }
        table = entry & ADDRESS;
    }
    None
}

fn entered(identity_map: IdentityMap, map: &[E820Entry]) -> (Ram, crate::Loaded) {
    let file = elf(MIB, &[Load::new(MIB, b"code")]);
    let mut ram = Ram::new(map);
    let loaded = load(&Request { identity_map, ..Request::new(&file, map) }, &mut ram).unwrap();
    (ram, loaded)
}

#[test]
fn page_tables_map_memory_to_itself() {
    for (identity_map, end) in [(IdentityMap::FourGib, 4_u64 << 30), (IdentityMap::HalfTib, 512 << 30)] {
        let (ram, loaded) = entered(identity_map, &pc_map(64));
        for linear in [0, 0x1234, MIB, (2 << 20) - 1, 1 << 30, 0xfee0_0000, end / 2 + 5, end - 1] {
            assert_eq!(translate(&ram, loaded.entry.cr3, linear), Some(linear), "{linear:#x}");
        }
        assert_eq!(translate(&ram, loaded.entry.cr3, end), None);
        assert_eq!(translate(&ram, loaded.entry.cr3, 1 << 47), None);
    }
}

#[test]
fn registers_are_those_of_the_64_bit_protocol() {
    let (ram, loaded) = entered(IdentityMap::FourGib, &pc_map(64));
    let entry = loaded.entry;
    assert_eq!((entry.rip, entry.rsi), (MIB, LOW_AREA.0 + 0x1000));
    assert_eq!(entry.rflags, 2, "interrupts off");
    assert_eq!(entry.cr0 & 0x8000_0001, 0x8000_0001);
    assert_eq!((entry.cr4 & 0x20, entry.efer), (0x20, 0x500));
    assert_eq!(ram.read(entry.rsp - 8, 8), [0; 8], "a stack that can be pushed to");
    // The selectors lead to the descriptors whose hidden parts are given.
    for (segment, selector, access, flags) in [(entry.code, 0x10, 0x9b, 0xa), (entry.data, 0x18, 0x93, 0xc)] {
        assert_eq!(segment.selector, selector);
        assert!(u64::from(selector) + 7 <= u64::from(entry.gdt_limit));
        let descriptor = ram.read(entry.gdt_base + u64::from(selector), 8);
        assert_eq!(descriptor, [0xff, 0xff, 0, 0, 0, access, flags << 4 | 0xf, 0]);
        assert_eq!(segment.attributes, u32::from(flags) << 12 | u32::from(access));
        assert_eq!((segment.base, segment.limit), (0, u32::MAX));
    }
}

#[test]
fn the_low_area_moves_as_a_whole() {
    let map = [region(0x10_0000, 64 * MIB, MemoryKind::RAM)];
    let file = elf(2 * MIB, &[Load::new(2 * MIB, b"code")]);
    let request = Request { low_area: vcpu::Gpa(MIB), ..Request::new(&file, &map) };
    let mut ram = Ram::new(&map);
    let entry = load(&request, &mut ram).unwrap().entry;
    for address in [entry.rsi, entry.rsp - 1, entry.cr3, entry.gdt_base] {
        assert!((MIB..MIB + LOW_AREA_SIZE).contains(&address), "{address:#x}");
    }
    assert_eq!(translate(&ram, entry.cr3, 0x12_3456), Some(0x12_3456));
    let error = load(&Request::new(&file, &map), &mut Ram::new(&map)).unwrap_err();
    assert_eq!(error, LoadError::BadLowArea { gpa: LOW_AREA }, "no conventional memory in this map");
}

#[test]
fn memory_that_refuses_is_an_error() {
    let file = elf(2 * MIB, &[Load::new(2 * MIB, b"code")]);
    let mut smaller = Ram::new(&pc_map(2));
    let error = load(&Request::new(&file, &pc_map(64)), &mut smaller).unwrap_err();
    assert_eq!(error, LoadError::OutOfRange { gpa: vcpu::Gpa(2 * MIB) });
}
