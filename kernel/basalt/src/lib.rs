//! The order in which the kernel comes up, and how its parts are wired. It reads like a table of contents:
//! what each step does is in `machine` (the hardware) and `hypervisor` (the guests). No policy, no locks.
#![no_std]
#![forbid(unsafe_code)]

use log::info;
use machine::boot_info::{BootInfo, BootInfoError};
use machine::{cpu, fatal, logger, memory};

/// Brings the machine up and runs guests on it, for good.
pub fn run(boot: BootInfo) -> ! {
    logger::start();
    info!("Basalt {}", env!("CARGO_PKG_VERSION"));
    cpu::start();
    start_memory(&boot);
    info!("bring-up done");
    cpu::halt_forever()
}

/// Stops because the boot loader's information is of no use.
pub fn refuse_boot(error: BootInfoError) -> ! {
    logger::start();
    fatal::refuse(error, "load the kernel with GRUB's multiboot2 command")
}

fn start_memory(boot: &BootInfo) {
    if let Err(error) = memory::start(boot) {
        fatal::refuse(error, "give the machine more memory, or report the memory map of this boot");
    }
    info!(
        target: "memory",
        "{} MiB of RAM, {} MiB free",
        memory::frames::total_bytes() >> 20,
        memory::frames::free_bytes() >> 20
    );
}
