//! Every set of features that a CPU can offer, made up.

use vcpu::Hpa;

use super::*;
use crate::svm::intercept::{intercept_1, intercept_2, virtual_interrupt};
use crate::svm::setup::{self, Addresses};
use crate::svm::vmcb::Vmcb;

/// The bits of leaf 8000_000AH EDX that decide anything.
const BITS: [u32; 9] = [
    svm::NESTED_PAGING,
    svm::NEXT_RIP,
    svm::VMCB_CLEAN,
    svm::FLUSH_BY_ASID,
    svm::DECODE_ASSISTS,
    svm::PAUSE_FILTER,
    svm::PAUSE_FILTER_THRESHOLD,
    svm::VIRTUAL_NMI,
    svm::SPEC_CTRL,
];

fn leaves(edx: u32) -> Leaves {
    let register = |edx| CpuidResult { edx, ..CpuidResult::default() };
    Leaves {
        basic: register(MACHINE_CHECK),
        extended: register(PAGE_1G | cpuid_bits::EXTENDED_EDX_RDTSCP),
        svm: CpuidResult { eax: 1, ebx: 16, ecx: 0, edx },
        hypervisor: CpuidResult::default(),
    }
}

/// All 512 sets, each also with every bit set that means nothing to us.
fn sets() -> impl Iterator<Item = u32> {
    let known = BITS.iter().fold(0, |all, bit| all | bit);
    (0..1u32 << BITS.len()).flat_map(move |choice| {
        let set =
            BITS.iter().enumerate().filter(|(n, _)| choice >> n & 1 != 0).fold(0, |all, (_, bit)| all | bit);
        [set, set | !known]
    })
}

#[test]
fn each_ability_is_used_exactly_where_it_is_offered() {
    for edx in sets() {
        let has = |bit| edx & bit != 0;
        let Ok(plan) = Plan::choose(&leaves(edx), Without::empty()) else {
            assert!(!has(svm::NESTED_PAGING), "{edx:#x}");
            continue;
        };
        assert!(has(svm::NESTED_PAGING), "{edx:#x}");
        assert_eq!(plan.next_rip, has(svm::NEXT_RIP));
        assert_eq!(plan.decode_assists, has(svm::DECODE_ASSISTS));
        assert_eq!(plan.clean, if has(svm::VMCB_CLEAN) { Clean::all() } else { Clean::empty() });
        assert_eq!(plan.flush == Flush::ByAsid, has(svm::FLUSH_BY_ASID));
        assert_eq!(plan.nmi == NmiBlocking::Virtual, has(svm::VIRTUAL_NMI));
        assert_eq!(plan.speculation_control, has(svm::SPEC_CTRL));
        assert_eq!(plan.injection, Injection::Event);
        assert_eq!(plan.pause.is_some(), has(svm::PAUSE_FILTER));
        let timed = plan.pause.is_some_and(|filter| filter.threshold != 0);
        assert_eq!(timed, has(svm::PAUSE_FILTER) && has(svm::PAUSE_FILTER_THRESHOLD));
        let optional = [
            svm::NEXT_RIP,
            svm::DECODE_ASSISTS,
            svm::FLUSH_BY_ASID,
            svm::VMCB_CLEAN,
            svm::VIRTUAL_NMI,
            svm::PAUSE_FILTER,
            svm::TSC_RATIO,
            svm::SPEC_CTRL,
        ];
        let always = plan.apic.iter().count();
        assert_eq!(plan.names().count(), always + optional.into_iter().filter(|bit| has(*bit)).count());
    }
}

#[test]
fn a_vmcb_asks_for_nothing_that_is_not_offered() {
    let addresses =
        Addresses { io_permissions: Hpa(0x1000), msr_permissions: Hpa(0x4000), root: Hpa(0x6000) };
    for edx in sets() {
        let Ok(plan) = Plan::choose(&leaves(edx), Without::empty()) else { continue };
        let mut vmcb = Vmcb::zeroed();
        setup::controls(&mut vmcb, &plan, addresses);
        let virtual_nmi = vmcb.virtual_interrupt() & virtual_interrupt::V_NMI_ENABLE != 0;
        assert_eq!(virtual_nmi, edx & svm::VIRTUAL_NMI != 0);
        assert_ne!(
            vmcb.intercept_1() & intercept_1::NMI,
            0,
            "virtual NMIs need the intercept, and so does the host"
        );
        let pauses = vmcb.intercept_1() & intercept_1::PAUSE != 0;
        assert_eq!(pauses, edx & svm::PAUSE_FILTER != 0, "without a filter every PAUSE would exit");
        assert_eq!(pauses, vmcb.pause_filter_count() != 0);
        assert!(vmcb.pause_filter_threshold() == 0 || edx & svm::PAUSE_FILTER_THRESHOLD != 0);
        assert_ne!(vmcb.intercept_2() & intercept_2::VMRUN, 0);
        assert_eq!(vmcb.nested_cr3(), addresses.root.0);
        assert_eq!((vmcb.lbr_control(), vmcb.debugctl()), (0, 0));
        assert_eq!(vmcb.kept(), Clean::empty(), "a new VMCB is loaded whole");
    }
}

#[test]
fn what_the_other_leaves_offer() {
    let full = leaves(svm::NESTED_PAGING);
    let plan = Plan::choose(&full, Without::empty()).expect("enough");
    assert!(plan.machine_check && plan.page_1g && plan.rdtscp);
    let none = CpuidResult::default();
    let plan =
        Plan::choose(&Leaves { basic: none, extended: none, ..full }, Without::empty()).expect("enough");
    assert!(!plan.machine_check && !plan.page_1g && !plan.rdtscp);
}

#[test]
fn an_emulator_is_known_by_its_signature() {
    let [ebx, ecx, edx] = [*b"TCGT", *b"CGTC", *b"GTCG"].map(u32::from_le_bytes);
    let hypervisor = CpuidResult { eax: 0, ebx, ecx, edx };
    let plan = |hypervisor| {
        Plan::choose(&Leaves { hypervisor, ..leaves(u32::MAX) }, Without::empty()).expect("enough")
    };
    assert_eq!(plan(hypervisor).injection, Injection::Emulated);
    assert_eq!(plan(CpuidResult { edx: 0, ..hypervisor }).injection, Injection::Event);
}

#[test]
fn a_cpu_without_identifiers_is_refused() {
    for ebx in [0, 1] {
        let svm = CpuidResult { ebx, ..leaves(u32::MAX).svm };
        assert_eq!(
            Plan::choose(&Leaves { svm, ..leaves(0) }, Without::empty()),
            Err("address-space identifiers")
        );
    }
    assert_eq!(Plan::choose(&leaves(0), Without::empty()), Err("nested paging (NPT)"));
}
