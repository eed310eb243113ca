//! From the root pointer to the tables, wherever in physical memory they are.
//!
//! Source: ACPI Specification, "Root System Description Pointer", "Finding the RSDP on IA-PC Systems" and "Extended
//! System Description Table (XSDT)".

use arrayvec::ArrayVec;
use log::warn;
use vcpu::Hpa;

use super::table::{self, HEADER_BYTES, Root, Roots, Signature};
use super::{Acpi, AcpiError, Fadt, Madt, SoftOff, hpet, windows};
use crate::fault::{self, Fault, lies};

const MADT: Signature = *b"APIC";
const FADT: Signature = *b"FACP";
const HPET: Signature = *b"HPET";
/// Tables that are looked at.
pub(crate) const MAX_TABLES: usize = 128;
/// A table that claims more is broken.
const MAX_TABLE_BYTES: usize = 8 << 20;
/// Where BIOS machines keep the root pointer.
const BIOS_AREA: Hpa = Hpa(0xe_0000);
const BIOS_AREA_BYTES: usize = 0x2_0000;
/// The word that holds the extended BIOS data area's segment.
const EBDA_SEGMENT: usize = 0x40e;
/// The part of that area where the root pointer may be.
const EBDA_BYTES: usize = 1024;
/// The first MiB, where such an area can be.
const LOW_MEMORY: u64 = 0x10_0000;

/// Gives bytes of physical memory for good: address, length. `None` where they cannot be reached.
pub(super) trait Memory: Fn(Hpa, usize) -> Option<&'static [u8]> {}

impl<F: Fn(Hpa, usize) -> Option<&'static [u8]>> Memory for F {}

/// Finds and reads the tables, given a copy of the root pointer where the boot loader brought one.
pub(super) fn find(root_pointer: Option<&[u8]>, memory: &impl Memory) -> Result<Acpi, AcpiError> {
    let roots = match root_pointer {
        Some(bytes) => Root::parse(bytes)?,
        None => search(memory).ok_or(AcpiError::NoRootPointer)?,
    };
    let (root, root_table) = root_table(&roots, memory)?;
    let mut madt = None;
    let mut fadt = None;
    let mut hpet = None;
    let (mut tables, mut windows) = (ArrayVec::new(), ArrayVec::new());
    for at in root.pointers(root_table).take(MAX_TABLES) {
        if let Ok((signature, _)) = header(at, memory) {
            // There is room for all of them.
            let _ = tables.try_push((signature, at));
            if windows::has(signature)
                && let Ok(bytes) = table(at, memory)
            {
                windows::add(signature, bytes, &mut windows);
            }
        }
        // A pointer to nowhere costs only that table.
        match header(at, memory) {
            Ok((MADT, _)) if madt.is_none() => madt = Some(Madt::parse(table(at, memory)?)),
            Ok((FADT, _)) if fadt.is_none() => fadt = Some(Fadt::parse(table(at, memory)?)),
            // A broken one costs only that timer.
            Ok((HPET, _)) => hpet = hpet.or_else(|| table(at, memory).ok().and_then(hpet::parse)),
            _ => {}
        }
    }
    let madt = madt.ok_or(AcpiError::Missing { signature: MADT })?;
    let fadt = fadt.unwrap_or_default();
    // A DSDT that cannot be read costs the power switch, not the machine.
    let dsdt = fadt.dsdt.and_then(|at| table(at, memory).ok());
    let soft_off = dsdt.and_then(SoftOff::find);
    Ok(Acpi { tables, windows, madt, fadt, hpet, soft_off })
}

