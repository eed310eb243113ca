//! Figures beside those of an earlier run, so that nothing becomes dearer unnoticed.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use super::Row;
use super::table::shown;
use crate::failure::{Context, Failure, Result};
use crate::paths;

/// Reads what an earlier run has written.
pub(super) fn read(file: &Path) -> Result<Vec<Row>> {
    let reading = || format!("reading {}", paths::shown(file));
    let text = std::fs::read_to_string(file).context(reading())?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(format!("{}: {error}", reading()))
            .next("take a file that `cargo xtask bench --json FILE` has written")
    })
}

/// Old, new and new by old of each row that both have, and those rows that are dearer by more than `tolerance` percent.
pub(super) fn compare(before: &[Row], now: &[Row], tolerance: f64) -> (String, Vec<String>) {
    let old: HashMap<(&str, &str), f64> =
        before.iter().map(|row| ((row.name.as_str(), row.machine.as_str()), row.value)).collect();
    let mut text = format!("{:<36}{:>14}{:>14}{:>14}{:>8}\n", "", "machine", "old", "new", "ratio");
    let mut dearer = Vec::new();
    for row in now {
        let Some(old) = old.get(&(row.name.as_str(), row.machine.as_str())).copied() else { continue };
        // Of nothing, any is more.
        let ratio = if old == row.value { 1.0 } else { row.value / old };
        // Writing into a string does not fail.
        let _ = writeln!(
            text,
            "{:<36}{:>14}{:>14}{:>14}{ratio:>8.3}",
            row.name,
            row.machine,
            shown(old),
            shown(row.value)
        );
        if ratio > 1.0 + tolerance / 100.0 {
            let (from, to) = (shown(old), shown(row.value));
            dearer.push(format!("{} on {}: {from} before, {to} now", row.name, row.machine));
        }
    }
    (text, dearer)
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn what_is_dearer_than_it_may_be_is_found() {
        let before =
            [row("cpuid", "a", 200.0), row("cpuid", "b", 200.0), row("eoi", "a", 0.0), row("gone", "a", 1.0)];
        let now =
            [row("cpuid", "a", 204.0), row("cpuid", "b", 204.1), row("eoi", "a", 0.0), row("new", "a", 9.0)];
        let (text, dearer) = compare(&before, &now, 2.0);
        assert_eq!(dearer, ["cpuid on b: 200 before, 204.1 now"]);
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
        assert_eq!(lines[1], ["cpuid", "a", "200", "204", "1.020"]);
        assert_eq!(lines[3], ["eoi", "a", "0", "0", "1.000"]);
        assert_eq!(lines.len(), 4);
        let (_, dearer) = compare(&[row("eoi", "a", 0.0)], &[row("eoi", "a", 0.5)], 2.0);
        assert_eq!(dearer.len(), 1, "what cost nothing");
    }
}
