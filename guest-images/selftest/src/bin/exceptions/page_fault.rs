//! #PF: error codes, CR2, restart (SDM vol. 3, "Page-Fault Exceptions").

use selftest::cpu::{self, cr0, cr4};
use selftest::exception::vector::PF;
use selftest::exception::{self, expect_exception_at};
use selftest::memory::PAGE;
use selftest::paging::{self, Level, NX, P, U, W, WINDOW};
use selftest::platform::{self, features, has};
use selftest::{
    Global, Test, TestResult, check, check_eq, expect_exception, need, probe, snippet, tests, user,
};

pub(crate) const TESTS: &[Test] = tests![
    not_present_read_and_write,
    write_to_read_only_page,
    write_protect_off,
    no_execute_fetch,
    not_present_fetch,
    nx_disabled_is_reserved,
    reserved_bits,
    reserved_bits_in_upper_levels,
    missing_upper_levels,
    user_access_codes,
    smep_fetch,
    smap_access,
    cr2_of_straddling_access,
    cr2_is_writable_and_survives_exits,
    fault_is_restarted_after_mapping,
    read_modify_write_is_a_write,
    fault_on_push_keeps_rsp,
    stale_translation_goes_with_invlpg,
    stale_translations_go_with_cr3,
];

const PRESENT: u32 = 1;
const WRITE: u32 = 2;
const USER: u32 = 4;
const RESERVED: u32 = 8;
const FETCH: u32 = 16;

fn expect_page_fault(what: &str, code: u32, address: u64, f: impl FnMut()) -> TestResult {
    let caught = expect_exception_at(what, PF, code, f)?;
    check_eq!(caught.cr2, address, "CR2 of {what}");
    Ok(())
}

fn fetch(address: u64) {
    selftest::snippet::call(address, 0);
}

fn read(address: u64) {
    core::hint::black_box(cpu::read32(address));
}

fn not_present_read_and_write() -> TestResult {
    expect_page_fault("read", 0, WINDOW + 0x123, || read(WINDOW + 0x123))?;
    expect_page_fault("write", WRITE, WINDOW + 0x456, || cpu::write32(WINDOW + 0x456, 0))
}

fn write_to_read_only_page() -> TestResult {
    let page = paging::fresh(0, 1, P);
    read(page);
    expect_page_fault("write", WRITE | PRESENT, page + 8, || cpu::write64(page + 8, 1))?;
    check_eq!(cpu::read64(page + 8), 0, "memory after the fault");
    Ok(())
}

fn write_protect_off() -> TestResult {
    let page = paging::fresh(0, 1, P);
    cpu::write_cr0(cr0::BASELINE & !cr0::WP);
    cpu::cpuid(0, 0);
    cpu::write64(page, 0x77);
    cpu::write_cr0(cr0::BASELINE);
    check_eq!(cpu::read64(page), 0x77, "memory");
    expect_page_fault("write with CR0.WP set again", WRITE | PRESENT, page, || cpu::write64(page, 1))
}

fn no_execute_fetch() -> TestResult {
    let page = paging::fresh(0, 1, P | W | NX);
    cpu::write8(page, 0xc3);
    expect_page_fault("fetch", FETCH | PRESENT, page, || fetch(page))?;
    paging::set(page, Level::Page, paging::get(page, Level::Page) & !NX);
    fetch(page);
    Ok(())
}

fn not_present_fetch() -> TestResult {
    expect_page_fault("fetch", FETCH, WINDOW + 0x10, || fetch(WINDOW + 0x10))
}

fn nx_disabled_is_reserved() -> TestResult {
    need!(!platform::tcg(), "TCG leaves the present bit out of the error code");
    let page = paging::fresh(0, 1, P | W | NX);
    cpu::wrmsr(cpu::msr::EFER, cpu::efer::BASELINE & !cpu::efer::NXE);
    cpu::write_cr3(paging::root());
    let outcome = expect_page_fault("read with EFER.NXE clear", RESERVED | PRESENT, page, || read(page));
    cpu::wrmsr(cpu::msr::EFER, cpu::efer::BASELINE);
    cpu::write_cr3(paging::root());
    outcome?;
    read(page);
    Ok(())
}

