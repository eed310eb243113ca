use proptest::prelude::*;

use super::*;

const PERMISSIONS: Permissions = Permissions {
    cr4: cr4::PAE | cr4::PSE | cr4::PGE | cr4::PCIDE | cr4::OSXSAVE | cr4::SMEP | cr4::OSFXSR | cr4::LA57,
    efer: efer::SCE | efer::LME | efer::NXE,
    xcr0: 0xe7,
    physical_bits: 40,
    linear_bits: 57,
    tsc_aux: true,
    intel: true,
};

const REAL: ControlState = ControlState { cr0: cr0::ET, cr3: 0, cr4: 0, efer: 0, code_is_64_bit: false };
const LONG: ControlState = ControlState {
    cr0: cr0::PG | cr0::PE | cr0::ET | cr0::NE,
    cr3: 0x1000,
    cr4: cr4::PAE,
    efer: efer::LME | efer::LMA,
    code_is_64_bit: true,
};

#[test]
fn paging_switches_long_mode_on_and_off() {
    let ready = ControlState { cr0: cr0::PE | cr0::ET, cr4: cr4::PAE, efer: efer::LME, ..REAL };
    let on = write_cr0(&ready, cr0::PG | cr0::PE).unwrap();
    assert_eq!(
        (on.value, on.efer, on.load_pdptes),
        (cr0::PG | cr0::PE | cr0::ET, efer::LME | efer::LMA, false)
    );
    let compatibility = ControlState { code_is_64_bit: false, ..LONG };
    assert_eq!(write_cr0(&compatibility, cr0::PE).unwrap().efer, efer::LME);
}

#[test]
fn forbidden_combinations_are_refused() {
    let combination = |result: Result<Change, Refusal>| matches!(result, Err(Refusal::Combination(_)));
    assert!(combination(write_cr0(&REAL, cr0::PG)));
    assert!(combination(write_cr0(&REAL, cr0::NW)));
    assert!(combination(write_cr0(&ControlState { efer: efer::LME, ..REAL }, cr0::PG | cr0::PE)));
    assert!(combination(write_cr0(
        &ControlState { efer: efer::LME, cr4: cr4::PAE, code_is_64_bit: true, ..REAL },
        cr0::PG | cr0::PE
    )));
    assert!(combination(write_cr0(&LONG, cr0::PE)), "CS.L");
    let pcid = ControlState { cr4: cr4::PAE | cr4::PCIDE, code_is_64_bit: false, ..LONG };
    assert!(combination(write_cr0(&pcid, cr0::PE)));
    assert!(combination(write_cr4(&LONG, 0, &PERMISSIONS)));
    assert!(combination(write_cr4(&REAL, cr4::PCIDE, &PERMISSIONS)));
    assert!(combination(write_cr4(
        &ControlState { cr3: 0x1001, ..LONG },
        cr4::PAE | cr4::PCIDE,
        &PERMISSIONS
    )));
    assert!(write_cr4(&LONG, cr4::PAE | cr4::PCIDE, &PERMISSIONS).is_ok());
    let five_levels = ControlState { cr4: cr4::PAE | cr4::LA57, ..LONG };
    assert!(combination(write_cr4(&LONG, cr4::PAE | cr4::LA57, &PERMISSIONS)));
    assert!(combination(write_cr4(&five_levels, cr4::PAE, &PERMISSIONS)));
    assert!(write_cr4(&five_levels, cr4::PAE | cr4::LA57 | cr4::OSFXSR, &PERMISSIONS).is_ok());
    assert!(write_cr4(&REAL, cr4::PAE | cr4::LA57, &PERMISSIONS).is_ok());
    let without = Permissions { cr4: PERMISSIONS.cr4 & !cr4::LA57, ..PERMISSIONS };
    assert_eq!(write_cr4(&REAL, cr4::LA57, &without), Err(Refusal::Reserved { bits: cr4::LA57 }));
    assert_eq!(write_cr0(&LONG, 1 << 32 | LONG.cr0), Err(Refusal::Reserved { bits: 1 << 32 }));
    assert_eq!(write_cr4(&REAL, cr4::VMXE, &PERMISSIONS), Err(Refusal::Reserved { bits: cr4::VMXE }));
}

