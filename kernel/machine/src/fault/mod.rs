//! Faults at boot, provoked on request: what a test needs to see that a machine that cannot run Basalt says why.
//!
//! The kernel's option `fault=NAME` (or several names with commas between) chooses them. Most are lies, told
//! where a fact about the machine is read ([`lies`]), so that everything behind works as it would on such a
//! machine; the others break an invariant of the kernel's own (`provoke`).
//!
//! Only a build with the cargo feature `faults` has any of it. Without the feature [`is`] is constantly false,
//! and the compiler leaves out what depends on it.

// UNSAFETY: some faults are accesses that safe code cannot make.
#![cfg_attr(feature = "faults", allow(unsafe_code))]

pub(crate) mod lies;
#[cfg(feature = "faults")]
mod provoke;

#[cfg(feature = "faults")]
pub use self::provoke::{at_first, when_started};
#[cfg(feature = "faults")]
pub(crate) use self::provoke::{on_another_cpu, when_idle};

/// Chooses the faults that a command line asks for. Nothing without the feature.
#[cfg(not(feature = "faults"))]
pub const fn choose(_boot: &mut crate::boot_info::BootInfo) {}

/// Provokes what comes before the log. Nothing without the feature.
#[cfg(not(feature = "faults"))]
pub const fn at_first() {}

/// Provokes what comes when clock and interrupts are up. Nothing without the feature.
#[cfg(not(feature = "faults"))]
pub const fn when_started() {}

/// Provokes what comes while guests run. Nothing without the feature.
#[cfg(not(feature = "faults"))]
pub(crate) const fn when_idle() {}

/// Provokes what comes on a CPU that has just been started. Nothing without the feature.
#[cfg(not(feature = "faults"))]
pub(crate) const fn on_another_cpu() {}

/// Whether the word of the command line is one for this module.
pub fn is_option(word: &str) -> bool {
    cfg!(feature = "faults") && word.starts_with("fault=")
}

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What can be wrong.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Fault {
            $($(#[$doc])* $variant,)*
        }

        #[cfg(feature = "faults")]
        const NAMES: &[(&str, Fault)] = &[$(($name, Fault::$variant),)*];
    };
}

faults! {
    /// CPUID shows neither VMX nor SVM.
    NoVirtualization = "no-virtualization",
    /// Firmware has locked VMX or SVM off.
    LockedByFirmware = "locked-by-firmware",
    /// VMX without EPT, SVM without NPT.
    NoNestedPaging = "no-nested-paging",
    /// VMX without unrestricted guests.
    NoUnrestrictedGuest = "no-unrestricted-guest",
    /// VMXON fails.
    VmxonFails = "vmxon-fails",
    /// The CPU has no no-execute pages.
    NoExecuteMissing = "no-nx",
    /// The CPU has no local APIC.
    NoLocalApic = "no-local-apic",
    /// The I/O APIC's registers read as all ones.
    NoIoApic = "no-io-apic",
    /// Neither boot loader nor memory has ACPI's root pointer.
    NoRootPointer = "no-rsdp",
    /// The root pointer's bytes do not add up.
    BadRootPointer = "bad-rsdp-checksum",
    /// The bytes of the table that lists processors do not add up.
    BadMadt = "bad-acpi-checksum",
    /// That table is missing.
    NoMadt = "no-madt",
    /// The first module is cut off in its middle.
    TruncatedModule = "truncated-module",
    /// Two modules lie over each other.
    OverlappingModules = "overlapping-modules",
    /// A module lies over the kernel.
    ModuleOverKernel = "module-over-kernel",
    /// A module lies where there is no memory.
    ModuleOutsideMemory = "module-outside-memory",
    /// The boot loader loaded no module.
    NoModule = "no-module",
    /// Almost no memory is free.
    NoMemory = "no-memory",
    /// The memory map calls everything reserved.
    BrokenMemoryMap = "broken-memory-map",
    /// No frames for the heap.
    NoHeapFrames = "no-heap-frames",
    /// No frames for the control structures of VMX and SVM.
    NoControlFrames = "no-control-frames",
    /// No frames for guests.
    NoGuestFrames = "no-guest-frames",
    /// The heap has nothing left.
    HeapExhausted = "heap-exhausted",
    /// No screen.
    NoScreen = "no-screen",
    /// No serial port.
    NoSerial = "no-serial",
    /// ACPI timer and PIT stand still.
    TimersStandStill = "timers-stand-still",
    /// The real-time clock shows no valid time.
    NoWallClock = "no-wall-clock",
    /// A page fault before there is a log.
    EarlyPageFault = "early-page-fault",
    /// A page fault once everything is up.
    PageFault = "page-fault",
    /// A double fault.
    DoubleFault = "double-fault",
    /// Endless recursion.
    StackOverflow = "stack-overflow",
    /// A general protection fault.
    GeneralProtection = "general-protection",
    /// A division by zero.
    DivideError = "divide-error",
    /// An invalid opcode.
    InvalidOpcode = "invalid-opcode",
    /// A machine check.
    MachineCheck = "machine-check",
    /// A non-maskable interrupt.
    Nmi = "nmi",
    /// A panic before there is a log.
    EarlyPanic = "early-panic",
    /// A panic.
    Panic = "panic",
    /// A panic on a CPU that has just been started.
    PanicElsewhere = "panic-elsewhere",
    /// A CPU does not look for work any more,
    StuckCpu = "stuck-cpu",
    /// or the boot CPU does not,
    StuckBootCpu = "stuck-boot-cpu",
    /// or none does.
    StuckCpus = "stuck-cpus",
    /// A non-maskable interrupt once all is up.
    StrayNmi = "stray-nmi",
    /// Interrupts of all vectors, once all is up.
    StrayVectors = "stray-vectors",
    /// NMIs come all the time.
    NmiStorm = "nmi-storm",
    /// CPUs do not answer start-up messages.
    SilentCpu = "silent-cpu",
    /// The other CPUs lack something that the boot CPU has.
    UnlikeCpu = "unlike-cpu",
    /// A panic while a panic is being reported.
    PanicInPanic = "panic-in-panic",
    /// An exception while a panic is being reported.
    FaultInPanic = "fault-in-panic",
}

/// Whether this fault was asked for.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) const fn is(_fault: Fault) -> bool {
    false
}

#[cfg(feature = "faults")]
mod chosen {
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::{Fault, NAMES, lies};
    use crate::boot_info::BootInfo;

    /// A bit for each fault.
    static CHOSEN: AtomicU64 = AtomicU64::new(0);
    const _: () = assert!(NAMES.len() <= 64);

    /// Chooses the faults that the command line asks for, and lies about what the boot loader said. Names that
    /// are none are left to the log.
    pub fn choose(boot: &mut BootInfo) {
        let lists = boot.command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("fault="));
        for name in lists.flat_map(|list| list.split(',')) {
            if let Some((_, fault)) = NAMES.iter().find(|(known, _)| *known == name) {
                CHOSEN.fetch_or(1 << *fault as u8, Ordering::Relaxed);
            }
        }
        lies::boot(boot);
    }

    pub(crate) fn is(fault: Fault) -> bool {
        CHOSEN.load(Ordering::Relaxed) >> fault as u8 & 1 != 0
    }
}

#[cfg(feature = "faults")]
pub use self::chosen::choose;
#[cfg(feature = "faults")]
pub(crate) use self::chosen::is;
