//! The tests that run on the host: unit and property tests of the kernel's crates, of `tests` and of xtask.

use std::time::Instant;

use crate::failure::{Context, Result};
use crate::{build, progress, toolchain};

/// Crates that run only on the bare machine.
const BARE: [&str; 2] = ["boot", "selftest"];
/// How much of a compiler's complaint is shown.
const SHOWN_LINES: usize = 80;

/// Runs them. Gives the number that passed and the names of those that failed.
pub(super) fn run() -> Result<(usize, Vec<String>)> {
    let start = Instant::now();
    let mut command = toolchain::cargo();
    command.args(["test", "--no-fail-fast"]);
    for package in build::metadata()? {
        if let Some(name) = package["name"].as_str().filter(|name| !BARE.contains(name)) {
            command.args(["--package", name]);
        }
    }
    let output = progress::step("host tests", || command.output().context("starting cargo test"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let (passed, mut failed) = results(&printed);
    if !output.status.success() && failed.is_empty() {
        failed.push("the host tests do not compile".to_owned());
        let errors = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = errors.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().for_each(|line| eprintln!("{line}"));
    }
    let seconds = start.elapsed().as_secs_f64();
    if failed.is_empty() {
        println!("ok     host ({passed} tests, {seconds:.1} s)");
    } else {
        println!("{}", failures(&printed));
        println!("FAILED host ({} of {} tests, {seconds:.1} s)", failed.len(), passed + failed.len());
    }
    Ok((passed, failed.into_iter().map(|name| format!("host: {name}")).collect()))
}

/// Counts the lines `test NAME ... ok` and names those that end in `FAILED`.
fn results(printed: &str) -> (usize, Vec<String>) {
    let mut passed = 0;
    let mut failed = Vec::new();
    for line in printed.lines().filter_map(|line| line.strip_prefix("test ")) {
        match line.rsplit_once(" ... ") {
            Some((_, "ok")) => passed += 1,
            Some((name, "FAILED")) => failed.push(name.to_owned()),
            _ => {}
        }
    }
    (passed, failed)
}

/// What the failed tests have printed.
fn failures(printed: &str) -> String {
    let is_noise = |line: &&str| !(line.starts_with("test ") && line.ends_with("... ok") || line.is_empty());
    printed.lines().filter(is_noise).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_lines_are_counted() {
        let printed = "running 3 tests\ntest a::b ... ok\ntest c - should panic ... ok\ntest d ... FAILED\n\
            test e ... ignored\n\nfailures:\n\n---- d stdout ----\nassertion failed\n";
        assert_eq!(results(printed), (2, vec!["d".to_owned()]));
        assert!(failures(printed).contains("assertion failed"));
        assert!(!failures(printed).contains("a::b"));
    }
}
