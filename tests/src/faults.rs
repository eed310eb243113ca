//! What must be said when a machine cannot run Basalt, or the kernel fails: a table of faults.
//!
//! Most are lies that a kernel built for tests tells itself (`fault=NAME`); some are emulated machines that really
//! lack something. Each must end in its message, on the serial port and on the screen, within a second of the
//! machine's time, with a line that says what to do, and then stand still: no silence, no reset loop.

use crate::log::Log;
use crate::scenario::{BOCHS_VMX, QEMU_PVH, QEMU_SVM, Tier};

/// Begins the name of each of these tests.
pub const GROUP: &str = "faults";
/// From the kernel's start to the message, in seconds of the machine's time.
pub const LIMIT_S: f64 = 1.0;
/// Firmware that starts GRUB on UEFI.
const QEMU_UEFI: &str = "qemu-q35-uefi-cd-epyc";

const REFUSED: &str = "BASALT CANNOT RUN HERE: ";
const ADVICE: &str = "What to do: ";
const STOPPED: &str = "Stopped ";
const NO_VM: &str = "What to do: give GRUB's menu entry a line such as";
/// Where the kernel breaks itself.
const PROVOKER: &str = "kernel/machine/src/fault/provoke.rs";
const REPORT: &str = "What to do: this is an error of Basalt itself: report it";

/// A fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its name, without that of the group.
    pub name: &'static str,
    /// The machine's profile.
    pub machine: &'static str,
    /// The machine's CPU model, instead of the profile's.
    pub cpu: Option<&'static str>,
    /// Its memory, instead of the profile's.
    pub memory: Option<&'static str>,
    /// Its CPUs, instead of the profile's.
    pub cpus: Option<u32>,
    /// The kernel's options.
    pub options: &'static str,
    /// What must be said, in this order.
    pub says: Vec<&'static str>,
    /// What the serial port says besides, as the screen has no room for it.
    pub besides: Option<&'static str>,
    /// How it ends.
    pub end: End,
    /// When it is tried.
    pub tier: Tier,
}

/// How a fault ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The kernel stands still and has said when it stopped.
    Stops,
    /// The same, after a panic whose backtrace, once it has names and lines, leads through this source file.
    Panics {
        /// The file.
        within: &'static str,
    },
    /// The CPU stands still before there is a kernel that could tell the time.
    StopsEarly,
    /// The same as [`End::Stops`], but there is a screen only.
    StopsWithoutSerial,
    /// The same as [`End::Stops`], but there is a serial port only.
    StopsWithoutScreen,
    /// Only a VM suffers, and the last message is an ordinary line of the log.
    GoesOn,
    /// The machine is restarted, and the next boot says the last messages.
    Restarts,
}

impl Fault {
    /// A lie or a broken kernel on QEMU.
    fn lie(name: &'static str, options: &'static str, says: &[&'static str]) -> Self {
        Self {
            name,
            machine: QEMU_PVH,
            cpu: None,
            memory: None,
            cpus: None,
            options,
            says: says.to_vec(),
            besides: None,
            end: End::Stops,
            tier: Tier::Ci,
        }
    }

    /// A machine that cannot run Basalt.
    fn refusal(
        name: &'static str,
        options: &'static str,
        reason: &'static str,
        advice: &'static str,
    ) -> Self {
        Self::lie(name, options, &[REFUSED, reason, ADVICE, advice])
    }

    /// A CPU that really is so.
    fn cpu(name: &'static str, cpu: &'static str, reason: &'static str, advice: &'static str) -> Self {
        Self { cpu: Some(cpu), ..Self::refusal(name, "", reason, advice) }
    }

    /// An exception of the kernel's.
    fn exception(name: &'static str, options: &'static str, what: &'static str) -> Self {
        Self::lie(name, options, &["KERNEL PANIC: ", what, "rip=", "backtrace:", REPORT])
            .ending(End::Panics { within: PROVOKER })
    }

    /// Something that is missing but not needed: a warning, and the boot goes on.
    fn warning(name: &'static str, options: &'static str, warning: &'static str) -> Self {
        Self::lie(name, options, &["WARN", warning, NO_VM])
    }

    fn with_cpus(self, cpus: u32) -> Self {
        Self { cpus: Some(cpus), ..self }
    }

    /// With that on the serial port alone.
    fn besides(self, text: &'static str) -> Self {
        Self { besides: Some(text), ..self }
    }

    fn ending(self, end: End) -> Self {
        Self { end, ..self }
    }

    /// On another machine, to be tried only when it is named.
    fn on(self, machine: &'static str) -> Self {
        Self { machine, tier: Tier::Full, ..self }
    }

    /// Always tried.
    fn in_ci(self) -> Self {
        Self { tier: Tier::Ci, ..self }
    }

    /// Whether the machine's time counts instructions, so that a limit in it means something on a busy host. A restart
    /// waits, as the watchdog does, and UEFI's firmware takes minutes that way.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        let waits = self.end == End::Restarts || self.options.contains("watchdog=");
        !waits && self.machine != QEMU_UEFI
    }

