//! Scenarios in which one VM fails and the others must not notice.

use crate::linux::{DEMO, READY};
use crate::log::Log;
use crate::scenario::{BOCHS_VMX, Check, Damage, Guest, QEMU_SVM, Scenario, Step, Tier};

/// The guest that breaks itself, and the one that watches.
const CRASH: &str = "crash";
const WITNESS: &str = "spin";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![broken_images(), crashes(), debug_storm(), triple_fault()]
}

fn broken_images() -> Scenario {
    Scenario {
        name: "broken-images".to_owned(),
        about: "VMs with a truncated and a senseless kernel are refused; the third one starts".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM],
        cpus: None,
        options: String::new(),
        guests: vec![
            Guest::new(DEMO).in_vm("truncated").damaged(Damage::Truncated),
            Guest::new(DEMO).in_vm("garbage").damaged(Damage::Garbage),
            Guest::new(DEMO).append("basalt.run=true"),
        ],
        steps: vec![
            Step::kernel("vm truncated:"),
            Step::kernel("vm garbage:"),
            Step::vm(DEMO, READY).within(180),
            Step::end(DEMO).within(60),
        ],
        checks: vec![],
    }
}

/// Every way in which the guest `crash` ends by itself, and one in which it never ends, beside a witness that wants a line
/// a second. Those that end must be stopped with a dump.
fn crashes() -> Scenario {
    let broken = |way: &str| Guest::new(CRASH).in_vm(way).append(&format!("crash={way}"));
    let stopped = ["triple", "hlt", "wild-jump", "wild-mmio", "bad-cr"];
    let mut guests: Vec<_> = stopped.into_iter().chain(["loop"]).map(broken).collect();
    guests.push(Guest::new(WITNESS).append("beats=3"));
    let mut steps: Vec<_> = stopped.iter().map(|vm| Step::end(vm).within(60)).collect();
    steps.push(Step::end(WITNESS).within(120));
    Scenario {
        name: "crashes".to_owned(),
        about: "VMs that break themselves are stopped with a dump or held; their neighbour keeps time"
            .to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests,
        steps,
        checks: vec![
            Check { name: "each stop has its reason and registers", holds: stops_are_explained },
            Check { name: "the witness was heard", holds: witness_was_heard },
        ],
    }
}

fn stops_are_explained(log: &Log) -> Result<(), String> {
    for (vm, reason) in [
        ("triple", "triple fault"),
        ("hlt", "HLT with interrupts off"),
        ("wild-jump", "stopped:"),
        ("wild-mmio", "stopped:"),
    ] {
        for wanted in [format!("vm {vm}: stopped: "), format!("vm {vm}: RIP="), format!("vm {vm}: CR0=")] {
            if !log.kernel().any(|line| line.contains(&wanted)) {
                return Err(format!("no line with \"{wanted}\""));
            }
        }
        if !log.kernel().any(|line| line.contains(&format!("vm {vm}: ")) && line.contains(reason)) {
            return Err(format!("{vm} was not stopped for \"{reason}\""));
        }
    }
    Ok(())
}

fn witness_was_heard(log: &Log) -> Result<(), String> {
    match log.vm(WITNESS).filter(|line| line.starts_with("spin beat")).count() {
        3 => Ok(()),
        count => Err(format!("{count} lines instead of 3")),
    }
}

/// A #DB whose delivery raises #DB would never let a host interrupt in. (QEMU's own emulation aborts on it.)
fn debug_storm() -> Scenario {
    Scenario {
        name: "debug-storm".to_owned(),
        about: "a guest with endless debug exceptions gives way to its neighbour".to_owned(),
        tier: Tier::Ci,
        machines: vec![BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(CRASH).append("crash=debug-storm"), Guest::new(WITNESS).append("beats=3")],
        steps: vec![Step::vm(CRASH, "debug-storm: now"), Step::end(WITNESS).within(120)],
        checks: vec![Check { name: "the witness was heard", holds: witness_was_heard }],
    }
}

/// `reboot=t` makes Linux reboot by a triple fault.
fn triple_fault() -> Scenario {
    Scenario {
        name: "triple-fault".to_owned(),
        about: "a VM that triple-faults is stopped; its neighbour runs on to its own end".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM],
        cpus: None,
        options: String::new(),
        guests: vec![
            Guest::new(DEMO).in_vm("crash").append("reboot=t basalt.run=reboot"),
            Guest::new(DEMO).append("basalt.run=\"sleep 20\""),
        ],
        steps: vec![Step::end("crash").within(300), Step::end(DEMO).within(300)],
        checks: vec![],
    }
}
