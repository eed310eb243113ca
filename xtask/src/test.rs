//! `cargo xtask test`: the host's tests, the selftest guests, and the scenarios of the crate `tests`.

mod faults;
mod host;
mod matrix;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Mutex;

use ::tests::scenario::{BOCHS_VMX, Guest, Kernel, QEMU_SVM_COUNTED, Scenario, Step, Tier};

use crate::cli::TestOptions;
use crate::failure::{Failure, Result};
use crate::play::{self, Play, Played};
use crate::{build, interrupt, machine, progress};

const HOST: &str = "host";
const SELFTEST: &str = "selftest";
/// The selftest guests that test nothing alone: one measures, the others play parts in scenarios.
const NO_TESTS: [&str; 12] = [
    "bench", "crash", "entry", "firmware", "frames", "hostile", "leak", "load", "memory", "smp", "spin",
    "time",
];
/// How much of a failed scenario's log is shown.
const SHOWN_LINES: usize = 15;
/// A bound on a selftest guest's time.
const SELFTEST_SECONDS: u64 = 240;

/// The counts, and what failed.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
}

/// Runs the tests; true when all have passed.
pub(crate) fn run(options: &TestOptions) -> Result<bool> {
    if options.matrix {
        return matrix::run(&options.names);
    }
    let scenarios = all_scenarios()?;
    if options.list {
        list(&scenarios);
        return Ok(true);
    }
    let with_host =
        options.names.is_empty() || options.names.iter().any(|name| HOST.starts_with(name.as_str()));
    let faults = faults::chosen(&options.names, options.machine.as_deref());
    let chosen: Vec<_> =
        scenarios.into_iter().filter(|scenario| is_chosen(scenario, &options.names)).collect();
    if let Some(name) = options.names.iter().find(|name| {
        !is_known(name, &chosen, with_host) && faults::chosen(&[name.to_string()], None).is_empty()
    }) {
        return Err(Failure::new(format!("there is no test named `{name}`"))
            .next("`cargo xtask test --list` names them all"));
    }
    interrupt::watch()?;
    let tally = Mutex::new(Tally::default());
    if with_host {
        let (passed, failed) = host::run()?;
        record(&tally, passed, failed);
    }
    if !chosen.is_empty() && !interrupt::requested() {
        emulate(chosen, options.machine.as_deref(), &tally)?;
    }
    if !faults.is_empty() && !interrupt::requested() {
        let (passed, failed) = faults::run(faults)?;
        record(&tally, passed, failed);
    }
    let tally = tally.into_inner().map_err(|_| play::poisoned())?;
    if interrupt::requested() {
        return Err(interrupt::failure());
    }
    if !tally.failed.is_empty() {
        println!("\nfailed:");
        tally.failed.iter().for_each(|name| println!("    {name}"));
    }
    println!("{} passed, {} failed", tally.passed, tally.failed.len());
    Ok(tally.failed.is_empty())
}

fn all_scenarios() -> Result<Vec<Scenario>> {
    let guests: Vec<_> =
        build::selftest_names()?.into_iter().filter(|name| !NO_TESTS.contains(&name.as_str())).collect();
    let mut scenarios: Vec<_> = guests.iter().map(|guest| selftest(guest)).collect();
    scenarios.extend(::tests::scenarios());
    Ok(scenarios)
}

/// One selftest guest, alone on the machine: several measure time, and each other's slices would spoil that.
fn selftest(guest: &str) -> Scenario {
    let vm = guest.replace('_', "-");
    Scenario {
        name: format!("{SELFTEST}-{vm}"),
        about: format!("the guest micro-kernel `{guest}` tests the virtual machine from inside"),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(guest).in_vm(&vm)],
        steps: vec![Step::results(&vm).within(SELFTEST_SECONDS), Step::end(&vm)],
        checks: vec![],
    }
}

fn list(scenarios: &[Scenario]) {
    println!("{HOST:<20} ci   {:<20} unit and property tests", "this machine");
    for scenario in scenarios {
        let Scenario { name, about, tier, machines, .. } = scenario;
        println!("{name:<20} {:<4} {:<20} {about}", tier.name(), machines.join(","));
    }
    faults::list();
}

