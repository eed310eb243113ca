//! The devices of a PC: interrupt controllers, timers, clock, serial port, ACPI, PCI configuration.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests execute instructions that only assembly can spell.
#![allow(unsafe_code)]

mod acpi_tables;
mod ioapic;
mod pci;
mod pic;
mod pit;
mod power_management;
mod rtc;
mod uart;

selftest::group!(
    "legacy": pic::TESTS, pit::TESTS, ioapic::TESTS, rtc::TESTS, uart::TESTS, power_management::TESTS,
    acpi_tables::TESTS, pci::TESTS
);
