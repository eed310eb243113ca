//! What this CPU's SVM can do, from CPUID leaf 8000_000AH.
//!
//! Source: AMD APM vol. 3, "Function 8000_000Ah - SVM Features".

use vcpu::CpuidResult;

/// Abilities that are used where they are there. Nested paging is the only one that must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Features {
    /// Nested paging.
    pub(crate) nested_paging: bool,
    /// The address of the next instruction is in the VMCB.
    pub(crate) next_rip: bool,
    /// TLB_CONTROL can flush one ASID.
    pub(crate) flush_by_asid: bool,
    /// MOV CR operands and instruction bytes are in the VMCB.
    pub(crate) decode_assists: bool,
    /// ASIDs, the host's 0 included.
    pub(crate) asids: u32,
}

const NESTED_PAGING: u32 = 1 << 0;
const NEXT_RIP: u32 = 1 << 3;
const FLUSH_BY_ASID: u32 = 1 << 6;
const DECODE_ASSISTS: u32 = 1 << 7;

impl Features {
    /// Reads the leaf.
    pub(crate) const fn from_leaf(leaf: CpuidResult) -> Self {
        Self {
            nested_paging: leaf.edx & NESTED_PAGING != 0,
            next_rip: leaf.edx & NEXT_RIP != 0,
            flush_by_asid: leaf.edx & FLUSH_BY_ASID != 0,
            decode_assists: leaf.edx & DECODE_ASSISTS != 0,
            asids: leaf.ebx,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_cpu_has_nested_paging_only() {
        let features = Features::from_leaf(CpuidResult { eax: 1, ebx: 16, ecx: 0, edx: NESTED_PAGING });
        assert_eq!(features, Features { nested_paging: true, asids: 16, ..Features::default() });
    }

    #[test]
    fn a_full_cpu_has_all() {
        let features = Features::from_leaf(CpuidResult { eax: 1, ebx: 0x8000, ecx: 0, edx: u32::MAX });
        assert!(features.next_rip && features.flush_by_asid && features.decode_assists);
    }
}
