//! `cargo xtask bench`: what exits cost, counted in instructions where the machine counts them, and what a
//! boot of stock Linux needs.
//!
//! In Bochs the time-stamp counter counts instructions, so these numbers repeat exactly; time limits and the
//! load of the host do not matter.

mod compare;
mod devices;

pub(crate) use devices::NOTHING;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use ::tests::linux::DEMO;
use ::tests::log::Log;
use ::tests::scenario::{Guest, Scenario, Step, Tier};
use ::tests::{linux, report};
use serde::{Deserialize, Serialize};

use crate::cli::BenchOptions;
use crate::failure::{Context, Failure, Result};
use crate::play::{self, Play};
use crate::{build, interrupt, machine, paths, progress};

/// The selftest guest that measures.
const BENCH: &str = "bench";
/// The machines whose time-stamp counter counts instructions.
const MACHINES: [&str; 2] = ["bochs-vmx", "bochs-svm"];
/// The least share of exits, in percent, that is listed by reason in the table.
const LISTED_EXITS: usize = 12;

/// One number; the names stay stable.
#[derive(Serialize, Deserialize)]
struct Row {
    name: String,
    machine: String,
    value: f64,
    unit: String,
}

/// Measures, prints the table, writes the file.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    interrupt::watch()?;
    // Before the work, as it may not be there.
    let before = options.compare.as_deref().map(compare::read).transpose()?;
    let machines = match options.machine.as_slice() {
        [] => MACHINES.map(str::to_owned).to_vec(),
        names => names.to_vec(),
    };
    let kernel = build::kernel()?;
    let mut plays = Vec::new();
    let names: Vec<String> = boots().into_iter().map(|boot| boot.name).collect();
    for machine in &machines {
        for boot in boots().into_iter().filter(|boot| options.is_wanted(&boot.name, &names)) {
            plays.push(Play::prepare(boot, machine::profile(machine)?, &kernel)?);
        }
    }
    let rows = Mutex::new(Vec::new());
    let exits = Mutex::new(devices::Exits::new());
    let failures = Mutex::new(Vec::new());
    play::carry_out_all(
        plays,
        |play| progress::note(&format!("{} ...", play.title())),
        |play, played| {
            let problem = match played {
                Ok(played) => {
                    exits
                        .lock()
                        .map(|mut exits| {
                            devices::note(&mut exits, &play.machine.name, &play.scenario.name, &played.log);
                        })
                        .ok();
                    let found = rows_of(&play.machine.name, &play.scenario.name, &played.log);
                    let empty = found.is_empty() && !play.scenario.name.ends_with(devices::NOTHING);
                    rows.lock().map(|mut rows| rows.extend(found)).ok();
                    let reason = played.tests.iter().find_map(|(_, reason)| reason.clone());
                    empty.then(|| format!("{} (log: {})", reason.unwrap_or_default(), played.log_path))
                }
                Err(failure) => Some(failure.what),
            };
            if let Some(problem) = problem {
                failures.lock().map(|mut all| all.push(format!("{}: {problem}", play.title()))).ok();
            }
        },
    );
    let mut rows = rows.into_inner().map_err(|_| play::poisoned())?;
    devices::per_request(&mut rows, &exits.into_inner().map_err(|_| play::poisoned())?);
    let failures = failures.into_inner().map_err(|_| play::poisoned())?;
    print!("{}", table(&rows));
    if let Some(file) = &options.json {
        write_json(file, &rows)?;
    }
    let mut dearer = Vec::new();
    if let Some(before) = before {
        let (text, found) = compare::compare(&before, &rows, options.tolerance);
        print!("\n{text}");
        dearer = found;
    }
    match failures.as_slice() {
        [] if !dearer.is_empty() => Err(Failure::new(format!("dearer than before: {}", dearer.join("; ")))),
        [] => Ok(()),
        failures => Err(Failure::new(format!("no numbers from {}", failures.join("; ")))),
    }
}

/// All boots that are made.
pub(crate) fn boots() -> Vec<Scenario> {
    scenarios().into_iter().map(Subject::make).chain(devices::scenarios()).collect()
}

