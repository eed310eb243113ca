//! What VMX takes from the CPUID that guests can be offered: instructions that need a control this CPU does not
//! have, and features whose CR4 bit it does not let a guest set.

use vcpu::{CpuidResult, cr4};

use super::capability::Controls;
use crate::virtualization::features;

/// A register of a leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Leaf1Ecx,
    Leaf1Edx,
    Leaf7Ebx,
    Leaf7Ecx,
}

/// Features that are switched on by a CR4 bit: where they are shown, and the bit.
const BY_CR4: [(Place, u32, u64); 14] = [
    (Place::Leaf1Ecx, 1 << 17, cr4::PCIDE),
    (Place::Leaf1Ecx, 1 << 26, cr4::OSXSAVE),
    (Place::Leaf1Edx, 1 << 1, cr4::VME | cr4::PVI),
    (Place::Leaf1Edx, 1 << 2, cr4::DE),
    (Place::Leaf1Edx, 1 << 3, cr4::PSE),
    (Place::Leaf1Edx, 1 << 6, cr4::PAE),
    (Place::Leaf1Edx, 1 << 7, cr4::MCE),
    (Place::Leaf1Edx, 1 << 13, cr4::PGE),
    (Place::Leaf7Ebx, 1 << 0, cr4::FSGSBASE),
    (Place::Leaf7Ebx, 1 << 7, cr4::SMEP),
    (Place::Leaf7Ebx, 1 << 20, cr4::SMAP),
    (Place::Leaf7Ecx, 1 << 2, cr4::UMIP),
    (Place::Leaf7Ecx, 1 << 3, cr4::PKE),
    (Place::Leaf7Ecx, features::LEAF7_ECX_LA57, cr4::LA57),
];

/// `result` of a leaf, less what these controls cannot let a guest use. `nested`: another hypervisor is below this one.
pub(super) fn offered(
    controls: &Controls,
    nested: bool,
    leaf: u32,
    subleaf: u32,
    mut result: CpuidResult,
) -> CpuidResult {
    let (_, may) = controls.cr4_fixed;
    for (place, feature, bit) in BY_CR4 {
        let register = match (place, leaf, subleaf) {
            (Place::Leaf1Ecx, 1, _) => &mut result.ecx,
            (Place::Leaf1Edx, 1, _) => &mut result.edx,
            (Place::Leaf7Ebx, 7, 0) => &mut result.ebx,
            (Place::Leaf7Ecx, 7, 0) => &mut result.ecx,
            _ => continue,
        };
        if may & bit != bit {
            *register &= !feature;
        }
    }
    match (leaf, subleaf) {
        (7, 0) => {
            if !controls.invpcid {
                result.ebx &= !features::LEAF7_EBX_INVPCID;
            }
            if !controls.rdtscp {
                result.ecx &= !features::LEAF7_ECX_RDPID;
            }
            // The kernel, with four levels, writes a guest's addresses of 57 bits back to MSRs when it loads a vCPU. A CPU
            // takes them whatever CR4.LA57 is; some hypervisors look at it and raise #GP.
            if nested {
                result.ecx &= !features::LEAF7_ECX_LA57;
            }
        }
        (0x8000_0001, _) if !controls.rdtscp => result.edx &= !features::EXTENDED_EDX_RDTSCP,
        _ => {}
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::capability::tests::generous;
    use super::*;
    use crate::without::Without;

    const ALL: CpuidResult = CpuidResult { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };

    #[test]
    fn a_feature_is_not_shown_whose_cr4_bit_cannot_be_set() {
        let mut msrs = generous();
        msrs.cr4_fixed.1 &= !(cr4::SMAP | cr4::UMIP);
        let controls = Controls::choose(&msrs, Without::empty()).unwrap();
        let leaf7 = offered(&controls, false, 7, 0, ALL);
        assert_eq!(leaf7.ebx & (1 << 20 | 1 << 7), 1 << 7);
        assert_eq!(leaf7.ecx & 1 << 2, 0);
        assert_eq!(offered(&controls, false, 7, 1, ALL), ALL);
    }

    #[test]
    fn five_levels_are_shown_where_cr4_takes_them_on_a_cpu_of_our_own() {
        let mut msrs = generous();
        let shown = |msrs, nested| {
            let controls = Controls::choose(&msrs, Without::empty()).unwrap();
            offered(&controls, nested, 7, 0, ALL).ecx & features::LEAF7_ECX_LA57 != 0
        };
        assert!(!shown(msrs, false));
        msrs.cr4_fixed.1 |= cr4::LA57;
        assert!(shown(msrs, false) && !shown(msrs, true));
    }

    #[test]
    fn instructions_without_their_control_are_not_shown() {
        let mut msrs = generous();
        msrs.secondary = 0x8a << 32;
        assert_eq!(
            offered(&Controls::choose(&msrs, Without::empty()).unwrap(), false, 0x8000_0001, 0, ALL),
            ALL
        );
        msrs.secondary = 0x82 << 32;
        let controls = Controls::choose(&msrs, Without::empty()).unwrap();
        assert_eq!(offered(&controls, false, 0x8000_0001, 0, ALL).edx, !features::EXTENDED_EDX_RDTSCP);
        assert_eq!(offered(&controls, false, 7, 0, ALL).ebx & features::LEAF7_EBX_INVPCID, 0);
    }
}
