use proptest::prelude::*;
use vcpu::{cr4, efer};

use super::*;

fn permissions(intel: bool) -> Permissions {
    Permissions {
        cr4: cr4::PAE,
        efer: efer::LME,
        xcr0: 7,
        physical_bits: 39,
        linear_bits: 48,
        tsc_aux: true,
        intel,
    }
}

#[test]
fn linux_finds_what_it_reads_without_a_net() {
    let [intel, amd] = [permissions(true), permissions(false)];
    let msrs = Msrs::new(&intel);
    for msr in
        [number::MISC_ENABLE, number::BIOS_SIGN_ID, number::MTRRCAP, number::MCG_CAP, number::PLATFORM_ID]
    {
        assert!(msrs.read(msr, &intel).is_ok(), "{msr:#x}");
    }
    assert_eq!(msrs.read(number::FEATURE_CONTROL, &intel), Ok(1));
    assert_eq!(msrs.read(number::FEATURE_CONTROL, &amd), Err(Denied));
    let msrs = Msrs::new(&amd);
    for msr in [number::AMD_SYSCFG, number::AMD_NB_CFG, number::AMD_INT_PENDING, number::AMD_DE_CFG] {
        assert!(msrs.read(msr, &amd).is_ok(), "{msr:#x}");
        assert_eq!(msrs.read(msr, &intel), Err(Denied));
    }
    assert_ne!(msrs.read(number::AMD_HWCR, &amd).unwrap() & HWCR_TSC_FREQUENCY, 0);
}

#[test]
fn the_device_window_is_uncacheable() {
    let permissions = permissions(true);
    let msrs = Msrs::new(&permissions);
    assert_eq!(msrs.read(0x200, &permissions), Ok(0xc000_0000));
    assert_eq!(msrs.read(0x201, &permissions), Ok(0x7f_c000_0800));
    assert_eq!(msrs.read(number::MTRR_DEF_TYPE, &permissions), Ok(0xc06));
    assert_eq!(msrs.read(number::MTRR_FIX16K_A0000, &permissions), Ok(0));
    assert_eq!(msrs.read(0x210, &permissions), Err(Denied));
}

#[test]
fn wrong_values_are_denied_and_change_nothing() {
    let permissions = permissions(true);
    let mut msrs = Msrs::new(&permissions);
    for (msr, value) in [
        (number::MTRR_DEF_TYPE, 2),
        (number::MTRR_DEF_TYPE, 1 << 12),
        (number::MTRR_FIX64K_00000, 0x0606_0606_0606_0603),
        (0x200, 7),
        (0x200, 0x100),
        (0x201, 1 << 39 | 0x800),
        (0x201, 0x7ff),
        (number::MTRRCAP, 0),
        (number::MCG_STATUS, 8),
        (number::MISC_ENABLE, 0),
        (number::FEATURE_CONTROL, 5),
        (0x1234_5678, 0),
    ] {
        let before = msrs.read(msr, &permissions);
        assert_eq!(msrs.write(msr, value, &permissions), Err(Denied), "{msr:#x} {value:#x}");
        assert_eq!(msrs.read(msr, &permissions), before);
    }
}

#[test]
fn pat_and_canonical() {
    assert!(is_pat(0x0007_0406_0007_0406));
    assert!(!is_pat(0x0007_0406_0007_0402) && !is_pat(8 << 56));
    for (bits, first_wrong) in [(48, 0x8000_0000_0000u64), (57, 1 << 56)] {
        for right in [0, first_wrong - 1, first_wrong.wrapping_neg(), u64::MAX] {
            assert!(is_canonical(right, bits), "{right:#x}");
        }
        for wrong in [first_wrong, !first_wrong, 1 << 63, i64::MAX as u64] {
            assert!(!is_canonical(wrong, bits), "{wrong:#x}");
        }
    }
}

proptest! {
    /// What was accepted reads back (but for registers that ignore writes or force a bit).
    #[test]
    fn accepted_writes_read_back(msr in 0u32..0x300, value: u64, intel: bool) {
        let permissions = permissions(intel);
        let mut msrs = Msrs::new(&permissions);
        if msrs.write(msr, value, &permissions).is_ok() && msr != number::BIOS_SIGN_ID {
            prop_assert_eq!(msrs.read(msr, &permissions), Ok(value));
        }
    }
}
