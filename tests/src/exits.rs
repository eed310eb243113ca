//! What exits cost: the boot that measures it, its figures, and those that are checked in, so that nothing becomes dearer unnoticed.
//!
//! The machines count instructions, so the figures are those of the kernel and of its compiler, and repeat exactly.

use serde::Deserialize;

use crate::log::Log;
use crate::report::{self, Measurement};
use crate::scenario::{BOCHS_SVM, BOCHS_VMX, Check, Guest, Scenario, Step, Tier};

/// The selftest guest that measures, and its VM.
pub const BENCH: &str = "bench";
/// The options under which what Basalt costs is compared with what others cost, which were measured so: no work for CPUs that leak
/// what they read ahead.
pub const WITHOUT_MITIGATIONS: &str = "mitigations=off";
/// What the machine's profile leaves alone is used, too: these guests are interrupted too seldom to suffer.
pub const WITH_EVERYTHING: &str = "without=nothing";

/// The machines of the checked-in figures, where those are, and what writes them.
pub const MACHINES: [&str; 2] = [BOCHS_VMX, BOCHS_SVM];
/// From the root of the tree.
pub const COUNTS_FILE: &str = "tests/bench/exits.json";
const COUNTS: &str = include_str!("../bench/exits.json");
const WRITE: &str = "cargo xtask bench --write-counts";
/// How much dearer a row may be, and how much cheaper without a note, in percent.
const DEARER: f64 = 2.0;
const CHEAPER: f64 = 5.0;
/// The names of the tests on [`MACHINES`].
const NAMES: [&str; 2] = ["exit-costs-vmx", "exit-costs-svm"];

/// What its last line begins with.
const DONE: &str = "selftest bench done:";
/// An interrupt to itself: by software, and with the CPU's delivery of virtual interrupts.
const SELF_IPI: &str = "self_ipi";
const SELF_IPI_VIRTUAL: &str = "self_ipi_virtual";

/// The boot of the guest that measures all exits.
#[must_use]
pub fn boot() -> Scenario {
    Scenario {
        name: BENCH.to_owned(),
        about: String::new(),
        tier: Tier::Full,
        machines: vec![],
        cpus: None,
        options: WITH_EVERYTHING.to_owned(),
        guests: vec![Guest::new(BENCH).settings("net=bench")],
        steps: vec![Step::vm(BENCH, DONE).within(300)],
        checks: vec![],
    }
}

/// What a [`Check`] does: it has no machine.
type Holds = fn(&Log) -> Result<(), String>;

/// A test for each machine: no exit is dearer than what is checked in.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let checks: [Holds; 2] = [|log| judge(BOCHS_VMX, log), |log| judge(BOCHS_SVM, log)];
    let made = |((name, machine), holds): ((&&str, &'static str), _)| Scenario {
        name: (*name).to_owned(),
        about: "no exit needs more instructions than are checked in".to_owned(),
        tier: Tier::Ci,
        machines: vec![machine],
        options: format!("{WITH_EVERYTHING} {WITHOUT_MITIGATIONS}"),
        checks: vec![Check { name: "no exit has become dearer", holds }],
        ..boot()
    };
    NAMES.iter().zip(MACHINES).zip(checks).map(made).collect()
}

/// A row that is checked in.
#[derive(Deserialize)]
struct Count {
    name: String,
    machine: String,
    value: f64,
}

fn counts(machine: &str) -> Result<Vec<Count>, String> {
    let mut counts: Vec<Count> = serde_json::from_str(COUNTS)
        .map_err(|error| format!("{COUNTS_FILE}: {error}; `{WRITE}` writes it"))?;
    counts.retain(|count| count.machine == machine);
    Ok(counts)
}

fn judge(machine: &str, log: &Log) -> Result<(), String> {
    let faults = dearer(&counts(machine)?, &measurements(log));
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}; find the cause (`cargo xtask profile {BENCH}`), or, where there is a reason for it, write {COUNTS_FILE} anew by \
         `{WRITE}` and give the reason in the commit",
        faults.join(", ")
    ))
}

/// What is wrong: rows that are dearer than they may be, or missing.
fn dearer(counts: &[Count], measured: &[Measurement]) -> Vec<String> {
    let fault = |count: &Count| match measured.iter().find(|found| found.name == count.name) {
        None => Some(format!("{} was not measured", count.name)),
        Some(found) if found.value > count.value * (1.0 + DEARER / 100.0) => {
            Some(format!("{} takes {} instructions instead of {}", count.name, found.value, count.value))
        }
        Some(_) => None,
    };
    counts.iter().filter_map(fault).collect()
}

