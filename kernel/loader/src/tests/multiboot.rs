//! Multiboot images.

use std::vec::Vec;

use super::images::*;
use crate::{BootModule, Format, LoadError, Part, Protocol, Range, Request, load};

const BASE: u32 = MIB as u32;
const ADDRESSES: u32 = 1 << 16;

fn load_file(file: &[u8]) -> Result<crate::Loaded, LoadError> {
    let map = pc_map(64);
    load(&Request::new(file, &map), &mut Ram::new(&map))
}

fn elf_kernel(flags: u32) -> Vec<u8> {
    let mut code = multiboot_header(flags, [0; 5]);
    code.extend(b"code");
    elf32(BASE + 32, &[], &[Load { vaddr: MIB, ..Load::new(MIB, &code) }])
}

/// A file with this before its header, and the address fields.
fn flat(before: &[u8], addresses: [u32; 5]) -> Vec<u8> {
    let mut file = before.to_vec();
    file.extend(multiboot_header(ADDRESSES | 3, addresses));
    file.extend(b"the code");
    file
}

#[test]
fn boot_information() {
    let (map, file) = (pc_map(64), elf_kernel(3));
    let modules = [BootModule { bytes: b"content", command_line: b"its line" }];
    let screen = Some(crate::TextScreen { base: vcpu::Gpa(0xb_8000), columns: 80, rows: 25 });
    let request = Request {
        initrd: Some(b"initrd"),
        modules: &modules,
        command_line: b"-x y",
        screen,
        ..Request::new(&file, &map)
    };
    let mut ram = Ram::new(&map);
    let loaded = load(&request, &mut ram).unwrap();
    assert_eq!((loaded.format, loaded.protocol), (Format::Elf32, Protocol::Multiboot));
    let entry = loaded.entry;
    assert_eq!((entry.rip, entry.rax), (MIB + 32, 0x2bad_b002));
    assert_eq!((entry.cr0, entry.cr4, entry.efer), (0x11, 0, 0));
    let word = |offset| u64::from(ram.u32_at(entry.rbx + offset));
    assert_eq!(word(0), 0x124d, "flags");
    assert_eq!((word(4), word(8)), (639, 63 << 10), "KiB of lower and upper memory");
    assert_eq!(ram.read(word(16), 5), b"-x y\0");
    assert_eq!(ram.read(word(64), 7), b"Basalt\0");
    assert_eq!((ram.u64_at(entry.rbx + 88), word(96), word(100), word(104)), (0xb_8000, 160, 80, 25));
    assert_eq!(ram.read(entry.rbx + 108, 2), [16, 2]);
    assert_eq!(word(20), 2, "modules");
    let module = |index: u64, field: u64| u64::from(ram.u32_at(word(24) + index * 16 + field * 4));
    assert_eq!(ram.read(module(0, 0), 6), b"initrd");
    assert_eq!(module(0, 1) - module(0, 0), 6);
    assert_eq!(ram.read(module(0, 2), 1), [0], "the initrd's line is empty");
    assert_eq!(ram.read(module(1, 0), 7), b"content");
    assert_eq!(module(1, 0) % 4096, 0, "modules begin on a page");
    assert_eq!(ram.read(module(1, 2), 9), b"its line\0");
    assert_eq!(word(44), 3 * 24, "bytes of the memory map");
    for (index, region) in map.iter().enumerate() {
        let at = word(48) + index as u64 * 24;
        assert_eq!((ram.u32_at(at), ram.u32_at(at + 20)), (20, region.kind.0));
        assert_eq!((ram.u64_at(at + 4), ram.u64_at(at + 12)), (region.base.0, region.length));
    }
}

#[test]
fn a_64_bit_elf_file_can_be_a_multiboot_image() {
    let file = elf(MIB + 32, &[Load::new(MIB, &[multiboot_header(0, [0; 5]), Vec::from(b"code")].concat())]);
    let map = pc_map(64);
    let request = Request { protocol: Some(Protocol::Multiboot), ..Request::new(&file, &map) };
    let loaded = load(&request, &mut Ram::new(&map)).unwrap();
    assert_eq!((loaded.format, loaded.entry.rip, loaded.entry.efer), (Format::Elf64, MIB + 32, 0));
}

