//! Waiting for a vCPU that has just halted, without letting it sleep: where its wake-ups used to come soon, a moment's wait
//! costs less than a sleep and an interrupt between CPUs.
//!
//! The moment grows while vCPUs sleep shorter than the longest wait, and is nothing at all for one that sleeps long.

use vcpu::Nanos;

/// The first moment.
const FIRST: Nanos = Nanos::from_micros(5);

/// How long to wait for one vCPU at its HLT.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience(Nanos);

impl Patience {
    /// How long to wait at this HLT; 0 for not at all.
    #[inline]
    pub(crate) const fn span(&self) -> Nanos {
        self.0
    }

    /// The vCPU was woken after it had slept for so long. Waits are at most `most`.
    pub(crate) fn woke_after(&mut self, slept: Nanos, most: Nanos) {
        let longer = Nanos(self.0.0.saturating_mul(2)).max(FIRST).min(most);
        self.0 = if slept <= most { longer } else { Nanos::ZERO };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_short_sleeps_and_ends_with_a_long_one() {
        let (mut patience, most) = (Patience::default(), Nanos::from_micros(30));
        assert_eq!(patience.span(), Nanos::ZERO);
        for micros in [5, 10, 20, 30, 30] {
            patience.woke_after(Nanos::from_micros(30), most);
            assert_eq!(patience.span(), Nanos::from_micros(micros));
        }
        patience.woke_after(Nanos::from_micros(31), most);
        assert_eq!(patience.span(), Nanos::ZERO);
        let mut none = Patience::default();
        none.woke_after(Nanos(1), Nanos::ZERO);
        assert_eq!(none.span(), Nanos::ZERO);
    }
}
