//! The main table of `docs/performance.md`, written from the rows.

use std::collections::BTreeMap;

use super::Row;
use super::reference::{Figure, QEMU, Reference, SVM, VMX, is_missed, with_defaults};
use crate::failure::{Failure, Result};
use crate::paths;

const PAGE: &str = "docs/performance.md";
/// Lines between which the table stands.
const BEGIN: &str = "<!-- written by `cargo xtask bench --write-docs` -->";
const END: &str = "<!-- end of what is written -->";
/// Where there is no figure.
const NOTHING: &str = "–";
/// Behind a figure that misses what is required.
const MISSED: &str = " ✗";
const HEAD: &str = "| round trip, in instructions (`--json` name) | KVM on VMX | Xen on VMX | Basalt, required (aim) | Basalt on bochs-vmx \
    | with default mitigations | required on SVM | Basalt on bochs-svm | KVM on SVM | Basalt on qemu-svm-counted |\n\
    |---|---|---|---|---|---|---|---|---|---|\n";

/// Rewrites the table: what was not measured this time has no figures in it.
pub(super) fn write(references: &[Reference], rows: &[Row]) -> Result<()> {
    let path = paths::root().join(PAGE);
    let page = replaced(&paths::read(&path)?, &table(references, rows))
        .ok_or_else(|| Failure::new(format!("{PAGE} has no lines `{BEGIN}` and `{END}`")))?;
    paths::write(&path, page.as_bytes())
}

fn replaced(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, behind) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{behind}"))
}

fn table(references: &[Reference], rows: &[Row]) -> String {
    let by_place: BTreeMap<(&str, &str), &Row> =
        rows.iter().map(|row| ((row.name.as_str(), row.machine.as_str()), row)).collect();
    let measured = |name: &str, machine: &str| {
        let row = by_place.get(&(name, machine))?;
        let mark = if is_missed(references, row) { MISSED } else { "" };
        Some(format!("{}{mark}", readable(row.value)))
    };
    let mut text = HEAD.to_owned();
    for one in references {
        let defaults = measured(&with_defaults(&one.name), VMX);
        let qemu = measured(&one.name, QEMU);
        let others = [("KVM", &one.kvm_qemu), ("Xen", &one.xen_qemu)];
        let cells = [
            figure(one.kvm_vmx.as_ref()),
            figure(one.xen_vmx.as_ref()),
            required(one),
            measured(&one.name, VMX),
            beside(defaults, &[("KVM", &one.kvm_vmx_defaults)]),
            one.required_svm.map(readable),
            measured(&one.name, SVM),
            figure(one.kvm_svm.as_ref()),
            beside(qemu, &others),
        ];
        let cells = cells.map(|cell| cell.unwrap_or_else(|| NOTHING.to_owned())).join(" | ");
        text += &format!("| {} (`{}`) | {cells} |\n", one.label, one.name);
    }
    text
}

fn required(reference: &Reference) -> Option<String> {
    match (reference.required, reference.aim) {
        _ if reference.no_exit => Some("no exit".to_owned()),
        (Some(required), Some(aim)) => Some(format!("{} ({})", readable(required), readable(aim))),
        (required, _) => required.map(readable),
    }
}

fn figure(figure: Option<&Figure>) -> Option<String> {
    figure.map(|figure| match figure {
        Figure::Number(number) => readable(*number),
        Figure::Text(text) => text.clone(),
    })
}

/// A figure of ours with those of others in brackets.
fn beside(own: Option<String>, others: &[(&str, &Option<Figure>)]) -> Option<String> {
    let known = others.iter().filter_map(|(who, other)| Some(format!("{who} {}", figure(other.as_ref())?)));
    let known: Vec<_> = known.collect();
    match (own, known.as_slice()) {
        (own, []) => own,
        (own, known) => Some(format!("{} ({})", own.as_deref().unwrap_or(NOTHING), known.join(", "))),
    }
}

/// A number for people: one digit behind the point where it is no whole number, groups of three digits where it is long.
fn readable(value: f64) -> String {
    const SHORT: usize = 4;
    let text = super::table::shown(value);
    if text.len() <= SHORT || text.contains('.') {
        return text;
    }
    let first = text.len() % 3;
    let mut groups: Vec<&str> = Vec::new();
    if first > 0 {
        groups.push(&text[..first]);
    }
    let mut rest = &text[first..];
    while let Some((group, more)) = rest.split_at_checked(3) {
        groups.push(group);
        rest = more;
    }
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::{reference, tests::row};
    use super::*;

    #[test]
    fn long_numbers_have_groups() {
        let readable: Vec<_> =
            [0.5, 17.0, 4264.0, 41113.0, 154_132_460.0].into_iter().map(readable).collect();
        assert_eq!(readable, ["0.5", "17", "4264", "41 113", "154 132 460"]);
    }

    #[test]
    fn only_what_is_between_the_lines_is_written() {
        let page = format!("# Title\n{BEGIN}\nold\n{END}\nmore\n");
        assert_eq!(replaced(&page, "new\n"), Some(format!("# Title\n{BEGIN}\nnew\n{END}\nmore\n")));
        assert_eq!(replaced("# Title\n", "new\n"), None);
        let real = paths::read(&paths::root().join(PAGE)).expect("readable");
        assert!(replaced(&real, "").is_some(), "the page has its lines");
    }

    #[test]
    fn rows_stand_beside_those_of_others() {
        let references = reference::all().expect("readable");
        let rows = [
            row("cpuid", VMX, 221.0),
            row("cpuid_default_mitigations", VMX, 260.0),
            row("cpuid", SVM, 222.0),
            row("cpuid", QEMU, 1099.0),
            row("eoi", VMX, 1.0),
            row("nobody's", VMX, 1.0),
        ];
        let table = table(&references, &rows);
        let line = |name: &str| table.lines().find(|line| line.contains(name)).expect("there");
        assert_eq!(
            line("`cpuid`"),
            "| CPUID (`cpuid`) | 1172 | 916 | 220 (120) | 221 ✗ | 260 (KVM 1658) | 286 | 222 | 1324 | 1099 (KVM 3259, Xen 2475) |"
        );
        assert!(line("`eoi`").contains("| 1670 | – | no exit | 1 | – |"));
        assert_eq!(table.lines().count(), references.len() + 2);
    }
}
