//! Amounts as people write them: `"256M"` of memory, CPUs `"0-1,3"`.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// CPUs, bit n for number n: written as numbers and ranges such as `0-1,3`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "0-1,3")]
pub struct Cpus(pub u64);

/// It is not of that form.
#[derive(Debug)]
pub struct NoCpus(String);

impl fmt::Display for NoCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no list of CPUs: write numbers from 0 to 63 and ranges, as in \"0-1,3\"", self.0)
    }
}

impl TryFrom<String> for Cpus {
    type Error = NoCpus;

    fn try_from(text: String) -> Result<Self, NoCpus> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last && last < u64::BITS).then_some(first..=last)
        };
        let bits = text
            .split(',')
            .try_fold(0_u64, |bits, part| Some(range(part)?.fold(bits, |bits, cpu| bits | 1 << cpu)));
        bits.map(Self).ok_or(NoCpus(text))
    }
}

impl From<Cpus> for String {
    fn from(cpus: Cpus) -> Self {
        let is_set = |cpu: u32| cpu < u64::BITS && cpus.0 & 1 << cpu != 0;
        let firsts = (0..u64::BITS).filter(|cpu| is_set(*cpu) && !cpu.checked_sub(1).is_some_and(is_set));
        let range = |first: u32| {
            let last = (first..u64::BITS).take_while(|cpu| is_set(*cpu)).last().unwrap_or(first);
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        firsts.map(range).collect::<Vec<_>>().join(",")
    }
}

/// Bytes: written as a number with `K`, `M`, `G` or `T` behind it, powers of 1024.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "256M")]
pub struct Bytes(pub u64);

const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

/// It is not of that form.
#[derive(Debug)]
pub struct NoBytes(String);

impl fmt::Display for NoBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no amount: write a number with K, M, G or T behind it, as in \"256M\"", self.0)
    }
}

impl std::error::Error for NoBytes {}

impl TryFrom<String> for Bytes {
    type Error = NoBytes;

    fn try_from(text: String) -> Result<Self, NoBytes> {
        let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, *shift)));
        let bytes = unit.and_then(|(number, shift)| number.parse::<u64>().ok()?.checked_mul(1 << shift));
        bytes.map(Self).ok_or(NoBytes(text))
    }
}

impl From<Bytes> for String {
    fn from(Bytes(bytes): Bytes) -> Self {
        // What is no whole number of the smallest unit cannot be written, and so is never read.
        let fits = |(_, shift): &&(char, u32)| bytes != 0 && bytes.trailing_zeros() >= *shift;
        let (unit, shift) = UNITS.iter().rev().find(fits).copied().unwrap_or(('K', 10));
        format!("{}{unit}", bytes >> shift)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from(*self))
    }
}

impl std::str::FromStr for Bytes {
    type Err = NoBytes;

    fn from_str(text: &str) -> Result<Self, NoBytes> {
        Self::try_from(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "12", "M", "-1M", "1.5G", "1m", "20000000T", "+", "1 M"] {
            assert!(Bytes::try_from(text.to_owned()).is_err(), "{text}");
        }
        for text in ["", "3-1", "64", "0-64", "a", "1,,2", "1-"] {
            assert!(Cpus::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(kibibytes in 0_u64..1 << 50, cpus in 1_u64..) {
            let bytes = Bytes(kibibytes << 10);
            prop_assert_eq!(Bytes::try_from(String::from(bytes)).ok(), Some(bytes));
            prop_assert_eq!(Cpus::try_from(String::from(Cpus(cpus))).ok(), Some(Cpus(cpus)));
        }
    }
}
