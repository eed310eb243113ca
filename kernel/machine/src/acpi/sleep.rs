//! The values that switch the machine off.
//!
//! They are in the package `\_S5` of the DSDT's byte code. An interpreter is not needed for a constant: a
//! bounded scan finds the name and reads the package behind it.
//!
//! Source: ACPI Specification, "\_Sx (System States)" and "ACPI Machine Language (AML) Specification".

use super::table::byte;

const NAME: &[u8; 4] = b"_S5_";
const PACKAGE_OP: u8 = 0x12;
const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;
const ONES_OP: u8 = 0xff;
/// The sleep type has three bits.
const SLEEP_TYPE_MASK: u8 = 7;

/// Sleep types for the PM1a and PM1b control registers in state S5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SoftOff {
    /// For PM1a.
    pub(crate) pm1a: u8,
    /// For PM1b.
    pub(crate) pm1b: u8,
}

impl SoftOff {
    /// Looks for the package in a table's byte code.
    pub(super) fn find(aml: &[u8]) -> Option<Self> {
        let mut from = 0;
        while let Some(at) = aml.get(from..)?.windows(NAME.len()).position(|window| window == NAME) {
            let after = from + at + NAME.len();
            if let Some(found) = Self::package(aml, after) {
                return Some(found);
            }
            from = after;
        }
        None
    }

    fn package(aml: &[u8], at: usize) -> Option<Self> {
        if byte(aml, at)? != PACKAGE_OP {
            return None;
        }
        // The two top bits of a package length say how many bytes follow the first.
        let more = usize::from(byte(aml, at + 1)? >> 6);
        let elements_at = at + 2 + more;
        let elements = byte(aml, elements_at)?;
        if elements == 0 {
            return None;
        }
        let (pm1a, next) = integer(aml, elements_at + 1)?;
        let pm1b = if elements > 1 { integer(aml, next).map_or(pm1a, |(value, _)| value) } else { pm1a };
        Some(Self { pm1a: pm1a & SLEEP_TYPE_MASK, pm1b: pm1b & SLEEP_TYPE_MASK })
    }
}

/// The low byte of a constant, and where the next term starts.
fn integer(aml: &[u8], at: usize) -> Option<(u8, usize)> {
    match byte(aml, at)? {
        value @ (ZERO_OP | ONE_OP | ONES_OP) => Some((value, at + 1)),
        BYTE_PREFIX => Some((byte(aml, at + 1)?, at + 2)),
        WORD_PREFIX => Some((byte(aml, at + 1)?, at + 3)),
        DWORD_PREFIX => Some((byte(aml, at + 1)?, at + 5)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn constants_of_all_encodings_are_read() {
        let cases: [(&[u8], u8, u8); 5] = [
            (b"\x08_S5_\x12\x06\x04\x00\x00\x00\x00", 0, 0),
            (b"\x08\\_S5_\x12\x08\x04\x0a\x05\x0a\x06\x00\x00", 5, 6),
            (b"_S5_\x12\x40\x0a\x02\x01\x00", 1, 0),
            (b"_S5_\x12\x09\x02\x0b\x07\x00\x0b\x05\x00", 7, 5),
            (b"_S5_\x12\x04\x01\x0a\x05", 5, 5),
        ];
        for (aml, pm1a, pm1b) in cases {
            assert_eq!(SoftOff::find(aml), Some(SoftOff { pm1a, pm1b }), "{aml:02x?}");
        }
    }

    #[test]
    fn a_mention_without_a_package_is_passed_over() {
        let aml = b"_S5_\x70....\x08_S5_\x12\x06\x04\x0a\x03\x00\x00\x00";
        assert_eq!(SoftOff::find(aml), Some(SoftOff { pm1a: 3, pm1b: 0 }));
        assert_eq!(SoftOff::find(b"_S5_\x12"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_byte_code_never_panics(tail in proptest::collection::vec(any::<u8>(), 0..20)) {
            let mut aml = b"_S5_\x12".to_vec();
            aml.extend(tail);
            let _ = SoftOff::find(&aml);
        }
    }
}
