//! A witness: prints a line each second, woken from HLT by its local APIC's timer, while something else happens to other
//! virtual machines. `beats=N` on the command line powers it off after N lines; without it it goes on for ever. With `beats=none`
//! it says that it is there, and then only waits.
#![cfg_attr(target_os = "none", no_std, no_main)]

use selftest::apic::{self, register};
use selftest::interrupt::{self, Acknowledge};
use selftest::{boot, cpu, println, runner, tsc};

const VECTOR: u8 = 0x40;
/// Wake-ups a second.
const TICKS: u64 = 10;

fn main_program() {
    runner::announce("spin");
    runner::baseline();
    if boot::option("beats") == Some("none") {
        println!("spin is there");
        loop {
            cpu::wait_for_interrupt();
        }
    }
    let beats: u64 = boot::option("beats").and_then(|beats| beats.parse().ok()).unwrap_or(u64::MAX);
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    let count = timer_frequency() / TICKS;
    apic::write(register::LVT_TIMER, u32::from(VECTOR) | apic::PERIODIC);
    apic::write(register::INITIAL_COUNT, count as u32);
    let start = cpu::rdtsc();
    let mut beat = 0;
    while beat < beats {
        cpu::wait_for_interrupt();
        if cpu::rdtsc().wrapping_sub(start) >= (beat + 1) * tsc::frequency() {
            beat += 1;
            println!("spin beat {beat}, {} interrupts", interrupt::count(VECTOR));
        }
    }
    println!("selftest spin done: {beat} beats");
}

/// Counts a second of the local APIC's timer with a divisor of 1.
fn timer_frequency() -> u64 {
    const SAMPLE_US: u64 = 10_000;
    apic::write(register::LVT_TIMER, apic::MASKED);
    apic::write(register::INITIAL_COUNT, u32::MAX);
    tsc::delay_us(SAMPLE_US);
    u64::from(u32::MAX - apic::read(register::CURRENT_COUNT)) * 1_000_000 / SAMPLE_US
}

selftest::program!(main_program());
