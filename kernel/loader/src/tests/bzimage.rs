//! bzImages.

use std::format;
use std::vec;

use vcpu::Gpa;

use super::images::*;
use crate::{Format, LOW_AREA, LoadError, Loaded, MemoryKind, Part, Range, Request, load};

const BOOT_PARAMS: u64 = 0x2000;

fn load_default(image: &BzImage, mib: u64) -> Result<Loaded, LoadError> {
    let (map, file) = (pc_map(mib), image.bytes());
    load(&Request::new(&file, &map), &mut Ram::new(&map))
}

#[test]
fn a_kernel_with_everything() {
    let image = BzImage::default();
    let (map, file, initrd) = (pc_map(64), image.bytes(), vec![0x5a; 10_000]);
    let mut ram = Ram::new(&map);
    let request = Request {
        initrd: Some(&initrd),
        command_line: b"console=ttyS0",
        rsdp: Some(Gpa(0xf_1230)),
        ..Request::new(&file, &map)
    };
    let loaded = load(&request, &mut ram).unwrap();
    assert_eq!(loaded.format, Format::BzImage);
    assert_eq!(loaded.kernel, Range { start: 16 * MIB, end: 24 * MIB }, "init_size counts");
    assert_eq!(loaded.entry.rip, 16 * MIB + 0x200);
    assert_eq!(ram.read(16 * MIB, image.code), image.code_bytes());
    assert_eq!(loaded.entry.rsi, BOOT_PARAMS);

    // The initrd: as high as possible, on a page.
    let place = loaded.initrd.unwrap();
    assert_eq!(place, Range { start: 64 * MIB - 0x3000, end: 64 * MIB - 0x3000 + 10_000 });
    assert_eq!(ram.read(place.start, 10_000), initrd);
    assert_eq!(
        (u64::from(ram.u32_at(BOOT_PARAMS + 0x218)), ram.u32_at(BOOT_PARAMS + 0x21c)),
        (place.start, 10_000)
    );

    // The header is the file's, but for what the loader fills in.
    assert_eq!(ram.read(BOOT_PARAMS + 0x1fe, 2), [0x55, 0xaa]);
    assert_eq!(ram.read(BOOT_PARAMS + 0x202, 4), b"HdrS");
    assert_eq!(ram.read(BOOT_PARAMS + 0x210, 1), [0xff], "type_of_loader");
    assert_eq!(ram.u32_at(BOOT_PARAMS + 0x214), 16 << 20, "code32_start");
    assert_eq!(ram.u64_at(BOOT_PARAMS + 0x250), 0, "setup_data");
    assert_eq!(ram.u64_at(BOOT_PARAMS + 0x258), 16 * MIB, "pref_address");
    assert_eq!(ram.read(BOOT_PARAMS, 0x40), [0; 0x40], "nothing of the boot sector");
    assert_eq!(ram.read(BOOT_PARAMS + 0x1ef, 1), [0], "the sentinel is clear");
    assert_eq!(ram.read(BOOT_PARAMS + 0x26c, 0x24), [0; 0x24], "nothing past the header's end");
    assert_eq!(ram.u64_at(BOOT_PARAMS + 0x70), 0xf_1230, "acpi_rsdp_addr");

    let command_line = u64::from(ram.u32_at(BOOT_PARAMS + 0x228));
    assert_eq!(ram.read(command_line, 14), b"console=ttyS0\0");

    assert_eq!(ram.read(BOOT_PARAMS + 0x1e8, 1), [3]);
    for (index, entry) in map.iter().enumerate() {
        let at = BOOT_PARAMS + 0x2d0 + index as u64 * 20;
        let found = (ram.u64_at(at), ram.u64_at(at + 8), ram.u32_at(at + 16));
        assert_eq!(found, (entry.base.0, entry.length, entry.kind.0));
    }
}

#[test]
fn the_kernel_goes_where_it_prefers_or_above() {
    assert_eq!(load_default(&BzImage::default(), 32).unwrap().kernel.start, 16 * MIB);
    // A hole at the preferred address.
    let (mut map, file) = (pc_map(64), BzImage::default().bytes());
    map.push(region(17 * MIB, 0x1000, MemoryKind::RESERVED));
    let loaded = load(&Request::new(&file, &map), &mut Ram::new(&map)).unwrap();
    assert_eq!(loaded.kernel.start, 18 * MIB, "the next multiple of its alignment");
    // Too little memory.
    let error = load_default(&BzImage::default(), 20).unwrap_err();
    assert_eq!(error, LoadError::NoRoom { needed: 8 * MIB, available: 4 * MIB });
    assert!(format!("{error}").contains("give the VM more memory"));
    let fixed = BzImage { relocatable: false, ..BzImage::default() };
    assert_eq!(load_default(&fixed, 64).unwrap().kernel.start, 16 * MIB);
    let outside = LoadError::SegmentOutsideMemory { paddr: 16 * MIB, size: 8 * MIB };
    assert_eq!(load_default(&fixed, 20).unwrap_err(), outside);
}

