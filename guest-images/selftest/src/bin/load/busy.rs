//! The ways to be busy. Most go on for ever.

use selftest::apic::{self, register};
use selftest::interrupt::{self, Acknowledge};
use selftest::{cpu, descriptor, memory, power, probe, smp, tsc};

const STORM_VECTOR: u8 = 0x50;
const TIMER_VECTOR: u8 = 0x51;
/// Counts of the local APIC's timer between two interrupts of a storm.
const STORM_COUNT: u32 = 20_000;
/// How long a guest lives that then breaks itself.
const LIFE_US: u64 = 20_000;

/// Some work that is all the processor's own.
fn compute() -> u64 {
    let mut value = 1u64;
    for _ in 0..1000 {
        value = core::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
    value
}

pub(crate) fn spin() {
    loop {
        compute();
    }
}

pub(crate) fn pause() {
    loop {
        core::hint::spin_loop();
    }
}

pub(crate) fn exits() {
    loop {
        cpu::cpuid(0, 0);
    }
}

pub(crate) fn storm() {
    interrupt::expect(STORM_VECTOR, Acknowledge::LocalApic);
    interrupt::expect(TIMER_VECTOR, Acknowledge::LocalApic);
    apic::set(register::LVT_TIMER, u32::from(TIMER_VECTOR) | apic::PERIODIC);
    apic::set(register::INITIAL_COUNT, STORM_COUNT);
    cpu::sti();
    let others = smp::count() > 1;
    loop {
        // Who is alone sends to itself.
        let to = if others { apic::TO_OTHERS } else { apic::TO_SELF };
        apic::send_any(0, to | u32::from(STORM_VECTOR));
        compute();
    }
}

/// Each processor takes every n-th page.
pub(crate) fn hungry() {
    let (start, pages) = memory::all();
    let mut value = 0;
    loop {
        for page in (smp::current() as u64..pages).step_by(smp::processors()) {
            for word in (0..memory::PAGE).step_by(64) {
                value += 1;
                cpu::write64(start + page * memory::PAGE + word, value);
            }
        }
    }
}

pub(crate) fn sleep() {
    let run = tsc::us(crate::number("run"));
    let sleep = crate::number("sleep");
    loop {
        let start = cpu::rdtsc();
        while cpu::rdtsc().wrapping_sub(start) < run {
            compute();
        }
        smp::rest_us(sleep);
    }
}

fn live() {
    let start = cpu::rdtsc();
    while cpu::rdtsc().wrapping_sub(start) < tsc::us(LIFE_US) {
        compute();
    }
}

pub(crate) fn crash() {
    live();
    descriptor::load_idt(0, 0);
    probe!("ud2");
}

pub(crate) fn reboot() {
    live();
    power::reset();
}
