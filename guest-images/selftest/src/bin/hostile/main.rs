//! virtio devices: first used as they should be, then attacked from inside. After each attack the device is reset, works as before,
//! and has written to no memory but what it was told to.
//!
//! Tests take whichever devices the VM has; what they need of others skips them.
//!
//! `job=` on the command line does something else:
//!
//! | `job=` | what happens |
//! | --- | --- |
//! | `witness` | writes and verifies blocks of its disk for ever, and tells how many in `window=` million ticks of the TSC |
//! | `hostile` | computes for `quiet=` million ticks, then carries out all attacks over and over, for `rounds=` rounds |
#![cfg_attr(target_os = "none", no_std, no_main)]

mod blocks;
mod bus;
mod honest;
mod messages;
mod others;
mod places;
mod registers;
mod resets;
mod rig;
mod rings;

use selftest::{Test, runner};

const TABLES: &[&[Test]] = &[
    honest::TESTS,
    rings::TESTS,
    places::TESTS,
    blocks::TESTS,
    others::TESTS,
    registers::TESTS,
    messages::TESTS,
    bus::TESTS,
    resets::TESTS,
];

fn main_program() {
    runner::run_group("hostile", TABLES);
}

selftest::program!(main_program());
