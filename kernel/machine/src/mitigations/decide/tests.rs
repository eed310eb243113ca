//! CPUs as they are: values as Linux shows them in `/proc/cpuinfo` and `rdmsr 0x10a`.

use super::*;

pub(in super::super) const INTEL: Cpu = Cpu {
    vendor: Vendor::Intel,
    family: 6,
    model: 0,
    threads: false,
    leaf7_ebx: 0,
    leaf7_edx: 0,
    leaf7_2_edx: 0,
    leaf88_ebx: 0,
    leaf8021_eax: 0,
    leaf8021_ecx: 0,
    capabilities: 0,
};
pub(in super::super) const AMD: Cpu = Cpu { vendor: Vendor::Amd, family: 0x17, ..INTEL };
/// MD_CLEAR, SPEC_CTRL, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
const MICROCODE: u32 = 1 << 10 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 31;
/// IBPB, STIBP, SSBD of Zen.
const ZEN: u32 = 1 << 12 | 1 << 15 | 1 << 24;

fn found(cpu: Cpu) -> (Measures, Gaps) {
    let Decision { measures, gaps } = decide(&cpu);
    (measures, gaps)
}

#[test]
fn haswell_without_microcode_gets_what_needs_none() {
    let (measures, gaps) = found(Cpu { model: 0x3c, threads: true, ..INTEL });
    assert_eq!(measures, Measures::FILL_RETURNS | Measures::VERW | Measures::L1D_READ);
    assert_eq!(gaps, Gaps::NO_BARRIER | Gaps::NO_CONTROL | Gaps::NO_CLEARING | Gaps::THREADS);
}

#[test]
fn skylake_with_microcode_switches_the_control() {
    let cpu =
        Cpu { model: 0x5e, leaf7_ebx: RTM, leaf7_edx: MICROCODE, capabilities: 1 << 2 | 1 << 17, ..INTEL };
    let wanted = Measures::SWITCH_IBPB
        | Measures::SWITCH_CONTROL
        | Measures::FILL_RETURNS
        | Measures::VERW
        | Measures::L1D_COMMAND;
    assert_eq!(found(cpu), (wanted, Gaps::empty()));
    assert_eq!(found(Cpu { threads: true, ..cpu }).1, Gaps::THREADS);
}

#[test]
fn cascade_lake_has_enhanced_ibrs_and_leaks_by_transactions() {
    // RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, MDS_NO, FB_CLEAR.
    let capabilities = 0b10_1011 | 1 << 17;
    let cpu = Cpu { model: 0x55, leaf7_ebx: RTM, leaf7_edx: MICROCODE, capabilities, ..INTEL };
    let always =
        Measures::SWITCH_IBPB | Measures::ENHANCED_IBRS | Measures::ONE_RETURN | Measures::CLEAR_HISTORY;
    assert_eq!(found(cpu), (always | Measures::VERW, Gaps::empty()));
    assert_eq!(found(Cpu { threads: true, ..cpu }).1, Gaps::THREADS, "TAA");
    let without = Cpu { leaf7_ebx: 0, capabilities: 0b10_1011, threads: true, ..cpu };
    assert_eq!(found(without), (always, Gaps::empty()), "neither transactions nor FB_CLEAR");
}

#[test]
fn ice_lake_leaks_device_data_only() {
    // TAA_NO and PBRSB_NO beside what Cascade Lake has.
    let capabilities = 0b10_1011 | 1 << 8 | 1 << 17 | 1 << 24;
    let cpu = Cpu { model: 0x6a, threads: true, leaf7_ebx: RTM, leaf7_edx: MICROCODE, capabilities, ..INTEL };
    let wanted = Measures::SWITCH_IBPB | Measures::ENHANCED_IBRS | Measures::CLEAR_HISTORY | Measures::VERW;
    assert_eq!(found(cpu), (wanted, Gaps::empty()));
}

