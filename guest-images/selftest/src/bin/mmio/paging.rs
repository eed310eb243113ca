//! Device memory behind the guest's own page tables: its rights come first.

use selftest::apic::{XAPIC_BASE, register};
use selftest::exception::vector::PF;
use selftest::exception::{self, expect_exception_at};
use selftest::memory::{self, PAGE};
use selftest::paging::{self, A, D, Level, P, U, W, WINDOW, map};
use selftest::{Test, TestResult, apic, check, check_eq, cpu, probe, snippet, tests, user};

use crate::form::{STORAGE, prepare_storage};

pub(crate) const TESTS: &[Test] = tests![
    device_through_alias,
    read_only_device_page,
    missing_device_page,
    device_from_user_mode,
    kernel_device_page_from_user_mode,
    device_page_accessed_and_dirty,
    device_code_across_scattered_pages,
    device_by_large_page,
    fetch_from_read_only_alias_of_code,
    device_access_with_interrupts_on,
];

const OFFSET: u64 = register::INITIAL_COUNT as u64;
const WRITE: u32 = 2;
const PRESENT: u32 = 1;
const USER: u32 = 4;

fn device_through_alias() -> TestResult {
    prepare_storage();
    for address in [WINDOW, WINDOW + 0x1234_5000, 0x7fff_ffff_f000, 0xffff_8000_0000_0000] {
        map(address, XAPIC_BASE, P | W);
        cpu::write32(address + OFFSET, 0x1234);
        check_eq!(cpu::read32(address + OFFSET), 0x1234, "initial count at {address:#x}");
        probe!("add dword ptr [{}], 1", in(reg) address + OFFSET);
        check_eq!(cpu::read32(STORAGE), 0x1235, "initial count in place");
    }
    Ok(())
}

fn read_only_device_page() -> TestResult {
    prepare_storage();
    map(WINDOW, XAPIC_BASE, P);
    cpu::write32(STORAGE, 0x55);
    check_eq!(cpu::read32(WINDOW + OFFSET), 0x55, "initial count");
    let address = WINDOW + OFFSET;
    let caught =
        expect_exception_at("MOV to a read-only page", PF, WRITE | PRESENT, || cpu::write32(address, 1))?;
    check_eq!(caught.cr2, address, "CR2");
    expect_exception_at("OR to a read-only page", PF, WRITE | PRESENT, || {
        probe!("or dword ptr [{}], 1", in(reg) address);
    })?;
    expect_exception_at("failing CMPXCHG to a read-only page", PF, WRITE | PRESENT, || {
        probe!("cmpxchg [{}], ecx", in(reg) address, inout("eax") 0x77 => _, in("ecx") 1);
    })?;
    check_eq!(cpu::read32(STORAGE), 0x55, "initial count after the faults");
    Ok(())
}

fn missing_device_page() -> TestResult {
    map(WINDOW, XAPIC_BASE, P | W);
    cpu::read32(WINDOW + OFFSET);
    paging::set(WINDOW, Level::Page, 0);
    let caught = expect_exception_at("MOV from a missing page", PF, 0, || {
        cpu::read32(WINDOW + OFFSET);
    })?;
    check_eq!(caught.cr2, WINDOW + OFFSET, "CR2");
    Ok(())
}

snippet!(user_device: "mov dword ptr [rsi], 0x4321", "mov eax, [rsi]", "int 0x90");

fn device_from_user_mode() -> TestResult {
    prepare_storage();
    user::prepare(user_device());
    map(WINDOW, XAPIC_BASE, P | W | U);
    let ended = user::enter(user::Start { rsi: WINDOW + OFFSET, ..user::Start::default() });
    check!(ended.vector == user::RETURN_VECTOR, "{ended}");
    check_eq!(exception::last_frame().rax, 0x4321, "RAX");
    check_eq!(cpu::read32(STORAGE), 0x4321, "initial count");
    Ok(())
}

fn kernel_device_page_from_user_mode() -> TestResult {
    prepare_storage();
    cpu::write32(STORAGE, 0x99);
    user::prepare(user_device());
    map(WINDOW, XAPIC_BASE, P | W);
    let ended = user::enter(user::Start { rsi: WINDOW + OFFSET, ..user::Start::default() });
    check!((ended.vector, ended.error_code) == (PF, WRITE | PRESENT | USER), "{ended} instead of #PF(7)");
    check_eq!(cpu::read32(STORAGE), 0x99, "initial count after the fault");
    Ok(())
}

fn device_page_accessed_and_dirty() -> TestResult {
    map(WINDOW, XAPIC_BASE, P | W);
    cpu::read32(WINDOW + 0x30);
    check_eq!(paging::get(WINDOW, Level::Page) & (A | D), A, "A and D after a read");
    prepare_storage();
    cpu::write32(WINDOW + OFFSET, 1);
    check_eq!(paging::get(WINDOW, Level::Page) & (A | D), A | D, "A and D after a write");
    Ok(())
}

snippet!(
    long_form: "mov dword ptr [rdi + 0x380], 0x11223344", "add dword ptr [rdi + 0x380], 0x01010101",
    "mov eax, [rdi + 0x380]", "ret"
);

fn device_code_across_scattered_pages() -> TestResult {
    prepare_storage();
    let frames = memory::pages(5);
    let code = WINDOW + 0x10_0000;
    map(code, frames + 3 * PAGE, P | W);
    map(code + PAGE, frames, P | W);
    memory::fill(frames + 4 * PAGE, 0xcc, PAGE);
    for split in 1..long_form().len() as u64 {
        let start = code + PAGE - split;
        for (i, byte) in long_form().iter().enumerate() {
            cpu::write8(start + i as u64, *byte);
        }
        check_eq!(selftest::snippet::call(start, XAPIC_BASE), 0x1223_3445, "initial count, split {split}");
    }
    Ok(())
}

fn device_by_large_page() -> TestResult {
    prepare_storage();
    paging::set(WINDOW, Level::Directory, XAPIC_BASE & !(memory::LARGE_PAGE - 1) | P | W | paging::PS);
    cpu::write32(WINDOW + (XAPIC_BASE & (memory::LARGE_PAGE - 1)) + OFFSET, 0x777);
    check_eq!(cpu::read32(STORAGE), 0x777, "initial count");
    Ok(())
}

fn fetch_from_read_only_alias_of_code() -> TestResult {
    // The code is only readable where it runs, and writable elsewhere: what counts is what is there now.
    prepare_storage();
    let frame = memory::page();
    map(WINDOW, frame, P);
    memory::store(frame, long_form());
    check_eq!(selftest::snippet::call(WINDOW, XAPIC_BASE), 0x1223_3445, "initial count");
    // Another immediate in the first instruction (its last byte).
    cpu::write8(frame + 9, 0x22);
    check_eq!(selftest::snippet::call(WINDOW, XAPIC_BASE), 0x2323_3445, "initial count after the change");
    Ok(())
}

fn device_access_with_interrupts_on() -> TestResult {
    use selftest::interrupt::{Acknowledge, count, enabled, expect};
    const VECTOR: u8 = 0x45;
    expect(VECTOR, Acknowledge::LocalApic);
    apic::write(register::LVT_TIMER, u32::from(VECTOR) | apic::PERIODIC);
    apic::write(register::INITIAL_COUNT, 100_000);
    let expected = apic::read(register::VERSION);
    let wrong = enabled(|| selftest::tsc::wait_us(20_000, || apic::read(register::VERSION) != expected));
    apic::write(register::INITIAL_COUNT, 0);
    check!(!wrong, "the version register changed");
    check!(count(VECTOR) > 0, "no interrupt came");
    Ok(())
}