/// A thing to measure.
#[derive(Clone, Copy)]
struct Subject {
    make: fn() -> Scenario,
    /// What is switched off, and how: the end of the rows' names, options for Basalt, settings of the VM.
    without: Option<(&'static str, &'static str, &'static str)>,
}

/// What interrupts cost with less, by the CPU or by the paravirtual interface.
const WITHOUT: [(&str, &str, &str); 3] = [
    ("virtual_interrupts", "without=virtual-interrupts", ""),
    ("apic_virtualization", "without=task-priority,virtual-interrupts", ""),
    ("paravirtual", "", "paravirtual=none"),
];
/// The name of [`PLAIN`].
const ALL: &str = "all";
/// Everything that spares exits of interrupts and time switched off, for a Linux boot by reasons.
const PLAIN: (&str, &str, &str) =
    (ALL, "without=task-priority,virtual-interrupts poll=0", "paravirtual=none");
/// Rows that are looked at with something switched off.
const COMPARED: [&str; 7] = [
    "self_ipi",
    "eoi",
    "hlt_wake",
    "tsc_deadline",
    "linux_boot_exits",
    "idle_exits_per_second",
    "idle_wake_ups_per_second",
];

impl Subject {
    fn make(self) -> Scenario {
        let mut scenario = (self.make)();
        if let Some((name, options, settings)) = self.without {
            scenario.name += &format!("-without-{name}");
            scenario.options = format!("{} {options}", scenario.options).trim().to_owned();
            for guest in &mut scenario.guests {
                guest.settings = format!("{} {settings}", guest.settings).trim().to_owned();
            }
        }
        scenario
    }
}

fn scenarios() -> Vec<Subject> {
    let all = [exit_costs, same_cpu, other_cpu, lives, linux_boot, idle];
    let mut subjects: Vec<_> = all.into_iter().map(|make| Subject { make, without: None }).collect();
    for without in WITHOUT {
        subjects.push(Subject { make: exit_costs, without: Some(without) });
        subjects.push(Subject { make: linux_boot, without: Some(without) });
    }
    subjects.push(Subject { make: idle, without: WITHOUT.last().copied() });
    subjects.push(Subject { make: linux_boot, without: Some(PLAIN) });
    subjects
}

/// An idle stock Linux with two vCPUs, for some telling of the times.
fn idle() -> Scenario {
    const TELLINGS: usize = 8;
    let guest = Guest::new(DEMO).cpus(IDLE_VCPUS).append("basalt.run=\"sleep 1000\"");
    let mut steps = vec![Step::vm(DEMO, linux::READY).within(300)];
    steps.extend((0..TELLINGS).map(|_| Step::kernel("times of 1 VMs told").within(120)));
    Scenario { options: "times=10".to_owned(), ..scenario("bench-idle", guest, steps) }
}

/// vCPUs of the idle Linux, and between which tellings it is looked at: from 30 s after its boot on.
const IDLE_VCPUS: u32 = 2;
const IDLE: (usize, usize) = (6, 8);

fn exit_costs() -> Scenario {
    let steps = vec![Step::vm(BENCH, "selftest bench done:").within(300)];
    with_everything(scenario(BENCH, Guest::new(BENCH).settings("net=bench"), steps))
}

/// With what the machine's profile leaves alone, too: these guests are interrupted too seldom to suffer.
fn with_everything(scenario: Scenario) -> Scenario {
    Scenario { options: "without=nothing".to_owned(), ..scenario }
}

/// Messages between two vCPUs, where they share a CPU and where each has its own.
fn same_cpu() -> Scenario {
    let guest = Guest::new(BENCH).cpus(2).append("only=switch share=yes");
    let steps = vec![Step::vm(BENCH, "selftest bench done:").within(300)];
    Scenario { cpus: Some(1), ..with_everything(scenario("bench-same-cpu", guest, steps)) }
}

fn other_cpu() -> Scenario {
    let guest = Guest::new(BENCH).cpus(2).append("only=switch");
    let steps = vec![Step::vm(BENCH, "selftest bench done:").within(300)];
    Scenario { cpus: Some(2), ..with_everything(scenario("bench-other-cpu", guest, steps)) }
}

/// A VM that is made and destroyed.
fn lives() -> Scenario {
    let guest = Guest::new("spin").in_vm(BENCH).settings("memory=16M").append("beats=0");
    scenario("bench-lives", guest, vec![Step::kernel("all VMs have ended").within(120)])
}

fn linux_boot() -> Scenario {
    let guest = Guest::new(DEMO).append("basalt.run=true");
    let steps = vec![Step::vm(DEMO, linux::READY).within(300), Step::end(DEMO).within(60)];
    with_everything(scenario("bench-linux", guest, steps))
}

fn scenario(name: &str, guest: Guest, steps: Vec<Step>) -> Scenario {
    Scenario {
        name: name.to_owned(),
        about: String::new(),
        tier: Tier::Full,
        machines: vec![],
        cpus: None,
        options: String::new(),
        guests: vec![guest],
        steps,
        checks: vec![],
    }
}

/// The rows of a scenario, which may be one with something switched off.
fn rows_of(machine: &str, scenario: &str, log: &Log) -> Vec<Row> {
    let Some((name, without)) = scenario.split_once("-without-") else {
        return all_rows_of(machine, scenario, log);
    };
    let mut rows = all_rows_of(machine, name, log);
    rows.retain(|row| {
        COMPARED.contains(&row.name.as_str()) || without == ALL && row.name.starts_with("linux_boot_exits_")
    });
    rows.iter_mut().for_each(|row| row.name += &format!("_without_{without}"));
    rows
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn all_rows_of(machine: &str, scenario: &str, log: &Log) -> Vec<Row> {
    let row = |name: String, value: f64, unit: &str| Row {
        name,
        machine: machine.to_owned(),
        value,
        unit: unit.to_owned(),
    };
    if scenario == "bench-lives" {
        let lives = report::lives(log, BENCH);
        return lives.into_iter().map(|(name, ticks)| row(name.to_owned(), ticks as f64, "ticks")).collect();
    }
    if scenario == "bench-idle" {
        let tellings = report::tellings(log, DEMO);
        let (Some(first), Some(last)) = (tellings.get(IDLE.0 - 1), tellings.get(IDLE.1 - 1)) else {
            return Vec::new();
        };
        let seconds = ((IDLE.1 - IDLE.0) * 10) as f64 * f64::from(IDLE_VCPUS);
        let rate = |first: u64, last: u64| (last.saturating_sub(first)) as f64 / seconds;
        return vec![
            row("idle_exits_per_second".to_owned(), rate(first.exits, last.exits), "a vCPU"),
            row("idle_wake_ups_per_second".to_owned(), rate(first.wake_ups, last.wake_ups), "a vCPU"),
        ];
    }
    if scenario.starts_with(BENCH) && scenario != "bench-linux" {
        let measured = report::measurements(log, BENCH).into_iter();
        return measured.map(|found| row(found.name, found.value, &found.unit)).collect();
    }
    let exits = report::exits(log, DEMO);
    let mut rows = Vec::new();
    if let Some(ticks) = report::ticks(log, DEMO) {
        let total: u64 = exits.iter().map(|(_, count)| count).sum();
        rows.push(row("linux_boot_root_share".to_owned(), ticks.root_percent(), "percent"));
        rows.push(row("linux_boot_guest".to_owned(), ticks.guest as f64, "ticks"));
        rows.push(row("linux_boot_root".to_owned(), ticks.root as f64, "ticks"));
        rows.push(row("linux_boot_exits".to_owned(), total as f64, "exits"));
    }
    let by_reason = exits.into_iter().take(LISTED_EXITS);
    rows.extend(by_reason.map(|(reason, count)| {
        row(format!("linux_boot_exits_{}", reason.replace(' ', "_")), count as f64, "exits")
    }));
    rows
}

/// Rows by name in the order of their first appearance, a column for each machine.
fn table(rows: &[Row]) -> String {
    let mut machines: Vec<&str> = rows.iter().map(|row| row.machine.as_str()).collect();
    machines.sort_unstable();
    machines.dedup();
    machines.reverse();
    let mut names: Vec<(&str, &str)> = Vec::new();
    let mut values = BTreeMap::new();
    for row in rows {
        if !names.contains(&(&row.name, &row.unit)) {
            names.push((&row.name, &row.unit));
        }
        values.insert((row.name.as_str(), row.machine.as_str()), row.value);
    }
    names.sort_by_key(|(name, _)| name.starts_with("linux"));
    let mut text = format!("{:<36}", "");
    machines.iter().for_each(|machine| text.push_str(&format!("{machine:>16}")));
    text.push('\n');
    for (name, unit) in names {
        text.push_str(&format!("{name:<36}"));
        for machine in &machines {
            let value = values.get(&(name, *machine)).map_or_else(|| "-".to_owned(), |value| shown(*value));
            text.push_str(&format!("{value:>16}"));
        }
        text.push_str(&format!("  {unit}\n"));
    }
    text
}

fn shown(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn write_json(file: &Path, rows: &[Row]) -> Result<()> {
    let json = serde_json::to_string_pretty(rows).context("writing JSON")?;
    paths::write(file, format!("{json}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn row(name: &str, machine: &str, value: f64) -> Row {
        Row { name: name.to_owned(), machine: machine.to_owned(), value, unit: "instructions".to_owned() }
    }

    #[test]
    fn the_table_has_a_column_for_each_machine() {
        let rows = [
            row("cpuid", "bochs-vmx", 371.0),
            row("msr_read", "bochs-vmx", 402.5),
            row("cpuid", "bochs-svm", 290.0),
        ];
        let table = table(&rows);
        let lines: Vec<_> =
            table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(lines[0], ["bochs-vmx", "bochs-svm"]);
        assert_eq!(lines[1], ["cpuid", "371", "290", "instructions"]);
        assert_eq!(lines[2], ["msr_read", "402.5", "-", "instructions"]);
    }

    #[test]
    fn a_linux_boot_gives_its_exits_and_its_share() {
        let mut log = Log::default();
        log.push(b"[ 9.0] info hv: vm demo: exits port io 30\n[ 9.0] info hv: vm demo: exits cpuid 70\n");
        log.push(
            b"[ 9.0] info hv: vm demo: ticks guest 900 root 100 idle 5 steal 0 charged 1000 throttled 0\n",
        );
        let rows = rows_of("bochs-vmx", "bench-linux", &log);
        let value = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.value);
        assert_eq!(value("linux_boot_root_share"), Some(10.0));
        assert_eq!(value("linux_boot_exits"), Some(100.0));
        assert_eq!(value("linux_boot_exits_port_io"), Some(30.0));
    }
}
