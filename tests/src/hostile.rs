//! Scenarios in which guests attack their virtio devices.
//!
//! What a neighbour feels of it is measured by the blocks that a witness writes, reads and verifies in so many ticks of its TSC, which both emulators
//! count by instructions. Before it attacks, the hostile guest computes, and takes no less of the machine. QEMU gives its virtual CPUs turns, and ends one
//! early where a guest exits, so that ticks say nothing of two of them: there both VMs share one CPU.

use std::fmt::Write;

use crate::log::{Log, Source};
use crate::scenario::{BLANK_DISK, BOCHS_VMX, Check, Guest, QEMU_SVM_COUNTED, Scenario, Step, Tier};

/// The guest that attacks.
const GUEST: &str = "hostile";
/// The VM that it attacks from.
const HOSTILE: &str = "hostile";

/// The VM beside it, which must not notice.
const WITNESS: &str = "witness";
/// With a CPU for each of both, and with one for both.
const NEIGHBOUR: &str = "virtio-hostile-neighbour";
const TURNS: &str = "virtio-hostile-turns";
/// What the witness keeps of its throughput at least.
const KEPT: f64 = 0.9;
/// Windows of the witness that a mean is made of, at least.
const LEAST_WINDOWS: usize = 4;

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![
        alone(),
        racing(),
        neighbour(NEIGHBOUR, 2, BOCHS_VMX, ["window=20", "quiet=300 rounds=1"]),
        neighbour(TURNS, 1, QEMU_SVM_COUNTED, ["window=100", "quiet=1000 rounds=2"]),
    ]
}

/// The guest with all devices.
fn attacker() -> Guest {
    Guest::new(GUEST)
        .in_vm(HOSTILE)
        .settings("net=nowhere console=virtio")
        .module("disk serial=target", &BLANK_DISK)
}

fn alone() -> Scenario {
    Scenario {
        name: "virtio-hostile".to_owned(),
        about: "a guest attacks each of its virtio devices, which are whole again after a reset".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![attacker()],
        steps: vec![Step::results(HOSTILE).within(240), Step::end(HOSTILE).within(60)],
        checks: vec![],
    }
}

/// Two virtual CPUs at one device, each on a CPU of its own.
fn racing() -> Scenario {
    Scenario {
        name: "virtio-hostile-racing".to_owned(),
        about: "two virtual CPUs use, change and reset the same virtio devices at once".to_owned(),
        machines: vec![BOCHS_VMX],
        cpus: Some(2),
        guests: vec![
            attacker()
                .cpus(2)
                .append("test=rings_change_under_way,registers_change_under_way,resets_from_both_sides"),
        ],
        ..alone()
    }
}

fn neighbour(name: &str, cpus: u32, machine: &'static str, [window, attack]: [&str; 2]) -> Scenario {
    let witness = Guest::new(GUEST).in_vm(WITNESS).append(&format!("job=witness {window}"));
    Scenario {
        name: name.to_owned(),
        about: "a VM's disk is as fast as before, and right, while another VM attacks its own virtio devices"
            .to_owned(),
        tier: Tier::Ci,
        machines: vec![machine],
        cpus: Some(cpus),
        options: String::new(),
        guests: vec![
            witness.module("disk serial=own", &BLANK_DISK),
            attacker().append(&format!("job=attack {attack}")),
        ],
        steps: vec![Step::results(HOSTILE).within(400), Step::end(HOSTILE).within(60)],
        checks: vec![
            Check { name: "the witness finds its blocks as it wrote them", holds: witness_is_well },
            Check { name: "the witness keeps 90 % of its throughput", holds: witness_is_fast },
        ],
    }
}

fn witness_is_well(log: &Log) -> Result<(), String> {
    match log.vm(WITNESS).find(|line| line.contains("BAD")) {
        Some(bad) => Err(bad.to_owned()),
        None => Ok(()),
    }
}

