//! The scenarios that measure the longest stretch in which a CPU does not look for pending work. Their kernel is a build of
//! its own, which tells each stretch that is longer than all before.

use crate::log::Log;
use crate::many;
use crate::scenario::{BOCHS_VMX, Check, Guest, QEMU_SVM_COUNTED, Scenario, Step, Tier};

/// The scenarios.
pub(crate) const NAMES: [&str; 4] = [NAME, DEVICES, SWITCH, many::NAME];
const NAME: &str = "smp-stretch";
const DEVICES: &str = "virtio-stretch";
const SWITCH: &str = "vswitch-stretch";
/// About as many rules as the kernel's line has room for.
const RULES: u16 = 100;
/// The bound of the design, 100 us, for a CPU of an instruction a nanosecond. Both emulators count a tick an instruction.
const BOUND_TICKS: u64 = 100_000;
pub(crate) const SHORT: Check =
    Check { name: "no stretch is longer than 100,000 instructions", holds: stretches_are_short };

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    // Big VMs that come, restart, crash and go, one with many vCPUs, and a user at the prompt. One CPU, so that an
    // emulator's turns for other CPUs do not count.
    let reboot = Guest::new("load").in_vm("reboot").settings("memory=192M").append("load=reboot");
    let crash = Guest::new("load").in_vm("crash").settings("restart=3 memory=128M").append("load=crash");
    let storm = Guest::new("load").in_vm("storm").cpus(8).append("load=storm");
    let asleep = Guest::new("load").in_vm("asleep").cpus(4).append("load=sleep");
    let lives = Scenario {
        name: NAME.to_owned(),
        about: "no CPU goes on for longer than 100 us without a look for pending work".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: Some(1),
        options: "times=1".to_owned(),
        guests: vec![storm, asleep, reboot, crash],
        steps: vec![
            Step::kernel("vm crash: starting anew")
                .within(120)
                .then_send("\x01l\x01:dump asleep\rcpus\rcap storm 50\r"),
            Step::kernel("vm asleep: vCPU 3").within(120).then_send("stop asleep\rweight storm 10\r"),
            Step::end("asleep").within(120).then_send("start asleep\rhelp\r"),
            Step::kernel("vm reboot: restarted").within(120),
            Step::kernel("vm reboot: restarted").within(120),
            Step::kernel("VMs told").within(120),
        ],
        checks: vec![SHORT],
    };
    vec![lives, devices(), switch()]
}

/// Floods of small frames, to one and to all, with rules of which each is asked, on one CPU as well.
fn switch() -> Scenario {
    let guest = |vm: &str, settings: &str, append: &str| {
        Guest::new("bench").in_vm(vm).settings(settings).append(append)
    };
    let receivers = "net=lan ".repeat(8);
    let rules: Vec<String> =
        (1..=RULES).map(|port| format!("rule=lan:deny,protocol=tcp,port={port}")).collect();
    Scenario {
        name: SWITCH.to_owned(),
        about: "no flood of frames keeps a CPU for longer than 100 us without a look".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: Some(1),
        options: rules.join(" "),
        guests: vec![
            guest("one", "net=lan", "only=switch_64 rounds=64"),
            guest("sink", "net=lan", "only=sink batch=128"),
            guest("flood", "net=lan broadcast=off", "only=flood rounds=64"),
            guest("many", receivers.trim_end(), "only=flood rounds=1"),
        ],
        steps: ["one", "flood", "many"].iter().map(|vm| Step::end(vm).within(300).anywhere()).collect(),
        checks: vec![SHORT],
    }
}

/// Disks and a network at work for three VMs, on one CPU as well.
fn devices() -> Scenario {
    let guest = |vm: &str, settings: &str, job: &str| {
        Guest::new("virtio")
            .in_vm(vm)
            .cpus(1)
            .settings(settings)
            .append(&format!("basalt.run=\"/jobs/{job}\""))
    };
    let vms = ["one", "two", "disks"];
    Scenario {
        name: DEVICES.to_owned(),
        about: "no work for virtio devices keeps a CPU for longer than 100 us without a look".to_owned(),
        tier: Tier::Full,
        machines: vec![BOCHS_VMX],
        cpus: Some(1),
        options: String::new(),
        guests: vec![
            guest("one", "net=cable trunk=all", "link 1 1000000"),
            guest("two", "net=cable trunk=all", "link 2 1000000"),
            guest("disks", "", "disks"),
        ],
        steps: vms.iter().map(|vm| Step::end(vm).within(900).anywhere()).collect(),
        checks: vec![SHORT],
    }
}

/// Reads `CPU n: N us, T ticks without a look: WHAT`.
fn stretch_of(line: &str) -> Option<(u64, &str)> {
    let (before, what) = line.split_once(" ticks without a look: ")?;
    Some((before.rsplit_once(' ')?.1.parse().ok()?, what))
}

fn stretches_are_short(log: &Log) -> Result<(), String> {
    match log.kernel().filter_map(stretch_of).max() {
        Some((ticks, what)) if ticks > BOUND_TICKS => Err(format!("{ticks} ticks, {what}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_stretch_is_found() {
        let mut log = Log::default();
        log.push(b"[ 1.0] INFO  stretch: CPU 0: 99 us, 99900 ticks without a look: a step of a task\n");
        assert_eq!(stretches_are_short(&log), Ok(()));
        log.push(b"[ 1.1] INFO  stretch: CPU 1: 101 us, 100100 ticks without a look: before a rest\n");
        assert_eq!(stretches_are_short(&log), Err("100100 ticks, before a rest".to_owned()));
    }
}
