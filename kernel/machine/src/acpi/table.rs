//! What all ACPI tables share: root pointer, header, checksum, fields at fixed offsets.
//!
//! Source: ACPI Specification, "Root System Description Pointer" and "System Description Table Header".

use arrayvec::ArrayVec;
use vcpu::Hpa;

use super::AcpiError;

/// Bytes of a table's header.
pub(super) const HEADER_BYTES: usize = 36;
const RSDP_SIGNATURE: &[u8; 8] = b"RSD PTR ";
/// What the first checksum covers.
const RSDP_REVISION_0_BYTES: usize = 20;
const SIGNATURE_BYTES: usize = 4;
const LENGTH_OFFSET: usize = 4;

/// A table's name, four letters.
pub(super) type Signature = [u8; SIGNATURE_BYTES];

/// Where the table of tables is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Root {
    /// XSDT: 64-bit pointers.
    Extended(Hpa),
    /// RSDT: 32-bit pointers.
    Plain(Hpa),
}

/// The tables of tables, one or two.
pub(super) type Roots = ArrayVec<Root, 2>;

impl Root {
    /// Reads the root pointer, whose bytes end where memory or the copy of it ends. Gives the tables of tables that
    /// it names, the one that firmware means to be used first.
    pub(super) fn parse(bytes: &[u8]) -> Result<Roots, AcpiError> {
        let plain = bytes.get(..RSDP_REVISION_0_BYTES).ok_or(AcpiError::NoRootPointer)?;
        if !plain.starts_with(RSDP_SIGNATURE) {
            return Err(AcpiError::NoRootPointer);
        }
        if sum(plain) != 0 {
            return Err(AcpiError::BadChecksum { signature: *b"RSDP" });
        }
        let revision = byte(bytes, 15).unwrap_or(0);
        let extended = half_quad(bytes, 20)
            .and_then(|length| bytes.get(..length as usize))
            .filter(|all| revision >= 2 && sum(all) == 0)
            .and_then(|all| quad(all, 24))
            .filter(|address| *address != 0);
        let plain = half_quad(bytes, 16).filter(|address| *address != 0);
        let extended = extended.map(|address| Self::Extended(Hpa(address)));
        let plain = plain.map(|address| Self::Plain(Hpa(u64::from(address))));
        let roots: Roots = extended.into_iter().chain(plain).collect();
        if roots.is_empty() { Err(AcpiError::NoRootPointer) } else { Ok(roots) }
    }

    /// Where it is.
    pub(super) const fn address(self) -> Hpa {
        let (Self::Extended(at) | Self::Plain(at)) = self;
        at
    }

    /// Looks for the root pointer on 16-byte boundaries.
    pub(super) fn search(bytes: &[u8]) -> Option<Roots> {
        (0..bytes.len()).step_by(16).find_map(|at| Self::parse(&bytes[at..]).ok())
    }

    /// The addresses in the table of tables, given its bytes.
    pub(super) fn pointers(self, table: &[u8]) -> impl Iterator<Item = Hpa> {
        let wide = matches!(self, Self::Extended(_));
        let size = if wide { 8 } else { 4 };
        table.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(size).filter_map(move |pointer| {
            let address = if wide { quad(pointer, 0) } else { half_quad(pointer, 0).map(u64::from) };
            address.filter(|address| *address != 0).map(Hpa)
        })
    }
}

/// Signature and length from a table's header.
pub(super) fn header(bytes: &[u8]) -> Option<(Signature, usize)> {
    let signature = bytes.first_chunk::<SIGNATURE_BYTES>()?;
    Some((*signature, half_quad(bytes, LENGTH_OFFSET)? as usize))
}

/// Checks that the bytes of a table, as many as its header says, add up to zero.
pub(super) fn check(bytes: &[u8], signature: Signature) -> Result<(), AcpiError> {
    if bytes.len() < HEADER_BYTES || sum(bytes) != 0 {
        return Err(AcpiError::BadChecksum { signature });
    }
    Ok(())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A byte of a table; `None` past its end.
pub(super) fn byte(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

/// Two bytes.
pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Four bytes.
pub(super) fn half_quad(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Eight bytes.
pub(super) fn quad(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Sets the byte at `at` so that all add up to zero.
    pub(crate) fn seal(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = 0_u8.wrapping_sub(sum(bytes));
    }

    /// A table with this content behind its header.
    pub(crate) fn table(signature: Signature, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend(content);
        bytes[..4].copy_from_slice(&signature);
        let length = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        seal(&mut bytes, 9);
        bytes
    }

    pub(crate) fn root_pointer(revision: u8, rsdt: u32, xsdt: u64) -> Vec<u8> {
        let mut bytes = vec![0; 36];
        bytes[..8].copy_from_slice(RSDP_SIGNATURE);
        bytes[15] = revision;
        bytes[16..20].copy_from_slice(&rsdt.to_le_bytes());
        bytes[20..24].copy_from_slice(&36_u32.to_le_bytes());
        bytes[24..32].copy_from_slice(&xsdt.to_le_bytes());
        seal(&mut bytes[..20], 8);
        seal(&mut bytes, 32);
        bytes
    }

    #[test]
    fn the_newer_root_wins_where_it_is_whole() {
        let roots = |bytes: &[u8]| Root::parse(bytes).unwrap().to_vec();
        let (extended, plain) = (Root::Extended(Hpa(0x1_0000_2000)), Root::Plain(Hpa(0x1000)));
        assert_eq!(roots(&root_pointer(2, 0x1000, 0x1_0000_2000)), [extended, plain]);
        assert_eq!(roots(&root_pointer(2, 0, 0x1_0000_2000)), [extended]);
        assert_eq!(roots(&root_pointer(0, 0x1000, 0x1_0000_2000)), [plain]);
        assert_eq!(roots(&root_pointer(2, 0x1000, 0)), [plain]);
        let mut broken = root_pointer(2, 0x1000, 0x2000);
        broken[30] ^= 1;
        assert_eq!(roots(&broken), [plain]);
        assert_eq!(Root::parse(&root_pointer(2, 0, 0)), Err(AcpiError::NoRootPointer));
        broken[17] ^= 1;
        assert_eq!(Root::parse(&broken), Err(AcpiError::BadChecksum { signature: *b"RSDP" }));
    }

    #[test]
    fn a_search_finds_the_root_pointer_on_its_boundary_only() {
        let mut memory = vec![0; 256];
        memory[72..108].copy_from_slice(&root_pointer(2, 0x1000, 0x2000));
        assert_eq!(Root::search(&memory), None);
        memory[160..196].copy_from_slice(&root_pointer(0, 0x3000, 0));
        assert_eq!(Root::search(&memory).unwrap().as_slice(), [Root::Plain(Hpa(0x3000))]);
    }

    #[test]
    fn pointers_have_the_width_of_their_table_and_null_is_none() {
        let content = [0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0];
        let bytes = table(*b"RSDT", &content);
        let root = Root::Plain(Hpa(0));
        assert_eq!(root.pointers(&bytes).collect::<Vec<_>>(), [Hpa(0x10), Hpa(0x20)]);
        let root = Root::Extended(Hpa(0));
        assert_eq!(root.pointers(&bytes).collect::<Vec<_>>(), [Hpa(0x10)]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Root::parse(&bytes);
            let _ = Root::search(&bytes);
            let _ = header(&bytes);
            let _ = check(&bytes, *b"TEST");
        }
    }
}
