use super::*;
use crate::pm::PowerManagement;
extern crate std;
use proptest::prelude::*;

const BASE: Gpa = Gpa(0xe_0000);
const WINDOW: Window = Window { first: Ecam::BASE.0 + Ecam::SIZE, last: 0xfebf_ffff };

fn config(apic_ids: &[u32]) -> AcpiConfig<'_> {
    let pci_memory_64 = Some(Window { first: 0x40_0000_0000, last: 0x7f_ffff_ffff });
    AcpiConfig { apic_ids, pci_memory: WINDOW, pci_memory_64, generation_id: Some(*b"identity of a VM") }
}

/// The tables as software walks them.
struct Walk<'a>(&'a AcpiTables);

impl Walk<'_> {
    fn bytes(&self, address: u64, length: usize) -> &[u8] {
        let start = (address - self.0.base.0) as usize;
        &self.0.bytes[start..start + length]
    }

    fn number(&self, address: u64, length: usize) -> u64 {
        self.bytes(address, length).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// A table with a standard header, its checksum verified.
    fn table(&self, address: u64, signature: &[u8; 4]) -> &[u8] {
        assert_eq!(self.bytes(address, 4), signature);
        let table = self.bytes(address, self.number(address + 4, 4) as usize);
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        table
    }

    fn xsdt_entries(&self) -> [u64; 3] {
        let rsdp = self.0.rsdp().0;
        assert_eq!(self.bytes(rsdp, 8), b"RSD PTR ");
        for length in [20, 36] {
            assert_eq!(self.bytes(rsdp, length).iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        }
        let xsdt = self.number(rsdp + 24, 8);
        assert_eq!(self.table(xsdt, b"XSDT").len(), 36 + 24);
        [36, 44, 52].map(|entry| self.number(xsdt + entry, 8))
    }
}

#[test]
fn every_table_is_found_from_the_rsdp() {
    let tables = build(&config(&[0, 1]), BASE).unwrap();
    let walk = Walk(&tables);
    let [fadt, madt, _] = walk.xsdt_entries();
    assert_eq!(walk.table(fadt, b"FACP").len(), 276);
    walk.table(madt, b"APIC");
    let facs = walk.number(fadt + 36, 4);
    assert_eq!((walk.bytes(facs, 4), facs % 64), (&b"FACS"[..], 0));
    let dsdt = walk.number(fadt + 40, 4);
    assert_eq!(walk.number(fadt + 140, 8), dsdt);
    walk.table(dsdt, b"DSDT");
    // Reset register: port 0xcf9, one byte, value 6.
    assert_eq!(walk.bytes(fadt + 116, 13), [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6]);
    assert_eq!(walk.number(fadt + 76, 4), u64::from(PowerManagement::PORT) + 8);
}

#[test]
fn the_generation_counter_leads_to_the_identity() {
    let tables = build(&config(&[0]), BASE).unwrap();
    let walk = Walk(&tables);
    let before = dsdt::BEFORE_GENERATION_ID;
    let found = tables.bytes.windows(before.len()).position(|part| part == before).expect("the device");
    let at = walk.number(BASE.0 + (found + before.len()) as u64, 4);
    assert_eq!(walk.bytes(at, 16), b"identity of a VM");
    assert!(at.is_multiple_of(8));
    let without = AcpiConfig { generation_id: None, ..config(&[0]) };
    let tables = build(&without, BASE).unwrap();
    assert!(!tables.bytes.windows(before.len()).any(|part| part == before));
}

/// PCI Firmware Specification, "MCFG Table Description": base, segment group, first and last bus; and the motherboard's
/// resources hold the window: a Memory32Fixed descriptor, read-write.
#[test]
fn the_configuration_window_is_described_and_reserved() {
    let tables = build(&config(&[0]), BASE).unwrap();
    let walk = Walk(&tables);
    let [fadt, _, mcfg] = walk.xsdt_entries();
    let table = walk.table(mcfg, b"MCFG");
    let (base, size) = (Ecam::BASE.0 as u32, Ecam::SIZE as u32);
    assert_eq!((table.len(), &table[36..44]), (60, &[0; 8][..]));
    assert_eq!(table[44..52], Ecam::BASE.0.to_le_bytes());
    assert_eq!(table[52..], [0, 0, 0, Ecam::LAST_BUS, 0, 0, 0, 0]);
    assert_eq!(size, (u32::from(table[55] - table[54]) + 1) << 20);
    assert_eq!(base % size, 0);
    let mut descriptor = std::vec![0x86, 9, 0, 1];
    descriptor.extend(base.to_le_bytes());
    descriptor.extend(size.to_le_bytes());
    let dsdt = walk.table(walk.number(fadt + 40, 4), b"DSDT");
    assert!(dsdt.windows(descriptor.len()).any(|bytes| bytes == descriptor));
}

#[test]
fn processors_beyond_eight_bits_use_the_x2apic_structure() {
    let ids: std::vec::Vec<u32> = (0..300).collect();
    let tables = build(&config(&ids), BASE).unwrap();
    let walk = Walk(&tables);
    let [_, madt, _] = walk.xsdt_entries();
    let table = walk.table(madt, b"APIC");
    let (mut at, mut kinds) = (44, [0; 16]);
    while at < table.len() {
        kinds[usize::from(table[at])] += 1;
        at += usize::from(table[at + 1]);
    }
    assert_eq!(at, table.len());
    assert_eq!(kinds[..11], [255, 1, 2, 0, 1, 0, 0, 0, 0, 45, 1]);
}

#[test]
fn nonsense_is_refused() {
    assert_eq!(build(&config(&[]), BASE).unwrap_err(), AcpiError::ProcessorCount(0));
    assert_eq!(build(&config(&[0; 1025]), BASE).unwrap_err(), AcpiError::ProcessorCount(1025));
    for base in [Gpa(8), Gpa(0x1_0000_0000), Gpa(0xffff_fff0)] {
        assert_eq!(build(&config(&[0]), base).unwrap_err(), AcpiError::Base(base));
    }
    let bad = Window { first: 2, last: 1 };
    let windows = AcpiConfig { pci_memory: bad, ..config(&[0]) };
    assert_eq!(build(&windows, BASE).unwrap_err(), AcpiError::PciWindow(bad));
    let last = Ecam::BASE.0 + Ecam::SIZE - 1;
    for bad in [Window { first: Ecam::BASE.0 - 1, last: Ecam::BASE.0 }, Window { first: last, last }] {
        let windows = AcpiConfig { pci_memory: bad, ..config(&[0]) };
        assert_eq!(build(&windows, BASE).unwrap_err(), AcpiError::PciWindow(bad));
    }
    let beside = AcpiConfig { pci_memory: Window { first: last + 1, last: last + 1 }, ..config(&[0]) };
    assert!(build(&beside, BASE).is_ok());
    let bad = Window { first: 0, last: u64::MAX };
    let windows = AcpiConfig { pci_memory_64: Some(bad), ..config(&[0]) };
    assert_eq!(build(&windows, BASE).unwrap_err(), AcpiError::PciWindow(bad));
}

proptest! {
    #[test]
    fn any_base_and_processor_count_walks(page in 1u64..0xf_0000, count in 1usize..40) {
        let ids: std::vec::Vec<u32> = (0..count as u32).map(|index| index * 16).collect();
        let tables = build(&config(&ids), Gpa(page * 16)).unwrap();
        let walk = Walk(&tables);
        let [fadt, madt, mcfg] = walk.xsdt_entries();
        walk.table(fadt, b"FACP");
        walk.table(madt, b"APIC");
        walk.table(mcfg, b"MCFG");
    }
}
