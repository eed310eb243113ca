//! Which rate of the TSC is believed: timers are measured, what CPU and hypervisors state is checked. No word counts alone
//! where a second can be had: CPUs, firmware tables and emulated timers have all been wrong.

use core::fmt;

use arrayvec::ArrayVec;

use super::calibrate::{self, Defect, Measurement};
use super::counter::{Counter, Cpu};

/// Timers that can be references.
pub(super) const COUNTERS: usize = 3;
/// Remarks at most: one for each timer, and one for the statement.
const REMARKS: usize = COUNTERS + 1;
/// Two rates agree where they differ by less than a hundredth.
const AGREEMENT: u64 = 100;
/// A statement that is within a thousandth of the measurement is more exact than that.
const EXACTNESS: u64 = 1000;

/// A rate that somebody states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Statement {
    /// TSC ticks per second.
    pub tsc_hz: u64,
    /// Who says so, for the log.
    pub by: &'static str,
    /// It is meant to be exact.
    pub exact: bool,
}

/// Something for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Remark {
    /// A timer is of no use.
    Dead { counter: &'static str, defect: Defect },
    /// A timer says something else than two others.
    Contradicts { counter: &'static str, tsc_hz: u64 },
    /// What was stated is wrong.
    Lies { statement: Statement },
    /// What was stated could not be checked.
    Unchecked { statement: Statement },
}

impl Remark {
    /// False for what is normal on many machines.
    pub(super) const fn is_warning(&self) -> bool {
        !matches!(self, Self::Dead { .. })
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead { counter, defect: Defect::StandsStill } => write!(f, "{counter} does not count"),
            Self::Dead { counter, defect: Defect::Absurd } => write!(f, "{counter} counts at an absurd rate"),
            Self::Contradicts { counter, tsc_hz } => {
                write!(f, "{counter} is not believed: by it the TSC would run at {}", MegaHertz(*tsc_hz))
            }
            Self::Lies { statement: Statement { tsc_hz, by, .. } } => {
                write!(
                    f,
                    "{by} states {} for the TSC, which is wrong: the measured rate counts",
                    MegaHertz(*tsc_hz)
                )
            }
            Self::Unchecked { statement } => {
                write!(f, "no timer can check what {} states of the TSC; it is believed", statement.by)
            }
        }
    }
}

/// A rate in MHz.
pub(super) struct MegaHertz(pub(super) u64);

impl fmt::Display for MegaHertz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} MHz", self.0 / 1_000_000, self.0 / 1000 % 1000)
    }
}

/// What came out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Verdict {
    /// TSC ticks per second.
    pub tsc_hz: u64,
    /// Who says so.
    pub by: &'static str,
    /// Who else.
    pub confirmed_by: Option<&'static str>,
    /// The timer that is believed, as its place in the list.
    pub counter: Option<usize>,
    /// TSC and local APIC timer side by side.
    pub measurement: Measurement,
    /// What was remarkable.
    pub remarks: ArrayVec<Remark, REMARKS>,
}

const fn agree(one: u64, other: u64, parts: u64) -> bool {
    one.abs_diff(other) < one / parts
}

/// Measures until two agree, among them what is stated. `None` where nothing can be measured and nothing is stated, or the
/// TSC stands still.
pub(super) fn judge(
    cpu: &impl Cpu,
    counters: &[&dyn Counter],
    statement: Option<Statement>,
) -> Option<Verdict> {
    let mut remarks = ArrayVec::new();
    let mut measured = ArrayVec::<(usize, Measurement), COUNTERS>::new();
    let mut accepted = None;
    for (index, counter) in counters.iter().enumerate().take(COUNTERS) {
        let found = match calibrate::measure(cpu, *counter) {
            Ok(found) => found,
            Err(defect) => {
                remarks.push(Remark::Dead { counter: counter.name(), defect });
                continue;
            }
        };
        let before =
            measured.iter().find(|(_, before)| agree(before.tsc_hz, found.tsc_hz, AGREEMENT)).copied();
        measured.push((index, found));
        if let Some(statement) = statement.filter(|it| agree(found.tsc_hz, it.tsc_hz, AGREEMENT)) {
            accepted = Some(((index, found), Some(statement.by)));
        } else if let Some(before) = before {
            accepted = Some((before, Some(counter.name())));
        }
        if accepted.is_some() {
            break;
        }
    }
    let accepted = accepted.or_else(|| Some((*measured.first()?, None)));
    let Some(((index, found), confirmed_by)) = accepted else {
        return unchecked(cpu, statement?, remarks);
    };
    for (other, contrary) in
        measured.iter().filter(|(_, other)| !agree(found.tsc_hz, other.tsc_hz, AGREEMENT))
    {
        let Some(counter) = counters.get(*other) else { continue };
        remarks.push(Remark::Contradicts { counter: counter.name(), tsc_hz: contrary.tsc_hz });
    }
    if let Some(statement) = statement.filter(|it| !agree(found.tsc_hz, it.tsc_hz, AGREEMENT)) {
        remarks.push(Remark::Lies { statement });
    }
    let exact = statement.filter(|it| it.exact && agree(found.tsc_hz, it.tsc_hz, EXACTNESS));
    Some(Verdict {
        tsc_hz: exact.map_or(found.tsc_hz, |it| it.tsc_hz),
        by: counters.get(index)?.name(),
        confirmed_by,
        counter: Some(index),
        measurement: found,
        remarks,
    })
}