#[test]
fn address_fields_tell_where_a_file_goes() {
    // The image starts 8 bytes into the file, 4 bytes before the header.
    let file = flat(b"12345678four", [BASE + 4, BASE, BASE + 44, BASE + 100, BASE + 36]);
    let map = pc_map(64);
    let mut ram = Ram::new(&map);
    let loaded = load(&Request::new(&file, &map), &mut ram).unwrap();
    assert_eq!((loaded.format, loaded.protocol), (Format::Flat, Protocol::Multiboot));
    assert_eq!(loaded.kernel, Range { start: MIB, end: MIB + 100 });
    assert_eq!(loaded.entry.rip, MIB + 36);
    assert_eq!(ram.read(MIB, 4), b"four");
    assert_eq!(ram.read(MIB + 36, 8), b"the code");
    assert_eq!(ram.read(MIB + 44, 57), [[0; 56].as_slice(), &[0xa5]].concat());
    // Ends that are zero: the whole file, and nothing behind it.
    let file = flat(b"", [BASE, BASE, 0, 0, BASE + 32]);
    assert_eq!(load_file(&file).unwrap().kernel, Range { start: MIB, end: MIB + 40 });
    // An ELF file with address fields goes by these.
    let mut file = elf_kernel(3);
    file.splice(84..84, multiboot_header(ADDRESSES, [BASE + 84, BASE, 0, 0, BASE + 90]));
    assert_eq!(load_file(&file).unwrap().entry.rip, MIB + 90);
}

#[test]
fn headers_that_cannot_be() {
    let one = |addresses| load_file(&flat(b"", addresses)).map(|_| ());
    let bad = |field, raw: u32| Err(LoadError::BadHeader { field, raw: raw.into() });
    assert_eq!(one([BASE - 4, BASE, 0, 0, BASE]), bad("header_addr", BASE - 4));
    assert_eq!(one([BASE + 4, BASE, 0, 0, BASE]), bad("header_addr", BASE + 4), "before the file");
    assert_eq!(one([BASE, BASE, BASE - 1, 0, BASE]), bad("load_end_addr", BASE - 1));
    assert_eq!(one([BASE, BASE, 0, BASE + 4, BASE]), bad("bss_end_addr", BASE + 4));
    assert_eq!(
        one([BASE, BASE, 0, 0, BASE - 1]),
        Err(LoadError::EntryOutsideKernel { entry: (BASE - 1).into() })
    );
    let beyond = LoadError::Truncated { part: Part::Segment, wanted: 0x1000, have: 40 };
    assert_eq!(one([BASE, BASE, BASE + 0x1000, 0, BASE]), Err(beyond));
    let low = LoadError::Overlap { paddr: 0x8000, size: 40 };
    assert_eq!(one([0x8000, 0x8000, 0, 0, 0x8000]), Err(low));
    let outside = LoadError::SegmentOutsideMemory { paddr: MIB, size: 0x1000_0000 };
    assert_eq!(one([BASE, BASE, 0, BASE + 0x1000_0000, BASE]), Err(outside));
    assert_eq!(load_file(&elf_kernel(0x108)).unwrap_err(), LoadError::UnknownRequirement { flags: 0x108 });
    assert!(load_file(&elf_kernel(7)).is_ok(), "a video mode is only wished for");
}

#[test]
fn headers_are_found_in_the_first_8_kib_on_multiples_of_four() {
    let at = |offset: u32| {
        let file = flat(&std::vec![0x90; offset as usize], [BASE + offset, BASE, 0, 0, BASE]);
        load_file(&file).map(|_| ())
    };
    assert_eq!(at(8192 - 32), Ok(()));
    let none = Err(LoadError::NotAKernel { magic: 0x9090_9090 });
    assert_eq!(at(8192), none);
    assert_eq!(at(2), Err(LoadError::NotAKernel { magic: 0xb002_9090 }));
    let mut wrong_sum = flat(b"", [BASE, BASE, 0, 0, BASE]);
    wrong_sum[8] ^= 1;
    assert_eq!(load_file(&wrong_sum).map(|_| ()), Err(LoadError::NotAKernel { magic: 0x1bad_b002 }));
}
