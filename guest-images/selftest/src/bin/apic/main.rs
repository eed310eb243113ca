//! The local APIC: timer modes, priorities, interprocessor interrupts to itself, its registers, x2APIC mode.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests execute instructions that only assembly can spell.
#![allow(unsafe_code)]

mod deadline;
mod ipi;
mod priority;
mod registers;
mod timer;
mod x2apic;

selftest::group!(
    "apic": registers::TESTS, timer::TESTS, deadline::TESTS, priority::TESTS, ipi::TESTS, x2apic::TESTS
);
