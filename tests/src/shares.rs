//! Scenarios that measure what VMs have of the CPUs, by the scheduler's own books: Basalt's option `times=` has it tell
//! them at fixed moments, and the shares are those between the first and the last of them.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::log::Log;
use crate::scenario::{BOCHS_VMX, Check, Guest, QEMU_SVM_COUNTED, Scenario, Step, Tier};

/// The guest that loads processors.
const LOAD: &str = "load";
const SHARES: &str = "smp-shares";
const NEIGHBOURS: &str = "smp-neighbours";
const POOLS: &str = "smp-pools";
/// Seconds between two tellings.
const PERIOD: usize = 5;
/// Tellings that are awaited: the first two are the start and the end of ten seconds.
const TELLINGS: usize = 3;
/// CPUs of the machine.
const CPUS: u32 = 2;

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    // Bochs takes minutes for so many VMs.
    let slow = Scenario {
        name: format!("{NEIGHBOURS}-full"),
        tier: Tier::Full,
        machines: vec![BOCHS_VMX],
        ..neighbours()
    };
    vec![shares(), pools(), neighbours(), slow]
}

/// VMs, their settings, and what percent of a CPU they must have of two.
const SHARERS: [(&str, &str, f64); 3] =
    [("light", "weight=100", 40.0), ("heavy", "weight=300", 120.0), ("capped", "weight=1000 cap=40", 40.0)];

/// The scheduler's promise: within this of a share by weight,
const WEIGHT_BOUND: f64 = 0.02;
/// and of a cap.
const CAP_BOUND: f64 = 0.01;

/// All times are told so often.
fn told(times: usize) -> Vec<Step> {
    (0..times).map(|_| Step::kernel("VMs told").within(300)).collect()
}

fn shares() -> Scenario {
    let guest = |(vm, settings, _): &(&str, &str, f64)| {
        Guest::new(LOAD).in_vm(vm).cpus(2).settings(settings).append("load=spin")
    };
    Scenario {
        name: SHARES.to_owned(),
        about: "three VMs of different weights and caps have their shares of two CPUs over ten seconds"
            .to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: Some(CPUS),
        options: format!("times={PERIOD}"),
        guests: SHARERS.iter().map(guest).collect(),
        steps: changing(),
        checks: vec![
            Check { name: "shares are within 2 %, the cap within 1 %", holds: shares_are_kept },
            Check { name: "new ones count at once", holds: new_shares_are_kept },
        ],
    }
}

/// What the user types after ten seconds, and what the VMs must have then.
const CHANGES: &str = "\x01:cap heavy 50\rweight light 600\r\r";
const CHANGED: [(&str, &str, f64); 3] =
    [("light", "", 110.0), ("heavy", "cap", 50.0), ("capped", "cap", 40.0)];
/// The telling with which the new shares are compared: the one before may lie before the change.
const CHANGED_FROM: usize = TELLINGS;

fn changing() -> Vec<Step> {
    let mut steps = told(TELLINGS);
    let last = steps.pop().map(|step| step.then_send(CHANGES));
    steps.into_iter().chain(last).chain(told(2)).collect()
}

fn shares_are_kept(log: &Log) -> Result<(), String> {
    kept(&shares_in(log, 0, TELLINGS - 1)?, &SHARERS)
}

fn new_shares_are_kept(log: &Log) -> Result<(), String> {
    kept(&shares_in(log, CHANGED_FROM, CHANGED_FROM + 1)?, &CHANGED)
}

fn kept(shares: &BTreeMap<String, Share>, wanted: &[(&str, &str, f64)]) -> Result<(), String> {
    for (vm, settings, wanted) in wanted.iter().copied() {
        let share = shares.get(vm).ok_or_else(|| format!("no times of {vm}"))?.charged;
        let bound = if settings.contains("cap") { CAP_BOUND } else { WEIGHT_BOUND };
        if (share / wanted - 1.0).abs() > bound {
            return Err(format!("{vm} has {share:.2} % of a CPU instead of {wanted} %"));
        }
    }
    Ok(())
}

/// Pool 1 has one CPU and one VM, which cannot use more; in pool 0 one VM has its reservation, whatever the other weighs.
const POOLED: [(&str, &str, f64); 3] = [
    ("apart", "pool=1", 100.0),
    ("reserved", "reservation=40 weight=10", 40.0),
    ("rest", "weight=1000 pin=0", 60.0),
];

fn pools() -> Scenario {
    let guest = |(vm, settings, _): &(&str, &str, f64)| {
        Guest::new(LOAD).in_vm(vm).cpus(2).settings(settings).append("load=spin")
    };
    Scenario {
        name: POOLS.to_owned(),
        about: "a VM has its pool's CPU alone, and another its reservation beside a heavier one".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED],
        cpus: Some(CPUS),
        options: format!("times={PERIOD} pool=1:1"),
        guests: POOLED.iter().map(guest).collect(),
        steps: told(TELLINGS),
        checks: vec![Check { name: "shares are within 2 %", holds: pools_are_kept }],
    }
}

fn pools_are_kept(log: &Log) -> Result<(), String> {
    kept(&shares_in(log, 0, TELLINGS - 1)?, &POOLED)
}

/// The VM that must not notice, and those that behave badly beside it, all of the same weight.
const WITNESS: &str = "witness";
const NOISE: [(&str, &str, &str); 6] = [
    ("spin", "cpus=2", "load=spin"),
    ("storm", "cpus=2", "load=storm"),
    ("hungry", "memory=128M", "load=hungry"),
    ("exits", "", "load=exits"),
    ("crash", "restart=always", "load=crash"),
    ("reboot", "", "load=reboot"),
];

