//! Scenarios on machines with several CPUs.

use crate::linux::{DEMO, READY};
use crate::log::Log;
use crate::scenario::{BOCHS_VMX, Check, Guest, QEMU_SVM, QEMU_SVM_COUNTED, Scenario, Step, Tier};

/// A guest that says a line a second.
const WITNESS: &str = "spin";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let slow = Scenario {
        name: "smp-stress-full".to_owned(),
        tier: Tier::Full,
        machines: vec![BOCHS_VMX],
        ..stress()
    };
    vec![hosts(), limit(), linux(), stress(), slow, again(20, Tier::Ci), again(1000, Tier::Full)]
}

fn hosts() -> Scenario {
    Scenario {
        name: "smp-hosts".to_owned(),
        about: "both CPUs of a machine come up, and it runs a guest and goes off as with one".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: Some(2),
        options: "loglevel=debug end=poweroff".to_owned(),
        guests: vec![Guest::new(WITNESS).append("beats=1")],
        steps: vec![
            Step::kernel("2 of 2 CPUs run"),
            Step::vm(WITNESS, "spin done").within(120),
            Step::end(WITNESS),
        ],
        checks: vec![Check { name: "the CPUs' TSCs agree", holds: counters_agree }],
    }
}

fn counters_agree(log: &Log) -> Result<(), String> {
    let compared = log.kernel().any(|line| line.contains("TSC is") && line.contains("give or take"));
    let left_out = log.kernel().find(|line| line.contains("left out"));
    match (compared, left_out) {
        (_, Some(line)) => Err(line.to_owned()),
        (false, _) => Err("they were not compared".to_owned()),
        (true, None) => Ok(()),
    }
}

fn limit() -> Scenario {
    Scenario {
        name: "smp-limit".to_owned(),
        about: "the option cpus=2 leaves the other CPUs of the machine alone".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM],
        cpus: Some(4),
        options: "cpus=2 end=poweroff".to_owned(),
        guests: vec![Guest::new(WITNESS).append("beats=1")],
        steps: vec![
            Step::kernel("2 of 4 CPUs run (as the option cpus= says)"),
            Step::end(WITNESS).within(120),
        ],
        checks: vec![],
    }
}

/// A VM that is made and destroyed so many times beside one that runs.
fn again(times: u32, tier: Tier) -> Scenario {
    Scenario {
        name: format!("smp-again-{times}"),
        about: format!("a VM that is made and destroyed {times} times gives every frame back"),
        tier,
        // A thousand times take most of an hour where instructions are counted.
        machines: if tier == Tier::Ci { vec![QEMU_SVM_COUNTED, BOCHS_VMX] } else { vec![QEMU_SVM] },
        cpus: Some(2),
        options: "end=poweroff".to_owned(),
        guests: vec![
            Guest::new(WITNESS)
                .in_vm("again")
                .cpus(2)
                .settings(&format!("memory=16M restart={}", times - 1))
                .append("beats=0"),
            Guest::new(WITNESS).in_vm("beside").append("beats=3"),
        ],
        steps: vec![Step::end("beside").within(1200), Step::kernel("all VMs have ended").within(1200)],
        checks: vec![Check { name: "as much memory is free as before", holds: all_is_given_back }],
    }
}

fn all_is_given_back(log: &Log) -> Result<(), String> {
    let starts = log.kernel().filter(|line| line.contains("vm again: starting anew")).count();
    if starts < 19 {
        return Err(format!("{starts} new starts"));
    }
    memory_is_back(log)
}

/// As much memory is free when all VMs have ended as before they began (with `end=poweroff`), but for what was written to their disks, which is
/// there for the next start.
pub(crate) fn memory_is_back(log: &Log) -> Result<(), String> {
    let kept: u64 = log
        .kernel()
        .filter_map(|line| line.split_once(" disks keep ")?.1.split(' ').next()?.parse::<u64>().ok())
        .sum();
    let free = |text: &str| {
        let line = log.kernel().find_map(|line| line.split_once(text))?;
        line.0.trim().rsplit_once(' ')?.1.parse::<u64>().ok()
    };
    match (free(" KiB of memory are free for VMs"), free(" KiB of memory are free again")) {
        (Some(before), Some(after)) if before == after + kept => Ok(()),
        (before, after) => Err(format!("{before:?} KiB before, {after:?} KiB after, {kept} KiB in disks")),
    }
}

/// The guest with stress-ng, and what it does: so many operations of each kind, each checked.
const STRESS: &str = "stress";
const STRESS_JOB: &str = "basalt.run=\"stress-ng --verify --cpu 4 --cpu-ops 100 --vm 2 --vm-bytes 16M --vm-ops 400 \
                          --switch 2 --switch-ops 2000 --timer 2 --timer-ops 2000 --metrics-brief\"";

/// Stock Linux with more vCPUs than the machine has CPUs, under Debian's stress-ng.
fn stress() -> Scenario {
    Scenario {
        name: "smp-stress".to_owned(),
        about: "stock Linux with 4 vCPUs on 2 CPUs runs stress-ng on processors, memory, switches, timers"
            .to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED],
        cpus: Some(2),
        options: "end=poweroff".to_owned(),
        guests: vec![Guest::new(STRESS).append(STRESS_JOB)],
        steps: vec![
            Step::vm(STRESS, "dispatching hogs: 4 cpu, 2 vm, 2 switch, 2 timer").within(180),
            Step::vm(STRESS, "successful run completed").within(240),
            Step::vm(STRESS, "basalt-demo job done: 0").within(60),
            Step::end(STRESS).within(60),
        ],
        checks: vec![Check { name: "nothing failed", holds: nothing_failed }],
    }
}

fn nothing_failed(log: &Log) -> Result<(), String> {
    let bad = |line: &&str| line.contains("fail:") || line.contains("BUG:") || line.contains("rcu: INFO");
    match log.vm(STRESS).find(bad) {
        Some(line) => Err(line.to_owned()),
        None => Ok(()),
    }
}

/// Stock Linux with more vCPUs than the machine has CPUs, tested by its own job as `linux-boot` is.
fn linux() -> Scenario {
    Scenario {
        name: "smp-linux".to_owned(),
        about: "stock Linux with 4 vCPUs on 2 CPUs boots, keeps time, has nothing to complain about"
            .to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM, BOCHS_VMX],
        cpus: Some(2),
        options: "end=poweroff".to_owned(),
        guests: vec![Guest::new(DEMO).cpus(4).append("basalt.run=/jobs/selfcheck")],
        steps: vec![
            Step::vm(DEMO, "Brought up 1 node, 4 CPUs").within(180),
            Step::vm(DEMO, READY).within(180),
            Step::results(DEMO).within(120),
            Step::end(DEMO).within(60),
        ],
        checks: vec![],
    }
}
