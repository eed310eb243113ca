//! `cargo xtask test --matrix`: every machine boots one and the same image, or one and the same boot archive.

use std::sync::Mutex;

use crate::failure::{Failure, Result};
use crate::play::{self, Play};
use crate::{build, interrupt, machine, paths, progress};

/// A machine and how it went.
struct Row {
    machine: String,
    result: Outcome,
}

enum Outcome {
    /// It booted, in so many seconds.
    Ok(f64),
    Failed(String),
    /// This computer cannot imitate it.
    Skipped(String),
}

/// Boots all machines, or those whose names begin with one of `names`. True when none has failed.
pub(super) fn run(names: &[String]) -> Result<bool> {
    let chosen =
        |name: &str| names.is_empty() || names.iter().any(|wanted| name.starts_with(wanted.as_str()));
    let mut profiles = machine::all()?;
    profiles.retain(|profile| chosen(&profile.name));
    if profiles.is_empty() {
        return Err(Failure::new(format!("no machine's name begins with {}", names.join(" or ")))
            .next("`cargo xtask run --machine list` names them all"));
    }
    interrupt::watch()?;
    let kernel = build::kernel()?;
    let (mut plays, mut rows) = (Vec::new(), Vec::new());
    for profile in profiles {
        let machine = profile.name.clone();
        match profile.ensure() {
            Ok(()) => plays.push(Play::prepare(::tests::linux::matrix(), profile, &kernel)?),
            Err(failure) => rows.push(Row { machine, result: Outcome::Skipped(failure.what) }),
        }
    }
    plays.sort_by_key(|play| std::cmp::Reverse(play.machine.patience));
    let all = plays.len();
    let mut images: Vec<_> = plays.iter().map(|play| paths::shown(&play.image).to_string()).collect();
    images.sort();
    images.dedup();
    let rows = Mutex::new(rows);
    play::carry_out_all(
        plays,
        play::AT_ONCE,
        |_| {},
        |play, played| {
            let machine = play.machine.name.clone();
            let result = match played {
                Ok(played) => match played.tests.iter().find_map(|(_, reason)| reason.clone()) {
                    None => Outcome::Ok(played.time.as_secs_f64()),
                    Some(reason) => Outcome::Failed(format!("{reason} (log: {})", played.log_path)),
                },
                Err(failure) => Outcome::Failed(failure.what),
            };
            if let Ok(mut rows) = rows.lock() {
                rows.push(Row { machine, result });
                progress::note(&format!("{} of {all} machines done", rows.len()));
            }
        },
    );
    let mut rows = rows.into_inner().map_err(|_| play::poisoned())?;
    if interrupt::requested() {
        return Err(interrupt::failure());
    }
    rows.sort_by(|one, other| one.machine.cmp(&other.machine));
    print!("{}", table(&rows));
    println!("all from {}", images.join(" and "));
    let failed = rows.iter().filter(|row| matches!(row.result, Outcome::Failed(_))).count();
    let passed = rows.iter().filter(|row| matches!(row.result, Outcome::Ok(_))).count();
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.machine.len()).max().unwrap_or_default();
    let line = |row: &Row| {
        let result = match &row.result {
            Outcome::Ok(seconds) => format!("ok       {seconds:.0} s"),
            Outcome::Failed(reason) => format!("FAILED   {reason}"),
            Outcome::Skipped(reason) => format!("skipped  {reason}"),
        };
        format!("{:<width$}  {result}\n", row.machine)
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_machine() {
        let rows = [
            Row { machine: "one".to_owned(), result: Outcome::Ok(12.4) },
            Row { machine: "another".to_owned(), result: Outcome::Failed("silence".to_owned()) },
            Row { machine: "kvm".to_owned(), result: Outcome::Skipped("no svm".to_owned()) },
        ];
        assert_eq!(
            table(&rows),
            "one      ok       12 s\nanother  FAILED   silence\nkvm      skipped  no svm\n"
        );
    }
}
