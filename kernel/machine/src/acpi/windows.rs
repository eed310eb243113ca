//! Registers in memory by which one would be master of all of it: configuration space, and IOMMUs.
//!
//! Sources: PCI Firmware Specification, "MCFG Table Description"; Intel Virtualization Technology for Directed I/O, "DMA Remapping Reporting
//! Structure", "DMA Remapping Hardware Unit Definition Structure"; AMD I/O Virtualization Technology, "I/O Virtualization Reporting Structure
//! (IVRS)".

use core::ops::Range;

use arrayvec::ArrayVec;

use super::table::{HEADER_BYTES, Signature, byte, quad, word};

/// Windows that are kept.
pub(crate) const MAX_WINDOWS: usize = 40;

const MCFG: Signature = *b"MCFG";
const DMAR: Signature = *b"DMAR";
const IVRS: Signature = *b"IVRS";

/// An entry of MCFG: base, segment, first and last bus; a bus has 1 MiB.
const MCFG_ENTRIES: usize = HEADER_BYTES + 8;
const MCFG_ENTRY: usize = 16;
const BUS_BYTES: u64 = 1 << 20;
const DMAR_ENTRIES: usize = HEADER_BYTES + 12;
/// A remapping unit (DRHD): its registers' address, and bytes at most: a page, and fault records behind it.
const DRHD: u16 = 0;
const DRHD_BASE: usize = 8;
const DRHD_BYTES: u64 = 8 << 10;
const IVRS_ENTRIES: usize = HEADER_BYTES + 12;
/// An IOMMU (IVHD), of three types, and bytes at most, with performance counters.
const IVHD: [u8; 3] = [0x10, 0x11, 0x40];
const IVHD_BASE: usize = 8;
const IVHD_BYTES: u64 = 512 << 10;

/// Whether a table tells of any.
pub(super) const fn has(signature: Signature) -> bool {
    matches!(signature, MCFG | DMAR | IVRS)
}

/// Adds those of a checked table. What does not fit is left out.
pub(super) fn add(signature: Signature, table: &[u8], windows: &mut ArrayVec<Range<u64>, MAX_WINDOWS>) {
    let mut window = |start: u64, bytes: u64| {
        if start != 0 {
            let _ = windows.try_push(start..start.saturating_add(bytes));
        }
    };
    match signature {
        MCFG => {
            for entry in table.get(MCFG_ENTRIES..).unwrap_or_default().chunks_exact(MCFG_ENTRY) {
                let (Some(base), Some(first), Some(last)) =
                    (quad(entry, 0), byte(entry, 10), byte(entry, 11))
                else {
                    continue;
                };
                let buses = u64::from(last.saturating_sub(first)) + 1;
                window(base.saturating_add(u64::from(first) * BUS_BYTES), buses * BUS_BYTES);
            }
        }
        DMAR => entries(table, DMAR_ENTRIES, |kind, entry| {
            if kind == DRHD
                && let Some(base) = quad(entry, DRHD_BASE)
            {
                window(base, DRHD_BYTES);
            }
        }),
        IVRS => entries(table, IVRS_ENTRIES, |kind, entry| {
            if u8::try_from(kind & 0xff).is_ok_and(|kind| IVHD.contains(&kind))
                && let Some(base) = quad(entry, IVHD_BASE)
            {
                window(base, IVHD_BYTES);
            }
        }),
        _ => {}
    }
}

/// The entries of a table: a type of 16 bits, or 8 and flags, and a length each.
fn entries(table: &[u8], first: usize, mut each: impl FnMut(u16, &[u8])) {
    let mut rest = table.get(first..).unwrap_or_default();
    while let (Some(kind), Some(length)) = (word(rest, 0), word(rest, 2)) {
        let length = usize::from(length);
        let Some(entry) = rest.get(..length).filter(|_| length >= 4) else { return };
        each(kind, entry);
        rest = rest.get(length..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn windows(signature: Signature, content: &[u8]) -> Vec<Range<u64>> {
        let table = [&[0; HEADER_BYTES][..], content].concat();
        let mut found = ArrayVec::new();
        add(signature, &table, &mut found);
        found.to_vec()
    }

    #[test]
    fn configuration_space_and_iommus_are_found() {
        let mut mcfg = vec![0; 8 + 16];
        mcfg[8..16].copy_from_slice(&0xb000_0000_u64.to_le_bytes());
        mcfg[19] = 255;
        assert_eq!(windows(MCFG, &mcfg), core::slice::from_ref(&(0xb000_0000..0xc000_0000)));
        let mut dmar = vec![0; 12];
        dmar.extend([1, 0, 8, 0, 0, 0, 0, 0]);
        dmar.extend([0, 0, 16, 0, 0, 0, 0, 0]);
        dmar.extend(0xfed9_0000_u64.to_le_bytes());
        assert_eq!(windows(DMAR, &dmar), core::slice::from_ref(&(0xfed9_0000..0xfed9_2000)));
        let mut ivrs = vec![0; 12];
        ivrs.extend([0x11, 0xb0, 16, 0, 0, 0, 0, 0]);
        ivrs.extend(0xfd00_0000_u64.to_le_bytes());
        assert_eq!(windows(IVRS, &ivrs), core::slice::from_ref(&(0xfd00_0000..0xfd08_0000)));
        assert_eq!(windows(IVRS, &ivrs[..20]), []);
    }

    proptest! {
        #[test]
        fn arbitrary_tables_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for signature in [MCFG, DMAR, IVRS] {
                windows(signature, &bytes);
            }
        }
    }
}