fn witness_is_fast(log: &Log) -> Result<(), String> {
    let [quiet, attacked] = throughput(log)?;
    match attacked.mean() >= quiet.mean() * KEPT {
        true => Ok(()),
        false => Err(format!("{:.0} blocks instead of {:.0}", attacked.mean(), quiet.mean())),
    }
}

/// Blocks of the witness in each window of a time.
#[derive(Debug, Default, PartialEq)]
struct Windows(Vec<u32>);

impl Windows {
    fn mean(&self) -> f64 {
        self.0.iter().copied().map(f64::from).sum::<f64>() / self.0.len().max(1) as f64
    }

    fn least(&self) -> u32 {
        self.0.iter().copied().min().unwrap_or(0)
    }
}

/// The windows before and during the attacks; of each time the first one, which began before it, is left out.
fn throughput(log: &Log) -> Result<[Windows; 2], String> {
    let mut windows = [Windows::default(), Windows::default()];
    let (mut time, mut whole) = (None, false);
    for line in log.lines() {
        match &line.source {
            Source::Vm(vm) if vm == HOSTILE => {
                let next = match line.text.as_str() {
                    "hostile: quiet" => Some(0),
                    "hostile: attacks begin" => Some(1),
                    "hostile: attacks end" => None,
                    _ => continue,
                };
                (time, whole) = (next, false);
            }
            Source::Vm(vm) if vm == WITNESS => {
                let Some(blocks) = blocks_of(&line.text) else { continue };
                if let Some(time) = time.filter(|_| whole) {
                    windows[time].0.push(blocks);
                }
                whole = true;
            }
            _ => {}
        }
    }
    match windows.iter().map(|windows| windows.0.len()).min() {
        Some(few) if few < LEAST_WINDOWS => Err(format!("{few} windows of the witness are too few")),
        _ => Ok(windows),
    }
}

/// Reads `witness: window N: B blocks ...`.
fn blocks_of(line: &str) -> Option<u32> {
    let (_, rest) = line.strip_prefix("witness: window ")?.split_once(": ")?;
    rest.split_once(" blocks")?.0.parse().ok()
}

/// The table of a scenario that measures a witness.
#[must_use]
pub fn table(scenario: &str, log: &Log) -> Option<String> {
    if ![NEIGHBOUR, TURNS].contains(&scenario) {
        return None;
    }
    let windows = throughput(log).ok()?;
    let mut table = format!("{:<14} {:>8} {:>8} {:>8}\n", "the neighbour", "windows", "mean", "least");
    for (name, windows) in ["computes", "attacks"].into_iter().zip(&windows) {
        let _ = writeln!(
            table,
            "{name:<14} {:>8} {:>8.0} {:>8}",
            windows.0.len(),
            windows.mean(),
            windows.least()
        );
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(attacked: u32) -> Log {
        let mut text = String::from("[witness] witness: window 1: 1 blocks\n[hostile] hostile: quiet\n");
        let windows = |blocks: [u32; 5]| {
            blocks.map(|blocks| format!("[witness] witness: window 2: {blocks} blocks in\n")).concat()
        };
        text += &windows([7, 100, 100, 100, 100]);
        text += "[hostile] hostile: attacks begin\n";
        text += &windows([9, attacked, attacked, attacked, attacked]);
        text += "[hostile] hostile: attacks end\n[witness] witness: window 9: 1000 blocks\n";
        let mut log = Log::default();
        log.push(text.as_bytes());
        log
    }

    #[test]
    fn windows_count_for_the_time_that_they_lie_in() {
        let [quiet, attacked] = throughput(&log(95)).unwrap();
        assert_eq!((quiet.mean(), attacked.mean(), attacked.0.len()), (100.0, 95.0, 4));
        assert_eq!(witness_is_fast(&log(95)), Ok(()));
        assert!(witness_is_fast(&log(89)).is_err() && witness_is_fast(&Log::default()).is_err());
        assert!(table(NEIGHBOUR, &log(95)).unwrap().contains("attacks"));
        assert_eq!(table("virtio-hostile", &log(95)), None);
    }
}