fn reserved_bits() -> TestResult {
    need!(!platform::tcg(), "TCG leaves the present bit out of the error code");
    let bits = paging::physical_bits();
    need!(bits < 52, "no reserved address bits");
    let page = paging::fresh(0, 1, P | W);
    let good = paging::get(page, Level::Page);
    for bit in [bits, 51] {
        paging::set(page, Level::Page, good | 1 << bit);
        expect_page_fault("read", RESERVED | PRESENT, page, || read(page))?;
        expect_page_fault("write", RESERVED | PRESENT | WRITE, page, || cpu::write32(page, 0))?;
    }
    Ok(())
}

fn reserved_bits_in_upper_levels() -> TestResult {
    need!(!platform::tcg(), "TCG leaves the present bit out of the error code");
    let page = paging::fresh(0, 1, P | W);
    for level in [Level::Root, Level::Directory] {
        let good = paging::get(page, level);
        let reserved = if level == Level::Root { paging::PS } else { 1 << 51 };
        if level != Level::Root && paging::physical_bits() > 51 {
            continue;
        }
        paging::set(page, level, good | reserved);
        let outcome = expect_page_fault("read", RESERVED | PRESENT, page, || read(page));
        cpu::write64(root_slot(page), paging::get(page, Level::Root) & !paging::PS);
        paging::set(page, level, good);
        outcome?;
    }
    Ok(())
}

fn root_slot(address: u64) -> u64 {
    paging::entry(address, Level::Root)
}

fn missing_upper_levels() -> TestResult {
    let page = paging::fresh(0, 1, P | W);
    for level in [Level::Directory, Level::Pointers, Level::Root] {
        let slot = paging::entry(page, level);
        let good = cpu::read64(slot);
        cpu::write64(slot, good & !P);
        cpu::write_cr3(paging::root());
        let outcome = expect_page_fault("read", 0, page + 4, || read(page + 4));
        cpu::write64(slot, good);
        outcome?;
        read(page);
    }
    // Write protection in an upper level counts as well.
    let slot = paging::entry(page, Level::Directory);
    cpu::write64(slot, cpu::read64(slot) & !W);
    cpu::write_cr3(paging::root());
    expect_page_fault("write", WRITE | PRESENT, page, || cpu::write32(page, 0))
}

snippet!(user_read: "mov eax, [rsi]", "int 0x90");
snippet!(user_write: "mov [rsi], eax", "int 0x90");
snippet!(user_jump: "jmp rsi");

fn user_access_codes() -> TestResult {
    let kernel_page = paging::fresh(0, 1, P | W);
    let read_only = paging::fresh(PAGE, 1, P | U);
    let no_execute = paging::fresh(2 * PAGE, 1, P | U | NX);
    let missing = WINDOW + 4 * PAGE;
    let cases = [
        ("user read of nothing", user_read(), missing, USER),
        ("user write to nothing", user_write(), missing, USER | WRITE),
        ("user fetch from nothing", user_jump(), missing, USER | FETCH),
        ("user read of a kernel page", user_read(), kernel_page, USER | PRESENT),
        ("user write to a kernel page", user_write(), kernel_page, USER | PRESENT | WRITE),
        ("user fetch from a kernel page", user_jump(), kernel_page, USER | PRESENT | FETCH),
        ("user write to a read-only page", user_write(), read_only, USER | PRESENT | WRITE),
        ("user fetch from a no-execute page", user_jump(), no_execute, USER | PRESENT | FETCH),
    ];
    for (what, code, address, error) in cases {
        user::prepare(code);
        let caught = user::enter(user::Start { rsi: address, ..user::Start::default() });
        check!(
            (caught.vector, caught.error_code) == (PF, error),
            "{what}: {caught} instead of #PF({error:#x})"
        );
        check_eq!(caught.cr2, address, "CR2 of {what}");
    }
    Ok(())
}

fn smep_fetch() -> TestResult {
    need!(has(features::SMEP), "no SMEP");
    let page = paging::fresh(0, 1, P | U | W);
    cpu::write8(page, 0xc3);
    fetch(page);
    cpu::write_cr4(cr4::BASELINE | cr4::SMEP);
    expect_page_fault("fetch from a user page", FETCH | PRESENT, page, || fetch(page))
}

fn smap_access() -> TestResult {
    need!(has(features::SMAP), "no SMAP");
    let page = paging::fresh(0, 1, P | U | W);
    cpu::write_cr4(cr4::BASELINE | cr4::SMAP);
    expect_page_fault("read of a user page", PRESENT, page, || read(page))?;
    expect_page_fault("write to a user page", PRESENT | WRITE, page, || cpu::write32(page, 0))?;
    probe!("stac");
    cpu::cpuid(0, 0);
    read(page);
    probe!("clac");
    Ok(())
}

