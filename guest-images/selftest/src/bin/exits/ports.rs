//! IN, OUT, INS, OUTS (SDM vol. 1, "Input/Output"). The UART's scratch register stands for a device that remembers.

use selftest::cpu::{self, flag, inb, inl, inw, outb, outl, outw};
use selftest::exception::vector::{GP, PF};
use selftest::memory::{self, PAGE};
use selftest::paging::{self, P, W};
use selftest::serial::COM1;
use selftest::{Test, TestResult, check, check_eq, exception, expect_exception, probe, snippet, tests, user};

pub(crate) const TESTS: &[Test] = tests![
    port_0x80_takes_all_sizes,
    unclaimed_port_reads_all_ones,
    in_keeps_or_clears_upper_parts,
    immediate_and_dx_forms,
    scratch_register_round_trip,
    rep_outsb,
    rep_insb,
    string_io_word_and_dword,
    string_io_backwards,
    string_io_count_zero,
    string_io_32_bit_addresses,
    outs_segment_override,
    string_io_across_scattered_pages,
    ins_page_fault_is_precise,
    outs_page_fault_is_precise,
    ins_read_only_page_faults,
    long_string_io_ends,
    port_access_from_user_needs_iopl,
];

const SCRATCH: u16 = COM1 + 7;
/// A port that no device of a PC claims.
const UNCLAIMED: u16 = 0x0e50;

fn port_0x80_takes_all_sizes() -> TestResult {
    outb(0x80, 0x12);
    outw(0x80, 0x1234);
    outl(0x80, 0x1234_5678);
    for i in 0..1000_u32 {
        outb(0x80, i as u8);
    }
    Ok(())
}

fn unclaimed_port_reads_all_ones() -> TestResult {
    check_eq!(inb(UNCLAIMED), u8::MAX, "IN AL");
    check_eq!(inw(UNCLAIMED), u16::MAX, "IN AX");
    check_eq!(inl(UNCLAIMED), u32::MAX, "IN EAX");
    outl(UNCLAIMED, 0);
    check_eq!(inl(UNCLAIMED), u32::MAX, "IN EAX after OUT");
    Ok(())
}

fn in_keeps_or_clears_upper_parts() -> TestResult {
    const PATTERN: u64 = 0x1122_3344_5566_7788;
    let (by_byte, by_word, by_dword): (u64, u64, u64);
    probe!("in al, dx", in("dx") UNCLAIMED, inout("rax") PATTERN => by_byte);
    probe!("in ax, dx", in("dx") UNCLAIMED, inout("rax") PATTERN => by_word);
    probe!("in eax, dx", in("dx") UNCLAIMED, inout("rax") PATTERN => by_dword);
    check_eq!(by_byte, PATTERN | 0xff, "RAX after IN AL");
    check_eq!(by_word, PATTERN | 0xffff, "RAX after IN AX");
    check_eq!(by_dword, 0xffff_ffff, "RAX after IN EAX");
    Ok(())
}

fn immediate_and_dx_forms() -> TestResult {
    const CMOS_INDEX: u16 = 0x70;
    const NVRAM: u8 = 0x5e;
    outb(CMOS_INDEX, NVRAM);
    let old = inb(0x71);
    let value: u8;
    probe!("out 0x70, al", in("al") NVRAM);
    probe!("out 0x71, al", in("al") 0x3c_u8);
    probe!("in al, 0x71", out("al") value);
    outb(0x71, old);
    check_eq!(value, 0x3c, "CMOS memory");
    let wide: u32;
    probe!("out 0x80, ax", "out 0x80, eax", in("eax") 7);
    probe!("in eax, 0xe4", out("eax") wide);
    check_eq!(wide, u32::MAX, "IN EAX, E4H");
    // The high half of EDX is no part of the port number.
    probe!("out dx, al", in("rdx") 0xffff_ffff_0000_0000 | u64::from(SCRATCH), in("al") 0x42_u8);
    check_eq!(inb(SCRATCH), 0x42, "scratch register");
    Ok(())
}

fn scratch_register_round_trip() -> TestResult {
    for i in 0..=255 {
        outb(SCRATCH, i);
        check_eq!(inb(SCRATCH), i, "scratch register");
    }
    Ok(())
}

/// RSI or RDI and RCX after the instruction.
type Moved = (u64, u64);

fn rep_outsb_from(address: u64, count: u64) -> Moved {
    let (rsi, rcx);
    probe!("rep outsb", in("dx") SCRATCH, inout("rsi") address => rsi, inout("rcx") count => rcx, options(nostack));
    (rsi, rcx)
}

fn rep_insb_to(address: u64, count: u64) -> Moved {
    let (rdi, rcx);
    probe!("rep insb", in("dx") SCRATCH, inout("rdi") address => rdi, inout("rcx") count => rcx, options(nostack));
    (rdi, rcx)
}

