//! Frames that a switch must not carry, sent by a driver of its own on one port, and what comes of them on others; between them, frames that must
//! arrive, byte for byte.
//!
//! Its VM has seven network devices on one switch: `network.rs` says what each one's words are. With `wait=yes` on the command line it waits
//! behind its tests for a key, so that somebody can look at what the switch has counted, and tells what that must be.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod flood;
mod honest;
mod neighbours;
mod network;
mod nic;
mod packet;
mod racing;
mod senders;
mod shapes;
mod undone;

use selftest::cpu::inb;
use selftest::runner::Counts;
use selftest::{Test, boot, println, runner, serial, tsc};

const TABLES: &[&[Test]] = &[
    honest::TESTS,
    senders::TESTS,
    neighbours::TESTS,
    shapes::TESTS,
    undone::TESTS,
    flood::TESTS,
    racing::TESTS,
];

/// How long it waits for a key.
const PATIENCE_US: u64 = 60_000_000;
const LINE_STATUS: u16 = serial::COM1 + 5;
const DATA_READY: u8 = 1;

fn main_program() {
    runner::announce("frames");
    let mut counts = Counts::default();
    runner::run_tests(TABLES, &mut counts);
    if boot::option("wait") == Some("yes") {
        network::tell_losses();
        println!("frames: look at the ports, then press a key");
        tsc::wait_us(PATIENCE_US, || inb(LINE_STATUS) & DATA_READY != 0);
    }
    counts.print("frames");
}

selftest::program!(main_program());
