//! The table that is printed.

use std::collections::BTreeMap;

use super::Row;

/// Rows by name in the order of their first appearance, a column for each machine.
pub(super) fn table(rows: &[Row]) -> String {
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
        values.insert((row.name.as_str(), row.machine.as_str()), row.value);
    }
    machines.sort_unstable_by(|one, other| other.cmp(one));
    names.sort_by_key(|(name, _)| name.starts_with("linux"));
    let mut text = format!("{:<40}", "");
    machines.iter().for_each(|machine| text.push_str(&format!("{machine:>18}")));
    text.push('\n');
    for (name, unit) in names {
        text.push_str(&format!("{name:<40}"));
        for machine in &machines {
            let value = values.get(&(name, *machine)).map_or_else(|| "-".to_owned(), |value| shown(*value));
            text.push_str(&format!("{value:>18}"));
        }
        text.push_str(&format!("  {unit}\n"));
    }
    text
}

/// A value, with one digit behind the point where it is no whole number.
pub(super) fn shown(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

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
}