/// The first table of tables that is whole. The error is that of the first, which firmware means to be used.
fn root_table(roots: &Roots, memory: &impl Memory) -> Result<(Root, &'static [u8]), AcpiError> {
    let mut first_error = None;
    for root in roots {
        match table(root.address(), memory) {
            Ok(bytes) => {
                if let Some(error) = first_error {
                    warn!("{error}; the older table of tables is used instead");
                }
                return Ok((*root, bytes));
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or(AcpiError::NoRootPointer))
}

/// A table's bytes, checked.
fn table(at: Hpa, memory: &impl Memory) -> Result<&'static [u8], AcpiError> {
    let (signature, length) = header(at, memory)?;
    if !(HEADER_BYTES..=MAX_TABLE_BYTES).contains(&length) {
        return Err(AcpiError::Unreadable { at });
    }
    let bytes = memory(at, length).ok_or(AcpiError::Unreadable { at })?;
    let bytes = lies::acpi_table(signature, bytes);
    table::check(bytes, signature)?;
    Ok(bytes)
}

fn header(at: Hpa, memory: &impl Memory) -> Result<(Signature, usize), AcpiError> {
    let header = memory(at, HEADER_BYTES).and_then(table::header);
    let (signature, length) = header.ok_or(AcpiError::Unreadable { at })?;
    Ok((lies::acpi_signature(signature), length))
}

/// Looks where BIOS machines keep the root pointer.
fn search(memory: &impl Memory) -> Option<Roots> {
    if fault::is(Fault::NoRootPointer) {
        return None;
    }
    let low = memory(Hpa(0), EBDA_SEGMENT + 2)?;
    let segment = table::word(low, EBDA_SEGMENT)?;
    let ebda = Hpa(u64::from(segment) << 4);
    let in_ebda = (ebda.0 != 0 && ebda.0 + (EBDA_BYTES as u64) <= LOW_MEMORY)
        .then(|| memory(ebda, EBDA_BYTES))
        .flatten()
        .and_then(Root::search);
    in_ebda.or_else(|| memory(BIOS_AREA, BIOS_AREA_BYTES).and_then(Root::search))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::table::tests::{root_pointer, table as sealed};
    use super::*;

    /// Beyond what 32 bits reach.
    const HIGH: u64 = 0x12_3456_7000;

    /// Physical memory: pieces at their addresses.
    #[derive(Default)]
    struct Physical(Vec<(u64, &'static [u8])>);

    impl Physical {
        fn with(mut self, at: u64, bytes: Vec<u8>) -> Self {
            self.0.push((at, bytes.leak()));
            self
        }

        fn find(&self, root_pointer: Option<&[u8]>) -> Result<Acpi, AcpiError> {
            let memory = |at: Hpa, length: usize| {
                self.0.iter().find_map(|(start, bytes)| {
                    let offset = usize::try_from(at.0.checked_sub(*start)?).ok()?;
                    bytes.get(offset..offset.checked_add(length)?)
                })
            };
            find(root_pointer, &memory)
        }

        /// MADT with one processor of this id and its place, both high.
        fn with_tables(self, id: u8) -> Self {
            let madt = sealed(MADT, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, id, 1, 0, 0, 0]);
            let mut fadt = vec![0; 232];
            fadt[140 - HEADER_BYTES..148 - HEADER_BYTES].copy_from_slice(&(HIGH + 0x3000).to_le_bytes());
            self.with(HIGH + 0x1000, madt).with(HIGH + 0x2000, sealed(FADT, &fadt))
        }

        fn with_xsdt(self, pointers: &[u64]) -> Self {
            let content: Vec<u8> = pointers.iter().flat_map(|pointer| pointer.to_le_bytes()).collect();
            self.with(HIGH, sealed(*b"XSDT", &content))
        }

        fn with_rsdt(self, at: u32, pointers: &[u32]) -> Self {
            let content: Vec<u8> = pointers.iter().flat_map(|pointer| pointer.to_le_bytes()).collect();
            self.with(u64::from(at), sealed(*b"RSDT", &content))
        }
    }

    #[test]
    fn tables_above_four_gib_are_found() {
        let physical = Physical::default()
            .with_tables(7)
            .with_xsdt(&[0, u64::MAX, 0x10, HIGH + 0x2000, HIGH + 0x1000])
            .with(HIGH + 0x3000, sealed(*b"DSDT", b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00"));
        let acpi = physical.find(Some(&root_pointer(2, 0, HIGH))).unwrap();
        assert_eq!(acpi.madt.processors.as_slice(), [7]);
        assert_eq!(acpi.fadt.dsdt, Some(Hpa(HIGH + 0x3000)));
        assert!(acpi.soft_off.is_some());
    }

    #[test]
    fn a_broken_xsdt_gives_way_to_the_rsdt() {
        let madt = sealed(MADT, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 3, 1, 0, 0, 0]);
        let low = Physical::default().with_rsdt(0x1000, &[0x2000]).with(0x2000, madt);
        let pointer = root_pointer(2, 0x1000, HIGH);
        assert_eq!(low.find(Some(&pointer)).unwrap().madt.processors.as_slice(), [3]);
        let neither = Physical::default().find(Some(&pointer));
        assert_eq!(neither, Err(AcpiError::Unreadable { at: Hpa(HIGH) }));
    }

    #[test]
    fn without_a_pointer_from_the_loader_bios_memory_is_searched() {
        let mut low = vec![0; 0x500];
        low[EBDA_SEGMENT..EBDA_SEGMENT + 2].copy_from_slice(&0x9fc0_u16.to_le_bytes());
        let mut bios = vec![0; BIOS_AREA_BYTES];
        bios[0x1230..0x1254].copy_from_slice(&root_pointer(2, 0, HIGH));
        let physical = Physical::default()
            .with_tables(1)
            .with_xsdt(&[HIGH + 0x1000])
            .with(0, low)
            .with(0x9_fc00, vec![0; EBDA_BYTES])
            .with(BIOS_AREA.0, bios);
        assert_eq!(physical.find(None).unwrap().madt.processors.len(), 1);
        assert_eq!(Physical::default().find(None), Err(AcpiError::NoRootPointer));
    }

    #[test]
    fn what_is_broken_is_named() {
        let pointer = root_pointer(2, 0, HIGH);
        let none = Physical::default().with_xsdt(&[]);
        assert_eq!(none.find(Some(&pointer)), Err(AcpiError::Missing { signature: MADT }));
        let mut bad = sealed(MADT, &[0; 8]);
        bad[40] = 1;
        let bad = Physical::default().with_xsdt(&[HIGH + 0x1000]).with(HIGH + 0x1000, bad);
        assert_eq!(bad.find(Some(&pointer)), Err(AcpiError::BadChecksum { signature: MADT }));
        let mut long = sealed(*b"XSDT", &[]);
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let long = Physical::default().with(HIGH, long);
        assert_eq!(long.find(Some(&pointer)), Err(AcpiError::Unreadable { at: Hpa(HIGH) }));
    }

    proptest! {
        #[test]
        fn arbitrary_memory_never_panics(
            pointers in proptest::collection::vec(prop_oneof![0x1000..0x3000_u64, any::<u64>()], 0..20),
            bytes in proptest::collection::vec(any::<u8>(), 0x2000),
        ) {
            let physical = Physical::default().with_tables(1).with_xsdt(&pointers).with(0x1000, bytes);
            let _ = physical.find(Some(&root_pointer(2, 0, HIGH)));
        }
    }
}
