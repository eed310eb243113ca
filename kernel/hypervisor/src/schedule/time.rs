//! Time as the scheduler counts it: ticks of the machine's counter, and virtual time.

use core::ops::{Add, Sub};
use core::sync::atomic::{AtomicU64, Ordering};

/// A point or a span in ticks of the time-stamp counter, the same on all CPUs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Ticks(pub u64);

impl Ticks {
    /// A point that never comes.
    pub const NEVER: Self = Self(u64::MAX);
}

impl Add for Ticks {
    type Output = Self;
    #[inline]
    fn add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub for Ticks {
    type Output = Self;
    /// The span since `earlier`, 0 where that is later: counters of two CPUs may differ a little.
    #[inline]
    fn sub(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// The spans by which the scheduler decides, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a vCPU runs while others wait.
    pub slice: Ticks,
    /// No wake-up ends a run that is shorter than this.
    pub shortest: Ticks,
    /// A CPU compares itself with the others this often; also the longest run.
    pub balance: Ticks,
    /// The service that a VM which has slept may have at once.
    pub bonus: Ticks,
    /// A vCPU that wakes preempts one that has this much more of its share.
    pub granularity: Ticks,
    /// The most service that is owed to a vCPU, or by it, when it comes to another CPU.
    pub carried: Ticks,
    /// How far the virtual time of a CPU on which nobody waits may get away from the others', as service.
    pub drift: Ticks,
    /// How often gaps between CPUs' virtual times are closed.
    pub gaps: Ticks,
    /// A VM under a cap runs and waits within about this span.
    pub cap_cycle: Ticks,
    /// The shortest run under a cap.
    pub cap_shortest: Ticks,
    /// What a VM under a cap may catch up with after it has slept, and after it had to wait: spans of its allowance.
    pub cap_burst: (Ticks, Ticks),
    /// A reservation is claimed in pieces of this service,
    pub claim: Ticks,
    /// or of what comes together in this span where that is less.
    pub claim_cycle: Ticks,
    /// The longest span of which a reservation can be claimed later.
    pub claim_burst: Ticks,
}

impl Timing {
    /// For a counter of `hz` ticks a second.
    pub const fn new(hz: u64) -> Self {
        const fn micros(hz: u64, us: u64) -> Ticks {
            Ticks((hz as u128 * us as u128 / 1_000_000) as u64)
        }
        Self {
            slice: micros(hz, 5_000),
            shortest: micros(hz, 1_000),
            balance: micros(hz, 10_000),
            bonus: micros(hz, 2_000),
            granularity: micros(hz, 250),
            carried: micros(hz, 20_000),
            drift: micros(hz, 40_000),
            gaps: micros(hz, 100_000),
            cap_cycle: micros(hz, 10_000),
            cap_shortest: micros(hz, 50),
            cap_burst: (micros(hz, 10_000), micros(hz, 50_000)),
            claim: micros(hz, 1_000),
            claim_cycle: micros(hz, 10_000),
            claim_burst: micros(hz, 50_000),
        }
    }
}

/// Virtual time in a tick of service at weight 1.
const UNITS: u64 = 1 << 10;

/// A point in virtual time: service divided by weight. It may wrap, so points are compared by their difference.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Virtual(pub(super) u64);

impl Virtual {
    /// How far this is ahead of `other`.
    #[inline]
    pub(super) const fn ahead_of(self, other: Self) -> i64 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    #[inline]
    pub(super) const fn moved(self, by: i64) -> Self {
        Self(self.0.wrapping_add_signed(by))
    }

    #[inline]
    pub(super) const fn max(self, other: Self) -> Self {
        if other.ahead_of(self) > 0 { other } else { self }
    }

    #[inline]
    pub(super) const fn min(self, other: Self) -> Self {
        if other.ahead_of(self) < 0 { other } else { self }
    }

    /// This, but within `below` and `above` of `centre`.
    #[inline]
    pub(super) const fn within(self, centre: Self, below: i64, above: i64) -> Self {
        self.max(centre.moved(-below)).min(centre.moved(above))
    }
}

/// How far `service` (in vCPU ticks: ticks times runnable siblings) takes the virtual time of a VM with this weight.
/// At most 2^60, so that sums of a few do not overflow.
#[inline]
pub(super) const fn span(service: u64, weight: u64) -> i64 {
    let units = service.saturating_mul(UNITS) / if weight == 0 { 1 } else { weight };
    const MOST: u64 = 1 << 60;
    if units > MOST { MOST.cast_signed() } else { units.cast_signed() }
}

/// The service that takes a VM's virtual time so far: the reverse of [`span`].
#[inline]
pub(super) const fn service(span: i64, weight: u64) -> u64 {
    if span <= 0 { 0 } else { (span.cast_unsigned() / UNITS).saturating_mul(weight) }
}

/// The virtual time of something that several CPUs see.
#[derive(Debug, Default)]
pub(super) struct SharedVirtual(AtomicU64);

impl SharedVirtual {
    #[inline]
    pub(super) fn get(&self) -> Virtual {
        Virtual(self.0.load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn set(&self, time: Virtual) {
        self.0.store(time.0, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn advance(&self, by: i64) {
        self.0.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
    }

    /// Brings it within `from` and `to`. Where another CPU changes it meanwhile, that one has done so.
    pub(super) fn bring_within(&self, from: Virtual, to: Virtual) -> Virtual {
        let now = self.get();
        let inside = now.max(from).min(to);
        if inside == now {
            return now;
        }
        match self.0.compare_exchange(now.0, inside.0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => inside,
            Err(other) => Virtual(other).max(from).min(to),
        }
    }
}
