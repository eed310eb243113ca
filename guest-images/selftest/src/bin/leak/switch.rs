//! What makes the hypervisor put another virtual processor in this one's place.

use selftest::apic::{self, register};
use selftest::interrupt::{self, Acknowledge};
use selftest::{cpu, ioapic, tsc};

use super::hold::{self, Loop};
use super::state::Found;

/// A sibling's message.
const MESSAGE: u8 = 0x52;
/// The timer that ends a sleep at the latest.
const TIMER: u8 = 0x53;
/// Longer than a slice of the scheduler.
const LONG_US: u64 = 6_000;
const SLEEP_US: u64 = 300;
/// More than a loop with PAUSE may take until the processor says so.
const PAUSES: u64 = 5_000;
const EXITS: u8 = 30;

/// A way: its name, and what is done with values of the mark in the general registers.
pub(crate) type Way = (&'static str, fn(u64) -> Result<(), Found>);

pub(crate) const WAYS: [Way; 5] = [
    ("slice_ends", slice_ends),
    ("sleep_until_the_timer", sleep),
    ("sleep_until_a_sibling_calls", called),
    ("pauses", pauses),
    ("exits", exits),
];

fn slice_ends(mark: u64) -> Result<(), Found> {
    // Two instructions a turn.
    hold::registers(mark, Loop::Spin, tsc::us(LONG_US) / 2)
}

fn arm(microseconds: u64) {
    interrupt::expect(MESSAGE, Acknowledge::LocalApic);
    interrupt::expect(TIMER, Acknowledge::LocalApic);
    apic::set(register::LVT_TIMER, u32::from(TIMER));
    apic::set(register::INITIAL_COUNT, tsc::us(microseconds).max(1) as u32);
}

fn sleep(mark: u64) -> Result<(), Found> {
    arm(SLEEP_US);
    hold::registers(mark, Loop::Sleep, 1)
}

fn called(mark: u64) -> Result<(), Found> {
    arm(SLEEP_US);
    apic::send_any(0, apic::TO_OTHERS | u32::from(MESSAGE));
    hold::registers(mark, Loop::Sleep, 1)
}

fn pauses(mark: u64) -> Result<(), Found> {
    hold::registers(mark, Loop::Pause, PAUSES)
}

fn exits(_: u64) -> Result<(), Found> {
    for value in 0..EXITS {
        cpu::cpuid(0, 0);
        cpu::outb(0x80, value);
        cpu::inb(0x71);
        cpu::rdmsr(cpu::msr::APIC_BASE);
        apic::get(register::VERSION);
        cpu::read32(ioapic::SELECT);
    }
    Ok(())
}
