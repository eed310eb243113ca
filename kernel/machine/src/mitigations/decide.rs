//! Which measures a CPU needs: decided by what it tells of itself alone, so that tests can make up the CPU.
//!
//! Sources: Intel, "CPUID Enumeration and Architectural MSRs", "Affected Processors: Guidance for Security Issues on Intel
//! Processors", and the technical documents "Branch History Injection and Intra-mode Branch Target Injection", "Post-barrier Return
//! Stack Buffer Predictions", "Microarchitectural Data Sampling", "TSX Asynchronous Abort", "Processor MMIO Stale Data
//! Vulnerabilities", "Register File Data Sampling", "L1 Terminal Fault"; AMD, "Software Techniques for Managing Speculation on AMD
//! Processors", "Technical Guidance for Mitigating Branch Type Confusion", "Technical Update Regarding Speculative Return Stack
//! Overflow", "Technical Guidance for Mitigating Transient Scheduler Attacks".

use bitflags::bitflags;

use crate::cpu::Vendor;

bitflags! {
    /// What is done. The entry code tests the first eight.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Measures: u32 {
        /// IBPB after each exit.
        const EXIT_IBPB = 1 << 0;
        /// IA32_SPEC_CTRL is the kernel's after an exit, and the guest's before an entry.
        const SWITCH_CONTROL = 1 << 1;
        /// The guest's IA32_SPEC_CTRL is read after each exit: it writes it itself.
        const SAVE_CONTROL = 1 << 2;
        /// 32 entries go to the return stack after each exit.
        const FILL_RETURNS = 1 << 3;
        /// One entry does.
        const ONE_RETURN = 1 << 4;
        /// The history of branches is overwritten after each exit.
        const CLEAR_HISTORY = 1 << 5;
        /// VERW before each entry.
        const VERW = 1 << 6;
        /// The kernel runs with IBRS, which holds from when it was set.
        const ENHANCED_IBRS = 1 << 8;
        /// The same by a bit of EFER.
        const AUTOMATIC_IBRS = 1 << 9;
        /// The CPU keeps guests' branch histories from the kernel.
        const BHI_DIS_S = 1 << 10;
        /// The CPU speculates less behind returns of a hypervisor.
        const REDUCE = 1 << 11;
        /// IBPB when another VM's vCPU is loaded.
        const SWITCH_IBPB = 1 << 12;
        /// The L1 data cache is flushed before entries, by IA32_FLUSH_CMD.
        const L1D_COMMAND = 1 << 13;
        /// The same by reading.
        const L1D_READ = 1 << 14;
    }

    /// What stays open, and why.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Gaps: u8 {
        /// There is no IBPB.
        const NO_BARRIER = 1 << 0;
        /// There is no IBRS of any kind.
        const NO_CONTROL = 1 << 1;
        /// VERW clears nothing.
        const NO_CLEARING = 1 << 2;
        /// IBPB leaves what a branch is taken for.
        const WEAK_BARRIER = 1 << 3;
        /// Two threads of a core share what is cleared.
        const THREADS = 1 << 4;
    }
}

/// What a CPU tells of itself. What it does not enumerate is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cpu {
    pub(crate) vendor: Vendor,
    /// Family and model, the extended ones added.
    pub(crate) family: u32,
    pub(crate) model: u32,
    /// A core has more than one thread.
    pub(crate) threads: bool,
    /// CPUID leaf 7, subleaf 0 and subleaf 2.
    pub(crate) leaf7_ebx: u32,
    pub(crate) leaf7_edx: u32,
    pub(crate) leaf7_2_edx: u32,
    /// CPUID leaves 8000_0008H and 8000_0021H.
    pub(crate) leaf88_ebx: u32,
    pub(crate) leaf8021_eax: u32,
    pub(crate) leaf8021_ecx: u32,
    /// IA32_ARCH_CAPABILITIES.
    pub(crate) capabilities: u64,
}

/// What is done, what stays open, and against what nothing need be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Decision {
    pub(crate) measures: Measures,
    pub(crate) gaps: Gaps,
}

