//! Scenarios with stock Linux: one boot that looks at everything, and one for each way to end it.

use crate::log::Log;
use crate::report;
use crate::scenario::{
    BOCHS_VMX, Check, Guest, MATRIX_SHARE, QEMU_PVH, QEMU_SVM, QEMU_SVM_COUNTED, Scenario, Step, Tier,
};

/// The demonstration guest.
pub const DEMO: &str = "demo";
/// What it prints when its shell is up.
pub const READY: &str = "basalt-demo login ready";

/// Exits of a boot: in all, and for port accesses, nearly all of which are those of the serial console.
#[derive(Clone, Copy)]
struct Exits {
    all: u64,
    io: u64,
}

/// What `linux-boot` takes on bochs-vmx, and `linux-unsteady-tsc` on qemu-svm-counted, where time counts instructions: a boot takes the same each
/// time, until the kernel or Debian's changes. [`AT_MOST`] is for where time is the host's, and shows only what is wrong by far.
const ON_BOCHS: Exits = Exits { all: 58_982, io: 42_937 };
const ON_COUNTED: Exits = Exits { all: 65_606, io: 58_552 };
const AT_MOST: Exits = Exits { all: 250_000, io: 200_000 };
/// How many more there may be, in percent.
const MORE: u64 = 15;

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![boot(), unsteady_tsc(), pvh(), reboot(), shell(), matrix(), screen()]
}

/// The guest's own job `selfcheck` prints a line for each of its tests, as the selftests do.
fn boot() -> Scenario {
    Scenario {
        name: "linux-boot".to_owned(),
        about: "stock Linux boots, keeps time, has nothing to complain about, powers off".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(DEMO).append("basalt.run=/jobs/selfcheck")],
        steps: vec![
            Step::vm(DEMO, READY).within(180),
            Step::results(DEMO).within(60),
            Step::end(DEMO).within(60),
        ],
        checks: vec![
            Check { name: "exits are reported by reason", holds: exits_are_reported },
            Check { name: "exits are no more than before", holds: exits_are_few },
        ],
    }
}

/// The loader hands over one file; the kernel finds its options, two VMs and their modules in it.
fn pvh() -> Scenario {
    Scenario {
        name: "linux-pvh".to_owned(),
        about: "without GRUB, by the PVH protocol and from a boot archive, stock Linux boots and powers off"
            .to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_PVH],
        cpus: None,
        options: "view=all".to_owned(),
        guests: vec![
            Guest::new(DEMO).append("basalt.run=poweroff"),
            Guest::new(DEMO).in_vm("second").append("basalt.run=poweroff"),
        ],
        steps: vec![
            Step::kernel("loaded by a PVH loader with options"),
            Step::end(DEMO).within(180),
            Step::end("second").within(180),
        ],
        checks: vec![Check { name: "the archive's options are read", holds: options_are_read }],
    }
}

fn options_are_read(log: &Log) -> Result<(), String> {
    match log.kernel().any(|line| line.ends_with(" view=all\"") || line.ends_with("\"view=all\"")) {
        true => Ok(()),
        false => Err("the kernel's log does not show them".to_owned()),
    }
}

/// The log on the screen that GRUB has set up: pixels with UEFI and with a BIOS. Its first line was written before
/// the kernel had its own page tables, its last one while the guest ran.
fn screen() -> Scenario {
    Scenario {
        name: "screen".to_owned(),
        about: "the kernel's log is on the screen, in readable letters".to_owned(),
        tier: Tier::Ci,
        machines: MATRIX_SHARE.to_vec(),
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(DEMO)],
        steps: vec![
            Step::vm(DEMO, READY).within(180),
            Step::screen("INFO  basalt: Basalt ").within(60),
            Step::screen("INFO  basalt: loaded by GRUB ").within(60),
            Step::screen("INFO  run: console ready, 1 VMs; Ctrl-A h helps").within(60),
        ],
        checks: vec![],
    }
}

/// The same on a machine whose TSC is not to be trusted.
fn unsteady_tsc() -> Scenario {
    Scenario {
        name: "linux-unsteady-tsc".to_owned(),
        about: "stock Linux keeps time where Basalt's own time does not go by the TSC".to_owned(),
        tier: Tier::Ci,
        cpus: None,
        // In real time a busy host may disturb Linux' measurements.
        machines: vec![QEMU_SVM_COUNTED],
        options: "tsc=distrust".to_owned(),
        guests: vec![Guest::new(DEMO).append("basalt.run=\"/jobs/selfcheck unsteady-tsc\"")],
        steps: vec![
            Step::kernel("because of tsc=distrust"),
            Step::vm(DEMO, READY).within(180),
            Step::results(DEMO).within(60),
            Step::end(DEMO).within(60),
        ],
        checks: vec![Check {
            name: "exits are no more than before",
            holds: |log| ON_COUNTED.are_not_passed(log),
        }],
    }
}