fn cr2_of_straddling_access() -> TestResult {
    let page = paging::fresh(0, 1, P | W);
    expect_page_fault("read across the page's end", 0, page + PAGE, || {
        cpu::read64(page + PAGE - 3);
    })?;
    expect_page_fault("write across the page's end", WRITE, page + PAGE, || {
        cpu::write64(page + PAGE - 3, u64::MAX);
    })?;
    check_eq!(cpu::read32(page + PAGE - 4), 0, "memory before the boundary after the fault");
    Ok(())
}

fn cr2_is_writable_and_survives_exits() -> TestResult {
    for value in [0x1234_5678_9abc_def0, u64::MAX, 0] {
        cpu::write_cr2(value);
        for _ in 0..20 {
            cpu::cpuid(0, 0);
            cpu::outb(0x80, 0);
        }
        check_eq!(cpu::read_cr2(), value, "CR2");
    }
    Ok(())
}

static FAULTS: Global<u64> = Global::new(0);

fn fault_is_restarted_after_mapping() -> TestResult {
    FAULTS.set(0);
    exception::on(PF, |_| {
        FAULTS.set(FAULTS.get() + 1);
        paging::map(cpu::read_cr2() & !(PAGE - 1), selftest::memory::page(), P | W);
    });
    for i in 0..20 {
        cpu::write64(WINDOW + i * PAGE + 8, i + 1);
    }
    // One instruction, two faults.
    cpu::write64(WINDOW + 0x10_0000 - 4, 0x1122_3344_5566_7788);
    let value = cpu::read64(WINDOW + 0x10_0000 - 4);
    for i in 0..20 {
        check_eq!(cpu::read64(WINDOW + i * PAGE + 8), i + 1, "page {i}");
    }
    check_eq!(value, 0x1122_3344_5566_7788, "value across two pages");
    check_eq!(FAULTS.get(), 22, "faults");
    Ok(())
}

fn read_modify_write_is_a_write() -> TestResult {
    let page = paging::fresh(0, 1, P);
    expect_page_fault("LOCK INC", WRITE | PRESENT, page, || probe!("lock inc dword ptr [{}]", in(reg) page))?;
    expect_page_fault(
        "XCHG",
        WRITE | PRESENT,
        page,
        || probe!("xchg [{}], eax", in(reg) page, out("eax") _),
    )?;
    expect_page_fault("failing CMPXCHG", WRITE | PRESENT, page, || {
        probe!("cmpxchg [{}], ecx", in(reg) page, inout("eax") 5 => _, in("ecx") 6);
    })
}

fn fault_on_push_keeps_rsp() -> TestResult {
    use selftest::descriptor::{INTERRUPT_GATE, IST_SCRATCH, set_gate_attributes};
    set_gate_attributes(PF, INTERRUPT_GATE | u64::from(IST_SCRATCH) << 32);
    let page = paging::fresh(PAGE, 1, P | W);
    let caught = expect_exception_at("PUSH", PF, WRITE, || {
        probe!("mov {0}, rsp", "mov rsp, {1}", "push 1", "mov rsp, {0}", out(reg) _, in(reg) page);
    })?;
    check_eq!(caught.cr2, page - 8, "CR2");
    check_eq!(exception::last_frame().rsp, page, "saved RSP");
    Ok(())
}

fn stale_translation_goes_with_invlpg() -> TestResult {
    let page = paging::fresh(0, 1, P | W);
    cpu::write64(page, 1);
    cpu::write64(paging::entry(page, Level::Page), 0);
    cpu::invlpg(page);
    expect_exception("read", PF, 0, || read(page))?;
    // From read-only to writable needs no INVLPG: a fault at most once, never for ever.
    let other = paging::fresh(PAGE, 1, P);
    read(other);
    cpu::write64(paging::entry(other, Level::Page), paging::get(other, Level::Page) | W);
    exception::on(PF, |_| cpu::invlpg(WINDOW + PAGE));
    cpu::write64(other, 3);
    Ok(())
}

fn stale_translations_go_with_cr3() -> TestResult {
    let pages = paging::fresh(0, 8, P | W);
    for i in 0..8 {
        cpu::write64(pages + i * PAGE, i);
    }
    for i in 0..8 {
        cpu::write64(paging::entry(pages + i * PAGE, Level::Page), 0);
    }
    cpu::write_cr3(cpu::read_cr3());
    for i in 0..8 {
        expect_exception("read", PF, 0, || read(pages + i * PAGE))?;
    }
    Ok(())
}