fn rep_outsb() -> TestResult {
    let page = memory::page();
    for i in 0..32 {
        cpu::write8(page + i, 0x40 + i as u8);
    }
    for count in [1, 2, 31, 32] {
        let (rsi, rcx) = rep_outsb_from(page, count);
        check_eq!(rsi, page + count, "RSI");
        check_eq!(rcx, 0, "RCX");
        check_eq!(inb(SCRATCH), 0x3f + count as u8, "last byte written");
    }
    Ok(())
}

fn rep_insb() -> TestResult {
    let page = memory::page();
    outb(SCRATCH, 0xab);
    let (rdi, rcx) = rep_insb_to(page + 1, 30);
    check_eq!(rdi, page + 31, "RDI");
    check_eq!(rcx, 0, "RCX");
    check_eq!(cpu::read8(page), 0, "byte before");
    check_eq!(cpu::read8(page + 31), 0, "byte behind");
    for i in 1..31 {
        check_eq!(cpu::read8(page + i), 0xab, "byte {i}");
    }
    // Without REP: one byte.
    let rdi: u64;
    probe!("insb", in("dx") SCRATCH, inout("rdi") page + 40 => rdi, in("rcx") 5, options(nostack));
    check_eq!(rdi, page + 41, "RDI after INSB");
    Ok(())
}

fn string_io_word_and_dword() -> TestResult {
    let page = memory::page();
    let (mut rdi, mut rcx): (u64, u64);
    probe!("rep insw", in("dx") UNCLAIMED, inout("rdi") page => rdi, inout("rcx") 5_u64 => rcx, options(nostack));
    check!((rdi, rcx) == (page + 10, 0), "RDI {rdi:#x}, RCX {rcx} after INSW");
    probe!("rep insd", in("dx") UNCLAIMED, inout("rdi") page + 16 => rdi, inout("rcx") 3_u64 => rcx, options(nostack));
    check!((rdi, rcx) == (page + 28, 0), "RDI {rdi:#x}, RCX {rcx} after INSD");
    check_eq!(cpu::read64(page), u64::MAX, "first words");
    check_eq!(cpu::read64(page + 8), 0xffff, "last word");
    check_eq!(cpu::read64(page + 24), 0xffff_ffff, "last dword");
    let rsi: u64;
    probe!("rep outsd", in("dx") 0x80, inout("rsi") page => rsi, inout("rcx") 4_u64 => rcx, options(nostack));
    check!((rsi, rcx) == (page + 16, 0), "RSI {rsi:#x}, RCX {rcx} after OUTSD");
    Ok(())
}

fn string_io_backwards() -> TestResult {
    let page = memory::page();
    outb(SCRATCH, 0x77);
    let (rdi, rcx): (u64, u64);
    probe!("std", "rep insb", "cld", in("dx") SCRATCH, inout("rdi") page + 9 => rdi, inout("rcx") 4_u64 => rcx,
        options(nostack));
    check!((rdi, rcx) == (page + 5, 0), "RDI {rdi:#x}, RCX {rcx}");
    check_eq!(cpu::read64(page + 4), 0x0000_7777_7777_0000, "memory");
    cpu::write8(page + 99, 0x21);
    let rsi: u64;
    probe!("std", "rep outsb", "cld", in("dx") SCRATCH, inout("rsi") page + 100 => rsi, inout("rcx") 2_u64 => _,
        options(nostack));
    check_eq!(rsi, page + 98, "RSI");
    check_eq!(inb(SCRATCH), 0x21, "last byte written");
    Ok(())
}

fn string_io_count_zero() -> TestResult {
    outb(SCRATCH, 0x11);
    // Neither the port nor the memory is touched: the address would fault.
    check!(rep_outsb_from(paging::WINDOW, 0) == (paging::WINDOW, 0), "REP OUTSB moved");
    check!(rep_insb_to(paging::WINDOW, 0) == (paging::WINDOW, 0), "REP INSB moved");
    check_eq!(inb(SCRATCH), 0x11, "scratch register");
    Ok(())
}

fn string_io_32_bit_addresses() -> TestResult {
    let page = memory::page();
    outb(SCRATCH, 0x66);
    const HIGH: u64 = 0x7777_0000_0000_0000;
    let (rdi, rcx): (u64, u64);
    // With the address-size prefix only EDI and ECX count; both upper halves are cleared.
    probe!("addr32 rep insb", in("dx") SCRATCH, inout("rdi") HIGH | page => rdi, inout("rcx") HIGH | 3 => rcx,
        options(nostack));
    check_eq!(rdi, page + 3, "RDI");
    check_eq!(rcx & 0xffff_ffff, 0, "ECX");
    check_eq!(cpu::read32(page), 0x0066_6666, "memory");
    Ok(())
}

