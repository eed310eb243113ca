//! Register files across exits of every kind.

use selftest::cpu::{self, cr0};
use selftest::exception::vector::NM;
use selftest::interrupt::{self, Acknowledge};
use selftest::platform::{self, features, has};
use selftest::{Test, TestResult, apic, check, check_eq, expect_exception, memory, need, probe, tests};

use crate::state::{
    AVX, AVX_512, X87_SSE, control_word, difference, enable_sse, enable_xsave, load_xmm, load_ymm, mxcsr,
    noise, set_control_word, set_mxcsr, store_xmm, store_ymm, supported, xrstor, xsave,
};

// The first looks at what the hypervisor left in the registers.
pub(crate) const TESTS: &[Test] = tests![
    fpu_starts_clean,
    xmm_survives_exits,
    xmm_survives_halts,
    xmm_survives_exceptions_and_interrupts,
    ymm_survives_exits,
    ymm_survives_halts,
    x87_survives_exits,
    control_words_survive_exits,
    all_components_survive_exits,
    xcr0_survives_exits,
    task_switched_survives_exits,
    debug_registers_survive_halts,
    no_execute_of_avx_without_xcr0,
];

fn fpu_starts_clean() -> TestResult {
    need!(platform::hypervisor(), "bare, firmware was there before");
    enable_sse();
    let page = memory::page();
    let zeros = memory::page();
    store_xmm(page);
    check!(difference(page, zeros, 256).is_none(), "XMM registers hold something");
    check_eq!(mxcsr(), 0x1f80, "MXCSR");
    if has(features::AVX) {
        enable_xsave(X87_SSE | AVX)?;
        store_ymm(page);
        check!(difference(page, zeros, 512).is_none(), "YMM registers hold something");
    }
    Ok(())
}

/// One exit of each common kind.
fn exits(rounds: u32) {
    for i in 0..rounds {
        cpu::cpuid(0, 0);
        cpu::outb(0x80, i as u8);
        cpu::inb(0x71);
        cpu::rdmsr(cpu::msr::APIC_BASE);
        apic::read(apic::register::VERSION);
        cpu::write_cr4(cpu::read_cr4());
    }
}

const VECTOR: u8 = 0x47;

/// Sleeps until the timer, that many times. Another virtual machine may run meanwhile.
fn halts(rounds: u32) {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    apic::write(apic::register::LVT_TIMER, u32::from(VECTOR));
    for _ in 0..rounds {
        apic::write(apic::register::INITIAL_COUNT, 100_000);
        cpu::wait_for_interrupt();
    }
}

fn check_same(what: &str, before: u64, after: u64, length: u64) -> TestResult {
    match difference(before, after, length) {
        None => Ok(()),
        Some(at) => Err(selftest::verdict::fail(format_args!("{what} changed at byte {at}"))),
    }
}

fn xmm_round(what: &str, disturb: impl FnOnce()) -> TestResult {
    enable_sse();
    let (before, after) = (noise(), memory::page());
    load_xmm(before);
    disturb();
    store_xmm(after);
    check_same(what, before, after, 256)
}

fn xmm_survives_exits() -> TestResult {
    xmm_round("XMM", || exits(1000))
}

fn xmm_survives_halts() -> TestResult {
    xmm_round("XMM", || halts(50))
}

fn xmm_survives_exceptions_and_interrupts() -> TestResult {
    interrupt::expect(VECTOR + 1, Acknowledge::LocalApic);
    xmm_round("XMM", || {
        for _ in 0..200 {
            let _ = selftest::catch(|| probe!("ud2"));
            apic::send_self(VECTOR + 1);
            cpu::take_interrupts();
        }
    })
}

fn ymm_round(disturb: impl FnOnce()) -> TestResult {
    need!(has(features::AVX), "no AVX");
    enable_xsave(X87_SSE | AVX)?;
    let (before, after) = (noise(), memory::page());
    load_ymm(before);
    disturb();
    store_ymm(after);
    check_same("YMM", before, after, 512)
}

fn ymm_survives_exits() -> TestResult {
    ymm_round(|| exits(1000))
}

fn ymm_survives_halts() -> TestResult {
    ymm_round(|| halts(50))
}

fn x87_survives_exits() -> TestResult {
    const REGISTERS: u64 = 28;
    let (before, after) = (memory::page(), memory::page());
    probe!("fninit", "fld1", "fldpi", "fldl2e", "fldln2", "fldl2t", "fldlg2", "fldz", "fld1");
    probe!("fnsave [{0}]", "frstor [{0}]", in(reg) before);
    exits(500);
    halts(10);
    probe!("fnsave [{}]", in(reg) after);
    // Control, status and tag words, then the eight registers; the last instruction's address between may change.
    check_same("x87 words", before, after, 10)?;
    check_same("x87 registers", before + REGISTERS, after + REGISTERS, 80)
}

