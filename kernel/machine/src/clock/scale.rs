//! Conversion between two counters that run at fixed rates, without division.

/// Multiplies by `to_hz / from_hz`: a 64-bit factor, a 128-bit product, a shift.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scale {
    factor: u64,
    shift: u32,
}

impl Scale {
    /// From ticks of a counter at `from_hz` to ticks of one at `to_hz`. Neither rate is zero.
    pub(crate) const fn new(from_hz: u64, to_hz: u64) -> Self {
        let from = from_hz as u128;
        // The largest shift, so the finest factor, that leaves the factor in 64 bits.
        let mut shift = 63;
        while shift > 0 && ((to_hz as u128) << shift) / from > u64::MAX as u128 {
            shift -= 1;
        }
        Self { factor: (((to_hz as u128) << shift) / from) as u64, shift }
    }

    /// Converted and rounded down; saturates.
    #[inline(always)]
    pub(crate) const fn floor(self, ticks: u64) -> u64 {
        shifted(ticks as u128 * self.factor as u128, self.shift)
    }

    /// Converted and rounded up so far that the conversion back, by [`Self::floor`] of the opposite scale, is
    /// not less than `ticks`. Saturates.
    #[inline]
    pub(crate) const fn ceiling(self, ticks: u64) -> u64 {
        // One tick more, because the way back rounds down too.
        let ticks = ticks.saturating_add(1) as u128;
        shifted(ticks * (self.factor as u128 + 1), self.shift).saturating_add(1)
    }
}

/// `value >> shift` for a shift below 64; saturates. In halves, as a shift of 128 bits is a call of the compiler's own library.
#[inline(always)]
const fn shifted(value: u128, shift: u32) -> u64 {
    let (high, low) = ((value >> 64) as u64, value as u64);
    let shift = shift & 63;
    if high >> shift != 0 { u64::MAX } else { high << 1 << (63 - shift) | low >> shift }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIGA: u64 = 1_000_000_000;

    proptest! {
        #[test]
        fn floor_is_near_the_exact_quotient(hz in 1_000_000_u64..10 * GIGA, ticks in 0..u64::MAX / 16) {
            let scale = Scale::new(hz, GIGA);
            let exact = u128::from(ticks) * u128::from(GIGA) / u128::from(hz);
            let got = u128::from(scale.floor(ticks));
            prop_assume!(exact < u128::from(u64::MAX));
            prop_assert!(got <= exact);
            // One part in 2^50 and one tick.
            prop_assert!(exact - got <= (exact >> 50) + 1, "{} {}", exact, got);
        }

        #[test]
        fn a_deadline_converted_there_and_back_is_not_early(
            hz in 1_000_000_u64..10 * GIGA,
            ns in 0..1_u64 << 58,
        ) {
            let tsc = Scale::new(GIGA, hz).ceiling(ns);
            let back = Scale::new(hz, GIGA).floor(tsc);
            prop_assert!(back >= ns);
            let tick = GIGA / hz + 1;
            prop_assert!(back - ns <= 3 * tick + 1 + (ns >> 48), "{} {}", back, ns);
        }

        #[test]
        fn conversion_is_monotone(hz in 1_000_000_u64..10 * GIGA, a: u64, b: u64) {
            let scale = Scale::new(hz, GIGA);
            prop_assert!(scale.floor(a.min(b)) <= scale.floor(a.max(b)));
        }
    }

    #[test]
    fn absurd_values_saturate() {
        assert_eq!(Scale::new(1_000_000, GIGA).floor(u64::MAX), u64::MAX);
        assert_eq!(Scale::new(GIGA, 3 * GIGA).ceiling(u64::MAX), u64::MAX);
    }
}
