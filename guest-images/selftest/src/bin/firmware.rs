//! The devices that a VM's line switches on: the firmware configuration device with the file `opt/test` (its content begins
//! with "content of a file"), the console at port 0xe9, and the debug-exit port, by which this guest ends.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests use string instructions, which only assembly can spell.
#![allow(unsafe_code)]

use selftest::cpu::{self, inb, inl, outb, outl, outw};
use selftest::memory::{self, PAGE};
use selftest::{Test, TestResult, boot, check, check_eq, probe, tests};

selftest::program!({
    selftest::runner::run_group("firmware", &[TESTS]);
    outl(DEBUG_EXIT, 0x1234);
});

const TESTS: &[Test] = tests![
    signatures,
    features,
    directory_names_the_file,
    file_by_ports,
    file_by_string_instruction,
    file_by_dma,
    long_transfer,
    refused_transfers,
    memory_map_file,
    command_line_item,
    debug_console_says_that_it_is_there,
    debug_console_in_a_string,
    debug_exit_reads_zero,
];

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA_HIGH: u16 = 0x514;
const DMA_LOW: u16 = 0x518;
const DEBUG_CONSOLE: u16 = 0xe9;
const DEBUG_EXIT: u16 = 0x501;

const FILE: &[u8] = b"opt/test";
const CONTENT: &[u8] = b"content of a file";

const ID: u16 = 1;
const CMDLINE_SIZE: u16 = 0x14;
const CMDLINE_DATA: u16 = 0x15;
const DIRECTORY: u16 = 0x19;

const ERROR: u32 = 1;
const READ: u32 = 2;
const SELECT: u32 = 8;
const WRITE: u32 = 16;

fn select(key: u16) {
    outw(SELECTOR, key);
}

fn read<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().for_each(|byte| *byte = inb(DATA));
    bytes
}

/// Number and size of a file.
fn find(name: &[u8]) -> Option<(u16, u32)> {
    select(DIRECTORY);
    let count = u32::from_be_bytes(read());
    let mut found = None;
    for _ in 0..count.min(100) {
        let size = u32::from_be_bytes(read());
        let key = u16::from_be_bytes(read());
        let _reserved: [u8; 2] = read();
        let field: [u8; 56] = read();
        if field.starts_with(name) && field[name.len()] == 0 {
            found = Some((key, size));
        }
    }
    found
}

/// Carries out a transfer by a description at the start of `page`. Gives its control field afterwards.
fn transfer(page: u64, control: u32, length: u32, target: u64) -> u32 {
    cpu::write32(page, control.to_be());
    cpu::write32(page + 4, length.to_be());
    cpu::write64(page + 8, target.to_be());
    outl(DMA_HIGH, ((page >> 32) as u32).to_be());
    outl(DMA_LOW, (page as u32).to_be());
    // The device may take its time: all bits but that of an error are clear in the end.
    for _ in 0..1_000_000 {
        if u32::from_be(cpu::read32(page)) & !ERROR == 0 {
            break;
        }
    }
    u32::from_be(cpu::read32(page))
}

fn signatures() -> TestResult {
    select(0);
    check_eq!(u32::from_le_bytes(read()), u32::from_le_bytes(*b"QEMU"), "item 0");
    check_eq!(inl(DMA_HIGH), u32::from_le_bytes(*b"QEMU"), "the DMA register's upper half");
    check_eq!(inl(DMA_LOW), u32::from_le_bytes(*b" CFG"), "the DMA register's lower half");
    Ok(())
}

fn features() -> TestResult {
    select(ID);
    check_eq!(u32::from_le_bytes(read()), 3, "the features");
    Ok(())
}

fn directory_names_the_file() -> TestResult {
    let found = find(FILE);
    check!(found.is_some_and(|(key, size)| key >= 0x20 && size as usize >= CONTENT.len()), "{found:?}");
    check!(find(b"opt/other").is_none(), "a file that nobody gave");
    Ok(())
}

