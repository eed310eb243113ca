//! ELF64 kernels.

use std::vec;

use vcpu::Gpa;

use super::images::*;
use crate::{Format, LoadError, Part, Range, Request, load};

const BOOT_PARAMS: u64 = 0x2000;

fn kernel() -> std::vec::Vec<u8> {
    elf(16 * MIB + 4, &[Load::new(16 * MIB, b"code here"), Load::new(18 * MIB, b"data")])
}

fn load_at(file: &[u8], address: Option<u64>) -> Result<crate::Loaded, LoadError> {
    let map = pc_map(64);
    let request = Request { load_address: address.map(Gpa), ..Request::new(file, &map) };
    load(&request, &mut Ram::new(&map))
}

#[test]
fn segments_go_to_their_physical_addresses() {
    let (map, file, initrd) = (pc_map(64), kernel(), vec![3; 5000]);
    let mut ram = Ram::new(&map);
    let request = Request { initrd: Some(&initrd), command_line: b"quiet", ..Request::new(&file, &map) };
    let loaded = load(&request, &mut ram).unwrap();
    assert_eq!((loaded.format, loaded.entry.rip), (Format::Elf64, 16 * MIB + 4));
    assert_eq!(loaded.kernel, Range { start: 16 * MIB, end: 18 * MIB + 0x104 });
    assert_eq!(ram.read(16 * MIB, 9), b"code here");
    assert_eq!(ram.read(16 * MIB + 9, 0x100), [0; 0x100], "the rest of a segment is cleared");
    assert_eq!(ram.read(16 * MIB + 0x109, 1), [0xa5], "and nothing beyond");
    assert_eq!(ram.read(18 * MIB, 4), b"data");
    assert_eq!(loaded.initrd.unwrap().start, 64 * MIB - 0x2000);
    // A setup header is made, as the file has none.
    assert_eq!(ram.read(BOOT_PARAMS + 0x1fe, 2), [0x55, 0xaa]);
    assert_eq!(ram.read(BOOT_PARAMS + 0x202, 4), b"HdrS");
    assert_eq!(ram.read(BOOT_PARAMS + 0x206, 2), [0x0f, 0x02]);
    assert_eq!(ram.read(BOOT_PARAMS + 0x210, 2), [0xff, 1]);
    assert_eq!(ram.u32_at(BOOT_PARAMS + 0x230), 1 << 24);
    assert_eq!(u64::from(ram.u32_at(BOOT_PARAMS + 0x218)), 64 * MIB - 0x2000);
    assert_eq!(ram.read(u64::from(ram.u32_at(BOOT_PARAMS + 0x228)), 6), b"quiet\0");
}

#[test]
fn a_kernel_can_be_moved() {
    let loaded = load_at(&kernel(), Some(32 * MIB)).unwrap();
    assert_eq!((loaded.entry.rip, loaded.kernel.start), (32 * MIB + 4, 32 * MIB));
    let outside = LoadError::SegmentOutsideMemory { paddr: 64 * MIB, size: 0x104 };
    assert_eq!(load_at(&kernel(), Some(62 * MIB)).unwrap_err(), outside, "its second segment");
    assert!(load_at(&kernel(), Some(u64::MAX - 0xfff)).is_err());
}

#[test]
fn an_entry_point_can_be_virtual() {
    let loads = [Load { vaddr: 0, ..Load::new(20 * MIB, b"per-CPU") }, Load::new(16 * MIB, b"code here")];
    let virtual_entry = 0xffff_ffff_8000_0000 + 16 * MIB + 5;
    assert_eq!(load_at(&elf(virtual_entry, &loads), None).unwrap().entry.rip, 16 * MIB + 5);
    assert_eq!(load_at(&elf(virtual_entry, &loads), Some(8 * MIB)).unwrap().entry.rip, 8 * MIB + 5);
    assert_eq!(
        load_at(&elf(16 * MIB + 5, &loads), None).unwrap().entry.rip,
        16 * MIB + 5,
        "physical goes first"
    );
    assert_eq!(
        load_at(&elf(0x1234_0000, &loads), None).unwrap_err(),
        LoadError::EntryOutsideKernel { entry: 0x1234_0000 }
    );
}

#[test]
fn places_that_cannot_be() {
    let one = |paddr, memsz| elf(paddr, &[Load { memsz, ..Load::new(paddr, b"xxxx") }]);
    // A selftest may lie anywhere in RAM but over the boot structures.
    assert!(load_at(&one(0x2_0000, 0x1000), None).is_ok());
    assert_eq!(
        load_at(&one(0xa000, 0x1000), None).unwrap_err(),
        LoadError::Overlap { paddr: 0xa000, size: 0x1000 }
    );
    assert!(load_at(&one(0xb000, 0x1000), None).is_ok());
    for (paddr, size) in
        [(0x9_f000, 0x1000), (0xf_0000, 0x1000), (63 * MIB, MIB + 1), (1 << 40, 8), (u64::MAX - 4, 5)]
    {
        let error = load_at(&one(paddr, size), None).unwrap_err();
        assert_eq!(error, LoadError::SegmentOutsideMemory { paddr, size }, "{paddr:#x}");
    }
    let overlapping = elf(MIB, &[Load::new(MIB, b"aaaa"), Load::new(MIB + 0x103, b"bbbb")]);
    assert_eq!(
        load_at(&overlapping, None).unwrap_err(),
        LoadError::Overlap { paddr: MIB + 0x103, size: 0x104 }
    );
}

#[test]
fn headers_that_cannot_be() {
    let patched = |offset: usize, value: u16| {
        let mut file = kernel();
        file[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
        load_at(&file, None).map(|_| ())
    };
    let bad = |field, raw| Err(LoadError::BadHeader { field, raw });
    assert_eq!(patched(4, 0x0103), bad("EI_CLASS", 3));
    assert_eq!(patched(4, 0x0102), Ok(()), "64-bit class");
    assert_eq!(patched(18, 183), Err(LoadError::NotX86 { machine: 183 }), "another machine");
    assert_eq!(patched(16, 1), bad("e_type", 1));
    assert_eq!(patched(54, 32), bad("e_phentsize", 32));
    assert_eq!(patched(56, 0), bad("e_phnum", 0));
    assert_eq!(patched(56, 65), bad("e_phnum", 65));
    assert_eq!(patched(56, 1), bad("e_phnum", 1), "only a note");
    let memsz = Load { memsz: 2, ..Load::new(MIB, b"xxxx") };
    assert_eq!(load_at(&elf(MIB, &[memsz]), None).map(|_| ()), bad("p_filesz", 4));
}

#[test]
fn every_truncation_is_an_error() {
    let (map, file) = (pc_map(64), kernel());
    for length in 0..file.len() {
        let mut ram = Ram::new(&map);
        let error = load(&Request::new(&file[..length], &map), &mut ram).expect_err("a truncated image");
        assert!(
            matches!(error, LoadError::Truncated { .. } | LoadError::NotAKernel { .. }),
            "{length}: {error:?}"
        );
        assert!(ram.is_untouched());
    }
    let have = file.len() as u64 - 1;
    let error = load_at(&file[..file.len() - 1], None).unwrap_err();
    assert_eq!(error, LoadError::Truncated { part: Part::Segment, wanted: have + 1, have });
}