fn outs_segment_override() -> TestResult {
    let page = memory::page();
    cpu::write8(page + 0x20, 0x99);
    cpu::wrmsr(cpu::msr::FS_BASE, page);
    let rsi: u64;
    probe!("rep outs dx, byte ptr fs:[rsi]", in("dx") SCRATCH, inout("rsi") 0x20_u64 => rsi, inout("rcx") 1_u64 => _,
        options(nostack));
    cpu::wrmsr(cpu::msr::FS_BASE, 0);
    check_eq!(rsi, 0x21, "RSI");
    check_eq!(inb(SCRATCH), 0x99, "scratch register");
    Ok(())
}

fn string_io_across_scattered_pages() -> TestResult {
    let frames = memory::pages(4);
    paging::map(paging::WINDOW, frames + 2 * PAGE, P | W);
    paging::map(paging::WINDOW + PAGE, frames, P | W);
    outb(SCRATCH, 0x5c);
    rep_insb_to(paging::WINDOW + PAGE - 3, 6);
    check_eq!(cpu::read32(frames + 3 * PAGE - 4), 0x5c5c_5c00, "end of the first page");
    check_eq!(cpu::read32(frames), 0x005c_5c5c, "start of the second page");
    check_eq!(cpu::read32(frames + 3 * PAGE), 0, "the page that follows physically");
    // A dword that straddles both pages.
    probe!("insd", in("dx") UNCLAIMED, inout("rdi") paging::WINDOW + PAGE - 2 => _, options(nostack));
    check_eq!(cpu::read32(frames + 3 * PAGE - 4), 0xffff_5c00, "end of the first page after INSD");
    check_eq!(cpu::read32(frames), 0x005c_ffff, "start of the second page after INSD");
    Ok(())
}

const WRITE: u32 = 2;

fn ins_page_fault_is_precise() -> TestResult {
    let page = paging::fresh(0, 1, P | W);
    let caught = exception::expect_exception_at("REP INSB into nothing", PF, WRITE, || {
        rep_insb_to(page + PAGE - 5, 9);
    })?;
    let frame = exception::last_frame();
    check_eq!(caught.cr2, page + PAGE, "CR2");
    check_eq!(frame.rdi, page + PAGE, "RDI");
    check_eq!(frame.rcx, 4, "RCX");
    Ok(())
}

fn outs_page_fault_is_precise() -> TestResult {
    let page = paging::fresh(0, 1, P | W);
    cpu::write8(page + PAGE - 1, 0x3e);
    let caught = exception::expect_exception_at("REP OUTSB from nothing", PF, 0, || {
        rep_outsb_from(page + PAGE - 5, 9);
    })?;
    let frame = exception::last_frame();
    check_eq!(caught.cr2, page + PAGE, "CR2");
    check_eq!(frame.rsi, page + PAGE, "RSI");
    check_eq!(frame.rcx, 4, "RCX");
    check_eq!(inb(SCRATCH), 0x3e, "last byte written");
    Ok(())
}

fn ins_read_only_page_faults() -> TestResult {
    let page = paging::fresh(0, 1, P);
    expect_exception("INSB into a read-only page", PF, WRITE | 1, || {
        rep_insb_to(page, 1);
    })
}

fn long_string_io_ends() -> TestResult {
    const COUNT: u64 = 20_000;
    let buffer = memory::pages(COUNT.div_ceil(PAGE));
    cpu::write8(buffer + COUNT - 1, 0x18);
    check!(rep_outsb_from(buffer, COUNT) == (buffer + COUNT, 0), "REP OUTSB did not end");
    check_eq!(inb(SCRATCH), 0x18, "last byte written");
    check!(rep_insb_to(buffer, COUNT) == (buffer + COUNT, 0), "REP INSB did not end");
    check_eq!(cpu::read64(buffer + COUNT - 8), 0x1818_1818_1818_1818, "last bytes read");
    Ok(())
}

snippet!(user_out: "mov edx, 0x3ff", "mov eax, 0x6b", "out dx, al", "int 0x90");

fn port_access_from_user_needs_iopl() -> TestResult {
    outb(SCRATCH, 0);
    let (ended, _) = user::run(user_out());
    check!((ended.vector, ended.error_code) == (GP, 0), "{ended} instead of #GP with IOPL 0");
    check_eq!(inb(SCRATCH), 0, "scratch register after the fault");
    let ended = user::enter(user::Start { rflags: flag::ONE | flag::IOPL3, ..user::Start::default() });
    check_eq!(ended.vector, user::RETURN_VECTOR, "what ended the user code with IOPL 3");
    check_eq!(inb(SCRATCH), 0x6b, "scratch register with IOPL 3");
    Ok(())
}