fn file_by_ports() -> TestResult {
    let (key, size) = find(FILE).unwrap_or_default();
    select(key);
    let bytes: [u8; CONTENT.len()] = read();
    check!(bytes == *CONTENT, "{bytes:x?}");
    for _ in CONTENT.len()..size as usize {
        inb(DATA);
    }
    check_eq!(inb(DATA), 0, "the byte behind the end");
    Ok(())
}

fn file_by_string_instruction() -> TestResult {
    let (key, _) = find(FILE).unwrap_or_default();
    let page = memory::page();
    select(key);
    probe!("rep insb", inout("rdi") page => _, inout("rcx") CONTENT.len() => _, in("dx") DATA);
    for (index, byte) in CONTENT.iter().enumerate() {
        check_eq!(cpu::read8(page + index as u64), *byte, "byte {index}");
    }
    Ok(())
}

fn file_by_dma() -> TestResult {
    let (key, size) = find(FILE).unwrap_or_default();
    let (page, target) = (memory::page(), memory::page());
    check_eq!(transfer(page, u32::from(key) << 16 | SELECT | READ, size, target + 3), 0, "control");
    for (index, byte) in CONTENT.iter().enumerate() {
        check_eq!(cpu::read8(target + 3 + index as u64), *byte, "byte {index}");
    }
    Ok(())
}

fn long_transfer() -> TestResult {
    // Behind the file's end come zeros: 2 MiB less 1 of them, across many steps of the device.
    const PAGES: u64 = 512;
    let (page, target) = (memory::page(), memory::pages(PAGES));
    let length = PAGES * PAGE - 1;
    cpu::write64(target + PAGES * PAGE - 8, u64::MAX);
    cpu::write64(target + 0x10_0000, u64::MAX);
    check_eq!(transfer(page, 0x7fff << 16 | SELECT | READ, length as u32, target), 0, "control");
    check_eq!(cpu::read64(target + 0x10_0000), 0, "memory in the middle");
    check_eq!(cpu::read64(target + PAGES * PAGE - 8), 0xff << 56, "memory at the end");
    Ok(())
}

fn refused_transfers() -> TestResult {
    let page = memory::page();
    check_eq!(transfer(page, WRITE, 4, page + 16), ERROR, "control after a write");
    check_eq!(transfer(page, READ, 4, 0xd000_0000), ERROR, "control after a copy to nowhere");
    check_eq!(transfer(page, READ, 4, u64::MAX - 1), ERROR, "control after a copy past the end");
    Ok(())
}

fn memory_map_file() -> TestResult {
    let Some((key, size)) = find(b"etc/e820") else {
        return Err(selftest::verdict::fail(format_args!("there is none")));
    };
    check_eq!(size as usize, boot::regions().len() * 20, "bytes of the map");
    select(key);
    for region in boot::regions() {
        check_eq!(u64::from_le_bytes(read()), region.start, "start");
        check_eq!(u64::from_le_bytes(read()), region.end - region.start, "length");
        check_eq!(u32::from_le_bytes(read()), region.kind, "type");
    }
    Ok(())
}

fn command_line_item() -> TestResult {
    select(CMDLINE_SIZE);
    check_eq!(u32::from_le_bytes(read()) as usize, boot::command_line().len() + 1, "its size");
    select(CMDLINE_DATA);
    for byte in boot::command_line().bytes().chain([0]) {
        check_eq!(inb(DATA), byte, "a byte of it");
    }
    Ok(())
}

fn debug_console_says_that_it_is_there() -> TestResult {
    check_eq!(inb(DEBUG_CONSOLE), 0xe9, "its port");
    for byte in b"hello by port e9\n" {
        outb(DEBUG_CONSOLE, *byte);
    }
    Ok(())
}

fn debug_console_in_a_string() -> TestResult {
    let text = b"hello by a string\n";
    let page = memory::page();
    memory::store(page, text);
    probe!("rep outsb", inout("rsi") page => _, inout("rcx") text.len() => _, in("dx") DEBUG_CONSOLE);
    Ok(())
}

fn debug_exit_reads_zero() -> TestResult {
    check_eq!(inl(DEBUG_EXIT), 0, "its port");
    Ok(())
}
