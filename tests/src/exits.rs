//! What exits cost: the boot that measures it, and its figures.

use crate::log::Log;
use crate::report::{self, Measurement};
use crate::scenario::{Guest, Scenario, Step, Tier};

/// The selftest guest that measures, and its VM.
pub const BENCH: &str = "bench";
/// The options under which what Basalt costs is compared with what others cost, which were measured so: no work for CPUs that leak
/// what they read ahead.
pub const WITHOUT_MITIGATIONS: &str = "mitigations=off";
/// What the machine's profile leaves alone is used, too: these guests are interrupted too seldom to suffer.
pub const WITH_EVERYTHING: &str = "without=nothing";

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