fn neighbours() -> Scenario {
    let mut guests =
        vec![Guest::new(LOAD).in_vm(WITNESS).settings("memory=32M").append("load=witness seed=7")];
    for (vm, settings, load) in NOISE {
        let guest = Guest::new(LOAD).in_vm(vm).append(load);
        guests.push(match settings.strip_prefix("cpus=") {
            Some(_) => guest.cpus(2),
            None => guest.settings(settings),
        });
    }
    Scenario {
        name: NEIGHBOURS.to_owned(),
        about:
            "VMs that spin, storm, crash, reboot and write all memory take nothing from a witness beside them"
                .to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED],
        cpus: Some(CPUS),
        options: format!("times={PERIOD}"),
        guests,
        steps: told(TELLINGS),
        checks: vec![
            Check { name: "the witness has its share", holds: witness_has_its_share },
            Check { name: "the witness finds its memory as it should be", holds: witness_is_well },
        ],
    }
}

fn witness_has_its_share(log: &Log) -> Result<(), String> {
    let share = shares_in(log, 0, TELLINGS - 1)?.get(WITNESS).ok_or("no times of the witness")?.charged;
    // What the others do not use it may have; less than this it may not.
    let fair = 100.0 * f64::from(CPUS) / (NOISE.len() + 1) as f64;
    if share < fair * (1.0 - WEIGHT_BOUND) {
        return Err(format!("it has {share:.2} % of a CPU, and {fair:.2} % are its own"));
    }
    Ok(())
}

fn witness_is_well(log: &Log) -> Result<(), String> {
    if let Some(bad) = log.vm(WITNESS).find(|line| line.contains("BAD")) {
        return Err(bad.to_owned());
    }
    match log.vm(WITNESS).filter(|line| line.starts_with("witness: pass")).count() {
        0 => Err("it has not finished a pass".to_owned()),
        _ => Ok(()),
    }
}

/// Shares in percent of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Share {
    charged: f64,
    steal: f64,
    throttled: f64,
}

/// A telling: the moment and three times, in ticks.
type Times = [u64; 4];

/// The shares of all VMs between two tellings.
fn shares_in(log: &Log, first: usize, last: usize) -> Result<BTreeMap<String, Share>, String> {
    let mut tellings: BTreeMap<String, Vec<Times>> = BTreeMap::new();
    for (vm, times) in log.kernel().filter_map(read_times) {
        tellings.entry(vm.to_owned()).or_default().push(times);
    }
    let mut shares = BTreeMap::new();
    for (vm, times) in tellings {
        let (Some(first), Some(last)) = (times.get(first), times.get(last)) else {
            return Err(format!("{} times of {vm} are too few", times.len()));
        };
        let grown = |index: usize| last[index].saturating_sub(first[index]) as f64;
        let percent = |index| 100.0 * grown(index) / grown(0).max(1.0);
        shares.insert(vm, Share { charged: percent(1), steal: percent(2), throttled: percent(3) });
    }
    Ok(shares)
}

/// Reads `vm NAME: at A: charged C steal S throttled T exits E wake-ups W`.
fn read_times(line: &str) -> Option<(&str, Times)> {
    let (_, rest) = line.split_once("vm ")?;
    let (vm, rest) = rest.split_once(": at ")?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let [at, "charged", charged, "steal", steal, "throttled", throttled, ..] = words[..] else { return None };
    let number = |text: &str| text.parse().ok();
    Some((vm, [number(at.trim_end_matches(':'))?, number(charged)?, number(steal)?, number(throttled)?]))
}

/// The table of a scenario that measures shares.
#[must_use]
pub fn table(scenario: &str, log: &Log) -> Option<String> {
    if ![SHARES, POOLS, NEIGHBOURS].iter().any(|name| scenario.starts_with(name)) {
        return None;
    }
    let shares = shares_in(log, 0, TELLINGS - 1).ok()?;
    let mut table =
        format!("{:<10} {:>8} {:>8} {:>9}  (% of a CPU)\n", "VM", "charged", "steal", "throttled");
    for (vm, Share { charged, steal, throttled }) in shares {
        let _ = writeln!(table, "{vm:<10} {charged:>8.2} {steal:>8.2} {throttled:>9.2}");
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(charged: [u64; 3]) -> Log {
        let mut log = Log::default();
        for (index, at) in [100, 600, 1100].into_iter().enumerate() {
            let line = format!(
                "[    1.000000] INFO  rates: vm a: at {at}: charged {} steal {} throttled 0 exits 9 wake-ups 1\n",
                charged[index],
                index * 10
            );
            log.push(line.as_bytes());
        }
        log
    }

    #[test]
    fn shares_are_those_between_the_first_and_the_last_telling() {
        let shares = shares_in(&log([50, 100, 450]), 0, 2).unwrap();
        assert_eq!(shares["a"], Share { charged: 40.0, steal: 2.0, throttled: 0.0 });
        assert!(table(SHARES, &log([0, 1, 2])).unwrap().contains("a "));
        assert_eq!(table("linux-boot", &log([0, 1, 2])), None);
        assert!(shares_in(&Log::default(), 0, 2).unwrap().is_empty());
        assert!(shares_are_kept(&log([0, 1, 2])).is_err() && witness_has_its_share(&log([0, 1, 2])).is_err());
    }
}
