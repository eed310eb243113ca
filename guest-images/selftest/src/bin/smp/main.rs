//! Several processors: bring-up, topology, interprocessor interrupts, the I/O APIC's choice of processor, memory and time
//! that all see alike, registers that each has for itself. `cpus=N` on the command line says how many there must be.
//!
//! `end=WAY` ends the machine instead, with all processors in different states:
//!
//! | `end=` | what happens | what the hypervisor should do |
//! | --- | --- | --- |
//! | `reset` | processor 1, then 0, resets the machine; the last processor powers it off | restart, then stop |
//! | `triple` | processor 1 has an exception without an IDT | stop, naming it |
//! | `halt` | one after the other executes HLT with interrupts off | stop when the last one does |
//! | `init` | the same, but the last one sends itself an INIT | stop |
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests execute instructions that only assembly can spell.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "a processor's number is more than an index")]

mod bring_up;
mod destination;
mod end;
mod ioapic;
mod message;
mod nmi;
mod private;
mod together;
mod topology;
mod x2apic;

use selftest::{Test, boot, runner};

const TABLES: &[&[Test]] = &[
    bring_up::TESTS,
    topology::TESTS,
    destination::TESTS,
    message::TESTS,
    nmi::TESTS,
    ioapic::TESTS,
    together::TESTS,
    private::TESTS,
    x2apic::TESTS,
];

fn main_program() {
    match boot::option("end") {
        Some(way) => end::run(way),
        None => runner::run_group("smp", TABLES),
    }
}

selftest::program!(main_program());