fn exits_are_few(log: &Log) -> Result<(), String> {
    let exits = if report::has_vmx(log) { ON_BOCHS } else { AT_MOST };
    exits.are_not_passed(log)
}

impl Exits {
    fn are_not_passed(self, log: &Log) -> Result<(), String> {
        let exits = report::exits(log, DEMO);
        let count = |wanted: fn(&str) -> bool| {
            exits.iter().filter(|(reason, _)| wanted(reason)).map(|(_, count)| count).sum::<u64>()
        };
        let more = [
            ("exits", self.all, count(|_| true)),
            ("port accesses", self.io, count(|reason| reason == "io")),
        ]
        .into_iter()
        .filter(|(_, before, found)| found * 100 > before * (100 + MORE))
        .map(|(what, before, found)| format!("{found} {what} instead of {before}"))
        .collect::<Vec<_>>();
        if more.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{}; find the cause, or, where there is a reason for it, write the numbers into tests/src/linux.rs and give the reason in the commit",
            more.join(", ")
        ))
    }
}

fn exits_are_reported(log: &Log) -> Result<(), String> {
    let exits = report::exits(log, DEMO);
    let total: u64 = exits.iter().map(|(_, count)| count).sum();
    match exits.len() {
        0..=2 => Err(format!("only {exits:?}")),
        _ if total < 100 => Err(format!("a boot with only {total} exits")),
        _ => Ok(()),
    }
}

fn reboot() -> Scenario {
    Scenario {
        name: "linux-reboot".to_owned(),
        about: "`reboot` in the guest starts that VM anew".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(DEMO).append("basalt.run=reboot")],
        steps: vec![Step::vm(DEMO, READY).within(180), Step::vm(DEMO, READY).within(180)],
        checks: vec![],
    }
}

/// Ctrl-A 1 gives the keyboard to the first VM; from then on only its console is shown, without a prefix,
/// and so the log counts it as the kernel's.
fn shell() -> Scenario {
    Scenario {
        name: "linux-shell".to_owned(),
        about: "the guest's shell is interactive on the console".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(DEMO)],
        steps: vec![
            Step::vm(DEMO, READY).within(180).then_send("\x011"),
            Step::kernel("").then_send("echo $((6 * 7))-is-the-answer\r"),
            Step::kernel("42-is-the-answer").within(30).then_send("\x01k"),
            // The log from the start, once more.
            Step::kernel("--- kernel log ---"),
            Step::kernel("loaded by"),
            Step::kernel("console ready"),
        ],
        checks: vec![],
    }
}

/// What `cargo xtask test --matrix` does on every machine, from one and the same image.
#[must_use]
pub fn matrix() -> Scenario {
    Scenario {
        name: "matrix".to_owned(),
        about: "one image boots all machines, to the demo guest's shell".to_owned(),
        tier: Tier::Ci,
        machines: MATRIX_SHARE.to_vec(),
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(DEMO).append("basalt.run=true")],
        steps: vec![Step::vm(DEMO, READY).within(180), Step::end(DEMO).within(60)],
        checks: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_with_many_more_exits_than_before_is_told_of() {
        let log = |abilities: &str, io: u64| {
            Log::from(
                format!(
                    "[ 0.1] INFO  basalt: {abilities}\n[ 9.0] INFO  report: vm demo: exits cpuid 9000\n\
                     [ 9.0] INFO  report: vm demo: exits io {io}\n"
                )
                .as_str(),
            )
        };
        assert_eq!(exits_are_few(&log("VMX (VPID)", ON_BOCHS.io + 5000)), Ok(()));
        let reason = exits_are_few(&log("VMX (VPID)", 50_000)).expect_err("too many");
        assert!(reason.starts_with("50000 port accesses instead of 42937; "), "{reason}");
        assert_eq!(exits_are_few(&log("SVM (nested paging)", 150_000)), Ok(()));
        let reason = exits_are_few(&log("SVM (nested paging)", 1_900_000)).expect_err("too many");
        assert!(reason.starts_with("1909000 exits instead of 250000, 1900000 port"), "{reason}");
    }
}
