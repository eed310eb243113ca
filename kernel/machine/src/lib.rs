//! The machine under the kernel, and the only kernel crate that may use `unsafe`: CPU tables, physical
//! memory, host paging, interrupt controllers, timers, the console, and the CPU's virtualization
//! extensions.
//!
//! It is mechanism without policy: `basalt` decides the order of bring-up, `hypervisor` what a guest gets.
//! Modules that need `unsafe` opt in one by one under an `UNSAFETY` line; the others (the frame
//! allocator, the memory map, clock arithmetic, scans of firmware tables) are safe and tested on the host.
//!
//! Interrupts are off in the kernel except at two places in [`host`], where no lock is held. So handlers may
//! take the same spin locks as the rest. Lock order: logger, then serial, then screen; frames and heap are
//! taken alone.
#![cfg_attr(not(test), no_std)]

pub mod acpi;
pub mod apic;
pub mod boot_info;
mod bring_up;
pub mod clock;
pub mod cpu;
mod events;
mod extended;
pub mod extensions;
pub mod fatal;
pub mod fault;
mod guest_registers;
pub mod hardware;
pub mod heap;
pub mod host;
mod hpet;
pub mod image;
pub mod limbo;
pub mod logger;
pub mod machine_check;
pub mod memory;
pub mod mitigations;
pub mod nested;
pub mod panic;
pub mod power;
pub mod random;
mod registers;
pub mod screen;
pub mod serial;
pub mod smp;
pub mod stacks;
pub mod svm;
pub mod virtualization;
pub mod vmx;
pub mod watchdog;
pub mod without;

/// The first thing that Rust code does on the machine: from here on an exception is reported and not a reset.
/// `entered` is what the TSC showed when the boot loader jumped to the kernel. Later calls do nothing.
pub fn begin(entered: u64) {
    clock::mark_start(entered);
    cpu::start();
}
