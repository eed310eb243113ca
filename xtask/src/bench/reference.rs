//! What others need for the same, and what is required of Basalt: `references.toml`.

use serde::Deserialize;

use super::Row;
use super::boots::DEFAULTS_END;
use super::table::shown;
use crate::failure::{Context, Result};

const TEXT: &str = include_str!("references.toml");
/// The machines of which something is required, and the one on which others were measured, too.
pub(super) const VMX: &str = "bochs-vmx";
pub(super) const SVM: &str = "bochs-svm";
pub(super) const QEMU: &str = "qemu-svm-counted";
/// What takes fewer instructions than this has not left the guest: the hardware's part of an exit and an entry alone is in the save and load of registers,
/// some 30 instructions, and nobody's round trip is below 100.
const LESS_THAN_AN_EXIT: f64 = 50.0;

/// A row of the main table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reference {
    pub(super) name: String,
    /// What it is, for people.
    pub(super) label: String,
    pub(super) kvm_vmx: Option<Figure>,
    pub(super) xen_vmx: Option<Figure>,
    pub(super) kvm_vmx_defaults: Option<Figure>,
    pub(super) kvm_svm: Option<Figure>,
    pub(super) kvm_qemu: Option<Figure>,
    pub(super) xen_qemu: Option<Figure>,
    pub(super) required: Option<f64>,
    pub(super) aim: Option<f64>,
    pub(super) required_svm: Option<f64>,
    #[serde(default)]
    pub(super) no_exit: bool,
}

/// A figure of somebody else: text where it was measured otherwise than ours.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Figure {
    Number(f64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct References {
    row: Vec<Reference>,
}

/// All rows of the main table, in its order.
pub(super) fn all() -> Result<Vec<Reference>> {
    let references: References = toml::from_str(TEXT).context("references.toml")?;
    Ok(references.row)
}

impl Reference {
    /// What is required of this row on a machine, at most.
    pub(super) fn most(&self, machine: &str) -> Option<f64> {
        match machine {
            VMX if self.no_exit => Some(LESS_THAN_AN_EXIT),
            VMX => self.required,
            SVM => self.required_svm,
            _ => None,
        }
    }
}

/// Whether a row misses what is required.
pub(super) fn is_missed(references: &[Reference], row: &Row) -> bool {
    let reference = references.iter().find(|reference| reference.name == row.name);
    reference.and_then(|it| it.most(&row.machine)).is_some_and(|most| row.value > most)
}

/// A line for each row that misses what is required.
pub(super) fn misses(references: &[Reference], rows: &[Row]) -> Vec<String> {
    let line = |row: &Row| {
        let reference = references.iter().find(|reference| reference.name == row.name)?;
        let most = reference.most(&row.machine)?;
        let Row { name, machine, value, .. } = row;
        let wanted =
            if reference.no_exit { "no exit".to_owned() } else { format!("at most {}", shown(most)) };
        Some(format!("{name} on {machine} is {}, required: {wanted}", shown(*value)))
    };
    rows.iter().filter(|row| is_missed(references, row)).filter_map(line).collect()
}

/// The name of the same row where the boot had Basalt's defaults.
pub(super) fn with_defaults(name: &str) -> String {
    format!("{name}_{DEFAULTS_END}")
}

/// Whether a row is one of those.
pub(super) fn is_of_defaults(name: &str) -> bool {
    name.ends_with(DEFAULTS_END)
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn what_is_required_is_known_for_both_vendors() {
        let references = all().expect("readable");
        let find = |name: &str| references.iter().find(|one| one.name == name).expect(name);
        assert_eq!((find("cpuid").most(VMX), find("cpuid").most(SVM)), (Some(220.0), Some(286.0)));
        assert_eq!(find("cpuid").most(QEMU), None);
        assert_eq!((find("eoi").most(VMX), find("eoi").most(SVM)), (Some(LESS_THAN_AN_EXIT), None));
        let mut names: Vec<_> = references.iter().map(|one| one.name.as_str()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        for one in &references {
            assert!(one.aim.zip(one.required).is_none_or(|(aim, most)| aim < most), "{}", one.name);
        }
    }

    #[test]
    fn rows_that_miss_are_named() {
        let references = all().expect("readable");
        let rows = [
            row("cpuid", VMX, 220.0),
            row("cpuid", SVM, 287.0),
            row("eoi", VMX, 500.0),
            row("eoi", SVM, 500.0),
            row("cpuid_default_mitigations", VMX, 999.0),
        ];
        let misses = misses(&references, &rows);
        assert_eq!(
            misses,
            [
                "cpuid on bochs-svm is 287, required: at most 286",
                "eoi on bochs-vmx is 500, required: no exit"
            ]
        );
    }
}
