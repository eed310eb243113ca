//! Real mode.

use selftest::{Test, TestResult, apic, check, check_eq, cpu, memory, pic, pit, platform, tests};

use crate::trampoline::{
    Fields, payload_real, real_exits, real_faults, real_interrupts, real_large_segments, real_vector_de,
    real_vector_gp, real_vector_irq, real_vector_software, real_vector_ud,
};
use crate::visit::{Place, UNPAGED, low, visit};

pub(crate) const TESTS: &[Test] = tests![
    exits_in_real_mode,
    exceptions_in_real_mode,
    interrupts_in_real_mode,
    large_segments_in_real_mode,
    many_real_mode_switches,
    memory_below_one_mebibyte,
];

const VECTORS: u64 = 256;

/// Runs a 16-bit payload with our vectors in the interrupt vector table, which is put back afterwards.
fn in_real_mode(payload: *const u8, large_segments: bool) -> Fields {
    let saved = memory::page();
    for i in 0..VECTORS {
        cpu::write32(saved + 4 * i, cpu::read32(4 * i));
    }
    let vectors = [
        (0, &raw const real_vector_de),
        (6, &raw const real_vector_ud),
        (13, &raw const real_vector_gp),
        (u64::from(pic::BASE), &raw const real_vector_irq),
        (0x60, &raw const real_vector_software),
    ];
    for (vector, handler) in vectors {
        cpu::write32(4 * vector, low(handler));
    }
    let seen =
        visit(Place::Legacy(UNPAGED), &raw const payload_real, [low(payload), u32::from(large_segments)]);
    for i in 0..VECTORS {
        cpu::write32(4 * i, cpu::read32(saved + 4 * i));
    }
    seen
}

fn check_exits(seen: &Fields) -> TestResult {
    let expected = [
        ("CPUID's EAX", cpu::cpuid(0, 0).eax),
        ("IN AL", 0x5d),
        ("EAX after IN AX", 0x1234_ffff),
        ("CX after REP INSB", 0),
        ("bytes moved by REP INSB", 3),
        ("buffer", 0x005d_5d5d),
        ("last byte of REP OUTSB", 0x66),
        ("APIC base", cpu::rdmsr(cpu::msr::APIC_BASE) as u32),
        ("runs of INT 60H", 2),
        ("CS", 0),
    ];
    for (result, (what, value)) in seen.results[1..].iter().zip(expected) {
        check_eq!(*result, value, "{what}");
    }
    check_eq!(seen.results[11] & 1, 0, "CR0.PE");
    Ok(())
}

fn exits_in_real_mode() -> TestResult {
    check_exits(&in_real_mode(&raw const real_exits, false))
}

fn exceptions_in_real_mode() -> TestResult {
    let seen = in_real_mode(&raw const real_faults, false);
    check_eq!(seen.results[1], 0, "vector of DIV");
    check_eq!(seen.results[2], 0, "IP of DIV, relative");
    check_eq!(seen.results[3], 6, "vector of UD2");
    check_eq!(seen.results[4], 0, "IP of UD2, relative");
    // TCG has no segment limits there.
    if !platform::tcg() {
        check_eq!(seen.results[5], 13, "vector of a word at FFFFH");
        check_eq!(seen.results[6], 0, "IP of a word at FFFFH, relative");
    }
    Ok(())
}

fn interrupts_in_real_mode() -> TestResult {
    apic::write(apic::register::LVT_LINT0, apic::DELIVERY_EXTINT);
    pic::unmask_only(1);
    pit::program(0, 2, (pit::HZ / 1000) as u16);
    let seen = in_real_mode(&raw const real_interrupts, false);
    pit::baseline();
    check!(seen.interrupts >= 3, "{} timer interrupts", seen.interrupts);
    Ok(())
}

fn large_segments_in_real_mode() -> TestResult {
    apic::write(apic::register::LVT_TIMER, apic::MASKED);
    let seen = in_real_mode(&raw const real_large_segments, true);
    check_eq!(seen.results[1], apic::read(apic::register::VERSION), "APIC version");
    check_eq!(seen.results[2], 0x4321, "APIC count");
    Ok(())
}

fn many_real_mode_switches() -> TestResult {
    for _ in 0..30 {
        check_exits(&in_real_mode(&raw const real_exits, false))?;
    }
    Ok(())
}

fn memory_below_one_mebibyte() -> TestResult {
    // A20 is open: the first and the second mebibyte are two.
    let (low, high) = (0x9000, 0x10_9000);
    let saved = (cpu::read64(low), cpu::read64(high));
    cpu::write64(low, 0x1111);
    cpu::write64(high, 0x2222);
    let seen = (cpu::read64(low), cpu::read64(high));
    cpu::write64(low, saved.0);
    cpu::write64(high, saved.1);
    check!(seen == (0x1111, 0x2222), "memory at 36 KiB and 1060 KiB holds {seen:x?}");
    Ok(())
}