    /// Whether all that must be said is in `text`, in order, whatever the white space: a screen breaks lines anywhere.
    ///
    /// # Errors
    ///
    /// The first text that is missing.
    pub fn is_said_in(&self, text: &str) -> Result<(), String> {
        let dense = |text: &str| text.split_whitespace().collect::<String>();
        let all = dense(text);
        let mut rest = all.as_str();
        for wanted in &self.says {
            match rest.split_once(&dense(wanted)) {
                Some((_, behind)) => rest = behind,
                None => return Err(format!("no \"{wanted}\"")),
            }
        }
        Ok(())
    }
}

/// When the kernel stopped, in seconds after its start, once it has said so. A TSC that is not measured yet runs at
/// `tsc_hz`.
#[must_use]
pub fn stopped_at(text: &str, tsc_hz: f64) -> Option<f64> {
    let (_, rest) = text.rsplit_once(STOPPED)?;
    let (time, _) = rest.split_once(" after the kernel's start")?;
    match time.rsplit_once(' ')? {
        (seconds, "s") => seconds.parse().ok(),
        (ticks, "ticks") => Some(ticks.strip_suffix(" TSC")?.parse::<f64>().ok()? / tsc_hz),
        _ => None,
    }
}

/// The time of the first line of the log with this text.
#[must_use]
pub fn logged_at(log: &Log, text: &str) -> Option<f64> {
    let line = log.kernel().find(|line| line.contains(text))?;
    let (time, _) = line.split_once('[')?.1.split_once(']')?;
    time.trim().parse().ok()
}

/// All faults.
#[must_use]
pub fn faults() -> Vec<Fault> {
    [virtualization(), firmware(), memory(), outputs(), stuck(), exceptions(), restarts(), framebuffer()]
        .concat()
}

fn virtualization() -> Vec<Fault> {
    let newer = "use a newer CPU";
    let switch_on = "switch on 'Intel Virtualization Technology' or 'SVM Mode'";
    let use_another = "use a CPU with Intel VT-x or AMD-V";
    let none = "this CPU has no hardware virtualization";
    let locked = "the firmware has locked hardware virtualization off";
    vec![
        Fault::cpu("cpu-without-svm", "qemu64,-svm", none, use_another),
        Fault::cpu("cpu-without-npt", "EPYC,+svm,-npt", "lacks nested paging (NPT)", newer),
        Fault::cpu("cpu-without-nx", "EPYC,+svm,-nx", "no no-execute pages", "switch on 'Execute Disable'"),
        Fault::cpu("cpu-of-32-bits", "pentium3", "this CPU has no 64-bit mode", "use a 64-bit PC")
            .ending(End::StopsEarly),
        Fault::refusal("no-virtualization", "fault=no-virtualization", none, use_another),
        Fault::refusal("locked-by-firmware", "fault=locked-by-firmware", locked, switch_on),
        Fault::refusal("no-nested-paging", "fault=no-nested-paging", "lacks nested paging (NPT)", newer),
        Fault::refusal("vmx-locked", "fault=locked-by-firmware", locked, switch_on).on(BOCHS_VMX),
        Fault::refusal("vmx-no-ept", "fault=no-nested-paging", "lacks", newer).on(BOCHS_VMX),
        Fault::refusal("vmx-no-unrestricted", "fault=no-unrestricted-guest", "unrestricted guest", newer)
            .on(BOCHS_VMX),
        Fault::refusal(
            "vmxon-fails",
            "fault=vmxon-fails",
            "VMXON failed",
            "another hypervisor may own the CPU",
        )
        .on(BOCHS_VMX),
        Fault::cpu("cpu-without-ept", "core2_penryn_t9600", "lacks", newer).on(BOCHS_VMX).in_ci(),
        Fault::cpu("cpu-without-vmx", "p4_prescott_celeron_336", none, use_another).on(BOCHS_VMX),
    ]
}

