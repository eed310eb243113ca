//! Basalt's part of a fixed load in stock Linux. Of a boot with the load, one without it is taken away, so that only the load counts.

use std::collections::BTreeMap;

use ::tests::log::Log;
use ::tests::report::{self, Ticks};
use ::tests::scenario::{Guest, Scenario, Step};

use super::Row;
use super::boots::{scenario, with_everything};
use super::devices::NOTHING;

/// The guest, its VM, and its program.
const WORKLOAD: &str = "workload";
/// The boot with the load.
const BOOT: &str = "bench-load";

/// Ticks and exits of the boots, by machine and boot.
pub(super) type Loads = BTreeMap<(String, String), (Ticks, u64)>;

/// With the load, and without.
pub(super) fn scenarios() -> [Scenario; 2] {
    let load = made(BOOT, WORKLOAD, vec![Step::vm(WORKLOAD, "workload ends:").within(300)]);
    [load, made(&format!("{BOOT}{NOTHING}"), "true", vec![])]
}

fn made(name: &str, job: &str, mut steps: Vec<Step>) -> Scenario {
    let guest = Guest::new(WORKLOAD).append(&format!("basalt.run={job}"));
    steps.push(Step::vm(WORKLOAD, "basalt-demo job done: 0").within(300));
    steps.push(Step::end(WORKLOAD).within(60));
    with_everything(scenario(name, guest, steps))
}

/// Whether a boot of that name gives its rows only with another one.
pub(super) fn is_one(boot: &str) -> bool {
    boot.starts_with(BOOT)
}

/// Takes note of what a boot needed.
pub(super) fn note(loads: &mut Loads, machine: &str, boot: &str, log: &Log) {
    if let Some(ticks) = report::ticks(log, WORKLOAD).filter(|_| is_one(boot)) {
        let exits = report::exits(log, WORKLOAD).into_iter().map(|(_, count)| count).sum();
        loads.insert((machine.to_owned(), boot.to_owned()), (ticks, exits));
    }
}

/// The rows of each machine on which both boots were made.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(super) fn rows(loads: &Loads, unit: impl Fn(&str) -> &'static str) -> Vec<Row> {
    let mut rows = Vec::new();
    for ((machine, _), (busy, exits)) in loads.iter().filter(|((_, boot), _)| boot == BOOT) {
        let Some((idle, before)) = loads.get(&(machine.clone(), format!("{BOOT}{NOTHING}"))) else {
            continue;
        };
        let load = busy.without(idle);
        let row = |name: &str, value: f64, unit: &str| Row::new(name, machine, value, unit);
        rows.push(row("linux_load_root_share", load.root_percent(), "percent"));
        rows.push(row("linux_load_guest", load.guest as f64, unit(machine)));
        rows.push(row("linux_load_root", load.root as f64, unit(machine)));
        rows.push(row("linux_load_exits", exits.saturating_sub(*before) as f64, "exits"));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_does_not_count() {
        let mut loads = Loads::new();
        for (boot, guest, root, exits) in [("bench-load", 3000, 150, 70), ("bench-load-idle", 1000, 110, 50)]
        {
            let mut log = Log::default();
            let text = format!(
                "[ 9.0] info hv: vm workload: exits io {exits}\n\
                 [ 9.0] info hv: vm workload: ticks guest {guest} root {root} idle 5 steal 0 charged 9 throttled 0\n"
            );
            log.push(text.as_bytes());
            note(&mut loads, "m", boot, &log);
            note(&mut loads, "m", "bench-linux", &log);
        }
        let found: Vec<_> =
            rows(&loads, |_| "instructions").into_iter().map(|row| (row.name, row.value)).collect();
        let wanted = [
            ("linux_load_root_share", 4000.0 / 2040.0),
            ("linux_load_guest", 2000.0),
            ("linux_load_root", 40.0),
            ("linux_load_exits", 20.0),
        ];
        assert_eq!(found, wanted.map(|(name, value)| (name.to_owned(), value)));
        loads.retain(|(_, boot), _| boot == "bench-load");
        assert!(rows(&loads, |_| "instructions").is_empty());
    }
}