fn is_chosen(scenario: &Scenario, names: &[String]) -> bool {
    match names {
        [] => scenario.tier == Tier::Ci,
        names => names.iter().any(|name| scenario.name.starts_with(name.as_str())),
    }
}

fn is_known(name: &str, chosen: &[Scenario], with_host: bool) -> bool {
    with_host && HOST.starts_with(name) || chosen.iter().any(|scenario| scenario.name.starts_with(name))
}

/// Slow machines first, so that none is left running alone at the end.
fn emulate(scenarios: Vec<Scenario>, machine: Option<&str>, tally: &Mutex<Tally>) -> Result<()> {
    let mut kernels = BTreeMap::new();
    for kind in scenarios.iter().map(Scenario::kernel).chain([Kernel::Users]) {
        if let Entry::Vacant(kernel) = kernels.entry(kind) {
            kernel.insert(build::kernel_for(kind)?);
        }
    }
    let mut pairs = Vec::new();
    for scenario in scenarios {
        let machines = machine.map_or_else(|| scenario.machines.clone(), |machine| vec![machine]);
        for name in machines {
            pairs.push((name.to_owned(), scenario.name.clone()));
        }
    }
    let mut plays = Vec::new();
    for (machine, scenario) in pairs {
        let scenario = all_scenarios()?.into_iter().find(|other| other.name == scenario);
        let Some(scenario) = scenario else { continue };
        let Some(kernel) = kernels.get(&scenario.kernel()) else { continue };
        plays.push(Play::prepare(scenario, machine::profile(&machine)?, kernel)?);
    }
    plays.sort_by_key(|play| std::cmp::Reverse(play.machine.patience));
    play::carry_out_all(
        plays,
        play::AT_ONCE,
        |play| progress::note(&format!("{} ...", play.title())),
        |play, played| match played {
            Ok(played) => report(&play.title(), &played, tally),
            Err(failure) => {
                println!("FAILED {}: {}", play.title(), failure.what);
                record(tally, 0, vec![play.title()]);
            }
        },
    );
    Ok(())
}

fn report(title: &str, played: &Played, tally: &Mutex<Tally>) {
    let failed: Vec<_> =
        played.tests.iter().filter_map(|(name, reason)| Some((name, reason.as_ref()?))).collect();
    let (count, seconds) = (played.tests.len(), played.time.as_secs_f64());
    let mut text = match failed.len() {
        0 => format!("ok     {title} ({count} tests, {seconds:.1} s)\n"),
        bad => format!("FAILED {title} ({bad} of {count} tests, {seconds:.1} s)\n"),
    };
    for (name, reason) in &failed {
        text.push_str(&format!("         {name}: {reason}\n"));
    }
    if !failed.is_empty() {
        text.push_str(&format!("         the end of {}:\n", played.log_path));
        played.log.tail(SHOWN_LINES).iter().for_each(|line| text.push_str(&format!("         | {line}\n")));
    }
    if let Some(table) = &played.table {
        table.lines().for_each(|line| text.push_str(&format!("         {line}\n")));
    }
    print!("{text}");
    record(tally, count - failed.len(), failed.iter().map(|(name, _)| format!("{title}: {name}")).collect());
}

fn record(tally: &Mutex<Tally>, passed: usize, failed: Vec<String>) {
    if let Ok(mut tally) = tally.lock() {
        tally.passed += passed;
        tally.failed.extend(failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_chooses_by_its_beginning_and_nothing_chooses_the_ci_tier() {
        let scenarios = ::tests::scenarios();
        let chosen = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            scenarios.iter().filter(|scenario| is_chosen(scenario, &names)).count()
        };
        assert!(chosen(&["linux"]) >= 2);
        assert_eq!(chosen(&["linux-boot"]), 1);
        assert_eq!(chosen(&["nothing"]), 0);
        assert_eq!(chosen(&[]), scenarios.iter().filter(|scenario| scenario.tier == Tier::Ci).count());
    }
}
