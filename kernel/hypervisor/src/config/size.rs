//! Sizes as people write them: `64K`, `256M`, `2G`.

use core::fmt::{self, Write};

use arrayvec::ArrayString;

const UNITS: [(u8, u32); 4] = [(b'K', 10), (b'M', 20), (b'G', 30), (b'T', 40)];

/// Bytes of a size such as `256M`: a decimal number, then nothing, K, M, G or T (of either case, powers of
/// 1024). `None` where it is something else or does not fit.
pub fn parse_size(text: &str) -> Option<u64> {
    let last = text.bytes().last()?.to_ascii_uppercase();
    let (digits, shift) = match UNITS.iter().find(|(unit, _)| *unit == last) {
        Some((_, shift)) => (text.get(..text.len() - 1)?, *shift),
        None => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Shows bytes in the largest unit that divides them, as [`parse_size`] reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        // Twenty digits and a letter are the longest.
        let mut text = ArrayString::<24>::new();
        match UNITS.iter().rev().find(|(_, shift)| divides(*shift)) {
            Some((unit, shift)) => write!(text, "{}{}", self.0 >> shift, char::from(*unit))?,
            None => write!(text, "{}", self.0)?,
        }
        f.pad(&text)
    }
}