fn control_words_survive_exits() -> TestResult {
    enable_sse();
    for (mxcsr_value, control) in [(0x1f80, 0x037f), (0x9fc0, 0x0f7f), (0x1fbf, 0x027f), (0x7f80, 0x0c7f)] {
        set_mxcsr(mxcsr_value);
        set_control_word(control);
        exits(200);
        halts(5);
        check_eq!(mxcsr(), mxcsr_value, "MXCSR");
        check_eq!(control_word(), control, "x87 control word");
    }
    set_mxcsr(0x1f80);
    set_control_word(0x037f);
    Ok(())
}

fn all_components_survive_exits() -> TestResult {
    need!(has(features::XSAVE), "no XSAVE");
    enable_xsave(X87_SSE)?;
    let wide = supported() & (AVX | AVX_512);
    let components = X87_SSE | if wide & AVX_512 == AVX_512 { AVX | AVX_512 } else { wide & AVX };
    enable_xsave(components)?;
    let size = u64::from(cpu::cpuid(0xd, 0).ebx);
    check!(size <= 4096, "the XSAVE area has {size} bytes");
    let (before, after) = (noise(), memory::page());
    prepare_image(before, components);
    xrstor(before, components);
    exits(500);
    halts(20);
    xsave(after, components);
    check_same("x87 registers", before + 32, after + 32, 10)?;
    check_same("XMM", before + 160, after + 160, 256)?;
    for component in 2..8 {
        if components & 1 << component == 0 {
            continue;
        }
        let leaf = cpu::cpuid(0xd, component);
        let (offset, length) = (u64::from(leaf.ebx), u64::from(leaf.eax));
        check!(offset + length <= size, "component {component} ends behind the area");
        check_same("an extended component", before + offset, after + offset, length)?;
    }
    Ok(())
}

/// Makes noise an image that XRSTOR accepts: control words, tags, and the header.
fn prepare_image(image: u64, components: u64) {
    cpu::write64(image, 0xff_0000_037f);
    cpu::write64(image + 8, 0);
    cpu::write64(image + 16, 0);
    cpu::write64(image + 24, 0xffff_0000_1f80);
    cpu::write64(image + 512, components);
    for i in 1..8 {
        cpu::write64(image + 512 + 8 * i, 0);
    }
}

fn xcr0_survives_exits() -> TestResult {
    enable_xsave(X87_SSE)?;
    let all = supported() & (X87_SSE | AVX);
    for value in [1, X87_SSE, all, 1] {
        cpu::xsetbv(0, value);
        exits(50);
        halts(3);
        check_eq!(cpu::xgetbv(0), value, "XCR0");
    }
    Ok(())
}

fn task_switched_survives_exits() -> TestResult {
    cpu::write_cr0(cr0::BASELINE | cr0::TS);
    exits(50);
    check_eq!(cpu::read_cr0(), cr0::BASELINE | cr0::TS, "CR0");
    expect_exception("FNINIT with CR0.TS", NM, 0, || probe!("fninit"))?;
    probe!("clts", "fninit");
    exits(5);
    probe!("fninit");
    Ok(())
}

fn debug_registers_survive_halts() -> TestResult {
    let addresses = [0x1111_2222_3333, 0xffff_8000_1234_5678, 5, 0x7fff_ffff_ffff];
    cpu::write_dr0(addresses[0]);
    cpu::write_dr1(addresses[1]);
    cpu::write_dr2(addresses[2]);
    cpu::write_dr3(addresses[3]);
    // Breakpoint 3 watches writes to an address that nobody writes.
    let watch = 0x400 | 1 << 6 | 1 << 28;
    cpu::write_dr7(watch);
    halts(30);
    exits(50);
    let read = [cpu::read_dr0(), cpu::read_dr1(), cpu::read_dr2(), cpu::read_dr3()];
    let control = cpu::read_dr7();
    cpu::write_dr7(0x400);
    for dr in [cpu::write_dr0, cpu::write_dr1, cpu::write_dr2, cpu::write_dr3] {
        dr(0);
    }
    check!(read == addresses, "DR0 to DR3 are {read:x?}");
    check_eq!(control, watch, "DR7");
    Ok(())
}

fn no_execute_of_avx_without_xcr0() -> TestResult {
    use selftest::exception::vector::UD;
    need!(has(features::AVX), "no AVX");
    let avx = || probe!("vmovups ymm0, ymm1");
    expect_exception("AVX without CR4.OSXSAVE", UD, 0, avx)?;
    enable_xsave(X87_SSE)?;
    expect_exception("AVX without XCR0.AVX", UD, 0, avx)?;
    enable_xsave(X87_SSE | AVX)?;
    avx();
    Ok(())
}
