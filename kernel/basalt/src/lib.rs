//! The order in which the kernel comes up, and how its parts are wired. It reads like a table of contents:
//! what each step does is in `machine` (the hardware) and `hypervisor` (the guests). No policy, no locks.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod crew;
mod options;
mod payload;

extern crate alloc;

use alloc::boxed::Box;
use core::fmt;

// It has the code that guests wait for.
use exits as _;
use hypervisor::Node;
use log::{info, warn};
use machine::acpi::Acpi;
use machine::boot_info::{BootInfo, BootInfoError};
use machine::extensions::Extensions;
use machine::host::PcHost;
use machine::smp::Roles;
use machine::virtualization::Refusal;
use machine::without::Without;
use machine::{
    acpi, apic, clock, cpu, fatal, fault, hardware, heap, logger, machine_check, memory, mitigations, power,
    screen, smp, watchdog,
};
use options::Options;
use payload::Payload;
use vcpu::Backend;

const REPORT: &str = "report this line with the machine's name and the log above";

/// Brings the machine up and runs guests on it, for good.
pub fn run(mut boot: BootInfo) -> ! {
    fault::choose(&mut boot);
    fault::at_first();
    let payload = read_payload(&boot);
    let options = Options::parse(payload.words());
    start_log(&boot, &payload, &options);
    let aside = payload.aside();
    start_memory(&boot, aside);
    let acpi = start_platform(&boot, &options);
    start_clock(&acpi, &options);
    mitigations::start(options.mitigations);
    fault::when_started();
    if aside.is_some() {
        hardware::start(&acpi);
    }
    report_nmis();
    // From here on other CPUs use it, too.
    let boot: &'static BootInfo = Box::leak(Box::new(boot));
    start_hypervisor(
        &Machine { boot, acpi: &acpi, cpus: options.cpus, without: options.without },
        &read_payload(boot),
    )
}

fn read_payload(boot: &BootInfo) -> Payload<'_> {
    Payload::new(boot.modules(), boot.command_line).unwrap_or_else(|error| {
        logger::start();
        refuse(error, "make the archive anew with `cargo xtask image --pvh`")
    })
}

/// Stops because the boot loader's information is of no use.
pub fn refuse_boot(error: BootInfoError) -> ! {
    logger::start();
    fatal::refuse(error, "load the kernel with GRUB's multiboot2 command, or by the PVH protocol")
}

fn start_log(boot: &BootInfo, payload: &Payload<'_>, options: &Options) {
    logger::set_outputs(options.console.serial(), options.console.screen());
    logger::set_level(options.log_level);
    let outputs = logger::start();
    info!("Basalt {}", env!("CARGO_PKG_VERSION"));
    info!("loaded by {} with options \"{payload}\"", boot.loader);
    for word in options.unknown(payload.words()) {
        warn!("unknown kernel option \"{word}\": it is ignored; known are {}", options::KNOWN);
    }
    if !outputs.serial {
        warn!("there is no serial port at 3F8h: the log is on the screen only, and guests' consoles nowhere");
    }
    if !outputs.screen {
        warn!("there is no screen that the kernel can use: the log is on the serial port only");
    }
    machine::panic::set_reboot(options.reboot_on_panic);
    watchdog::set_limit(options.watchdog_s);
    watchdog::set_watcher(options.watcher);
    logger::remember(boot);
    if boot.dropped != 0 {
        warn!("{} entries of the boot information are broken or too many and left out", boot.dropped);
    }
}

fn start_memory(boot: &BootInfo, aside: Option<u64>) {
    memory::start(boot, aside).unwrap_or_else(|error| {
        for range in boot.memory() {
            info!("memory {:#x} to {:#x}: {:?}", range.start, range.end(), range.kind);
        }
        refuse(error, error.advice())
    });
    heap::start().unwrap_or_else(|error| refuse(error, "give the machine more memory"));
    let mib = |bytes: u64| bytes >> 20;
    let (total, free) = (memory::frames::total_bytes(), memory::frames::free_bytes());
    info!("{} MiB of memory, {} MiB free", mib(total), mib(free));
    info!("screen: {}", screen::describe());
}

fn start_platform(boot: &BootInfo, options: &Options) -> Acpi {
    let acpi = acpi::read(boot).unwrap_or_else(|error| {
        refuse(error, "switch ACPI on in the firmware's setup, or update the firmware")
    });
    screen::heed_firmware(&acpi);
    power::start(&acpi);
    machine_check::start();
    info!("CPUs with nothing to do wait by {}", cpu::choose_idle(options.idle));
    info!("{} CPUs, {} places for more, {} I/O APICs", acpi.processors(), acpi.places(), acpi.io_apics());
    apic::start(&acpi, options.x2apic).unwrap_or_else(|error| refuse(error, error.advice()));
    acpi
}

/// Firmware and hardware report errors by NMI. That alone is no reason to stop, nor to be silent.
fn report_nmis() {
    let count = cpu::nmis();
    if count != 0 {
        warn!(
            "{count} non-maskable interrupts while starting: the hardware reports an error; look into the firmware's event log"
        );
    }
}

fn start_clock(acpi: &Acpi, options: &Options) {
    clock::start(acpi, options.tsc_use).unwrap_or_else(|error| refuse(error, REPORT));
}

fn refuse(reason: impl fmt::Display, advice: &str) -> ! {
    fatal::refuse(reason, advice)
}

/// What starting the other CPUs takes.
struct Machine<'a> {
    boot: &'a BootInfo,
    acpi: &'a Acpi,
    /// The option `cpus=`.
    cpus: Option<usize>,
    /// The option `without=`.
    without: Without,
}

/// Switches the machine's virtualization extensions on, on all CPUs, and runs guests.
fn start_hypervisor(machine: &Machine<'_>, payload: &Payload<'static>) -> ! {
    let extensions =
        Extensions::enable(machine.without).unwrap_or_else(|refusal| refuse(refusal, refusal.advice()));
    machine.start_cpus(Extensions::join);
    run_guests(extensions, payload);
    // The machine would not go off; the hypervisor has said so.
    cpu::halt_forever()
}

impl Machine<'_> {
    fn start_cpus(&self, join: fn() -> Result<(), Refusal>) {
        smp::start(self.boot, self.acpi, self.cpus, Roles { join, run: crew::serve });
        watchdog::start(self.acpi);
    }
}

/// Runs the VMs of the boot modules until all has ended.
fn run_guests<B: Backend>(backend: B, payload: &Payload<'static>)
where
    Node<'static, B>: Sync,
{
    info!("{}", Described(&backend));
    let modules = payload.modules();
    for module in &modules {
        info!("module of {} KiB: {}", module.bytes.len() >> 10, module.line);
    }
    if modules.is_empty() {
        refuse(
            "the boot loader brought no module, so there is no VM to run",
            "give GRUB's menu entry a line such as 'module2 /vmlinux vm=demo memory=256M kernel -- console=ttyS0', or another loader a boot archive",
        );
    }
    let Some(mut host) = PcHost::new() else {
        refuse("clock and interrupts are not up", REPORT);
    };
    let options = hypervisor::Options::parse(payload.words());
    logger::hand_over();
    let node: &'static Node<'static, B> = Box::leak(Box::new(Node::new(backend, &host, &modules, &options)));
    let mut first = node.prepare(&mut host);
    info!(target: "memory", "{}", memory::account(node.own_bytes()));
    crew::assemble(node, first.host());
    first.run();
}

/// A backend in words.
struct Described<'a, B>(&'a B);

impl<B: Backend> fmt::Display for Described<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe(f)
    }
}
