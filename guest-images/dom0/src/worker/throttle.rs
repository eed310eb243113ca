//! How much a disk may do: operations and bytes in a second, each by the generic cell rate algorithm (ITU-T I.371, annex A). After a pause, what would
//! take [`BURST`] may come at once, and in any case one order.
//!
//! There is no clock here: who asks says what time it is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What may come at once after a pause, as time at the rate.
const BURST: Duration = Duration::from_millis(100);
const SECOND: u128 = 1_000_000_000;

/// The most that a disk may do; without a number, there is no limit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Limits {
    /// Operations in a second: orders, of up to 64 KiB each.
    pub(crate) iops: Option<u32>,
    /// Bytes in a second that are read and written.
    pub(crate) bandwidth: Option<u64>,
}

/// One limit.
#[derive(Clone, Copy, Debug)]
struct Gate {
    /// Units in a second, at least one.
    rate: u64,
    /// When all that was let through would have come at this rate.
    due: Duration,
}

impl Gate {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), due: Duration::ZERO }
    }

    /// How long so many units take at the rate.
    fn time_of(self, units: u64) -> Duration {
        let nanoseconds = u128::from(units) * SECOND / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// From when on so many may pass.
    fn opens(self, units: u64) -> Duration {
        let time = self.time_of(units);
        self.due.saturating_add(time).saturating_sub(BURST.max(time))
    }

    /// They pass.
    fn pass(&mut self, units: u64, now: Duration) {
        self.due = self.due.max(now).saturating_add(self.time_of(units));
    }
}

/// Both limits of a disk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Throttle {
    operations: Option<Gate>,
    bytes: Option<Gate>,
}

impl Throttle {
    /// One that has let nothing pass yet.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            operations: limits.iops.map(|rate| Gate::new(rate.into())),
            bytes: limits.bandwidth.map(Gate::new),
        }
    }

    /// Lets an operation of so many bytes pass, or says when to come again.
    ///
    /// # Errors
    /// The time when it may pass, where nothing else does before.
    pub(super) fn pass(&mut self, bytes: u64, now: Duration) -> Result<(), Duration> {
        let opens = |gate: Option<Gate>, units| gate.map_or(Duration::ZERO, |gate| gate.opens(units));
        let when = opens(self.operations, 1).max(opens(self.bytes, bytes));
        if when > now {
            return Err(when);
        }
        self.operations.iter_mut().for_each(|gate| gate.pass(1, now));
        self.bytes.iter_mut().for_each(|gate| gate.pass(bytes, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LARGEST: u64 = 64 << 10;

    /// How many operations of that size pass until then, where one asks as soon as it may.
    fn passed(throttle: &mut Throttle, bytes: u64, mut now: Duration, until: Duration) -> u64 {
        let mut count = 0;
        while now < until {
            match throttle.pass(bytes, now) {
                Ok(()) => count += 1,
                Err(when) => {
                    assert!(when > now, "time goes on");
                    now = when;
                }
            }
            assert!(count < 1_000_000);
        }
        count
    }

    #[test]
    fn operations_come_at_their_rate_after_a_burst() {
        let mut throttle = Throttle::new(Limits { iops: Some(500), bandwidth: None });
        let second = Duration::from_secs(1);
        let begun = 10 * second;
        assert_eq!(passed(&mut throttle, LARGEST, begun, begun + Duration::from_nanos(1)), 50, "a burst");
        assert_eq!(
            passed(&mut throttle, LARGEST, begun, begun + second),
            500 - 1,
            "and then two milliseconds each"
        );
        let later = begun + 60 * second;
        let ten = passed(&mut throttle, LARGEST, later, later + 10 * second);
        assert_eq!(ten, 5000 + 50 - 1, "a minute's rest is worth a burst, and no more");
    }

    #[test]
    fn bytes_come_at_their_rate() {
        let mut throttle = Throttle::new(Limits { iops: None, bandwidth: Some(10 << 20) });
        let begun = Duration::from_secs(1);
        let count = passed(&mut throttle, 4096, begun, begun + Duration::from_secs(10));
        let bytes = count * 4096;
        assert!((100 << 20..102 << 20).contains(&bytes), "{bytes}");
        let mut throttle = Throttle::new(Limits { iops: None, bandwidth: Some(LARGEST) });
        assert_eq!(
            passed(&mut throttle, LARGEST, begun, begun + Duration::from_secs(5)),
            5,
            "one order at least"
        );
    }

    #[test]
    fn the_tighter_limit_decides_and_no_limit_is_none() {
        let mut throttle = Throttle::new(Limits { iops: Some(10), bandwidth: Some(1 << 40) });
        let second = Duration::from_secs(1);
        assert_eq!(passed(&mut throttle, 512, second, 3 * second), 20);
        let mut free = Throttle::new(Limits::default());
        assert!((0..10_000).all(|_| free.pass(LARGEST, Duration::ZERO).is_ok()));
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_a_burst(
            iops in 1_u32..=1_000_000,
            bandwidth in LARGEST..1 << 40,
            sizes in proptest::collection::vec((1..=LARGEST, 0_u64..50_000_000), 1..200),
        ) {
            let mut throttle = Throttle::new(Limits { iops: Some(iops), bandwidth: Some(bandwidth) });
            let (mut now, mut operations, mut bytes) = (Duration::ZERO, 0_u64, 0_u64);
            for (size, pause) in sizes {
                now += Duration::from_nanos(pause);
                if let Err(when) = throttle.pass(size, now) {
                    prop_assert!(when > now && when - now < Duration::from_secs(3));
                    now = when;
                    prop_assert!(throttle.pass(size, now).is_ok(), "it passes when it was told to");
                }
                (operations, bytes) = (operations + 1, bytes + size);
                let at_rate = |rate: u64| rate as f64 * (now + BURST).as_secs_f64();
                prop_assert!(operations as f64 <= at_rate(iops.into()) + 2.0);
                prop_assert!(bytes as f64 <= at_rate(bandwidth) + 2.0 * LARGEST as f64);
            }
        }
    }
}
