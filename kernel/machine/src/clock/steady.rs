//! Time by a timer of known rate, for machines whose TSC does not keep it: slower to read, and right.

use core::sync::atomic::{AtomicU64, Ordering};

use vcpu::Nanos;

use super::NANOS_PER_SECOND;
use super::counter::Counter;
use super::scale::Scale;

/// A timer that reads less than it did, by at most this part of its range, was read before another CPU noted its value:
/// time then stands still. What goes further has come round.
const BACKWARD_PART: u32 = 8;

/// A counter made longer than it is. It may be read by several CPUs at once.
#[derive(Debug)]
pub(super) struct SteadyClock<C> {
    counter: C,
    to_nanos: Scale,
    /// From TSC ticks at the rate they had once, to tell how often the counter came round when nobody looked.
    from_tsc: Scale,
    /// Where time starts.
    base: Nanos,
    /// The counter's value then.
    first: u32,
    /// Ticks counted, with [`Self::first`] in them: the lower bits are the counter's.
    counted: AtomicU64,
    /// The TSC when they were.
    counted_at: AtomicU64,
}

impl<C: Counter> SteadyClock<C> {
    /// A clock that shows `now`. `tsc` is the TSC, which ran at `tsc_hz` last.
    pub(super) fn new(counter: C, now: Nanos, tsc: u64, tsc_hz: u64) -> Self {
        counter.start();
        let first = counter.read();
        Self {
            to_nanos: Scale::new(counter.hz(), NANOS_PER_SECOND),
            from_tsc: Scale::new(tsc_hz, counter.hz()),
            base: now,
            first,
            counted: AtomicU64::new(u64::from(first)),
            counted_at: AtomicU64::new(tsc),
            counter,
        }
    }

    /// The time now. `tsc` is the TSC now.
    pub(super) fn now(&self, tsc: u64) -> Nanos {
        let before = self.counted.load(Ordering::Relaxed);
        let tsc_before = self.counted_at.load(Ordering::Relaxed);
        let mask = self.counter.mask();
        let passed = self.counter.read().wrapping_sub(before as u32) & mask;
        let counted = before + self.whole(passed, mask, self.from_tsc.floor(tsc.saturating_sub(tsc_before)));
        let latest = self.counted.fetch_max(counted, Ordering::Relaxed).max(counted);
        self.counted_at.store(tsc, Ordering::Relaxed);
        self.base + Nanos(self.to_nanos.floor(latest - u64::from(self.first)))
    }

    /// Ticks since the last look, of which the counter shows the lower bits, as near as possible to what the TSC says. That
    /// may run at another rate than before, but as long as somebody looks several times while the counter goes round once,
    /// nothing hangs on it.
    fn whole(&self, passed: u32, mask: u32, by_tsc: u64) -> u64 {
        let round = u64::from(mask) + 1;
        let rounds = (by_tsc.saturating_sub(u64::from(passed)) + round / 2) / round;
        if rounds == 0 && by_tsc < round / 2 && passed > mask - mask / BACKWARD_PART {
            return 0;
        }
        u64::from(passed) + rounds * round
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    const PM_TIMER_HZ: u64 = 3_579_545;
    const TSC_HZ: u64 = 2_000_000_000;

    struct Fake {
        ticks: Cell<u64>,
        bits: u32,
    }

    impl Counter for &Fake {
        fn name(&self) -> &'static str {
            "a fake"
        }

        fn hz(&self) -> u64 {
            PM_TIMER_HZ
        }

        fn mask(&self) -> u32 {
            ((1_u64 << self.bits) - 1) as u32
        }

        fn start(&self) {}

        fn read(&self) -> u32 {
            self.ticks.get() as u32 & self.mask()
        }
    }

    fn nanos(ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000_000 / u128::from(PM_TIMER_HZ)) as u64
    }

    proptest! {
        /// Time is right whatever the TSC does, as long as somebody looks a few times a round.
        #[test]
        fn time_goes_by_the_counter_and_not_by_the_tsc(
            first: u32,
            bits in prop::sample::select(vec![24_u32, 32]),
            steps in prop::collection::vec((0_u64..8_000_000, 0_u64..2000), 1..200),
        ) {
            let fake = Fake { ticks: Cell::new(u64::from(first)), bits };
            let mut tsc = 7_000;
            let clock = SteadyClock::new(&fake, Nanos(500), tsc, TSC_HZ);
            let (mut ticks, mut last) = (0, Nanos(500));
            for (step, percent) in steps {
                ticks += step;
                // From standing still to twice as fast; faster only for shorter steps.
                let percent = if step > 100_000 { percent.min(200) } else { percent };
                tsc += step * TSC_HZ / PM_TIMER_HZ * percent / 100;
                fake.ticks.set(u64::from(first) + ticks);
                let now = clock.now(tsc);
                prop_assert!(now >= last);
                prop_assert!(now.0.abs_diff(500 + nanos(ticks)) <= 1, "{} {}", now.0, nanos(ticks));
                last = now;
            }
        }

        /// And where nobody looks for long, the TSC tells how often the counter came round.
        #[test]
        fn rounds_that_nobody_saw_are_made_up_for(ticks in 0_u64..1 << 40, error in 0_u64..200) {
            let fake = Fake { ticks: Cell::new(0xff_ff00), bits: 24 };
            let clock = SteadyClock::new(&fake, Nanos::ZERO, 0, TSC_HZ);
            let ticks = ticks >> (error % 20);
            // The TSC goes wrong by at most 2 s here, which is less than half a round.
            let wrong = TSC_HZ / 100 * error;
            let tsc = (u128::from(ticks) * u128::from(TSC_HZ) / u128::from(PM_TIMER_HZ)) as u64 + wrong;
            fake.ticks.set(0xff_ff00 + ticks);
            prop_assert!(clock.now(tsc).0.abs_diff(nanos(ticks)) <= 1);
        }
    }

    #[test]
    fn a_reading_from_before_another_ones_does_not_turn_time_back() {
        let fake = Fake { ticks: Cell::new(1000), bits: 24 };
        let clock = SteadyClock::new(&fake, Nanos::ZERO, 0, TSC_HZ);
        fake.ticks.set(5000);
        let now = clock.now(2_000_000);
        fake.ticks.set(4999);
        assert_eq!(clock.now(2_000_100), now);
        fake.ticks.set(5001);
        assert!(clock.now(2_001_000) > now);
    }
}
