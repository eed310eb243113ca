use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const FILE: u32 = 0o100_644;
const FOLDER: u32 = 0o040_755;

/// A cpio file with these members: name, mode, content.
fn cpio(members: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = ("TRAILER!!!", 0, &b""[..]);
    for (name, mode, content) in members.iter().chain([&end]) {
        bytes.extend(b"070701");
        let numbers = [7, *mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        numbers.iter().for_each(|number| bytes.extend(format!("{number:08X}").bytes()));
        bytes.extend(name.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn with_list(list: &str) -> Vec<u8> {
    cpio(&[
        (LIST, FILE, list.as_bytes()),
        ("guests", FOLDER, b""),
        ("guests/k", FILE, b"kernel"),
        ("i", FILE, b"initrd"),
    ])
}

fn error_of(bytes: &[u8]) -> String {
    Archive::open(bytes).map(|_| ()).expect_err("refused").to_string()
}

#[test]
fn modules_options_and_remarks_are_read() {
    let list = "# two modules\r\n\n  options loglevel=debug  end=poweroff \n\
        module guests/k  vm=demo kernel -- console=ttyS0  x\nmodule ./i\tvm=demo initrd\nmodule i vm=b initrd";
    let bytes = with_list(list);
    assert!(is_archive(&bytes));
    let archive = Archive::open(&bytes).expect("whole");
    assert_eq!(archive.options(), "loglevel=debug  end=poweroff");
    let modules: Vec<_> = archive.modules().map(|module| (module.line, module.bytes)).collect();
    assert_eq!(
        modules,
        [
            ("vm=demo kernel -- console=ttyS0  x", &b"kernel"[..]),
            ("vm=demo initrd", b"initrd"),
            ("vm=b initrd", b"initrd"),
        ]
    );
}

#[test]
fn a_list_may_be_empty() {
    let bytes = with_list("");
    let archive = Archive::open(&bytes).expect("whole");
    assert_eq!((archive.options(), archive.modules().count()), ("", 0));
}

#[test]
fn each_defect_has_its_words() {
    let cases = [
        (with_list("modul i vm=a"), "'modul i vm=a'"),
        (with_list("module"), "'module'"),
        (with_list("options a=1\noptions b=2"), "two lines"),
        (with_list("module k vm=a kernel"), "no member 'k'"),
        (with_list("module guests vm=a kernel"), "no ordinary file"),
        (cpio(&[(LIST, FILE, b"module e vm=a"), ("e", FILE, b"")]), "empty"),
        (cpio(&[("bin/sh", FILE, b"x"), (LIST, FILE, b"")]), "begins with 'bin/sh'"),
        (cpio(&[(LIST, FILE, &[0xff])]), "UTF-8"),
        (cpio(&[(LIST, FILE, &vec![b'\n'; MAX_LIST_BYTES + 1])]), "allowed"),
        (cpio(&vec![(LIST, FILE, &b""[..]); MAX_MEMBERS]), "more than"),
        (b"\x7fELF".to_vec(), "no cpio file"),
        (vec![], "no cpio file"),
    ];
    for (bytes, words) in cases {
        let error = error_of(&bytes);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_guests_initial_file_system_is_no_boot_archive() {
    assert!(!is_archive(&cpio(&[("init", FILE, b"#!/bin/sh")])));
    assert!(!is_archive(b""));
}

#[test]
fn every_truncation_is_refused() {
    let bytes = with_list("module guests/k vm=demo kernel");
    // The last member's name may be followed by nothing.
    let end = bytes.len() - 4;
    for length in 0..end {
        assert!(Archive::open(&bytes[..length]).is_err(), "{length}");
    }
}

/// Any list and members, which are then damaged somewhere.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let line = "(module|options|#)? ?(i|guests/k|\\./i|k)? [ -~]{0,20}\n";
    let list = proptest::collection::vec(line, 0..6).prop_map(|lines| lines.concat());
    let damage = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4);
    (list, damage).prop_map(|(list, damage)| {
        let mut bytes = with_list(&list);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn damage_is_refused_or_harmless(bytes in damaged()) {
        fuzz::fuzz_one(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz::fuzz_one(&bytes);
    }

    #[test]
    fn what_is_packed_comes_out(
        contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 1..8),
    ) {
        let names: Vec<_> = (0..contents.len()).map(|index| format!("m{index}")).collect();
        let list: String = names.iter().map(|name| format!("module {name} line of {name}\n")).collect();
        let mut members = vec![(LIST, FILE, list.as_bytes())];
        members.extend(names.iter().zip(&contents).map(|(name, content)| (name.as_str(), FILE, content.as_slice())));
        let bytes = cpio(&members);
        let archive = Archive::open(&bytes).unwrap();
        let found: Vec<_> = archive.modules().map(|module| (module.line.to_string(), module.bytes.to_vec())).collect();
        let wanted: Vec<_> = names.iter().map(|name| format!("line of {name}")).zip(contents).collect();
        prop_assert_eq!(found, wanted);
    }
}