#[test]
fn the_caller_can_place_a_relocatable_kernel() {
    let at = |image: BzImage, address| {
        let (map, file) = (pc_map(64), image.bytes());
        let request = Request { load_address: Some(Gpa(address)), ..Request::new(&file, &map) };
        load(&request, &mut Ram::new(&map)).map(|loaded| loaded.kernel.start)
    };
    let image = BzImage::default();
    assert_eq!(at(image, 32 * MIB), Ok(32 * MIB));
    assert_eq!(at(image, 33 * MIB), Err(LoadError::BadHeader { field: "kernel_alignment", raw: 0x20_0000 }));
    assert_eq!(at(image, 60 * MIB), Err(LoadError::SegmentOutsideMemory { paddr: 60 * MIB, size: 8 * MIB }));
    let fixed = BzImage { relocatable: false, ..image };
    assert_eq!(at(fixed, 32 * MIB), Err(LoadError::BadHeader { field: "relocatable_kernel", raw: 0 }));
    assert_eq!(at(fixed, 16 * MIB), Ok(16 * MIB));
}

#[test]
fn initrd_placement() {
    let place = |image: BzImage, map: &[crate::E820Entry], size: usize| {
        let (file, initrd) = (image.bytes(), vec![1; size]);
        let request = Request { initrd: Some(&initrd), ..Request::new(&file, map) };
        load(&request, &mut Ram::new(map)).map(|loaded| loaded.initrd.unwrap().start)
    };
    let image = BzImage::default();
    // initrd_addr_max is the last byte's address.
    let low = BzImage { initrd_addr_max: 40 * MIB as u32 - 1, ..image };
    assert_eq!(place(low, &pc_map(64), 0x1000), Ok(40 * MIB - 0x1000));
    // Below the kernel where there is no room above it: 24 MiB end where the kernel ends.
    assert_eq!(place(image, &pc_map(24), 0x1001), Ok(16 * MIB - 0x2000));
    // Never in low memory's boot structures, nor over a reserved spot inside RAM.
    let mut map = pc_map(64);
    map.push(region(64 * MIB - 0x2000, 0x1000, MemoryKind::ACPI));
    assert_eq!(place(image, &map, 0x1000), Ok(64 * MIB - 0x1000));
    assert_eq!(place(image, &map, 0x1800), Ok(64 * MIB - 0x4000));
    let does_not_fit = LoadError::ModuleDoesNotFit { size: 16 * MIB, limit: 0x8000_0000 };
    assert_eq!(place(image, &pc_map(24), 16 << 20), Err(does_not_fit));
    // Above 4 GiB if the kernel says that it follows.
    let mut map = pc_map(24);
    map.push(region(1 << 32, 32 * MIB, MemoryKind::RAM));
    assert_eq!(place(image, &map, 16 << 20), Ok((1 << 32) + 16 * MIB));
    let only_low = BzImage { xloadflags: 1, ..image };
    assert_eq!(place(only_low, &map, 16 << 20), Err(does_not_fit));
}

#[test]
fn an_initrd_above_4_gib_is_told_in_two_halves() {
    let mut map = pc_map(24);
    map.push(region(1 << 32, 32 * MIB, MemoryKind::RAM));
    let (file, initrd) = (BzImage::default().bytes(), vec![1; 16 << 20]);
    let request = Request { initrd: Some(&initrd), ..Request::new(&file, &map) };
    let mut ram = Ram::new(&map);
    load(&request, &mut ram).unwrap();
    assert_eq!((ram.u32_at(BOOT_PARAMS + 0x218), ram.u32_at(BOOT_PARAMS + 0xc0)), (16 << 20, 1));
    assert_eq!((ram.u32_at(BOOT_PARAMS + 0x21c), ram.u32_at(BOOT_PARAMS + 0xc4)), (16 << 20, 0));
}

