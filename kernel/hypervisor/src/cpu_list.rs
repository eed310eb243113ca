//! Lists of CPUs as users write them: `0-1,3`.

use crate::schedule::{Cpu, CpuSet, MAX_CPUS};

/// Reads numbers and ranges with commas between them. `None` where it is no such list, or names a CPU above 63.
pub fn parse_cpus(list: &str) -> Option<CpuSet> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number: &u8| digits && usize::from(*number) < MAX_CPUS)
    };
    let mut bits = 0;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        (first..=last).for_each(|cpu| bits |= CpuSet::of(Cpu(cpu)).bits());
    }
    Some(CpuSet::from_bits(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        for (list, bits) in [("0", 1), ("0-1,3", 0b1011), ("63", 1 << 63), ("5,5,4-6", 0b111_0000)] {
            assert_eq!(parse_cpus(list), Some(CpuSet::from_bits(bits)), "{list}");
        }
        for list in ["", ",", "0,", "a", "-1", "1-", "3-2", "64", "0-64", "+1", "0 1", "1-2-3"] {
            assert_eq!(parse_cpus(list), None, "{list}");
        }
    }
}