/// CPUID leaf 7 EBX: restricted transactional memory.
const RTM: u32 = 1 << 11;
/// CPUID leaf 7 EDX.
mod leaf7 {
    pub(super) const MD_CLEAR: u32 = 1 << 10;
    pub(super) const SPEC_CTRL: u32 = 1 << 26;
    pub(super) const L1D_FLUSH: u32 = 1 << 28;
}
/// CPUID leaf 7 subleaf 2 EDX: BHI_DIS_S.
const BHI_CTRL: u32 = 1 << 4;
/// CPUID leaf 8000_0008H EBX.
mod leaf88 {
    pub(super) const IBPB: u32 = 1 << 12;
    pub(super) const IBRS: u32 = 1 << 14;
    pub(super) const IBRS_ALWAYS: u32 = 1 << 16;
    pub(super) const BTC_NO: u32 = 1 << 29;
    pub(super) const IBPB_RET: u32 = 1 << 30;
}
/// CPUID leaf 8000_0021H EAX.
mod leaf8021 {
    pub(super) const VERW_CLEAR: u32 = 1 << 5;
    pub(super) const AUTOMATIC_IBRS: u32 = 1 << 8;
    pub(super) const IBPB_BRTYPE: u32 = 1 << 28;
    pub(super) const SRSO_NO: u32 = 1 << 29;
    pub(super) const SRSO_MSR_FIX: u32 = 1 << 31;
}
/// CPUID leaf 8000_0021H ECX: neither of both transient scheduler attacks.
const TSA_NO: u32 = 1 << 1 | 1 << 2;
/// IA32_ARCH_CAPABILITIES.
mod capability {
    pub(super) const RDCL_NO: u64 = 1 << 0;
    pub(super) const IBRS_ALL: u64 = 1 << 1;
    pub(super) const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
    pub(super) const MDS_NO: u64 = 1 << 5;
    pub(super) const TAA_NO: u64 = 1 << 8;
    /// SBDR_SSDP_NO, FBSDP_NO and PSDP_NO.
    pub(super) const MMIO_NO: u64 = 1 << 13 | 1 << 14 | 1 << 15;
    pub(super) const FB_CLEAR: u64 = 1 << 17;
    pub(super) const BHI_NO: u64 = 1 << 20;
    pub(super) const PBRSB_NO: u64 = 1 << 24;
    pub(super) const RFDS_NO: u64 = 1 << 27;
    pub(super) const RFDS_CLEAR: u64 = 1 << 28;
}

/// Models of family 6 that L1TF does not reach although they do not say so: Silvermont, Airmont, Goldmont and their kin, Knights.
const WITHOUT_L1TF: [u32; 12] = [0x37, 0x4a, 0x4c, 0x4d, 0x57, 0x5a, 0x5c, 0x5d, 0x5f, 0x75, 0x7a, 0x85];
/// The same for MDS: Goldmont.
const WITHOUT_MDS: [u32; 3] = [0x5c, 0x5f, 0x7a];
/// The same for predictions of returns behind a barrier: Goldmont Plus, Tremont.
const WITHOUT_PBRSB: [u32; 4] = [0x7a, 0x86, 0x96, 0x9c];

/// What that CPU needs.
pub(crate) fn decide(cpu: &Cpu) -> Decision {
    let mut found = Decision::default();
    if cpu.vendor == Vendor::Amd {
        cpu.decide_amd(&mut found);
    } else {
        cpu.decide_intel(&mut found);
    }
    found
}

impl Decision {
    fn add(&mut self, measure: Measures, wanted: bool) {
        self.measures.set(measure, self.measures.contains(measure) || wanted);
    }

    fn lack(&mut self, gap: Gaps, is_open: bool) {
        self.gaps.set(gap, self.gaps.contains(gap) || is_open);
    }
}

impl Cpu {
    const fn says(&self, capability: u64) -> bool {
        self.capabilities & capability == capability
    }

    fn is_one_of(&self, models: &[u32]) -> bool {
        self.family == 6 && models.contains(&self.model)
    }

