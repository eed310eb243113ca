//! virtio devices: first used as they should be, then attacked from inside. After each attack the device is reset, works as before,
//! and has written to no memory but what it was told to.
//!
//! Tests take whichever devices the VM has; what they need of others skips them.
//!
//! `job=` on the command line does something else:
//!
//! | `job=` | what happens |
//! | --- | --- |
//! | `attack` | computes for `quiet=` million ticks of the TSC, then carries out all attacks `rounds=` times |
//! | `witness` | writes, reads and verifies blocks of its disk for ever, and tells how many these were in every `window=` million ticks |
#![cfg_attr(target_os = "none", no_std, no_main)]

mod balloon;
mod blocks;
mod bus;
mod honest;
mod messages;
mod others;
mod places;
mod racing;
mod registers;
mod resets;
mod rig;
mod rings;
mod witness;

use selftest::runner::Counts;
use selftest::{Test, boot, cpu, println, runner};

const TABLES: &[&[Test]] = &[
    honest::TESTS,
    rings::TESTS,
    places::TESTS,
    blocks::TESTS,
    others::TESTS,
    balloon::TESTS,
    registers::TESTS,
    messages::TESTS,
    bus::TESTS,
    resets::TESTS,
    racing::TESTS,
];

/// A number of the command line.
fn number(name: &str, usual: u64) -> u64 {
    boot::option(name).and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn main_program() {
    match boot::option("job") {
        Some("attack") => attack(),
        Some("witness") => witness::run(),
        _ => runner::run_group("hostile", TABLES),
    }
}

/// All attacks over and over, and a time before in which the processor is as busy with nothing.
fn attack() {
    runner::announce("hostile");
    let (start, quiet) = (cpu::rdtsc(), 1_000_000 * number("quiet", 1000));
    println!("hostile: quiet");
    while cpu::rdtsc().wrapping_sub(start) < quiet {}
    let mut counts = Counts::default();
    println!("hostile: attacks begin");
    for round in 1..=number("rounds", 1) {
        match runner::run_quietly(TABLES) {
            0 => {
                counts.passed += 1;
                println!("ok round_{round}");
            }
            failed => counts.failed += failed,
        }
    }
    println!("hostile: attacks end");
    counts.print("hostile");
}

selftest::program!(main_program());