fn firmware() -> Vec<Fault> {
    let acpi = "switch ACPI on in the firmware's setup";
    vec![
        Fault::refusal("no-nx", "fault=no-nx", "no no-execute pages", "switch on 'Execute Disable'"),
        Fault::refusal(
            "no-local-apic",
            "fault=no-local-apic",
            "the CPU has no local APIC",
            "switch the local APIC on",
        ),
        Fault::warning("no-io-apic", "fault=no-io-apic,no-module", "the console takes no input"),
        Fault::refusal("no-rsdp", "fault=no-rsdp", "firmware gives no ACPI root pointer", acpi),
        Fault::refusal("bad-rsdp-checksum", "fault=bad-rsdp-checksum", "checksum of ACPI table RSDP", acpi),
        Fault::refusal("bad-acpi-checksum", "fault=bad-acpi-checksum", "checksum of ACPI table APIC", acpi),
        Fault::refusal("no-madt", "fault=no-madt", "there is no ACPI table APIC", acpi),
        Fault::refusal(
            "timers-stand-still",
            "fault=timers-stand-still",
            "so the time-stamp counter",
            "report",
        ),
        Fault::warning("no-wall-clock", "fault=no-wall-clock,no-module", "guests start in 1970"),
    ]
}

fn memory() -> Vec<Fault> {
    let grub = "start it with GRUB as it comes with the image";
    vec![
        Fault::refusal(
            "no-module",
            "fault=no-module",
            "so there is no VM to run",
            "give GRUB's menu entry a line",
        ),
        Fault::refusal(
            "truncated-module",
            "fault=truncated-module",
            "the boot archive",
            "make the archive anew",
        ),
        Fault::lie(
            "truncated-kernel",
            "fault=truncated-module",
            &["ERROR", "not started", "copy the file again"],
        )
        .ending(End::GoesOn)
        .on(QEMU_SVM),
        Fault::refusal("overlapping-modules", "fault=overlapping-modules", "lie over each other", grub),
        Fault::refusal("module-over-kernel", "fault=module-over-kernel", "and the kernel lie over", grub),
        Fault::refusal(
            "module-outside-memory",
            "fault=module-outside-memory",
            "where the memory map has no memory",
            grub,
        ),
        Fault::refusal("broken-memory-map", "fault=broken-memory-map", "memory map is broken", grub),
        Fault::refusal("no-memory", "fault=no-memory", "of memory are free", "give the machine more memory"),
        Fault {
            memory: Some("32M"),
            ..Fault::refusal("too-little-memory", "", "of memory are free", "give the machine more memory")
        },
        Fault::refusal(
            "no-heap-frames",
            "fault=no-heap-frames",
            "for the kernel's heap",
            "give the machine more memory",
        ),
        Fault::refusal(
            "no-control-frames",
            "fault=no-control-frames",
            "for virtualization structures",
            "give the machine more memory",
        ),
        Fault::lie("no-guest-frames", "fault=no-guest-frames", &["ERROR", "not started", "give the VM less"])
            .ending(End::GoesOn),
        Fault::lie(
            "heap-exhausted",
            "fault=heap-exhausted",
            &["KERNEL PANIC: memory allocation of", "backtrace:", "What to do: the kernel's heap is full"],
        )
        .ending(End::Panics { within: "kernel/basalt/src/lib.rs" }),
    ]
}

fn outputs() -> Vec<Fault> {
    vec![
        Fault::warning(
            "no-screen",
            "fault=no-screen,no-module",
            "there is no screen that the kernel can use",
        )
        .ending(End::StopsWithoutScreen),
        Fault::warning("no-serial", "fault=no-serial,no-module", "there is no serial port")
            .ending(End::StopsWithoutSerial),
    ]
}

