//! What each processor has for itself: MSRs, control, debug and vector registers, task priority.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use selftest::cpu::{self, cr4, msr, rdmsr, wrmsr};
use selftest::platform::{features, has};
use selftest::smp::{self, MAX_CPUS};
use selftest::{Test, TestResult, apic, check, check_eq, need, probe, tests};

pub(crate) const TESTS: &[Test] = tests![
    model_specific_registers_are_private,
    memory_types_are_private,
    debug_and_control_registers_are_private,
    vector_registers_are_private,
    task_priorities_are_private,
    tsc_adjust_is_private,
];

/// What a processor found in a register that it did not leave there.
static WRONG: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static FOUND: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// All processors write, then all look.
fn write_then_look(write: smp::Job, look: smp::Job) -> TestResult {
    WRONG.iter().for_each(|wrong| wrong.store(0, SeqCst));
    smp::start_all()?;
    smp::call_all(write)?;
    smp::call_all(look)?;
    for cpu in 0..smp::count() {
        let (wrong, found) = (WRONG[cpu].load(SeqCst), FOUND[cpu].load(SeqCst));
        check!(wrong == 0, "processor {cpu} finds {found:#x} in register {wrong:#x}");
    }
    Ok(())
}

/// `register` is any number but 0 that tells the reader which one it is.
fn expect(register: u32, found: u64, left: u64) {
    if found != left {
        FOUND[smp::current()].store(found, SeqCst);
        WRONG[smp::current()].store(register, SeqCst);
    }
}

const REGISTERS: [u32; 8] = [
    msr::LSTAR,
    msr::CSTAR,
    msr::KERNEL_GS_BASE,
    msr::FS_BASE,
    msr::GS_BASE,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
    msr::SFMASK,
];

/// An address that only this processor uses.
fn pattern(register: u32) -> u64 {
    0x10_0000 * (smp::current() as u64 + 1) + 0x100 * u64::from(register & 0xff)
}

fn model_specific_registers_are_private() -> TestResult {
    write_then_look(
        || {
            REGISTERS.into_iter().for_each(|register| wrmsr(register, pattern(register)));
            wrmsr(msr::STAR, pattern(msr::STAR) << 32);
            if has(features::RDTSCP) {
                wrmsr(msr::TSC_AUX, smp::current() as u64);
            }
        },
        || {
            for register in REGISTERS {
                expect(register, rdmsr(register), pattern(register));
            }
            expect(msr::STAR, rdmsr(msr::STAR), pattern(msr::STAR) << 32);
            if has(features::RDTSCP) {
                expect(msr::TSC_AUX, rdmsr(msr::TSC_AUX), smp::current() as u64);
            }
        },
    )
}

/// IA32_MTRR_PHYSBASE7: not in use.
const PHYSBASE: u32 = 0x20e;
const VARIABLE_RANGES: u64 = 8;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// PAT's last entry tells the processors apart: uncacheable, write-combining, write-through, write-protected.
fn pat() -> u64 {
    PAT_RESET & !(0xff << 56) | [0, 1, 4, 5][smp::current() % 4] << 56
}

fn base() -> u64 {
    (smp::current() as u64 * 0x1000_0000) | 6
}

fn memory_types_are_private() -> TestResult {
    need!(has(features::PAT) && has(features::MTRR), "no PAT or MTRRs");
    need!(rdmsr(msr::MTRRCAP) & 0xff >= VARIABLE_RANGES, "fewer than {VARIABLE_RANGES} variable MTRRs");
    write_then_look(
        || {
            wrmsr(msr::PAT, pat());
            wrmsr(PHYSBASE, base());
        },
        || {
            expect(msr::PAT, rdmsr(msr::PAT), pat());
            expect(PHYSBASE, rdmsr(PHYSBASE), base());
            wrmsr(msr::PAT, PAT_RESET);
            wrmsr(PHYSBASE, 0);
        },
    )
}

fn debug_and_control_registers_are_private() -> TestResult {
    // Any that a processor can have without consequences.
    fn cr4() -> u64 {
        cr4::BASELINE | if smp::current().is_multiple_of(2) { cr4::DE } else { cr4::OSFXSR }
    }
    write_then_look(
        || {
            cpu::write_dr0(pattern(0x10));
            cpu::write_dr1(pattern(0x11));
            cpu::write_dr2(pattern(0x12));
            cpu::write_dr3(pattern(0x13));
            cpu::write_cr2(pattern(0x14));
            cpu::write_cr4(cr4());
        },
        || {
            expect(0x10, cpu::read_dr0(), pattern(0x10));
            expect(0x11, cpu::read_dr1(), pattern(0x11));
            expect(0x12, cpu::read_dr2(), pattern(0x12));
            expect(0x13, cpu::read_dr3(), pattern(0x13));
            expect(0x14, cpu::read_cr2(), pattern(0x14));
            expect(0x15, cpu::read_cr4(), cr4());
            cpu::write_cr4(cr4::BASELINE);
        },
    )
}

fn vector_registers_are_private() -> TestResult {
    write_then_look(
        || {
            cpu::write_cr4(cr4::BASELINE | cr4::OSFXSR);
            probe!("movq xmm0, {}", "movq xmm15, {}", in(reg) pattern(0x20), in(reg) pattern(0x2f));
        },
        || {
            let (low, high): (u64, u64);
            probe!("movq {}, xmm0", "movq {}, xmm15", out(reg) low, out(reg) high);
            expect(0x20, low, pattern(0x20));
            expect(0x2f, high, pattern(0x2f));
            cpu::write_cr4(cr4::BASELINE);
        },
    )
}

fn task_priorities_are_private() -> TestResult {
    fn class() -> u64 {
        smp::current() as u64 % 14
    }
    write_then_look(
        || cpu::write_cr8(class()),
        || {
            expect(0x80, u64::from(apic::get(apic::register::TPR)), class() << 4);
            expect(0x81, cpu::read_cr8(), class());
            cpu::write_cr8(0);
        },
    )
}

/// A step of one processor's counter is its own.
fn tsc_adjust_is_private() -> TestResult {
    const STEP: u64 = 1 << 50;
    need!(has(features::TSC_ADJUST) && smp::count() > 1, "no TSC_ADJUST, or one processor");
    smp::start_all()?;
    smp::call(1, || wrmsr(msr::TSC_ADJUST, STEP))?;
    let own = cpu::rdtsc();
    smp::call(1, || {
        FOUND[1].store(cpu::rdtsc(), SeqCst);
        wrmsr(msr::TSC_ADJUST, 0);
        FOUND[2].store(cpu::rdtsc(), SeqCst);
    })?;
    let (ahead, back) = (FOUND[1].load(SeqCst), FOUND[2].load(SeqCst));
    check_eq!(rdmsr(msr::TSC_ADJUST), 0, "TSC_ADJUST of the first processor");
    check!(own < STEP, "the first processor's TSC is at {own:#x}");
    check!(ahead > STEP, "processor 1's TSC is at {ahead:#x}");
    check!(back > own && back < STEP, "processor 1's TSC comes back to {back:#x}, after {own:#x}");
    Ok(())
}