#[test]
fn pae_paging_loads_the_pointers() {
    let ready = ControlState { cr0: cr0::PE, cr4: cr4::PAE, ..REAL };
    assert!(write_cr0(&ready, cr0::PG | cr0::PE).unwrap().load_pdptes);
    let running = ControlState { cr0: cr0::PG | cr0::PE | cr0::ET, ..ready };
    assert!(write_cr3(&running, 0x1_0000_0020, &PERMISSIONS).unwrap().load_pdptes);
    assert_eq!(write_cr3(&running, 0x1_0000_0020, &PERMISSIONS).unwrap().value, 0x20);
    assert!(write_cr4(&running, cr4::PAE | cr4::PGE, &PERMISSIONS).unwrap().load_pdptes);
    assert!(!write_cr4(&running, cr4::PAE | cr4::OSFXSR, &PERMISSIONS).unwrap().load_pdptes);
    assert!(!write_cr4(&LONG, cr4::PAE | cr4::PGE, &PERMISSIONS).unwrap().load_pdptes);
    assert!(pdpte_is_valid(0x1001, &PERMISSIONS) && pdpte_is_valid(0x1006, &PERMISSIONS));
    assert!(!pdpte_is_valid(0x1003, &PERMISSIONS) && !pdpte_is_valid(1 << 40 | 1, &PERMISSIONS));
}

#[test]
fn cr3_in_long_mode_has_reserved_bits() {
    assert_eq!(write_cr3(&LONG, 1 << 40, &PERMISSIONS), Err(Refusal::Reserved { bits: 1 << 40 }));
    assert_eq!(write_cr3(&LONG, 1 << 63, &PERMISSIONS), Err(Refusal::Reserved { bits: 1 << 63 }));
    let pcid = ControlState { cr4: cr4::PAE | cr4::PCIDE, ..LONG };
    assert_eq!(write_cr3(&pcid, 1 << 63 | 0x2005, &PERMISSIONS).unwrap().value, 0x2005);
}

#[test]
fn efer_keeps_lma() {
    assert_eq!(write_efer(&LONG, efer::LME | efer::SCE, &PERMISSIONS), Ok(efer::LME | efer::LMA | efer::SCE));
    assert_eq!(write_efer(&REAL, efer::LMA | efer::LME, &PERMISSIONS), Ok(efer::LME));
    assert!(matches!(write_efer(&LONG, efer::SCE, &PERMISSIONS), Err(Refusal::Combination(_))));
    assert_eq!(write_efer(&REAL, efer::SVME, &PERMISSIONS), Err(Refusal::Reserved { bits: efer::SVME }));
}

#[test]
fn xcr0_components_come_in_order() {
    assert_eq!(write_xcr0(7, &PERMISSIONS), Ok(7));
    assert_eq!(write_xcr0(0xe7, &PERMISSIONS), Ok(0xe7));
    for bad in [0, 2, 5, 0x27, 0xe3, 0xe5, 0x207, 1 << 63 | 1] {
        assert!(write_xcr0(bad, &PERMISSIONS).is_err(), "{bad:#x}");
    }
}

proptest! {
    /// What is accepted never leaves the architecture's legal states, from any legal state on.
    #[test]
    fn any_sequence_of_writes_stays_legal(writes in prop::collection::vec((0u8..4, any::<u64>(), any::<u64>()), 1..60)) {
        let mut state = REAL;
        for (register, value, mask) in writes {
            let before = state;
            // Plausible values: few bits differ from what is there.
            let flip = value & mask & mask.rotate_left(17);
            match register {
                0 => if let Ok(change) = write_cr0(&state, (state.cr0 ^ flip) & 0xffff_ffff) {
                    (state.cr0, state.efer) = (change.value, change.efer);
                },
                1 => if let Ok(change) = write_cr3(&state, flip, &PERMISSIONS) {
                    state.cr3 = change.value;
                },
                2 => if let Ok(change) = write_cr4(&state, (state.cr4 ^ flip) & PERMISSIONS.cr4, &PERMISSIONS) {
                    state.cr4 = change.value;
                },
                _ => if let Ok(efer) = write_efer(&state, (state.efer ^ flip) & 0xd01, &PERMISSIONS) {
                    state.efer = efer;
                },
            }
            let ControlState { cr0, cr3, cr4, efer, .. } = state;
            prop_assert!(has(cr0, cr0::PE) || !has(cr0, cr0::PG));
            prop_assert!(has(cr0, cr0::CD) || !has(cr0, cr0::NW));
            prop_assert_eq!(has(efer, efer::LMA), has(efer, efer::LME) && has(cr0, cr0::PG));
            prop_assert!(!has(efer, efer::LMA) || has(cr4, cr4::PAE));
            prop_assert!(!has(cr4, cr4::PCIDE) || has(efer, efer::LMA));
            let stays_long = has(before.efer, efer::LMA) && has(efer, efer::LMA);
            prop_assert!(!stays_long || !has(before.cr4 ^ cr4, cr4::LA57));
            prop_assert_eq!(cr3 >> 40, 0);
            prop_assert_eq!(cr4 & !PERMISSIONS.cr4, 0);
        }
    }
}