/// For the test of that name, a line for each row that is worth to be written anew: cheaper by far, or not checked in.
#[must_use]
pub fn notes(test: &str, log: &Log) -> Option<String> {
    let (_, machine) = NAMES.iter().zip(MACHINES).find(|(name, _)| **name == test)?;
    let notes = news(&counts(machine).ok()?, &measurements(log));
    (!notes.is_empty()).then(|| format!("{}\n`{WRITE}` keeps that\n", notes.join("\n")))
}

fn news(counts: &[Count], measured: &[Measurement]) -> Vec<String> {
    let news = |found: &Measurement| match counts.iter().find(|count| count.name == found.name) {
        None => Some(format!("{} is new, and takes {}", found.name, found.value)),
        Some(count) if found.value < count.value * (1.0 - CHEAPER / 100.0) => {
            Some(format!("{} takes {} instead of {}", found.name, found.value, count.value))
        }
        Some(_) => None,
    };
    measured.iter().filter_map(news).collect()
}

/// Whether the kernel knows the word for mitigations. One that does not has none, so its figures are those without.
#[must_use]
pub fn knows_mitigations(log: &Log) -> bool {
    !log.kernel().any(|line| line.contains("unknown kernel option \"mitigations="))
}

/// What the guest has measured, under the names of the bench: where the CPU delivers virtual interrupts, one to itself never leaves the guest,
/// and has a name of its own.
#[must_use]
pub fn measurements(log: &Log) -> Vec<Measurement> {
    let mut found = report::measurements(log, BENCH);
    if report::delivers_interrupts(log) {
        for measured in found.iter_mut().filter(|measured| measured.name == SELF_IPI) {
            SELF_IPI_VIRTUAL.clone_into(&mut measured.name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_mitigations_says_so() {
        let mut log = Log::default();
        log.push(b"[ 0.0] INFO  basalt: loaded with options \"mitigations=off\"\n[bench] unknown kernel option \"mitigations=off\"\n");
        assert!(knows_mitigations(&log));
        log.push(b"[ 0.0] WARN  basalt: unknown kernel option \"mitigations=off\": it is ignored\n");
        assert!(!knows_mitigations(&log));
    }

    fn measured(rows: &[(&str, f64)]) -> Vec<Measurement> {
        let row = |(name, value): &(&str, f64)| Measurement {
            name: (*name).to_owned(),
            value: *value,
            unit: String::new(),
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn dearer_rows_are_faults_and_cheaper_ones_are_news() {
        let count = |name: &str, value| Count { name: name.to_owned(), machine: BOCHS_VMX.to_owned(), value };
        let counts = [count("cpuid", 200.0), count("eoi", 1.0), count("gone", 9.0)];
        let fine = measured(&[("cpuid", 204.0), ("eoi", 1.0), ("gone", 8.6)]);
        assert!(dearer(&counts, &fine).is_empty() && news(&counts, &fine).is_empty());
        let found = measured(&[("cpuid", 189.0), ("eoi", 2.0), ("new", 7.0)]);
        assert_eq!(
            dearer(&counts, &found),
            ["eoi takes 2 instructions instead of 1", "gone was not measured"]
        );
        assert_eq!(news(&counts, &found), ["cpuid takes 189 instead of 200", "new is new, and takes 7"]);
    }

    #[test]
    fn what_is_checked_in_can_be_read() {
        for (name, machine) in NAMES.into_iter().zip(MACHINES) {
            let counts = counts(machine).expect("readable");
            assert!(counts.iter().any(|count| count.name == "cpuid"), "{machine}");
            let mut log = Log::default();
            let reason = judge(machine, &log).expect_err("nothing was measured");
            assert!(reason.contains("cpuid was not measured") && reason.contains(WRITE), "{reason}");
            assert_eq!(notes(name, &log), None);
            log.push(b"[bench] bench cpuid 1 ticks (least 1)\n");
            assert!(notes(name, &log).is_some_and(|notes| notes.starts_with("cpuid takes 1 instead of ")));
        }
        assert_eq!(notes("other", &Log::default()), None);
    }

    #[test]
    fn an_interrupt_that_never_leaves_the_guest_has_its_own_name() {
        let names = |host: &str| {
            let mut log = Log::default();
            log.push(
                format!("[ 0.2] INFO  basalt: {host}\n[bench] bench self_ipi 17 ticks (least 17)\n")
                    .as_bytes(),
            );
            measurements(&log).into_iter().map(|found| found.name).collect::<Vec<_>>()
        };
        assert_eq!(names("VMX (TPR shadow, virtual interrupts, VPID)"), ["self_ipi_virtual"]);
        assert_eq!(names("VMX (TPR shadow, VPID)"), ["self_ipi"]);
        assert_eq!(names("SVM (nested paging, virtual interrupts)"), ["self_ipi"]);
    }
}
