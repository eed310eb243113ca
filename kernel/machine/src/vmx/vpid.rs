//! Virtual-processor identifiers, given out and taken back. 0 is the host's.
//!
//! Source: Intel SDM vol. 3, "Virtual-Processor Identifiers (VPIDs)". Lock: one, held for a few
//! instructions, only while vCPUs are made and dropped.

use spin::Mutex;

/// Identifiers kept, a multiple of 64. More vCPUs than that are refused.
const COUNT: usize = 4096;

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// A bit for each identifier in use.
struct Pool {
    used: [u64; COUNT / 64],
}

impl Pool {
    const fn new() -> Self {
        let mut used = [0; COUNT / 64];
        used[0] = 1;
        Self { used }
    }

    fn take(&mut self) -> Option<u16> {
        let (word, bits) = self.used.iter_mut().enumerate().find(|(_, bits)| **bits != u64::MAX)?;
        let bit = bits.trailing_ones();
        *bits |= 1 << bit;
        u16::try_from(word * 64 + bit as usize).ok()
    }

    fn give_back(&mut self, id: u16) {
        if let Some(bits) = self.used.get_mut(usize::from(id) / 64).filter(|_| id != 0) {
            *bits &= !(1 << (id % 64));
        }
    }
}

/// An identifier that belongs to a vCPU, or none where the CPU has none to give. It is to be dropped after its
/// translations were flushed.
#[derive(Debug)]
pub(super) struct Vpid(Option<u16>);

impl Vpid {
    /// Without identifiers every entry and exit flushes.
    pub(super) const NONE: Self = Self(None);

    /// A free identifier, if any is left.
    pub(super) fn take() -> Option<Self> {
        Some(Self(Some(POOL.lock().take()?)))
    }

    /// Its number, never 0.
    #[inline]
    pub(super) const fn number(&self) -> Option<u16> {
        self.0
    }
}

impl Drop for Vpid {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            POOL.lock().give_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_identifier_is_free_again() {
        let number = Vpid::take().unwrap().number();
        assert!(number.is_some());
        assert_eq!(Vpid::take().unwrap().number(), number);
        assert_eq!(Vpid::NONE.number(), None);
    }

    #[test]
    fn every_identifier_is_given_once_and_none_is_zero() {
        let mut pool = Pool::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(id) = pool.take() {
            assert!(id != 0 && seen.insert(id));
        }
        assert_eq!(seen.len(), COUNT - 1);
        pool.give_back(77);
        pool.give_back(0);
        assert_eq!(pool.take(), Some(77));
        assert_eq!(pool.take(), None);
    }
}
