//! What a guest finds to protect its own kernel from its own programs: the registers by which software tells the CPU how to
//! speculate, where the CPU has them. Which there are the guest knows by CPUID, which shows the same bits.
//!
//! IA32_PRED_CMD and IA32_FLUSH_CMD can only be written, and then the CPU forgets something: writes pass. IA32_SPEC_CTRL is switched with
//! entries and exits, but only once a guest has written another value than 0 (see [`super::guard`]); until then it exits.
//!
//! Sources: Intel, "CPUID Enumeration and Architectural MSRs"; AMD, "Software Techniques for Managing Speculation on AMD Processors".

use super::decide::Cpu;
use super::{FLUSH_CMD, PRED_CMD, detect};
use crate::cpu::Vendor;

/// What guests are given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Offer {
    /// Bits of IA32_SPEC_CTRL. The register is there where one is.
    pub(crate) control: u64,
    /// IA32_ARCH_CAPABILITIES, where it is there.
    pub(crate) capabilities: Option<u64>,
    /// There is IA32_PRED_CMD.
    barrier: bool,
    /// There is IA32_FLUSH_CMD.
    flush: bool,
}

/// IA32_SPEC_CTRL bits by the CPUID bit that tells of them, first for Intel: leaf 7 EDX and leaf 7 subleaf 2 EDX.
const BY_LEAF7: [(u32, u64); 3] = [(1 << 26, 1 << 0), (1 << 27, 1 << 1), (1 << 31, 1 << 2)];
const BY_LEAF7_2: [(u32, u64); 5] =
    [(1 << 0, 1 << 7), (1 << 1, 3 << 3), (1 << 2, 3 << 5), (1 << 3, 1 << 8), (1 << 4, 1 << 10)];
/// The same for AMD: leaf 8000_0008H EBX.
const BY_LEAF88: [(u32, u64); 4] =
    [(1 << 14, 1 << 0), (1 << 15, 1 << 1), (1 << 24, 1 << 2), (1 << 28, 1 << 7)];
const LEAF7_EDX_IBPB: u32 = 1 << 26;
const LEAF7_EDX_L1D_FLUSH: u32 = 1 << 28;
const LEAF88_EBX_IBPB: u32 = 1 << 12;
/// Bits of IA32_ARCH_CAPABILITIES that tell what the CPU is, and none that tells of a control which guests do not have.
const CAPABILITIES: u64 = 0x7f // RDCL_NO, IBRS_ALL, RSBA, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO
    | 1 << 8 // TAA_NO
    | 0b111 << 13 // SBDR_SSDP_NO, FBSDP_NO, PSDP_NO
    | 1 << 17 // FB_CLEAR
    | 0b11 << 19 // RRSBA, BHI_NO
    | 1 << 24 // PBRSB_NO
    | 0b111 << 26 // GDS_NO, RFDS_NO, RFDS_CLEAR
    | 1 << 62; // ITS_NO

impl Offer {
    pub(super) fn of(cpu: &Cpu) -> Self {
        let control = |table: &[(u32, u64)], word: u32| {
            table.iter().filter(|(bit, _)| word & bit != 0).fold(0, |all, (_, control)| all | control)
        };
        let amd = cpu.vendor == Vendor::Amd;
        Self {
            control: if amd {
                control(&BY_LEAF88, cpu.leaf88_ebx)
            } else {
                control(&BY_LEAF7, cpu.leaf7_edx) | control(&BY_LEAF7_2, cpu.leaf7_2_edx)
            },
            capabilities: (cpu.leaf7_edx & detect::ARCH_CAPABILITIES != 0)
                .then_some(cpu.capabilities & CAPABILITIES),
            barrier: if amd {
                cpu.leaf88_ebx & LEAF88_EBX_IBPB != 0
            } else {
                cpu.leaf7_edx & LEAF7_EDX_IBPB != 0
            },
            flush: cpu.leaf7_edx & LEAF7_EDX_L1D_FLUSH != 0,
        }
    }

    /// The registers that are written without an exit.
    pub(crate) fn commands(self) -> impl Iterator<Item = u32> {
        [(self.barrier, PRED_CMD), (self.flush, FLUSH_CMD)]
            .into_iter()
            .filter_map(|(has, number)| has.then_some(number))
    }
}

#[cfg(test)]
mod tests {
    use super::super::decide::tests::{AMD, INTEL};
    use super::*;

    #[test]
    fn a_cpu_that_tells_of_nothing_offers_nothing() {
        assert_eq!(Offer::of(&INTEL), Offer::default());
        assert_eq!(Offer::of(&AMD).commands().count(), 0);
    }

    #[test]
    fn intels_bits_are_those_of_leaf_7() {
        let offer = Offer::of(&Cpu { leaf7_edx: 0b1011 << 28 | 1 << 26, capabilities: u64::MAX, ..INTEL });
        assert_eq!(offer.control, 0b101);
        assert_eq!(offer.commands().collect::<std::vec::Vec<_>>(), [PRED_CMD, FLUSH_CMD]);
        assert_eq!(offer.capabilities, Some(CAPABILITIES));
        assert_eq!(Offer::of(&Cpu { leaf7_2_edx: 0b1_1111, ..INTEL }).control, 0b101_1111_1000);
    }

    #[test]
    fn amds_bits_are_those_of_leaf_8000_0008() {
        let offer = Offer::of(&Cpu { leaf88_ebx: 1 << 12 | 1 << 15 | 1 << 24, leaf7_edx: 1 << 26, ..AMD });
        assert_eq!((offer.control, offer.capabilities), (0b110, None));
        assert_eq!(offer.commands().collect::<std::vec::Vec<_>>(), [PRED_CMD]);
    }
}
