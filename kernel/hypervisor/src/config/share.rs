//! What a VM's line says of its share of the CPUs, and when it starts.

use super::Fault;
use crate::cpu_list::parse_cpus;
use crate::schedule::{CpuSet, MAX_PERCENT, MAX_POOLS, MAX_WEIGHT, Parameters, Pool};

/// A VM's share of the CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Weight, cap, reservation and pool.
    pub parameters: Parameters,
    /// The CPUs on which its vCPUs may run, of those in the pool.
    pub pin: CpuSet,
}

impl Default for Share {
    fn default() -> Self {
        Self { parameters: Parameters::default(), pin: CpuSet::ALL }
    }
}

/// What happens to a VM that has ended by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Restart {
    /// Nothing.
    #[default]
    No,
    /// It starts anew.
    Always,
    /// It starts anew so many times.
    Times(u32),
}

/// Reads a word of a kernel's line, if it is one of these.
pub(super) fn parse<'a>(word: &'a str, share: &mut Share) -> Option<Result<(), Fault<'a>>> {
    let (name, value) = word.split_once('=')?;
    let parameters = &mut share.parameters;
    let read = match name {
        "weight" => number(value, 1, MAX_WEIGHT).map(|weight| parameters.weight = weight),
        "cap" => number(value, 0, MAX_PERCENT).map(|cap| parameters.cap = cap),
        "reservation" => number(value, 0, MAX_PERCENT).map(|percent| parameters.reservation = percent),
        "pool" => pool(value).map(|pool| parameters.pool = pool),
        "pin" => parse_cpus(value).map(|cpus| share.pin = cpus),
        _ => return None,
    };
    Some(read.ok_or(Fault::BadShare(word)))
}

/// Reads what follows `restart=`.
pub(super) fn parse_restart(value: &str) -> Result<Restart, Fault<'_>> {
    match value {
        "no" => Ok(Restart::No),
        "always" => Ok(Restart::Always),
        _ => number(value, 1, u32::MAX).map(Restart::Times).ok_or(Fault::BadRestart(value)),
    }
}

/// A pool's number.
pub(super) fn pool(value: &str) -> Option<Pool> {
    number(value, 0, MAX_POOLS as u32 - 1).map(|pool| Pool(pool as u8))
}

fn number(value: &str, least: u32, most: u32) -> Option<u32> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|number| digits && (least..=most).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Share, Fault<'_>> {
        let mut share = Share::default();
        for word in words.split_ascii_whitespace() {
            parse(word, &mut share).unwrap_or(Err(Fault::UnknownWord(word)))?;
        }
        Ok(share)
    }

    #[test]
    fn shares_are_read() {
        let parameters = Parameters { weight: 300, cap: 150, reservation: 20, pool: Pool(2) };
        let pin = CpuSet::from_bits(0b1011);
        let words = "weight=300 cap=150 reservation=20 pin=0-1,3 pool=2";
        assert_eq!(read(words), Ok(Share { parameters, pin }));
        assert_eq!(read(""), Ok(Share::default()));
        for word in ["weight=0", "weight=10001", "cap=-1", "cap=+5", "cap=6401", "reservation=", "pool=16"] {
            assert_eq!(read(word), Err(Fault::BadShare(word)), "{word}");
        }
        assert_eq!(read("pin=1-"), Err(Fault::BadShare("pin=1-")));
        assert_eq!(read("cpus=1"), Err(Fault::UnknownWord("cpus=1")));
    }

    #[test]
    fn restarts_are_read() {
        for (value, restart) in [("no", Restart::No), ("always", Restart::Always), ("3", Restart::Times(3))] {
            assert_eq!(parse_restart(value), Ok(restart));
        }
        assert_eq!(parse_restart("0"), Err(Fault::BadRestart("0")));
    }
}
