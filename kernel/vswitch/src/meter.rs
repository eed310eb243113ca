//! Rates: how much may pass in a time.
//!
//! A meter is a token bucket, kept as the time at which it would be full again: what passes moves that time on by what it takes at the
//! rate. A frame passes while that time is no further ahead than the burst. So one frame may overdraw, whatever its size, and what was
//! overdrawn is missing next.
//!
//! Source: ITU-T I.371, "Generic cell rate algorithm", the virtual scheduling form.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Nanos;

/// Bytes per second, and how many of them at once after a pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Bytes per second, at least 1.
    pub per_second: u64,
    /// Bytes at once.
    pub burst: u64,
}

const SECOND: u64 = 1_000_000_000;
/// Bits behind the point of nanoseconds per byte.
const POINT: u32 = 16;
/// What a rate allows at once that says nothing of it: what it brings in this time. Longer than a CPU is away for others.
const USUAL_BURST: Nanos = 50_000_000;
/// Bytes at once at least: a few frames.
const LEAST_BURST: u64 = 6_000;

impl Rate {
    /// So many bits per second, with a burst that suits.
    pub const fn bits(per_second: u64) -> Self {
        let bytes = if per_second < 8 { 1 } else { per_second / 8 };
        let burst = (bytes as u128 * USUAL_BURST as u128 / SECOND as u128) as u64;
        Self { per_second: bytes, burst: if burst < LEAST_BURST { LEAST_BURST } else { burst } }
    }
}

/// How much of something may pass.
#[derive(Debug)]
pub struct Meter {
    /// Nanoseconds a byte, with [`POINT`] bits behind the point; 0 for no limit.
    per_byte: AtomicU64,
    /// How far ahead the time may be.
    burst: AtomicU64,
    /// When the bucket is full again.
    full_at: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Meter {
    /// A full bucket. Without a rate there is no limit.
    pub const fn new(rate: Option<Rate>) -> Self {
        let (per_byte, burst) = Self::numbers(rate);
        Self { per_byte: AtomicU64::new(per_byte), burst: AtomicU64::new(burst), full_at: AtomicU64::new(0) }
    }

    const fn numbers(rate: Option<Rate>) -> (u64, Nanos) {
        let Some(Rate { per_second, burst }) = rate else { return (0, 0) };
        let per_second = if per_second == 0 { 1 } else { per_second };
        let per_byte = (SECOND << POINT) / per_second;
        let ahead = burst as u128 * SECOND as u128 / per_second as u128;
        // Never nothing, which would be no limit; and never so long that times overflow.
        let ahead = if ahead > (u64::MAX >> 2) as u128 { u64::MAX >> 2 } else { ahead as u64 };
        (if per_byte == 0 { 1 } else { per_byte }, ahead)
    }

    /// Another rate from now on. What was overdrawn stays so, but no longer than a second.
    pub fn set(&self, rate: Option<Rate>, now: Nanos) {
        let (per_byte, burst) = Self::numbers(rate);
        self.per_byte.store(per_byte, Relaxed);
        self.burst.store(burst, Relaxed);
        self.full_at.fetch_min(now.saturating_add(SECOND), Relaxed);
    }

    /// Whether there is a limit.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.per_byte.load(Relaxed) != 0
    }

    /// When something may pass: `None` for now.
    #[inline]
    pub fn opens_at(&self, now: Nanos) -> Option<Nanos> {
        if !self.is_limited() {
            return None;
        }
        let at = self.full_at.load(Relaxed).saturating_sub(self.burst.load(Relaxed));
        (at > now).then_some(at)
    }

    /// So many bytes pass.
    #[inline]
    pub fn take(&self, bytes: u64, now: Nanos) {
        let per_byte = self.per_byte.load(Relaxed);
        if per_byte == 0 {
            return;
        }
        let cost = ((u128::from(bytes) * u128::from(per_byte)) >> POINT) as u64;
        // Two CPUs at once may lose one frame's cost to the other; they do not hold a lock for that.
        let from = self.full_at.load(Relaxed).max(now);
        self.full_at.store(from.saturating_add(cost), Relaxed);
    }

    /// Whether so many may pass now; they are taken then.
    pub fn admits(&self, bytes: u64, now: Nanos) -> bool {
        if self.opens_at(now).is_some() {
            return false;
        }
        self.take(bytes, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_rate_all_passes() {
        let meter = Meter::default();
        assert!((0..1000).all(|_| meter.admits(u64::from(u32::MAX), 5)));
    }

    #[test]
    fn a_frame_may_overdraw_and_is_paid_for() {
        let meter = Meter::new(Some(Rate { per_second: 1000, burst: 100 }));
        assert!(meter.admits(1000, 0), "the bucket is full");
        assert_eq!(meter.opens_at(0), Some(900_000_000));
        assert!(!meter.admits(1, 899_999_999) && meter.admits(1, 900_000_000));
    }

    proptest! {
        /// Over any time, whatever is offered at whatever moments, the rate is kept within the burst and one frame; and who always has
        /// something to send gets it.
        #[test]
        fn the_rate_is_kept(
            mbit in 1_u64..40_000,
            frames in prop::collection::vec(60_u64..70_000, 50..400),
            late in 0_u64..20_000_000,
        ) {
            let rate = Rate::bits(mbit * 1_000_000);
            let meter = Meter::new(Some(rate));
            let (mut now, mut passed) = (7_u64, 0_u64);
            for frame in &frames {
                if let Some(at) = meter.opens_at(now) {
                    now = at + late % (USUAL_BURST / 2);
                }
                prop_assert!(meter.admits(*frame, now));
                passed += frame;
            }
            let allowed = u128::from(now) * u128::from(rate.per_second) / u128::from(SECOND) + u128::from(rate.burst);
            let most = 70_000 + u128::from(passed) / 1000;
            prop_assert!(u128::from(passed) <= allowed + most, "{passed} of {allowed}");
            prop_assert!(u128::from(passed) + most + u128::from(rate.burst) >= allowed.saturating_sub(most), "{passed} of {allowed}");
        }
    }
}
