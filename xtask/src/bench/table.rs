//! The table that is printed.

use std::collections::BTreeMap;

use super::Row;
use super::reference::{Reference, is_missed, misses};

/// Behind a value that misses what is required.
const MISSED: char = '*';

/// Rows by name in the order of their first appearance, a column for each machine; below it, those that miss what is required.
pub(super) fn table(rows: &[Row], references: &[Reference]) -> String {
    let mut machines: Vec<&str> = Vec::new();
    let mut names: Vec<(&str, &str)> = Vec::new();
    let mut values = BTreeMap::new();
    for row in rows {
        if !machines.contains(&row.machine.as_str()) {
            machines.push(&row.machine);
        }
        if !names.contains(&(&row.name, &row.unit)) {
            names.push((&row.name, &row.unit));
        }
        let mark = if is_missed(references, row) { MISSED } else { ' ' };
        values.insert((row.name.as_str(), row.machine.as_str()), format!("{}{mark}", shown(row.value)));
    }
    machines.sort_unstable_by(|one, other| other.cmp(one));
    names.sort_by_key(|(name, _)| name.starts_with("linux"));
    let mut text = format!("{:<40}", "");
    machines.iter().for_each(|machine| text.push_str(&format!("{machine:>18}")));
    text.push('\n');
    for (name, unit) in names {
        text.push_str(&format!("{name:<40}"));
        for machine in &machines {
            let value = values.get(&(name, *machine)).map_or("- ", String::as_str);
            text.push_str(&format!("{value:>18}"));
        }
        text.push_str(&format!(" {unit}\n"));
    }
    for line in misses(references, rows) {
        text.push_str(&format!("{MISSED} {line}\n"));
    }
    text
}

/// A value, with one digit behind the point where it is no whole number.
pub(super) fn shown(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::super::{reference, tests::row};
    use super::*;

    #[test]
    fn the_table_has_a_column_for_each_machine() {
        let rows = [
            row("cpuid", "bochs-vmx", 371.0),
            row("msr_read", "bochs-vmx", 202.5),
            row("cpuid", "bochs-svm", 290.0),
        ];
        let table = table(&rows, &reference::all().expect("readable"));
        let lines: Vec<_> =
            table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(lines[0], ["bochs-vmx", "bochs-svm"]);
        assert_eq!(lines[1], ["cpuid", "371*", "290*", "instructions"]);
        assert_eq!(lines[2], ["msr_read", "202.5", "-", "instructions"]);
        assert_eq!(lines[3][..3], ["*", "cpuid", "on"]);
        assert_eq!(lines.len(), 5);
    }
}
