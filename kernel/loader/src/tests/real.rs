//! Real kernels, where the environment names their files.

use std::{eprintln, vec};

use super::images::*;
use crate::{Format, Request, load};

const BOOT_PARAMS: u64 = 0x2000;

fn check(variable: &str, format: Format) {
    let Some(path) = std::env::var_os(variable) else {
        eprintln!("{variable} names no file; nothing tested");
        return;
    };
    let file = std::fs::read(path).unwrap();
    let (map, initrd) = (pc_map(256), vec![0x77; 1 << 20]);
    let mut ram = Ram::new(&map);
    let request =
        Request { initrd: Some(&initrd), command_line: b"console=ttyS0", ..Request::new(&file, &map) };
    let loaded = load(&request, &mut ram).unwrap();
    eprintln!("{loaded:x?}");
    assert_eq!(loaded.format, format);
    assert!(loaded.kernel.contains(loaded.entry.rip));
    assert!(loaded.kernel.size() > 16 * MIB, "a distribution kernel is large");
    assert_eq!(loaded.kernel.start % (2 * MIB), 0);
    assert_eq!(ram.read(BOOT_PARAMS + 0x202, 4), b"HdrS");
    assert!(!loaded.initrd.unwrap().overlaps(loaded.kernel));
    assert!(
        ram.read(loaded.entry.rip, 16).iter().any(|byte| *byte != 0 && *byte != 0xa5),
        "code at the entry"
    );
}

#[test]
fn a_real_vmlinux() {
    check("BASALT_TEST_VMLINUX", Format::Elf64);
}

#[test]
fn a_real_bzimage() {
    check("BASALT_TEST_BZIMAGE", Format::BzImage);
}
