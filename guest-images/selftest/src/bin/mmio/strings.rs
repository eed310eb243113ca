//! STOS and MOVS on device memory, with and without REP.

use selftest::cpu;
use selftest::exception::{self, vector::PF};
use selftest::memory::{self, PAGE};
use selftest::paging::{self, P, W};
use selftest::{Test, TestResult, check, check_eq, probe, tests};

use crate::form::{STORAGE, UNCLAIMED, prepare_storage, unclaimed_byte};

pub(crate) const TESTS: &[Test] = tests![
    stosd_to_register,
    rep_stos_to_unclaimed,
    rep_stos_backwards,
    rep_count_zero,
    movsd_between_register_and_ram,
    movsd_register_to_itself,
    rep_movs_from_unclaimed,
    rep_movs_to_unclaimed,
    rep_movs_backwards,
    rep_movs_32_bit_addresses,
    movs_segment_override,
    rep_movs_page_fault_is_precise,
    rep_movs_source_fault_is_precise,
    long_rep_ends,
];

/// RDI, RSI, RCX after the instruction.
type Moved = (u64, u64, u64);

macro_rules! moved {
    ($instruction:literal, $rdi:expr, $rsi:expr, $rcx:expr, $rax:expr) => {{
        let (rdi, rsi, rcx): (u64, u64, u64);
        probe!($instruction, inout("rdi") $rdi => rdi, inout("rsi") $rsi => rsi, inout("rcx") $rcx => rcx,
            in("rax") $rax as u64);
        let moved: Moved = (rdi, rsi, rcx);
        moved
    }};
}

fn check_moved(what: &str, moved: Moved, expected: Moved) -> TestResult {
    check!(moved == expected, "{what}: RDI, RSI, RCX are {moved:x?} instead of {expected:x?}");
    Ok(())
}

fn stosd_to_register() -> TestResult {
    prepare_storage();
    let after = moved!("stosd", STORAGE, 7_u64, 5_u64, 0x2468_ace0_u64);
    check_moved("STOSD", after, (STORAGE + 4, 7, 5))?;
    check_eq!(cpu::read32(STORAGE), 0x2468_ace0, "initial count");
    let after = moved!("rep stosd", STORAGE, 7_u64, 1_u64, 0x1357_u64);
    check_moved("REP STOSD of one", after, (STORAGE + 4, 7, 0))?;
    check_eq!(cpu::read32(STORAGE), 0x1357, "initial count");
    Ok(())
}

fn rep_stos_to_unclaimed() -> TestResult {
    check_moved("STOSB", moved!("rep stosb", UNCLAIMED, 1_u64, 13_u64, 0), (UNCLAIMED + 13, 1, 0))?;
    check_moved("STOSW", moved!("rep stosw", UNCLAIMED, 1_u64, 13_u64, 0), (UNCLAIMED + 26, 1, 0))?;
    check_moved("STOSD", moved!("rep stosd", UNCLAIMED, 1_u64, 13_u64, 0), (UNCLAIMED + 52, 1, 0))?;
    check_moved("STOSQ", moved!("rep stosq", UNCLAIMED, 1_u64, 13_u64, 0), (UNCLAIMED + 104, 1, 0))
}

fn rep_stos_backwards() -> TestResult {
    let after = moved!("std\nrep stosd\ncld", UNCLAIMED + 0x100, 1_u64, 4_u64, 0);
    check_moved("REP STOSD", after, (UNCLAIMED + 0xf0, 1, 0))
}

fn rep_count_zero() -> TestResult {
    prepare_storage();
    cpu::write32(STORAGE, 0x77);
    let after = moved!("rep stosd", STORAGE, 1_u64, 0_u64, 0);
    check_moved("REP STOSD", after, (STORAGE, 1, 0))?;
    let after = moved!("rep movsd", STORAGE, UNCLAIMED, 0_u64, 0);
    check_moved("REP MOVSD", after, (STORAGE, UNCLAIMED, 0))?;
    check_eq!(cpu::read32(STORAGE), 0x77, "initial count");
    Ok(())
}

fn movsd_between_register_and_ram() -> TestResult {
    prepare_storage();
    let page = memory::page();
    cpu::write32(page, 0xfeed_f00d);
    let after = moved!("movsd", STORAGE, page, 9_u64, 0);
    check_moved("MOVSD to the register", after, (STORAGE + 4, page + 4, 9))?;
    check_eq!(cpu::read32(STORAGE), 0xfeed_f00d, "initial count");
    let after = moved!("movsd", page + 0x10, STORAGE, 9_u64, 0);
    check_moved("MOVSD from the register", after, (page + 0x14, STORAGE + 4, 9))?;
    check_eq!(cpu::read64(page + 0x10), 0xfeed_f00d, "memory");
    Ok(())
}

fn movsd_register_to_itself() -> TestResult {
    prepare_storage();
    cpu::write32(STORAGE, 0x1122_3344);
    let after = moved!("movsd", STORAGE, STORAGE, 9_u64, 0);
    check_moved("MOVSD", after, (STORAGE + 4, STORAGE + 4, 9))?;
    check_eq!(cpu::read32(STORAGE), 0x1122_3344, "initial count");
    Ok(())
}

