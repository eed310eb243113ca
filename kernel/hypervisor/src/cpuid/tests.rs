use proptest::prelude::*;
use std::collections::BTreeMap;

use super::*;

type Leaves = BTreeMap<(u32, u32), CpuidResult>;

const MACHINE: Machine = Machine {
    tsc_hz: 2_000_000_000,
    tsc_is_steady: true,
    apic_timer_hz: 25_000_000,
    apic_id: 0,
    vcpus: 1,
    paravirtual: Features::all(),
};

fn result(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidResult {
    CpuidResult { eax, ebx, ecx, edx }
}

/// An Intel CPU that has every feature bit there is, and AVX-512.
fn rich_host() -> Leaves {
    let ones = u32::MAX;
    let mut leaves = Leaves::new();
    let intel = |eax| result(eax, INTEL_EBX, u32::from_le_bytes(*b"ntel"), u32::from_le_bytes(*b"ineI"));
    leaves.insert((0, 0), intel(0x20));
    leaves.insert((1, 0), result(0x000c_0654, 0x0510_0800, ones, ones));
    leaves.insert((4, 0), result(0x1c00_4121, 0x01c0_003f, 63, 0));
    leaves.insert((4, 1), result(0x1c00_4122, 0x01c0_003f, 63, 0));
    leaves.insert((5, 0), result(ones, ones, ones, ones));
    leaves.insert((7, 0), result(2, ones, ones, ones));
    leaves.insert((0xa, 0), result(ones, ones, ones, ones));
    leaves.insert((0xd, 0), result(0x2ff, 0xa88, 0xa88, 0));
    leaves.insert((0xd, 1), result(0xf, 0x9c0, 0x100, 0));
    for (number, size, offset, ecx) in [
        (2, 256, 576, 0),
        (3, 64, 960, 0),
        (5, 64, 1088, 0),
        (6, 512, 1152, 0),
        (7, 1024, 1664, 0),
        (9, 8, 2688, 0),
    ] {
        leaves.insert((0xd, number), result(size, offset, ecx, 0));
    }
    leaves.insert((0x8000_0000, 0), result(0x8000_001f, 0, 0, 0));
    leaves.insert((0x8000_0001, 0), result(0, ones, ones, ones));
    leaves.insert((0x8000_0008, 0), result(0x0030_3027, ones, ones, ones));
    leaves.insert((0x8000_000a, 0), result(ones, ones, ones, ones));
    leaves
}

fn table(leaves: &Leaves) -> CpuidTable {
    CpuidTable::new(|leaf, subleaf| leaves.get(&(leaf, subleaf)).copied().unwrap_or_default(), &MACHINE)
}

#[test]
fn nothing_of_the_host_leaks() {
    let table = table(&rich_host());
    let [leaf1, leaf7] = [table.get(1, 0), table.get(7, 0)];
    for (name, bit) in [("MONITOR", 3), ("VMX", 5), ("SMX", 6), ("PDCM", 15), ("OSXSAVE", 27)] {
        assert_eq!(leaf1.ecx >> bit & 1, 0, "{name}");
    }
    for (name, bit) in [("x2APIC", 21), ("TSC deadline", 24), ("hypervisor", 31), ("AVX", 28)] {
        assert_eq!(leaf1.ecx >> bit & 1, 1, "{name}");
    }
    assert_eq!(leaf7.ebx & (1 << 2 | 1 << 4 | 1 << 11 | 1 << 14), 0, "SGX, HLE, RTM, MPX");
    assert_eq!(leaf7.ecx & (1 << 4 | 1 << 5 | 1 << 7), 0, "OSPKE, WAITPKG, CET_SS");
    assert_eq!(
        leaf7.edx & (1 << 5 | 1 << 8 | 1 << 9 | 1 << 16 | 1 << 18 | 1 << 20),
        0,
        "UINTR, PCONFIG, CET_IBT"
    );
    assert_eq!(leaf7.edx & bits::EDX7, bits::EDX7, "what protects it from speculation");
    for leaf in [5, 0xa, 0xc, 0xe, 0x14, 0x17, 0x40_0000, 0x8000_000a, 0x8000_001f, 0xc000_0000, u32::MAX] {
        assert_eq!(table.get(leaf, 0), CpuidResult::default(), "leaf {leaf:#x}");
    }
    assert_eq!(table.get(0x8000_0001, 0).ecx & 1 << 2, 0, "SVM");
    assert_eq!(table.get(7, 1), CpuidResult::default());
}

#[test]
fn linear_addresses_have_57_bits_where_the_host_has_five_levels() {
    let mut host = rich_host();
    let wide = table(&host);
    assert_eq!(wide.get(7, 0).ecx & bits::ECX7_LA57, bits::ECX7_LA57);
    assert_eq!(wide.get(0x8000_0008, 0).eax, 57 << 8 | 39);
    assert_eq!((wide.permissions().linear_bits, wide.permissions().cr4 & cr4::LA57), (57, cr4::LA57));
    // A backend that cannot let guests set CR4.LA57 hides the feature and leaves the CPU's address sizes as they are.
    host.insert((7, 0), result(2, u32::MAX, !bits::ECX7_LA57, u32::MAX));
    host.insert((0x8000_0008, 0), result(57 << 8 | 46, 0, 0, 0));
    let narrow = table(&host);
    assert_eq!(narrow.get(7, 0).ecx & bits::ECX7_LA57, 0);
    assert_eq!(narrow.get(0x8000_0008, 0).eax, 48 << 8 | 46);
    assert_eq!((narrow.permissions().linear_bits, narrow.permissions().cr4 & cr4::LA57), (48, 0));
    host.remove(&(0x8000_0008, 0));
    assert_eq!(table(&host).get(0x8000_0008, 0).eax, 48 << 8 | 36);
}

#[test]
fn topology_of_many() {
    let machine = Machine { apic_id: 4, vcpus: 6, ..MACHINE };
    let mut leaves = rich_host();
    let new = |leaves: &Leaves| {
        CpuidTable::new(|leaf, subleaf| leaves.get(&(leaf, subleaf)).copied().unwrap_or_default(), &machine)
    };
    leaves.insert((4, 1), result(0x1c00_4163, 0x01c0_003f, 63, 0));
    let intel = new(&leaves);
    assert_eq!(intel.get(1, 0).edx >> 28 & 1, 1, "HTT");
    assert_eq!(intel.get(1, 0).ebx, 0x0408_0800);
    assert_eq!(intel.get(4, 0).eax, 7 << 26 | 0x121, "a core's own cache");
    assert_eq!(intel.get(4, 1).eax, 7 << 26 | 7 << 14 | 0x163, "the package's cache");
    assert_eq!(intel.get(0xb, 0), result(0, 1, 0x100, 4));
    assert_eq!(intel.get(0xb, 1), result(3, 6, 0x201, 4));
    assert_eq!(intel.get(0x8000_0008, 0).ecx, 0);
    leaves.insert((0, 0), result(0xd, u32::from_le_bytes(*b"Auth"), 0, 0));
    let amd = new(&leaves);
    assert_eq!(amd.get(0x8000_0008, 0).ecx, 3 << 12 | 5);
    assert_eq!(amd.get(0x8000_0001, 0).ecx & 2, 2, "CmpLegacy");
}

#[test]
fn topology_is_one_thread() {
    let table = table(&rich_host());
    assert_eq!(table.get(1, 0).edx >> 28 & 1, 0, "no HTT");
    assert_eq!(table.get(1, 0).ebx, 0x0001_0800);
    assert_eq!(table.get(4, 0).eax, 0x121);
    assert_eq!(table.get(4, 1).eax, 0x122);
    assert_eq!(table.get(4, 2), CpuidResult::default());
    assert_eq!(table.get(0xb, 0), result(0, 1, 0x100, 0));
    assert_eq!(table.get(0xb, 1), result(0, 1, 0x201, 0));
    assert_eq!(table.get(0xb, 2), result(0, 0, 2, 0));
}

#[test]
fn state_sizes_follow_xcr0() {
    let mut table = table(&rich_host());
    assert_eq!(table.permissions().xcr0, 0x2e7);
    assert_eq!(table.get(0xd, 0), result(0x2e7, 576, 2696, 0));
    assert_eq!(table.get(0xd, 3), CpuidResult::default(), "no MPX");
    table.set_xcr0(7);
    assert_eq!((table.get(0xd, 0).ebx, table.get(0xd, 1).ebx), (832, 832));
    table.set_xcr0(0x2e7);
    assert_eq!((table.get(0xd, 0).ebx, table.get(0xd, 1).ebx), (2696, 576 + 256 + 64 + 512 + 1024 + 8));
    assert_eq!(table.get(0xd, 1).eax, 7, "no XSAVES");
}

#[test]
fn inconsistent_state_drops_what_needs_it() {
    let mut host = rich_host();
    host.insert((0xd, 6), result(512, 1088, 0, 0));
    let features = table(&host);
    assert_eq!(features.permissions().xcr0, 0x207);
    assert_eq!(features.get(7, 0).ebx & bits::EBX7_AVX512, 0);
    assert_ne!(features.get(7, 0).ebx & bits::EBX7_AVX2, 0);

    let mut host = rich_host();
    host.insert((0xd, 0), result(0x2e7, 576, 832, 0));
    let features = table(&host);
    assert_eq!(features.permissions().xcr0, 0);
    assert_eq!(features.get(1, 0).ecx & (bits::ECX1_XSAVE | bits::ECX1_AVX | bits::ECX1_FMA), 0);
    assert_eq!(features.get(7, 0).ebx & bits::EBX7_AVX2, 0);
    assert_eq!(features.get(7, 0).ecx & bits::ECX7_PKU, 0);
    assert_eq!(features.get(0xd, 0), CpuidResult::default());
    assert_eq!(features.permissions().cr4 & cr4::OSXSAVE, 0);
}

#[test]
fn os_bits_follow_cr4() {
    let mut table = table(&rich_host());
    table.set_cr4(cr4::OSXSAVE | cr4::PKE);
    assert_ne!(table.get(1, 0).ecx & bits::ECX1_OSXSAVE, 0);
    assert_ne!(table.get(7, 0).ecx & bits::ECX7_OSPKE, 0);
    table.set_cr4(0);
    assert_eq!(table.get(1, 0).ecx & bits::ECX1_OSXSAVE, 0);
}

#[test]
fn the_signature_is_kvms_with_its_clock() {
    let table = table(&rich_host());
    let leaf = table.get(0x4000_0000, 0);
    let mut text = [0; 12];
    text[..4].copy_from_slice(&leaf.ebx.to_le_bytes());
    text[4..8].copy_from_slice(&leaf.ecx.to_le_bytes());
    text[8..].copy_from_slice(&leaf.edx.to_le_bytes());
    assert_eq!(&text, b"KVMKVMKVM\0\0\0");
    assert_eq!(leaf.eax, 0x4000_0010);
    assert_eq!(table.get(0x4000_0001, 0), result(0x0100_3aea, 0, 0, 0));
    assert_eq!(table.get(0x4000_0002, 0), CpuidResult::default());
    assert_eq!(table.get(0x4000_0010, 0), result(2_000_000, 25_000, 0, 0));
    assert_eq!(table.get(0x4000_0011, 0), CpuidResult::default());
    let host = rich_host();
    let machine = Machine { paravirtual: Features::EOI, ..MACHINE };
    let few = CpuidTable::new(|leaf, sub| host.get(&(leaf, sub)).copied().unwrap_or_default(), &machine);
    assert_eq!(few.get(0x4000_0001, 0), result(0x42, 0, 0, 0));
}

#[test]
fn of_an_unsteady_tsc_nothing_is_said() {
    let host = rich_host();
    let machine = Machine { tsc_is_steady: false, paravirtual: Features::all() - Features::CLOCK, ..MACHINE };
    let unsteady = CpuidTable::new(|leaf, sub| host.get(&(leaf, sub)).copied().unwrap_or_default(), &machine);
    for leaf in [0x15, 0x16, 0x8000_0007, 0x4000_0010] {
        assert_eq!(unsteady.get(leaf, 0), CpuidResult::default(), "{leaf:#x}");
    }
    assert_eq!(unsteady.get(1, 0).ecx & bits::ECX1_TSC_DEADLINE, 0);
    assert_eq!(unsteady.get(0x4000_0001, 0).eax, 0x3ae2);
    // All else stays.
    let steady = table(&host);
    assert_eq!(unsteady.get(1, 0).ecx, steady.get(1, 0).ecx & !bits::ECX1_TSC_DEADLINE);
    assert_eq!(unsteady.get(1, 0).edx, steady.get(1, 0).edx);
}

#[test]
fn another_vendor_has_no_intel_leaves() {
    let mut host = rich_host();
    host.insert((0, 0), result(0x10, u32::from_le_bytes(*b"Auth"), 0, 0));
    let table = table(&host);
    assert_eq!(table.get(0, 0).eax, LAST_OTHER);
    for leaf in [2, 4, 0x15, 0x16] {
        assert_eq!(table.get(leaf, 0), CpuidResult::default());
    }
    assert_ne!(table.get(0x8000_0001, 0).edx & 1 << 9, 0, "AMD repeats the APIC bit");
    assert!(!table.permissions().intel);
}

proptest! {
    #[test]
    fn linux_finds_the_tsc_frequency(tsc_hz in 200_000_000u64..6_000_000_000, crystal in prop::sample::select(
        &[1_000_000_000u64, 100_000_000, 25_000_000, 24_000_000, 19_200_000][..],
    )) {
        let (numerator, denominator) = ratio(tsc_hz / 1000, crystal / 1000);
        let khz = (crystal / 1000) as u32;
        let product = khz.checked_mul(numerator);
        prop_assert!(product.is_some(), "the product must fit in 32 bits");
        // 125 parts in a million at worst, where the ratio lies close to 4; the guest computes whole kHz.
        let found = product.unwrap() / denominator;
        prop_assert!(u64::from(found).abs_diff(tsc_hz / 1000) <= 1 + tsc_hz / 8_000_000);
    }

    /// Whatever the host says, the guest gets consistent sizes and no feature without its state.
    #[test]
    fn any_host_gives_a_consistent_table(
        main in any::<(u32, u32)>(), parts in prop::collection::vec((0u32..2000, 0u32..3000, 0u32..4), 5),
    ) {
        let mut host = rich_host();
        host.insert((0xd, 0), result(main.0, 0, main.1, 0));
        for (number, (size, offset, ecx)) in [2, 5, 6, 7, 9].into_iter().zip(parts) {
            let size = if size < 1200 { SIZE_OF[number as usize] } else { size };
            host.insert((0xd, number), result(size, offset, ecx, 0));
        }
        let mut table = table(&host);
        let xcr0 = table.permissions().xcr0;
        prop_assert_eq!(xcr0 & !u64::from(main.0), 0);
        table.set_xcr0(xcr0);
        prop_assert!(table.get(0xd, 0).ecx <= main.1);
        prop_assert_eq!(table.get(0xd, 0).ebx, table.get(0xd, 0).ecx);
        prop_assert_eq!(xcr0 & state::AVX != 0, table.get(1, 0).ecx & bits::ECX1_AVX != 0);
        prop_assert_eq!(xcr0 & state::AVX512 != 0, table.get(7, 0).ebx & 1 << 16 != 0);
    }
}

const SIZE_OF: [u32; 10] = [0, 0, 256, 0, 0, 64, 512, 1024, 0, 8];
