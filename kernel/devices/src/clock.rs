//! Conversion between the host's nanoseconds and the ticks of a device's oscillator, exact both ways.
//!
//! All oscillators run from time zero of the host's monotonic clock, so two devices of one frequency agree
//! about where a tick lies and a periodic deadline never drifts.

use vcpu::Nanos;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// An oscillator's frequency in hertz (below 2^24, so that no product overflows).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frequency(pub(crate) u64);

impl Frequency {
    /// Whole ticks that have passed at `time`.
    #[inline]
    pub(crate) const fn ticks(self, time: Nanos) -> u64 {
        let seconds = time.0 / NANOS_PER_SECOND;
        let rest = time.0 % NANOS_PER_SECOND;
        seconds * self.0 + rest * self.0 / NANOS_PER_SECOND
    }

    /// The first nanosecond at which [`Self::ticks`] reaches `tick`; [`Nanos::NEVER`] beyond the clock's range.
    #[inline]
    pub(crate) const fn time_of(self, tick: u64) -> Nanos {
        let seconds = tick / self.0;
        let rest = (tick % self.0 * NANOS_PER_SECOND).div_ceil(self.0);
        Nanos(seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(rest))
    }
}

/// The earlier of two optional deadlines.
#[inline]
pub(crate) fn earlier(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn time_of_is_the_first_moment_of_a_tick(hz in 1u64..(1 << 24), tick in 0u64..1 << 40) {
            let clock = Frequency(hz);
            let time = clock.time_of(tick);
            prop_assert!(clock.ticks(time) >= tick);
            if time.0 > 0 {
                prop_assert!(clock.ticks(Nanos(time.0 - 1)) < tick.max(1));
            }
        }

        #[test]
        fn the_next_tick_lies_ahead(hz in 1u64..(1 << 24), now in 0u64..1 << 60) {
            let clock = Frequency(hz);
            prop_assert!(clock.time_of(clock.ticks(Nanos(now)) + 1) > Nanos(now));
        }
    }

    #[test]
    fn far_ends_saturate() {
        assert_eq!(Frequency(1).time_of(u64::MAX), Nanos::NEVER);
        assert_eq!(Frequency(1_000_000).ticks(Nanos::NEVER), u64::MAX / 1000);
    }
}