#[test]
fn alder_lake_keeps_histories_apart_and_clears_registers() {
    let capabilities =
        0b10_1011 | 1 << 8 | capability::MMIO_NO | capability::FB_CLEAR | 1 << 24 | capability::RFDS_CLEAR;
    let cpu = Cpu { model: 0x97, leaf7_edx: MICROCODE, leaf7_2_edx: 0b1_1111, capabilities, ..INTEL };
    let always = Measures::SWITCH_IBPB | Measures::ENHANCED_IBRS | Measures::BHI_DIS_S;
    assert_eq!(found(cpu), (always | Measures::VERW, Gaps::empty()));
    let newer = capabilities & !capability::RFDS_CLEAR | capability::RFDS_NO | capability::BHI_NO;
    let cpu = Cpu { capabilities: newer, threads: true, ..cpu };
    assert_eq!(found(cpu), (Measures::SWITCH_IBPB | Measures::ENHANCED_IBRS, Gaps::empty()));
}

#[test]
fn atoms_are_known_by_their_models() {
    let (measures, gaps) = found(Cpu { model: 0x5c, leaf7_edx: 1 << 26, ..INTEL });
    assert_eq!(measures, Measures::SWITCH_IBPB | Measures::SWITCH_CONTROL | Measures::FILL_RETURNS);
    assert_eq!(gaps, Gaps::empty());
}

#[test]
fn zen_1_and_2_have_a_barrier_at_exits() {
    for model in [0x01, 0x31] {
        let (measures, gaps) = found(Cpu { model, leaf88_ebx: ZEN, threads: true, ..AMD });
        let wanted = Measures::SWITCH_IBPB | Measures::EXIT_IBPB | Measures::FILL_RETURNS;
        assert_eq!((measures, gaps), (wanted, Gaps::empty()));
    }
    let (measures, gaps) = found(AMD);
    assert_eq!(measures, Measures::FILL_RETURNS, "an emulator's has no barrier");
    assert_eq!(gaps, Gaps::NO_BARRIER | Gaps::NO_CONTROL);
}

#[test]
fn zen_3_and_4_need_microcode_for_it() {
    let leaf88_ebx = ZEN | 1 << 14 | leaf88::BTC_NO | leaf88::IBPB_RET;
    let zen3 = Cpu { family: 0x19, model: 0x21, leaf88_ebx, ..AMD };
    let wanted = Measures::SWITCH_IBPB | Measures::EXIT_IBPB;
    assert_eq!(found(zen3), (wanted, Gaps::WEAK_BARRIER));
    let updated = Cpu { leaf8021_eax: leaf8021::IBPB_BRTYPE | leaf8021::VERW_CLEAR, ..zen3 };
    assert_eq!(found(updated), (wanted | Measures::VERW, Gaps::empty()));
    assert_eq!(found(Cpu { leaf8021_ecx: TSA_NO, ..updated }), (wanted, Gaps::empty()));
    let zen4 = Cpu { model: 0x61, leaf8021_eax: leaf8021::IBPB_BRTYPE | leaf8021::AUTOMATIC_IBRS, ..zen3 };
    assert_eq!(found(zen4), (wanted | Measures::AUTOMATIC_IBRS, Gaps::empty()));
}

#[test]
fn zen_5_reduces_or_needs_nothing() {
    let zen5 = Cpu {
        family: 0x1a,
        model: 0x44,
        leaf88_ebx: ZEN | 1 << 14 | leaf88::BTC_NO | leaf88::IBPB_RET,
        leaf8021_eax: leaf8021::AUTOMATIC_IBRS | leaf8021::SRSO_MSR_FIX,
        ..AMD
    };
    let always = Measures::SWITCH_IBPB | Measures::AUTOMATIC_IBRS;
    assert_eq!(found(zen5), (always | Measures::REDUCE, Gaps::empty()));
    let immune = Cpu { leaf8021_eax: leaf8021::AUTOMATIC_IBRS | leaf8021::SRSO_NO, ..zen5 };
    assert_eq!(found(immune), (always, Gaps::empty()));
}