fn rep_movs_from_unclaimed() -> TestResult {
    let page = memory::page();
    let byte = unclaimed_byte();
    memory::fill(page, 0x5a, 64);
    let after = moved!("rep movsb", page + 3, UNCLAIMED + 1, 7_u64, 0);
    check_moved("REP MOVSB", after, (page + 10, UNCLAIMED + 8, 0))?;
    for i in 0..64 {
        let expected = if (3..10).contains(&i) { byte } else { 0x5a };
        check_eq!(cpu::read8(page + i), expected, "byte {i}");
    }
    let after = moved!("rep movsq", page, UNCLAIMED, 4_u64, 0);
    check_moved("REP MOVSQ", after, (page + 32, UNCLAIMED + 32, 0))?;
    check_eq!(cpu::read64(page + 24), u64::from(byte) * 0x0101_0101_0101_0101, "last quadword");
    check_eq!(cpu::read64(page + 32), 0x5a5a_5a5a_5a5a_5a5a, "the quadword behind");
    Ok(())
}

fn rep_movs_to_unclaimed() -> TestResult {
    let page = memory::page();
    let after = moved!("rep movsw", UNCLAIMED, page, 20_u64, 0);
    check_moved("REP MOVSW", after, (UNCLAIMED + 40, page + 40, 0))?;
    let after = moved!("rep movsd", UNCLAIMED, page, 20_u64, 0);
    check_moved("REP MOVSD", after, (UNCLAIMED + 80, page + 80, 0))
}

fn rep_movs_backwards() -> TestResult {
    let page = memory::page();
    memory::fill(page, 0x5a, 64);
    let after = moved!("std\nrep movsd\ncld", page + 16, UNCLAIMED + 16, 3_u64, 0);
    check_moved("REP MOVSD", after, (page + 4, UNCLAIMED + 4, 0))?;
    let pattern = u32::from(unclaimed_byte()) * 0x0101_0101;
    for (offset, expected) in [(4, 0x5a5a_5a5a), (8, pattern), (16, pattern), (20, 0x5a5a_5a5a)] {
        check_eq!(cpu::read32(page + offset), expected, "dword at {offset}");
    }
    Ok(())
}

fn rep_movs_32_bit_addresses() -> TestResult {
    const HIGH: u64 = 0xabcd_0000_0000_0000;
    let page = memory::page();
    let (rdi, rsi, rcx) = moved!("addr32 rep movsd", HIGH | page, HIGH | UNCLAIMED, HIGH | 2, 0);
    check_moved("ADDR32 REP MOVSD", (rdi, rsi, rcx & 0xffff_ffff), (page + 8, UNCLAIMED + 8, 0))
}

fn movs_segment_override() -> TestResult {
    let page = memory::page();
    prepare_storage();
    cpu::write32(STORAGE, 0x0bad_cafe);
    cpu::wrmsr(cpu::msr::FS_BASE, STORAGE - 0x1000);
    let after = moved!("movs dword ptr es:[rdi], dword ptr fs:[rsi]", page, 0x1000_u64, 1_u64, 0);
    cpu::wrmsr(cpu::msr::FS_BASE, 0);
    check_moved("MOVSD", after, (page + 4, 0x1004, 1))?;
    check_eq!(cpu::read32(page), 0x0bad_cafe, "memory");
    Ok(())
}

const WRITE: u32 = 2;

fn rep_movs_page_fault_is_precise() -> TestResult {
    let page = paging::fresh(0, 1, P | W);
    let start = page + PAGE - 12;
    let caught = exception::expect_exception_at("REP MOVSD into nothing", PF, WRITE, || {
        moved!("rep movsd", start, UNCLAIMED, 10_u64, 0);
    })?;
    let frame = exception::last_frame();
    check_eq!(caught.cr2, page + PAGE, "CR2");
    check_moved("REP MOVSD", (frame.rdi, frame.rsi, frame.rcx), (page + PAGE, UNCLAIMED + 12, 7))?;
    check_eq!(cpu::read32(page + PAGE - 4) as u8, unclaimed_byte(), "last byte before the fault");
    Ok(())
}

fn rep_movs_source_fault_is_precise() -> TestResult {
    let page = paging::fresh(0, 1, P | W);
    let start = page + PAGE - 8;
    let caught = exception::expect_exception_at("REP MOVSB from nothing", PF, 0, || {
        moved!("rep movsb", UNCLAIMED, start, 20_u64, 0);
    })?;
    let frame = exception::last_frame();
    check_eq!(caught.cr2, page + PAGE, "CR2");
    check_moved("REP MOVSB", (frame.rdi, frame.rsi, frame.rcx), (UNCLAIMED + 8, page + PAGE, 12))
}

fn long_rep_ends() -> TestResult {
    // More than one slice of anybody's budget.
    const COUNT: u64 = 5000;
    let after = moved!("rep stosb", UNCLAIMED, 1_u64, COUNT, 0);
    check_moved("REP STOSB", after, (UNCLAIMED + COUNT, 1, 0))?;
    let buffer = memory::pages(COUNT.div_ceil(PAGE));
    let after = moved!("rep movsb", buffer, UNCLAIMED, COUNT, 0);
    check_moved("REP MOVSB", after, (buffer + COUNT, UNCLAIMED + COUNT, 0))?;
    check_eq!(cpu::read8(buffer + COUNT - 1), unclaimed_byte(), "last byte");
    Ok(())
}