/// CPUs that stop looking for work.
fn stuck() -> Vec<Fault> {
    vec![
        Fault::lie(
            "stuck-cpu",
            "fault=stuck-cpu watchdog=1 watchdog=peers",
            &[
                "KERNEL PANIC: CPU 1 is stuck: it has not looked for work for 1 s, at",
                "rip=",
                "backtrace:",
                "on CPU 1; idle:",
                REPORT,
            ],
        )
        .with_cpus(2)
        .ending(End::Panics { within: PROVOKER }),
        Fault::lie(
            "stuck-boot-cpu",
            "fault=stuck-boot-cpu watchdog=1 watchdog=peers",
            &[
                "KERNEL PANIC: CPU 0 is stuck: it has not looked for work for 1 s, at",
                "rip=",
                "backtrace:",
                "on CPU 0; idle:",
                REPORT,
            ],
        )
        // It was asked to start the VM.
        .besides("trace: CPU 0 at ")
        .with_cpus(2)
        .ending(End::Panics { within: PROVOKER }),
        // Nobody is left who could watch, but the HPET.
        Fault::lie(
            "stuck-only-cpu",
            "fault=stuck-boot-cpu watchdog=1",
            &[
                "KERNEL PANIC: CPU 0 is stuck: it has not looked for work for 1 s, at",
                "rip=",
                "backtrace:",
                REPORT,
            ],
        )
        .ending(End::Panics { within: PROVOKER }),
        Fault::lie(
            "stuck-cpus",
            "fault=stuck-cpus watchdog=1",
            &[
                "KERNEL PANIC: CPU ",
                " is stuck: it has not looked for work for 1 s, at",
                "rip=",
                "backtrace:",
                REPORT,
            ],
        )
        .with_cpus(2)
        .ending(End::Panics { within: PROVOKER }),
    ]
}

fn exceptions() -> Vec<Fault> {
    let inside = ["KERNEL PANIC: the fault was asked for", "KERNEL PANIC inside a panic", REPORT];
    vec![
        Fault::exception("early-page-fault", "fault=early-page-fault", "page fault (vector 14"),
        Fault::exception("page-fault", "fault=page-fault", "page fault (vector 14"),
        Fault::exception("double-fault", "fault=double-fault", "double fault (vector 8"),
        Fault::exception("stack-overflow", "fault=stack-overflow", "a stack overflowed into its guard page"),
        Fault::exception(
            "general-protection",
            "fault=general-protection",
            "general protection fault (vector 13",
        ),
        Fault::exception("divide-error", "fault=divide-error", "divide error (vector 0"),
        Fault::exception("invalid-opcode", "fault=invalid-opcode", "invalid opcode (vector 6"),
        Fault::lie(
            "machine-check",
            "fault=machine-check",
            &[
                "KERNEL PANIC: machine check (vector 18",
                "no bank has an error: the report came from elsewhere",
                "What to do: the hardware reports an error of its own",
            ],
        )
        .ending(End::Panics { within: PROVOKER }),
        Fault::warning("nmi", "fault=nmi,no-module", "1 non-maskable interrupt"),
        Fault::lie(
            "stray-nmi",
            "fault=stray-nmi",
            &["1 non-maskable interrupts that Basalt did not send (the chipset names no cause)"],
        )
        .ending(End::GoesOn),
        Fault::lie("stray-vectors", "fault=stray-vectors", &["all vectors came, and none is left"])
            .ending(End::GoesOn),
        Fault::lie(
            "early-panic",
            "fault=early-panic",
            &["KERNEL PANIC: the fault early-panic", "backtrace:", REPORT],
        )
        .ending(End::Panics { within: PROVOKER }),
        Fault::lie("panic", "fault=panic", &["KERNEL PANIC: the fault panic", "backtrace:", REPORT])
            .ending(End::Panics { within: PROVOKER }),
        Fault::lie(
            "panic-on-pixels",
            "fault=panic",
            &["KERNEL PANIC: the fault panic", "backtrace:", REPORT],
        )
        .ending(End::Panics { within: PROVOKER })
        .on(QEMU_SVM)
        .in_ci(),
        Fault::lie("panic-on-uefi", "fault=panic", &["KERNEL PANIC: the fault panic", "backtrace:", REPORT])
            .ending(End::Panics { within: PROVOKER })
            .on(QEMU_UEFI),
        Fault::lie(
            "panic-elsewhere",
            "fault=panic-elsewhere",
            &[
                "KERNEL PANIC: the fault panic-elsewhere",
                "backtrace:",
                "on CPU 1; idle: 0 others; CPU 0 at",
                REPORT,
            ],
        )
        .with_cpus(2)
        .ending(End::Panics { within: PROVOKER }),
        Fault::warning("unlike-cpu", "fault=unlike-cpu,no-module", "lacks what the boot CPU has: bits")
            .with_cpus(2),
        Fault::lie("panic-in-panic", "fault=panic-in-panic", &inside),
        Fault::lie("fault-in-panic", "fault=fault-in-panic", &inside),
    ]
}

