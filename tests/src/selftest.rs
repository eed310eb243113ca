//! What test guests print, one line for each test and one at the end:
//!
//! ```text
//! ok NAME
//! FAILED NAME: reason
//! skipped NAME: reason
//! selftest GROUP done: 12 passed, 1 failed, 1 skipped
//! ```
//!
//! The last number may be missing. A guest that ends without the last line, or whose count does not fit its lines, has failed.

use crate::log::Log;

/// What a guest has reported so far.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Results {
    /// The tests that passed, in order.
    pub passed: Vec<String>,
    /// The tests that failed, with their reasons.
    pub failed: Vec<(String, String)>,
    /// The tests that cannot be run here, with their reasons.
    pub skipped: Vec<(String, String)>,
    /// The last line has come: the numbers it gives.
    pub done: Option<(usize, usize)>,
}

/// Reads the lines of the VM named `vm`.
#[must_use]
pub fn results(log: &Log, vm: &str) -> Results {
    let mut results = Results::default();
    for line in log.vm(vm) {
        if let Some(name) = line.strip_prefix("ok ") {
            results.passed.push(name.trim().to_owned());
        } else if let Some(rest) = line.strip_prefix("FAILED ") {
            results.failed.push(reasoned(rest));
        } else if let Some(rest) = line.strip_prefix("skipped ") {
            results.skipped.push(reasoned(rest));
        } else if let Some(numbers) = summary(line) {
            results.done = Some(numbers);
        }
    }
    results
}

fn reasoned(rest: &str) -> (String, String) {
    let (name, reason) = rest.split_once(':').unwrap_or((rest, "no reason given"));
    (name.trim().to_owned(), reason.trim().to_owned())
}

impl Results {
    /// The reason why the report as a whole does not count, if there is one.
    #[must_use]
    pub fn flaw(&self) -> Option<String> {
        let counted = (self.passed.len(), self.failed.len());
        match self.done {
            None => Some(format!("ended after {} tests, without its last line", counted.0 + counted.1)),
            Some((0, 0)) => Some("ran no test at all".to_owned()),
            Some(said) if said != counted => Some(format!(
                "reports {} passed and {} failed, but printed {} and {}",
                said.0, said.1, counted.0, counted.1
            )),
            Some(_) => None,
        }
    }
}

fn summary(line: &str) -> Option<(usize, usize)> {
    let (_, numbers) = line.strip_prefix("selftest ")?.split_once(" done: ")?;
    let mut numbers = numbers.trim().split(", ");
    let passed = numbers.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = numbers.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Results {
        let mut log = Log::default();
        log.push(text.as_bytes());
        results(&log, "exits")
    }

    #[test]
    fn a_whole_report() {
        let results = read(
            "[exits] ok cpuid\n[exits] FAILED msr: got 1: not 2\n[other] ok no\n[exits] selftest exits done: 1 passed, 1 failed\n",
        );
        assert_eq!(results.passed, ["cpuid"]);
        assert_eq!(results.failed, [("msr".to_owned(), "got 1: not 2".to_owned())]);
        assert_eq!(results.flaw(), None);
    }

    #[test]
    fn skipped_tests_are_neither() {
        let results = read(
            "[exits] ok a\n[exits] skipped b: TCG\n[exits] selftest exits done: 1 passed, 0 failed, 1 skipped\n",
        );
        assert_eq!((results.skipped.len(), results.flaw()), (1, None));
    }

    #[test]
    fn reports_that_do_not_count() {
        for flawed in [
            "[exits] ok cpuid\n",
            "[exits] selftest exits done: 0 passed, 0 failed\n",
            "[exits] ok cpuid\n[exits] selftest exits done: 2 passed, 0 failed\n",
            "[exits] ok cpuid\n[exits] selftest exits done: many passed, 0 failed\n",
        ] {
            assert!(read(flawed).flaw().is_some(), "{flawed}");
        }
    }
}