/// Nothing works but the TSC itself.
fn unchecked(
    cpu: &impl Cpu,
    statement: Statement,
    mut remarks: ArrayVec<Remark, REMARKS>,
) -> Option<Verdict> {
    remarks.push(Remark::Unchecked { statement });
    Some(Verdict {
        tsc_hz: statement.tsc_hz,
        by: statement.by,
        confirmed_by: None,
        counter: None,
        measurement: calibrate::count_by_tsc(cpu, statement.tsc_hz)?,
        remarks,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Timer, World};
    use super::*;

    const TSC_HZ: u64 = 2_000_000_000;
    const HPET_HZ: u64 = 14_318_180;
    const PM_TIMER_HZ: u64 = 3_579_545;
    const PIT_HZ: u64 = 1_193_182;

    fn world() -> World {
        World::new(TSC_HZ, 300)
    }

    fn timers(world: &World) -> [Timer<'_>; 3] {
        [
            world.timer("HPET", HPET_HZ, 32),
            world.timer("PM timer", PM_TIMER_HZ, 24),
            world.timer("PIT", PIT_HZ, 16),
        ]
    }

    fn judged(world: &World, timers: &[Timer<'_>; 3], statement: Option<Statement>) -> Option<Verdict> {
        let [hpet, pm_timer, pit] = timers;
        judge(world, &[hpet, pm_timer, pit], statement)
    }

    fn stated(tsc_hz: u64) -> Option<Statement> {
        Some(Statement { tsc_hz, by: "CPUID", exact: true })
    }

    fn about(tsc_hz: u64) -> bool {
        tsc_hz.abs_diff(TSC_HZ) < TSC_HZ / 1000
    }

    #[test]
    fn a_true_statement_is_confirmed_by_one_timer_and_taken_exactly() {
        let world = world();
        let verdict = judged(&world, &timers(&world), stated(TSC_HZ)).unwrap();
        assert_eq!((verdict.tsc_hz, verdict.counter, verdict.by), (TSC_HZ, Some(0), "HPET"));
        assert_eq!((verdict.confirmed_by, verdict.remarks.as_slice()), (Some("CPUID"), &[][..]));
    }

    #[test]
    fn a_round_statement_confirms_and_the_measured_rate_counts() {
        let world = world();
        let round = Some(Statement { tsc_hz: 2_001_000_000, by: "16H", exact: false });
        let verdict = judged(&world, &timers(&world), round).unwrap();
        assert!(about(verdict.tsc_hz) && verdict.tsc_hz != 2_001_000_000);
        assert_eq!((verdict.confirmed_by, verdict.remarks.len()), (Some("16H"), 0));
    }

    #[test]
    fn a_lie_is_found_out_by_two_timers() {
        let world = world();
        let lie = stated(3_500_000_000);
        let verdict = judged(&world, &timers(&world), lie).unwrap();
        assert!(about(verdict.tsc_hz), "{verdict:?}");
        assert_eq!((verdict.by, verdict.confirmed_by), ("HPET", Some("PM timer")));
        assert_eq!(verdict.remarks.as_slice(), [Remark::Lies { statement: lie.unwrap() }]);
        assert!(verdict.remarks[0].is_warning());
        let text = verdict.remarks[0].to_string();
        assert!(text.contains("CPUID states 3500.000 MHz"), "{text}");
    }

    #[test]
    fn without_a_statement_a_wrong_timer_is_outvoted() {
        let world = world();
        let mut timers = timers(&world);
        timers[0].true_hz = HPET_HZ / 2;
        let verdict = judged(&world, &timers, None).unwrap();
        assert!(about(verdict.tsc_hz), "{verdict:?}");
        assert_eq!((verdict.by, verdict.confirmed_by, verdict.counter), ("PM timer", Some("PIT"), Some(1)));
        assert!(matches!(verdict.remarks.as_slice(), [Remark::Contradicts { counter: "HPET", .. }]));
    }

    #[test]
    fn with_a_true_statement_the_next_timer_settles_it() {
        let world = world();
        let mut timers = timers(&world);
        timers[0].true_hz = HPET_HZ * 2;
        let verdict = judged(&world, &timers, stated(TSC_HZ)).unwrap();
        assert_eq!((verdict.tsc_hz, verdict.by), (TSC_HZ, "PM timer"));
        assert!(matches!(verdict.remarks.as_slice(), [Remark::Contradicts { counter: "HPET", .. }]));
    }

    #[test]
    fn dead_timers_are_passed_over() {
        for alive in 0..3 {
            let world = world();
            let mut timers = timers(&world);
            for (index, timer) in timers.iter_mut().enumerate().filter(|(index, _)| *index != alive) {
                timer.true_hz = if index == 0 { 10 } else { 0 };
            }
            let verdict = judged(&world, &timers, None).unwrap();
            assert!(about(verdict.tsc_hz), "{verdict:?}");
            assert_eq!((verdict.counter, verdict.confirmed_by), (Some(alive), None));
            assert_eq!(verdict.remarks.len(), 2);
            assert!(verdict.remarks.iter().all(|remark| !remark.is_warning()));
        }
    }

    #[test]
    fn with_no_timer_the_statement_is_believed_and_said_to_be_unchecked() {
        let world = world();
        let mut timers = timers(&world);
        timers.iter_mut().for_each(|timer| timer.true_hz = 0);
        assert_eq!(judged(&world, &timers, None), None);
        let verdict = judged(&world, &timers, stated(TSC_HZ)).unwrap();
        assert_eq!((verdict.tsc_hz, verdict.counter, verdict.by), (TSC_HZ, None, "CPUID"));
        assert_eq!(verdict.remarks.len(), 4);
        assert!(verdict.measurement.apic > 0);
    }

    #[test]
    fn a_tsc_that_stands_still_gives_no_clock() {
        let world = World::new(0, 300);
        assert_eq!(judged(&world, &timers(&world), stated(TSC_HZ)), None);
    }
}