/// What is said before the kernel has its own page tables, and where nothing else can say it, in pixels with UEFI.
fn framebuffer() -> Vec<Fault> {
    let grub = "start it with GRUB as it comes with the image";
    let faults = [
        Fault::refusal("broken-memory-map-on-uefi", "fault=broken-memory-map", "memory map is broken", grub),
        Fault::lie(
            "early-panic-on-uefi",
            "fault=early-panic",
            &["KERNEL PANIC: the fault early-panic", "backtrace:", REPORT],
        )
        .ending(End::Panics { within: PROVOKER }),
        Fault::warning("no-serial-on-uefi", "fault=no-serial,no-module", "there is no serial port")
            .ending(End::StopsWithoutSerial),
    ];
    faults.map(|fault| fault.on(QEMU_UEFI)).to_vec()
}

/// The next boot tells of the panic: the log has survived the reset.
fn restarts() -> Vec<Fault> {
    let restart = |name| {
        Fault::lie(
            name,
            "fault=panic panic=reboot:1",
            &[
                "KERNEL PANIC: the fault panic",
                "Restarting in 1 seconds",
                "previous boot: ended in a kernel panic",
                "previous boot: KERNEL PANIC: the fault panic",
                "previous boot: What to do: ",
            ],
        )
        .ending(End::Restarts)
    };
    vec![
        restart("log-survives"),
        restart("log-survives-grub").on(QEMU_SVM).in_ci(),
        restart("log-survives-uefi").on(QEMU_UEFI),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_there_are_enough() {
        let mut names: Vec<_> = faults().iter().map(|fault| fault.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(faults().iter().filter(|fault| fault.tier == Tier::Ci).count() >= 20);
    }

    #[test]
    fn every_fault_that_stops_says_what_to_do() {
        for fault in faults() {
            let says_what_to_do = fault.says.iter().any(|text| text.contains(ADVICE));
            assert!(says_what_to_do || fault.end == End::GoesOn, "{}", fault.name);
        }
    }

    #[test]
    fn a_text_is_found_over_the_ends_of_lines_and_in_order() {
        let fault = Fault::refusal("x", "", "no hardware", "use another");
        let screen = "BASALT CANNOT RUN HE\nRE: no hard\nware\nWhat to do: use  \nanother one";
        assert_eq!(fault.is_said_in(screen), Ok(()));
        let turned = "What to do: use another\nBASALT CANNOT RUN HERE: no hardware";
        assert!(fault.is_said_in(turned).is_err_and(|missing| missing.contains(ADVICE)));
        assert!(fault.is_said_in("").is_err());
    }

    #[test]
    fn the_time_of_the_end_is_read() {
        let close = |one: Option<f64>, other: f64| one.is_some_and(|one| (one - other).abs() < 1e-9);
        assert!(close(stopped_at("x\nStopped 0.010248 s after the kernel's start.\r\n", 1e9), 0.010_248));
        assert!(close(stopped_at("Stopped 500 TSC ticks after the kernel's start.", 1e9), 5e-7));
        assert_eq!(stopped_at("Stopped 0.01", 1e9), None);
        assert_eq!(stopped_at("", 1e9), None);
        let mut log = Log::default();
        log.push(b"[    0.500000] ERROR run: vm x: not started: y\n");
        assert!(close(logged_at(&log, "not started"), 0.5));
        assert_eq!(logged_at(&log, "missing"), None);
    }
}
