//! `cargo xtask fuzz`: runs fuzz targets under libFuzzer.
//!
//! The targets are functions of the crate `fuzz` (`tests/fuzz`); each has a folder with its first inputs there, by which it is
//! known here. What a run finds worth keeping is kept below `target/fuzz`, so that the next run begins where this one ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli::FuzzOptions;
use crate::failure::{Context, Failure, Result};
use crate::{packages, paths, process, progress, toolchain};

/// Instrumentation by which the engine sees where an input leads.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";
const PROFILE: &str = "fuzz";
const ALL: &str = "all";
/// One input may take so many seconds, and be so long.
const PATIENCE_S: u32 = 20;
const MOST_BYTES: u32 = 4096;
/// Lines of the engine's that a failure shows.
const SHOWN_LINES: usize = 25;

/// Runs what the options say. False where an input was found that breaks something.
pub(crate) fn run(options: &FuzzOptions) -> Result<bool> {
    let known = targets()?;
    let wanted: Vec<&String> = known.iter().filter(|name| is_wanted(options, name)).collect();
    let missing = options.targets.iter().find(|name| *name != ALL && !known.contains(name));
    if let Some(name) = missing {
        return Err(Failure::new(format!("there is no fuzz target {name}"))
            .next(format!("choose among {ALL}, {}", known.join(", "))));
    }
    let engine = build()?;
    if let Some(input) = &options.input {
        let [target] = wanted.as_slice() else {
            return Err(Failure::new("an input is for one target: name that one"));
        };
        return Ok(try_one(&engine, target, input));
    }
    let mut passed = 0;
    for target in &wanted {
        passed += usize::from(fuzz(&engine, target, options.seconds)?);
    }
    println!("{passed} passed, {} failed", wanted.len() - passed);
    Ok(passed == wanted.len())
}

fn is_wanted(options: &FuzzOptions, name: &str) -> bool {
    options.targets.iter().any(|wanted| wanted == name || wanted == ALL)
}

fn corpus() -> PathBuf {
    paths::root().join("tests/fuzz/corpus")
}

fn targets() -> Result<Vec<String>> {
    let folder = corpus();
    let entries = std::fs::read_dir(&folder).context(format_args!("reading {}", paths::shown(&folder)))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn build() -> Result<PathBuf> {
    packages::ensure(packages::CPP)?;
    let folder = paths::target().join("fuzz/build");
    let host = toolchain::host()?;
    let mut command = toolchain::cargo();
    command
        .args(["build", "--quiet", "--package", "fuzz", "--bin", "fuzz", "--features", "engine"])
        .args(["--profile", PROFILE, "--target", &host])
        .env("RUSTFLAGS", COVERAGE)
        .env("CARGO_TARGET_DIR", &folder);
    progress::step("building the fuzz targets", || process::run(&mut command))?;
    Ok(folder.join(host).join(PROFILE).join("fuzz"))
}

/// The engine with one target.
fn engine(engine: &Path, target: &str) -> Command {
    let mut command = Command::new(engine);
    command.env("BASALT_FUZZ", target).stdin(Stdio::null());
    command
}

/// Looks for so many seconds. True where nothing was found.
fn fuzz(program: &Path, target: &str, seconds: u32) -> Result<bool> {
    let work = paths::target().join("fuzz");
    let (found, broken) = (work.join("corpus").join(target), work.join("found").join(target));
    paths::create_dir(&found)?;
    paths::create_dir(&broken)?;
    let log = paths::target().join("logs").join(format!("fuzz-{target}.log"));
    paths::write(&log, b"")?;
    let output = std::fs::File::create(&log).context(format_args!("writing {}", paths::shown(&log)))?;
    let mut command = engine(program, target);
    command
        .args([&found, &corpus().join(target)])
        .args([format!("-max_total_time={seconds}"), format!("-timeout={PATIENCE_S}")])
        .args([format!("-max_len={MOST_BYTES}"), format!("-artifact_prefix={}/", broken.display())])
        .arg("-print_final_stats=1")
        .stdout(output.try_clone().context("sharing the log")?)
        .stderr(output);
    let status = progress::step(&format!("fuzzing {target}"), || {
        command.status().context(format_args!("starting {}", paths::shown(program)))
    })?;
    let said = paths::read(&log)?;
    if status.success() {
        println!("ok     fuzz {target}: {}", summary(&said));
        return Ok(true);
    }
    let tail: Vec<&str> = said.lines().rev().take(SHOWN_LINES).collect();
    for line in tail.iter().rev() {
        println!("         | {line}");
    }
    println!("FAILED fuzz {target}: the input is in {}", paths::shown(&broken));
    println!("         try it again: cargo xtask fuzz {target} --input FILE");
    Ok(false)
}

/// Tries one input, with all that it says.
fn try_one(program: &Path, target: &str, input: &Path) -> bool {
    engine(program, target).arg(input).status().is_ok_and(|status| status.success())
}

/// What the engine says of a whole run.
fn summary(said: &str) -> String {
    let number = |key: &str| {
        let line = said.lines().rev().find(|line| line.contains(key))?;
        line.split(key).nth(1)?.split_whitespace().next().map(str::to_owned)
    };
    let none = || "?".to_owned();
    format!(
        "{} inputs, {} places reached, nothing found",
        number("stat::number_of_executed_units:").unwrap_or_else(none),
        number(" cov: ").unwrap_or_else(none)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_out_of_what_the_engine_says() {
        let said = "#8\tpulse  cov: 12 ft: 3\n#16\tDONE   cov: 345 ft: 6 corp: 7\nstat::number_of_executed_units: 4711\n";
        assert_eq!(summary(said), "4711 inputs, 345 places reached, nothing found");
        assert_eq!(summary(""), "? inputs, ? places reached, nothing found");
    }

    #[test]
    fn every_target_has_inputs_to_begin_with() {
        for target in targets().expect("there are some") {
            assert!(
                std::fs::read_dir(corpus().join(&target)).expect("a folder").next().is_some(),
                "{target}"
            );
        }
    }
}
