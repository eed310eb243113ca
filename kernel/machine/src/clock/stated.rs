//! What CPU and hypervisor say of the TSC's rate: a word to be checked.
//!
//! Source: Intel SDM vol. 2, "CPUID", leaves 15H and 16H; Linux documentation, "KVM-specific MSRs"; the leaf 4000_0010H
//! that hypervisors took over from VMware's.

use raw_cpuid::{CpuId, CpuIdReader, Hypervisor};

use super::calibrate::PLAUSIBLE_HZ;
use super::judge::Statement;
use super::kvm_clock;

/// KVM's feature leaf, and in its EAX: the paravirtual clock by its new MSRs.
const KVM_FEATURES_LEAF: u32 = 0x4000_0001;
const KVM_CLOCK: u32 = 1 << 3;

/// The best statement there is: of the hypervisor above, which knows what TSC it gives, else the CPU's.
pub(super) fn best<R: CpuIdReader>(reader: R) -> Option<Statement> {
    let cpuid = CpuId::with_cpuid_reader(reader.clone());
    by_hypervisor(&cpuid, &reader, kvm_clock::tsc_hz).or_else(|| by_cpu(&cpuid))
}

fn statement(tsc_hz: u64, by: &'static str, exact: bool) -> Option<Statement> {
    PLAUSIBLE_HZ.contains(&tsc_hz).then_some(Statement { tsc_hz, by, exact })
}

fn by_hypervisor<R: CpuIdReader>(
    cpuid: &CpuId<R>,
    reader: &R,
    kvm_clock: fn() -> Option<u64>,
) -> Option<Statement> {
    let above = cpuid.get_hypervisor_info()?;
    let leaf =
        above.tsc_frequency().and_then(|khz| statement(u64::from(khz) * 1000, "CPUID leaf 4000_0010H", true));
    let kvm = || {
        let has_clock =
            above.identify() == Hypervisor::KVM && reader.cpuid1(KVM_FEATURES_LEAF).eax & KVM_CLOCK != 0;
        statement(has_clock.then(kvm_clock)??, "KVM's clock", true)
    };
    leaf.or_else(kvm)
}

fn by_cpu<R: CpuIdReader>(cpuid: &CpuId<R>) -> Option<Statement> {
    let crystal = cpuid.get_tsc_info().and_then(|info| info.tsc_frequency());
    let base_mhz = cpuid.get_processor_frequency_info().map_or(0, |info| info.processor_base_frequency());
    crystal
        .and_then(|hz| statement(hz, "CPUID leaf 15H", true))
        // A round number, from which the TSC's rate may be some parts in a thousand off.
        .or_else(|| statement(u64::from(base_mhz) * 1_000_000, "CPUID leaf 16H", false))
}

#[cfg(test)]
mod tests {
    use raw_cpuid::CpuIdResult;

    use super::*;

    /// Leaves of a made-up CPU: number, EAX, EBX, ECX, EDX.
    #[derive(Clone)]
    struct Leaves(&'static [(u32, [u32; 4])]);

    impl CpuIdReader for Leaves {
        fn cpuid2(&self, eax: u32, _: u32) -> CpuIdResult {
            let found = self.0.iter().find(|(leaf, _)| *leaf == eax);
            let [eax, ebx, ecx, edx] = found.map_or([0; 4], |(_, registers)| *registers);
            CpuIdResult { eax, ebx, ecx, edx }
        }
    }

    const INTEL: (u32, [u32; 4]) = (0, [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
    const VIRTUAL: (u32, [u32; 4]) = (1, [0, 0, 1 << 31, 0]);
    const KVM: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];

    fn by(leaves: &'static [(u32, [u32; 4])]) -> Option<(u64, &'static str, bool)> {
        let reader = Leaves(leaves);
        let cpuid = CpuId::with_cpuid_reader(reader.clone());
        by_hypervisor(&cpuid, &reader, || Some(2_100_000_000))
            .or_else(|| by_cpu(&cpuid))
            .map(|it| (it.tsc_hz, it.by, it.exact))
    }

    #[test]
    fn the_crystal_counts_before_the_base_frequency() {
        let crystal = by(&[INTEL, (0x15, [2, 216, 24_000_000, 0]), (0x16, [2600, 4000, 100, 0])]);
        assert_eq!(crystal, Some((2_592_000_000, "CPUID leaf 15H", true)));
        let base = by(&[INTEL, (0x15, [2, 216, 0, 0]), (0x16, [2600, 4000, 100, 0])]);
        assert_eq!(base, Some((2_600_000_000, "CPUID leaf 16H", false)));
    }

    #[test]
    fn zeros_and_absurdities_are_no_statement() {
        assert_eq!(by(&[INTEL]), None);
        assert_eq!(by(&[]), None);
        assert_eq!(by(&[INTEL, (0x15, [0, 216, 24_000_000, 0])]), None);
        assert_eq!(by(&[INTEL, (0x15, [1, u32::MAX, u32::MAX, 0])]), None);
    }

    #[test]
    fn the_hypervisor_above_knows_best() {
        const LEAF: (u32, [u32; 4]) = (0x4000_0010, [2_000_000, 0, 0, 0]);
        static WITH_LEAF: [(u32, [u32; 4]); 4] =
            [INTEL, VIRTUAL, (0x4000_0000, [0x4000_0010, KVM[0], KVM[1], KVM[2]]), LEAF];
        assert_eq!(by(&WITH_LEAF), Some((2_000_000_000, "CPUID leaf 4000_0010H", true)));
        static WITH_CLOCK: [(u32, [u32; 4]); 4] = [
            INTEL,
            VIRTUAL,
            (0x4000_0000, [0x4000_0001, KVM[0], KVM[1], KVM[2]]),
            (0x4000_0001, [KVM_CLOCK, 0, 0, 0]),
        ];
        assert_eq!(by(&WITH_CLOCK), Some((2_100_000_000, "KVM's clock", true)));
        // Another hypervisor's leaf 4000_0001H means something else.
        static OTHER: [(u32, [u32; 4]); 4] =
            [INTEL, VIRTUAL, (0x4000_0000, [0x4000_0001, 1, 2, 3]), (0x4000_0001, [KVM_CLOCK, 0, 0, 0])];
        assert_eq!(by(&OTHER), None);
    }
}
