//! 32-bit entries: PVH, and Linux where it has no 64-bit entry.

use std::vec;

use super::images::*;
use crate::{BootModule, Format, LoadError, MAX_MODULES, Protocol, Request, default_protocol, load};

const ENTRY: u64 = MIB + 8;

fn notes() -> vec::Vec<u8> {
    let mut notes = note(b"Linux\0", 18, &[1; 4]);
    notes.extend(note(b"Xen\0", 5, b"xen-3.0\0"));
    notes.extend(note(b"Xen\0", 18, &(ENTRY as u32).to_le_bytes()));
    notes
}

fn kernel() -> vec::Vec<u8> {
    elf32(MIB as u32, &notes(), &[Load::new(MIB, b"code is here"), Load::new(3 * MIB, b"data")])
}

/// What a CPU in flat 32-bit protected mode has, as all these protocols want it.
fn check_protected(ram: &Ram, entry: &crate::EntryState) {
    assert_eq!((entry.cr0, entry.cr3, entry.cr4, entry.efer), (0x11, 0, 0, 0));
    assert_eq!(entry.rflags, 2, "interrupts off");
    assert_eq!((entry.code.attributes, entry.data.attributes), (0xc09b, 0xc093));
    for segment in [entry.code, entry.data] {
        assert_eq!((segment.base, segment.limit), (0, u32::MAX));
        let descriptor = ram.read(entry.gdt_base + u64::from(segment.selector), 8);
        assert_eq!(u32::from(descriptor[5]), segment.attributes & 0xff);
        assert_eq!(descriptor[6], 0xcf);
    }
    assert_eq!(ram.read(entry.rsp - 8, 8), [0; 8], "a stack that can be pushed to");
}

#[test]
fn pvh_start_info() {
    let (map, file) = (pc_map(64), kernel());
    let (initrd, first) = (vec![3; 5000], vec![4; 100]);
    let modules = [
        BootModule { bytes: &first, command_line: b"first module" },
        BootModule { bytes: &[], command_line: b"" },
    ];
    let request = Request {
        initrd: Some(&initrd),
        modules: &modules,
        command_line: b"quiet",
        rsdp: Some(vcpu::Gpa(0xf_1230)),
        ..Request::new(&file, &map)
    };
    let mut ram = Ram::new(&map);
    let loaded = load(&request, &mut ram).unwrap();
    assert_eq!((loaded.format, loaded.protocol), (Format::Elf32, Protocol::Pvh));
    assert_eq!((loaded.entry.rip, loaded.entry.rax, loaded.entry.rsi), (ENTRY, 0, 0));
    check_protected(&ram, &loaded.entry);
    let info = loaded.entry.rbx;
    assert_eq!((ram.u32_at(info), ram.u32_at(info + 4)), (0x336e_c578, 1));
    assert_eq!((ram.u32_at(info + 8), ram.u32_at(info + 12)), (0, 3), "flags, modules");
    assert_eq!(ram.read(ram.u64_at(info + 24), 6), b"quiet\0");
    assert_eq!(ram.u64_at(info + 32), 0xf_1230);
    let list = ram.u64_at(info + 16);
    let module = |index: u64| (ram.u64_at(list + index * 32), ram.u64_at(list + index * 32 + 8));
    assert_eq!(module(0), (64 * MIB - 0x2000, 5000), "the initrd is the first");
    assert_eq!(ram.u64_at(list + 16), 0, "and has no line");
    assert_eq!(loaded.initrd.unwrap().start, module(0).0);
    assert_eq!(module(1).1, 100);
    assert_eq!(ram.read(module(1).0, 100), first);
    assert_eq!(ram.read(ram.u64_at(list + 32 + 16), 13), b"first module\0");
    assert_eq!(module(2).1, 0);
    let (table, count) = (ram.u64_at(info + 40), ram.u32_at(info + 48));
    assert_eq!(count, 3);
    for (index, entry) in map.iter().enumerate() {
        let at = table + index as u64 * 24;
        assert_eq!((ram.u64_at(at), ram.u64_at(at + 8)), (entry.base.0, entry.length));
        assert_eq!((ram.u32_at(at + 16), ram.u32_at(at + 20)), (entry.kind.0, 0));
    }
}

#[test]
fn a_64_bit_kernel_starts_as_linux_unless_told() {
    let file = elf(16 * MIB, &[Load::new(16 * MIB, b"code")]);
    assert_eq!(default_protocol(&file), Ok(Protocol::Linux));
    let map = pc_map(64);
    let error = |protocol| {
        let request = Request { protocol: Some(protocol), ..Request::new(&file, &map) };
        load(&request, &mut Ram::new(&map)).unwrap_err()
    };
    assert!(matches!(error(Protocol::Pvh), LoadError::Truncated { .. }), "its note is nonsense");
    assert_eq!(error(Protocol::Multiboot), LoadError::NoMultibootHeader);
    let file = elf32(MIB as u32, &notes()[..20], &[Load::new(MIB, b"code")]);
    assert_eq!(default_protocol(&file), Err(LoadError::NoProtocol));
    assert_eq!(default_protocol(&kernel()), Ok(Protocol::Pvh));
    let request = Request { protocol: Some(Protocol::Pvh), ..Request::new(&file, &map) };
    assert_eq!(load(&request, &mut Ram::new(&map)).unwrap_err(), LoadError::NoPvhEntry);
    let wrong = LoadError::WrongProtocol { format: Format::Elf32, protocol: Protocol::Linux };
    let request = Request { protocol: Some(Protocol::Linux), ..Request::new(&file, &map) };
    assert_eq!(load(&request, &mut Ram::new(&map)).unwrap_err(), wrong);
}

