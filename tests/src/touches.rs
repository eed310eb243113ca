//! What it costs a guest to touch its memory: nothing, and a nested fault for 2 MiB that it had given back.

use crate::log::Log;
use crate::report;
use crate::scenario::{BOCHS_VMX, Check, Guest, QEMU_SVM_COUNTED, Scenario, Step, Tier};
use crate::smp::memory_is_back;

/// The guest.
const MEMORY: &str = "memory";
/// The exit reason that counts, beside which there are accesses to devices, always the same.
const FAULTS: &str = "nested-fault";
/// Blocks of 2 MiB that it gives back.
const BLOCKS: u64 = 4;

/// VMs by what they do. Each that touches memory is compared with the one before, which does not.
const VMS: [(&str, &str); 6] = [
    ("nothing", ""),
    ("all", "touch=all"),
    ("free", "give=free"),
    ("free-again", "give=free touch=given"),
    ("balloon", "give=balloon"),
    ("balloon-again", "give=balloon touch=given"),
];

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let guest =
        |(vm, append): &(&str, &str)| Guest::new(MEMORY).in_vm(vm).settings("memory=64M").append(append);
    let mut steps: Vec<_> = VMS.iter().map(|(vm, _)| Step::end(vm).within(120).anywhere()).collect();
    steps.push(Step::kernel("all VMs have ended").within(60));
    vec![Scenario {
        name: "memory-touches".to_owned(),
        about: "memory that a guest has takes it no nested fault, and what it had given back one for 2 MiB"
            .to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: None,
        options: "end=poweroff".to_owned(),
        guests: VMS.iter().map(guest).collect(),
        steps,
        checks: vec![
            Check { name: "faults are as few as there are large pages", holds: faults_are_few },
            Check { name: "as much memory is free as before", holds: memory_is_back },
        ],
    }]
}

fn faults_are_few(log: &Log) -> Result<(), String> {
    let faults = |vm: &str| {
        let done = log.vm(vm).any(|line| line.starts_with("selftest memory done:"));
        let found = report::exits(log, vm).into_iter().find(|(reason, _)| reason == FAULTS);
        done.then(|| found.map_or(0, |(_, count)| count))
            .ok_or_else(|| format!("{vm} has not come to its end"))
    };
    for (pair, may) in VMS.chunks_exact(2).zip([0..=0, 1..=BLOCKS, 1..=BLOCKS]) {
        let (without, with) = (faults(pair[0].0)?, faults(pair[1].0)?);
        if !with.checked_sub(without).is_some_and(|more| may.contains(&more)) {
            return Err(format!("{}: {with}, which is not {without} and {may:?}", pair[1].0));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_compared_with_those_of_devices() {
        let log = |again: u64| {
            let lines = VMS.iter().zip([2, 2, 9, again, 9, 10]).map(|((vm, _), count)| {
                format!(
                    "[{vm}] selftest memory done: None\n[ 1.0] INFO  report: vm {vm}: exits nested-fault {count}\n"
                )
            });
            Log::from(lines.collect::<String>().as_str())
        };
        assert_eq!(faults_are_few(&log(9 + BLOCKS)), Ok(()));
        assert!(faults_are_few(&log(10 + BLOCKS)).is_err_and(|reason| reason.starts_with("free-again: 14")));
        assert!(faults_are_few(&Log::default()).is_err());
    }
}
