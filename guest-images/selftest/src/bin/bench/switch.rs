//! Interrupts between processors that sleep, and what it takes to put one virtual processor in another's place.
//!
//! - `ipi_self`: a message to itself, HLT, the handler: no switch;
//! - `ipi_round_trip`: a message to a sibling in HLT, which sends one back, on which the sender waits in HLT. Where both share
//!   one processor, that takes two switches;
//! - `vcpu_switch`: half of the difference between a round trip and two messages to itself, where they share one.
//!
//! `share=yes` on the command line says that the machine has one processor for both.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use selftest::interrupt::{self, Acknowledge};
use selftest::{apic, boot, cpu, println, runner, smp};

use crate::{ROUNDS, TRIPS, skip};

const PING: u8 = 0x61;
const PONG: u8 = 0x62;
/// The APIC ids of both.
static FIRST: AtomicU32 = AtomicU32::new(0);
static SECOND: AtomicU32 = AtomicU32::new(0);

/// Waits in HLT for the next interrupt of the vector.
fn await_one(vector: u8, seen: u32) {
    while interrupt::count(vector) == seen {
        cpu::wait_for_interrupt();
    }
}

fn to_itself() {
    for _ in 0..TRIPS {
        let seen = interrupt::count(PONG);
        apic::send_any(FIRST.load(SeqCst), PONG.into());
        await_one(PONG, seen);
    }
}

fn to_the_sibling() {
    for _ in 0..TRIPS {
        let seen = interrupt::count(PONG);
        apic::send_any(SECOND.load(SeqCst), PING.into());
        await_one(PONG, seen);
    }
}

fn nothing() {}

/// What the sibling does for good.
fn answer() {
    interrupt::on(PING, Acknowledge::LocalApic, |_| apic::send_any(FIRST.load(SeqCst), PONG.into()));
    loop {
        cpu::wait_for_interrupt();
    }
}

/// Prints the lines, where there is a sibling.
pub(crate) fn measure() {
    runner::baseline();
    if smp::count() < 2 {
        ["ipi_self", "ipi_round_trip", "vcpu_switch"].iter().for_each(|name| skip(name, "one processor"));
        return;
    }
    if smp::start_all().is_err() {
        println!("FAILED ipi_round_trip: {}", selftest::verdict::reason());
        return;
    }
    FIRST.store(smp::id_of(0), SeqCst);
    SECOND.store(smp::id_of(1), SeqCst);
    interrupt::expect(PONG, Acknowledge::LocalApic);
    smp::begin(1, answer);
    let shares = boot::option("share") == Some("yes");
    crate::report("ipi_self", to_itself, nothing);
    let name = if shares { "ipi_round_trip_same_cpu" } else { "ipi_round_trip_other_cpu" };
    crate::report(name, to_the_sibling, nothing);
    if shares {
        let per_trip = |round| crate::sample(round)[ROUNDS / 2] / TRIPS;
        let switch = per_trip(to_the_sibling).saturating_sub(2 * per_trip(to_itself)) / 2;
        println!("bench vcpu_switch {switch} ticks (least {switch})");
    }
}