#[test]
fn notes_of_any_shape() {
    let map = pc_map(64);
    let entry = |notes: &[u8]| {
        let file = elf32(MIB as u32, notes, &[Load::new(MIB, b"code is here")]);
        let request = Request { protocol: Some(Protocol::Pvh), ..Request::new(&file, &map) };
        load(&request, &mut Ram::new(&map)).map(|loaded| loaded.entry.rip)
    };
    assert_eq!(entry(&notes()), Ok(ENTRY));
    assert_eq!(entry(&note(b"Xen\0", 18, &ENTRY.to_le_bytes())), Ok(ENTRY), "eight bytes");
    assert_eq!(entry(&note(b"Xen\0", 18, b"??")), Err(LoadError::NoPvhEntry));
    for length in 0..notes().len() {
        assert_eq!(entry(&notes()[..length]), Err(LoadError::NoPvhEntry), "{length}");
    }
    let huge = [4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 18, 0, 0, 0, b'X', b'e', b'n', 0];
    assert_eq!(entry(&huge), Err(LoadError::NoPvhEntry));
    let outside = note(b"Xen\0", 18, &0x1234_u32.to_le_bytes());
    assert_eq!(entry(&outside), Err(LoadError::EntryOutsideKernel { entry: 0x1234 }));
}

#[test]
fn linux_without_a_64_bit_entry() {
    let map = pc_map(64);
    for (version, xloadflags) in [(0x20f, 2), (0x20a, 0xffff)] {
        let file = BzImage { version, xloadflags, ..BzImage::default() }.bytes();
        let mut ram = Ram::new(&map);
        let loaded = load(&Request::new(&file, &map), &mut ram).unwrap();
        assert_eq!(loaded.entry.rip, 16 * MIB, "the start of the protected-mode code");
        assert_eq!((loaded.entry.rax, loaded.entry.rbx), (0, 0));
        assert_eq!(ram.read(loaded.entry.rsi + 0x202, 4), b"HdrS");
        check_protected(&ram, &loaded.entry);
    }
}

#[test]
fn a_text_screen_is_told() {
    let map = pc_map(64);
    let file = BzImage::default().bytes();
    let screen = Some(crate::TextScreen { base: vcpu::Gpa(0xb_8000), columns: 80, rows: 25 });
    let mut ram = Ram::new(&map);
    let loaded = load(&Request { screen, ..Request::new(&file, &map) }, &mut ram).unwrap();
    let byte = |offset| ram.read(loaded.entry.rsi + offset, 1)[0];
    assert_eq!([0, 1, 6, 7, 0xe, 0xf, 0x10, 0x11].map(byte), [0, 0, 3, 80, 25, 1, 16, 0]);
}

#[test]
fn linux_is_told_of_a_framebuffer() {
    let map = pc_map(64);
    let file = BzImage::default().bytes();
    let framebuffer = vcpu::Framebuffer {
        address: 0x80_fd00_0000,
        pitch: 5120,
        width: 1280,
        height: 800,
        bits: 32,
        fields: [(16, 8), (8, 8), (0, 8)],
    };
    let read = |framebuffer| {
        let mut ram = Ram::new(&map);
        let request = Request { framebuffer: Some(framebuffer), ..Request::new(&file, &map) };
        let loaded = load(&request, &mut ram).unwrap();
        ram.read(loaded.entry.rsi, 0x40)
    };
    let info = read(framebuffer);
    let word = |offset: usize| u16::from_le_bytes([info[offset], info[offset + 1]]);
    assert_eq!([0x12, 0x14, 0x16, 0x24].map(word), [1280, 800, 32, 5120]);
    assert_eq!((info[0xf], word(0x18), word(0x1a), word(0x3a)), (0x23, 0, 0xfd00, 0x80));
    assert_eq!((word(0x1c), word(0x36)), (63, 2));
    assert_eq!(info[0x26..0x2c], [8, 16, 8, 8, 8, 0]);
    let too_wide = read(vcpu::Framebuffer { width: 70_000, ..framebuffer });
    assert_eq!(too_wide[0xf], 0, "nothing is told that would be wrong");
}

#[test]
fn too_many_companions() {
    let (map, file) = (pc_map(64), kernel());
    let module = BootModule { bytes: b"x", command_line: &[b'y'; 2000] };
    let modules = [module; MAX_MODULES + 1];
    let error = |modules: &[BootModule<'_>], file: &[u8]| {
        load(&Request { modules, ..Request::new(file, &map) }, &mut Ram::new(&map)).unwrap_err()
    };
    let short = [BootModule { command_line: b"", ..module }; MAX_MODULES + 1];
    let too_many = LoadError::TooManyModules { count: MAX_MODULES + 1, max: MAX_MODULES };
    assert_eq!(error(&short, &file), too_many);
    let too_long = LoadError::ModuleLinesTooLong { length: 13 * 2001, max: 0x6000 };
    assert_eq!(error(&modules[..13], &file), too_long);
    let linux = BzImage::default().bytes();
    assert_eq!(error(&modules[..2], &linux), LoadError::ModulesNotTaken { count: 2 });
    let request = Request { modules: &modules[..12], ..Request::new(&file, &map) };
    assert!(load(&request, &mut Ram::new(&map)).is_ok());
}

#[test]
fn above_4_gib_no_32_bit_entry_reaches() {
    let high = 1_u64 << 32;
    let mut map = pc_map(64);
    map.push(region(high, 64 * MIB, crate::MemoryKind::RAM));
    let file = kernel();
    let request = Request { load_address: Some(vcpu::Gpa(high)), ..Request::new(&file, &map) };
    let error = load(&request, &mut Ram::new(&map)).unwrap_err();
    assert_eq!(error, LoadError::Above4Gib { end: high + 2 * MIB + 0x104 });
}
