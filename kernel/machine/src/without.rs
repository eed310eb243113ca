//! Which abilities of the CPU are left alone although it has them: the option `without=`, for comparisons and for CPUs with
//! errata.

use bitflags::bitflags;

bitflags! {
    /// Abilities that are not used.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Without: u8 {
        /// The TPR shadow, or V_TPR: the task priority without exits. Without it there is nothing of the next four on Intel.
        const TASK_PRIORITY = 1 << 0;
        /// Virtualized accesses to the local APIC's page.
        const APIC_ACCESSES = 1 << 1;
        /// Virtualized registers of the local APIC.
        const APIC_REGISTERS = 1 << 2;
        /// Interrupts that the CPU delivers by itself.
        const VIRTUAL_INTERRUPTS = 1 << 3;
        /// Virtualized x2APIC registers.
        const X2APIC = 1 << 4;
        /// Another rate of guests' TSC.
        const TSC_SCALING = 1 << 5;
    }
}

const NAMES: [(&str, Without); 6] = [
    ("task-priority", Without::TASK_PRIORITY),
    ("apic-accesses", Without::APIC_ACCESSES),
    ("apic-registers", Without::APIC_REGISTERS),
    ("virtual-interrupts", Without::VIRTUAL_INTERRUPTS),
    ("x2apic", Without::X2APIC),
    ("tsc-scaling", Without::TSC_SCALING),
];

impl Without {
    /// Reads names with commas between them. `None` where one is unknown.
    pub fn parse(text: &str) -> Option<Self> {
        let find = |name| NAMES.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit);
        text.split(',').try_fold(Self::empty(), |chosen, name| Some(chosen | find(name)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abilities_are_named() {
        assert_eq!(Without::parse("x2apic"), Some(Without::X2APIC));
        let all: std::vec::Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        assert_eq!(Without::parse(&all.join(",")), Some(Without::all()));
        assert_eq!(Without::parse("x2apic,"), None);
        assert_eq!(Without::parse(""), None);
    }
}