#[test]
fn what_is_wrong_is_named() {
    let image = BzImage::default();
    let error = |image: BzImage| load_default(&image, 64).unwrap_err();
    assert_eq!(error(BzImage { version: 0x209, ..image }), LoadError::TooOld { version: 0x209 });
    let bad = |field, raw| LoadError::BadHeader { field, raw };
    assert_eq!(error(BzImage { loadflags: 0, ..image }), bad("loadflags", 0));
    assert_eq!(error(BzImage { alignment: 3 << 20, ..image }), bad("kernel_alignment", 3 << 20));
    assert_eq!(error(BzImage { alignment: 0, ..image }), bad("kernel_alignment", 0));
    assert_eq!(error(BzImage { init_size: 0, ..image }), bad("init_size", 0));
    assert_eq!(
        error(BzImage { pref_address: u64::MAX, ..image }),
        LoadError::NoRoom { needed: 8 * MIB, available: 0 }
    );
    let high = BzImage { pref_address: 1 << 32, ..image };
    let mut map = pc_map(64);
    map.push(region(1 << 32, 32 * MIB, MemoryKind::RAM));
    let error = load(&Request::new(&high.bytes(), &map), &mut Ram::new(&map)).unwrap_err();
    assert_eq!(error, LoadError::NotIdentityMapped { end: (1 << 32) + 8 * MIB });
}

#[test]
fn command_lines() {
    let run = |length: usize, cmdline_size| {
        let (map, file) = (pc_map(64), BzImage { cmdline_size, ..BzImage::default() }.bytes());
        let line = vec![b'x'; length];
        let mut ram = Ram::new(&map);
        let result = load(&Request { command_line: &line, ..Request::new(&file, &map) }, &mut ram);
        assert!(result.is_ok() || ram.is_untouched(), "an error comes before the first write");
        result.map(|_| ())
    };
    assert_eq!(run(2047, 2047), Ok(()));
    assert_eq!(run(2048, 2047), Err(LoadError::CommandLineTooLong { length: 2048, max: 2047 }));
    assert_eq!(run(4095, u32::MAX), Ok(()));
    assert_eq!(run(4096, u32::MAX), Err(LoadError::CommandLineTooLong { length: 4096, max: 4095 }));
}

#[test]
fn memory_maps() {
    let file = BzImage::default().bytes();
    let mut map = pc_map(64);
    map.resize(128, region(1 << 40, 0x1000, MemoryKind::RESERVED));
    let mut ram = Ram::new(&map);
    load(&Request::new(&file, &map), &mut ram).unwrap();
    assert_eq!(ram.read(BOOT_PARAMS + 0x1e8, 1), [128]);
    map.push(map[127]);
    let error = load(&Request::new(&file, &map), &mut Ram::new(&map)).unwrap_err();
    assert_eq!(error, LoadError::TooManyRegions { count: 129, max: 128 });
    for (base, good) in
        [(LOW_AREA.0, true), (0x8000, true), (0x8001, false), (0x9_6000, false), (1 << 32, false)]
    {
        let mut map = pc_map(64);
        map.push(region(1 << 32, MIB, MemoryKind::RAM));
        let request = Request { low_area: Gpa(base), ..Request::new(&file, &map) };
        let result = load(&request, &mut Ram::new(&map));
        let bad = LoadError::BadLowArea { gpa: Gpa(base) };
        assert_eq!(result.map(|_| ()), if good { Ok(()) } else { Err(bad) }, "{base:#x}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    let image = BzImage { code: 0x905, ..BzImage::default() };
    let file = image.bytes();
    let map = pc_map(64);
    for length in 0..file.len() {
        let mut ram = Ram::new(&map);
        let result = load(&Request::new(&file[..length], &map), &mut ram);
        // syssize counts paragraphs, so up to 15 bytes may be missing unseen.
        if file.len() - length + (16 - image.code % 16) >= 16 {
            let error = result.expect_err("a truncated image");
            let named = matches!(error, LoadError::Truncated { .. } | LoadError::NotAKernel { .. });
            assert!(named, "{length}: {error:?}");
            assert!(ram.is_untouched());
        }
    }
    let cut = &file[..file.len() - 0x100];
    let error = load(&Request::new(cut, &map), &mut Ram::new(&map)).unwrap_err();
    let have = cut.len() as u64;
    assert_eq!(error, LoadError::Truncated { part: Part::ProtectedModeCode, wanted: 2048 + 0x910, have });
    // Appended signatures do no harm, and are not copied.
    let mut longer = file.clone();
    longer.extend([0xee; 64]);
    let mut ram = Ram::new(&map);
    load(&Request::new(&longer, &map), &mut ram).unwrap();
    assert_ne!(ram.read(16 * MIB + 0x910, 1), [0xee]);
}

#[test]
fn other_files_are_refused_by_their_first_bytes() {
    let map = pc_map(64);
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0];
    let error = load(&Request::new(&gzip, &map), &mut Ram::new(&map)).unwrap_err();
    assert_eq!(error, LoadError::NotAKernel { magic: 0x0008_8b1f });
    assert!(format!("{error}").contains("[1f, 8b, 08, 00]"), "{error}");
    // Four sectors of setup where the header says none.
    let old = BzImage { setup_sects: 0, ..BzImage::default() };
    assert!(load_default(&old, 64).is_ok());
}
