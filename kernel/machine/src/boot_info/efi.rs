//! The memory map that EFI firmware left when its boot services ended.
//!
//! Source: UEFI Specification, "EFI_BOOT_SERVICES.GetMemoryMap()"; Multiboot2 Specification, "EFI memory
//! map".

use vcpu::PAGE_SIZE;

use super::MemoryKind;

/// Offsets in the tag: size of a descriptor, first descriptor.
const DESCRIPTOR_SIZE: usize = 8;
const DESCRIPTORS: usize = 16;
/// Offsets in a descriptor.
const TYPE: usize = 0;
const PHYSICAL_START: usize = 8;
const NUMBER_OF_PAGES: usize = 24;
const ATTRIBUTE: usize = 32;
/// Bytes of a descriptor, at least.
const DESCRIPTOR_BYTES: usize = 40;

/// EfiLoaderCode to EfiBootServicesData, and EfiConventionalMemory: free once boot services have ended.
const LOADER_CODE: u32 = 1;
const BOOT_SERVICES_DATA: u32 = 4;
const CONVENTIONAL: u32 = 7;
const ACPI_RECLAIM: u32 = 9;
const ACPI_NVS: u32 = 10;
/// Attributes of memory that is not for general use: firmware runs in it, or it is set aside for a purpose.
const ATTRIBUTE_RUNTIME: u64 = 1 << 63;
const ATTRIBUTE_SPECIFIC_PURPOSE: u64 = 1 << 18;

/// The entries of the tag, which is given from its own header on: start, bytes, kind. The end need not fit 64
/// bits.
pub(super) fn memory_map(tag: &[u8]) -> impl Iterator<Item = (u64, u64, MemoryKind)> {
    let size = half_quad(tag, DESCRIPTOR_SIZE).map_or(0, |size| size as usize);
    // A size of zero, or less than the fields take, yields nothing.
    let descriptors = tag.get(DESCRIPTORS..).filter(|_| size >= DESCRIPTOR_BYTES).unwrap_or_default();
    descriptors.chunks_exact(size.max(1)).filter_map(entry)
}

fn entry(descriptor: &[u8]) -> Option<(u64, u64, MemoryKind)> {
    let start = quad(descriptor, PHYSICAL_START)?;
    let bytes = quad(descriptor, NUMBER_OF_PAGES)?.saturating_mul(PAGE_SIZE);
    let kept = quad(descriptor, ATTRIBUTE)? & (ATTRIBUTE_RUNTIME | ATTRIBUTE_SPECIFIC_PURPOSE) != 0;
    let kind = match half_quad(descriptor, TYPE)? {
        LOADER_CODE..=BOOT_SERVICES_DATA | CONVENTIONAL if !kept => MemoryKind::Usable,
        ACPI_RECLAIM => MemoryKind::AcpiTables,
        ACPI_NVS => MemoryKind::AcpiNvs,
        _ => MemoryKind::Reserved,
    };
    Some((start, bytes, kind))
}

fn half_quad(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn quad(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// A tag with descriptors of 48 bytes, as firmware makes them, of (type, start, pages, attribute).
    pub(crate) fn tag(entries: &[(u32, u64, u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(17_u32.to_le_bytes());
        bytes.extend((16 + entries.len() as u32 * 48).to_le_bytes());
        bytes.extend(48_u32.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        for (kind, start, pages, attribute) in entries {
            for word in [u64::from(*kind), *start, 0, *pages, *attribute, 0] {
                bytes.extend(word.to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn what_boot_services_used_is_free_and_what_runtime_services_use_is_not() {
        let tag = tag(&[
            (7, 0x10_0000, 16, 0xf),
            (4, 0x20_0000, 1, 0xf),
            (2, 0x30_0000, 1, 0xf),
            (3, 0x40_0000, 1, 0xf | ATTRIBUTE_RUNTIME),
            (7, 0x50_0000, 1, 0xf | ATTRIBUTE_SPECIFIC_PURPOSE),
            (6, 0x60_0000, 1, 0xf | ATTRIBUTE_RUNTIME),
            (9, 0x70_0000, 1, 0xf),
            (10, 0x80_0000, 1, 0xf),
            (14, 0x1_0000_0000, u64::MAX, 0xf),
            (0x8000_0001, 0x90_0000, 1, 0xf),
        ]);
        let map: Vec<_> = memory_map(&tag).collect();
        let kinds: Vec<_> = map.iter().map(|(_, _, kind)| *kind).collect();
        use MemoryKind::{AcpiNvs, AcpiTables, Reserved, Usable};
        assert_eq!(
            kinds,
            [Usable, Usable, Usable, Reserved, Reserved, Reserved, AcpiTables, AcpiNvs, Reserved, Reserved]
        );
        assert_eq!((map[0].0, map[0].1), (0x10_0000, 0x1_0000));
        assert_eq!(map[8].1, u64::MAX);
    }

    #[test]
    fn descriptors_that_are_too_small_or_cut_off_yield_nothing() {
        let mut bytes = tag(&[(7, 0x10_0000, 16, 0xf)]);
        assert_eq!(memory_map(&bytes[..bytes.len() - 1]).count(), 0);
        for size in [0_u8, 1, 39] {
            bytes[8] = size;
            assert_eq!(memory_map(&bytes).count(), 0);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_tags_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(memory_map(&bytes).count() < 200);
        }
    }
}