    fn decide_intel(&self, found: &mut Decision) {
        use Measures as M;
        use capability as c;
        let controls = self.leaf7_edx & leaf7::SPEC_CTRL != 0;
        let enhanced = controls && self.says(c::IBRS_ALL);
        found.add(M::SWITCH_IBPB, controls);
        found.add(M::ENHANCED_IBRS, enhanced);
        found.add(M::SWITCH_CONTROL, controls && !enhanced);
        found.add(M::FILL_RETURNS, !enhanced);
        found.add(M::ONE_RETURN, enhanced && !self.says(c::PBRSB_NO) && !self.is_one_of(&WITHOUT_PBRSB));
        if enhanced && !self.says(c::BHI_NO) {
            let in_hardware = self.leaf7_2_edx & BHI_CTRL != 0;
            found.add(if in_hardware { M::BHI_DIS_S } else { M::CLEAR_HISTORY }, true);
        }
        found.lack(Gaps::NO_BARRIER | Gaps::NO_CONTROL, !controls);

        let mds = !self.says(c::MDS_NO) && !self.is_one_of(&WITHOUT_MDS);
        let taa = self.leaf7_ebx & RTM != 0 && !self.says(c::TAA_NO);
        let mmio = self.says(c::FB_CLEAR) && !self.says(c::MMIO_NO);
        let registers = self.says(c::RFDS_CLEAR) && !self.says(c::RFDS_NO);
        found.add(M::VERW, mds || taa || mmio || registers);
        found.lack(Gaps::NO_CLEARING, (mds || taa) && self.leaf7_edx & leaf7::MD_CLEAR == 0);

        let l1tf = !self.says(c::RDCL_NO) && !self.is_one_of(&WITHOUT_L1TF);
        if l1tf && !self.says(c::SKIP_L1DFL_VMENTRY) {
            let by_command = self.leaf7_edx & leaf7::L1D_FLUSH != 0;
            found.add(if by_command { M::L1D_COMMAND } else { M::L1D_READ }, true);
        }
        found.lack(Gaps::THREADS, self.threads && (mds || taa || l1tf));
    }

    fn decide_amd(&self, found: &mut Decision) {
        use Measures as M;
        let barrier = self.leaf88_ebx & leaf88::IBPB != 0;
        let automatic = self.leaf8021_eax & leaf8021::AUTOMATIC_IBRS != 0;
        // Branches taken for others: Bulldozer's kin, Jaguar, Zen 1 and 2. Returns: Zen 1 to 5.
        let branch_types = matches!(self.family, 0x15..=0x18) && self.leaf88_ebx & leaf88::BTC_NO == 0;
        let returns = matches!(self.family, 0x17..=0x1a) && self.leaf8021_eax & leaf8021::SRSO_NO == 0;
        let reduces = returns && self.leaf8021_eax & leaf8021::SRSO_MSR_FIX != 0;
        let at_exits = barrier && (branch_types || returns && !reduces);
        found.add(M::SWITCH_IBPB, barrier);
        found.add(M::EXIT_IBPB, at_exits);
        found.add(M::REDUCE, reduces);
        found.add(M::AUTOMATIC_IBRS, automatic);
        // A barrier at each exit leaves nothing that IBRS could keep away.
        let by_control = !automatic && !at_exits && self.leaf88_ebx & leaf88::IBRS != 0;
        let always = self.leaf88_ebx & leaf88::IBRS_ALWAYS != 0;
        found.add(M::ENHANCED_IBRS, by_control && always);
        found.add(M::SWITCH_CONTROL, by_control && !always);
        let barrier_has_returns = at_exits && self.leaf88_ebx & leaf88::IBPB_RET != 0;
        found.add(M::FILL_RETURNS, !automatic && !barrier_has_returns);
        found.lack(Gaps::NO_BARRIER, !barrier);
        found.lack(Gaps::NO_CONTROL, !automatic && !at_exits && !by_control);
        // On Zen 1 and 2 the barrier always did that.
        let weak = self.family == 0x19 && self.leaf8021_eax & leaf8021::IBPB_BRTYPE == 0;
        found.lack(Gaps::WEAK_BARRIER, at_exits && weak);
        found.add(
            M::VERW,
            self.family == 0x19
                && self.leaf8021_eax & leaf8021::VERW_CLEAR != 0
                && self.leaf8021_ecx & TSA_NO != TSA_NO,
        );
    }
}

#[cfg(test)]
pub(super) mod tests;
