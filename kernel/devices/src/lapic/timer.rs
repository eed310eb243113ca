//! The local APIC's timer as a function of time.
//!
//! Source: Intel SDM volume 3, "APIC Timer" with "TSC-Deadline Mode". The input clock is [`super::APIC_TIMER_HZ`], one
//! tick a nanosecond, divided by the divide configuration register.

use vcpu::Nanos;

/// Periodic interrupts are not spaced closer than this, so that an absurd period does not keep the host from its work.
/// The interrupts that are left out count as lost ticks.
const SHORTEST_INTERVAL: u64 = 10_000;

/// The mode field of the timer's local vector table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    /// Encoding 3; the timer does not run.
    Reserved,
}

impl TimerMode {
    const SHIFT: u32 = 17;

    pub(super) const fn from_lvt(entry: u32) -> Self {
        match entry >> Self::SHIFT & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Timer {
    pub(super) mode: TimerMode,
    pub(super) initial: u32,
    /// Divide configuration register.
    pub(super) divide: u32,
    /// When the count reaches zero: in periodic mode a point of the grid that lies ahead.
    expiry: Option<Nanos>,
    /// The guest's TSC deadline; 0 when disarmed.
    tsc_deadline: u64,
}

impl Timer {
    pub(super) const fn new() -> Self {
        Self { mode: TimerMode::OneShot, initial: 0, divide: 0, expiry: None, tsc_deadline: 0 }
    }

    /// When the timer next fires.
    #[inline]
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.expiry
    }

    /// Lets the timer run until `now`; returns whether it fired (once, however often).
    #[inline]
    pub(super) fn advance(&mut self, now: Nanos) -> bool {
        match self.expiry {
            Some(expiry) if expiry <= now => {
                self.fired(expiry, now);
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn fired(&mut self, expiry: Nanos, now: Nanos) {
        self.tsc_deadline = 0;
        self.expiry = None;
        let period = self.period();
        if self.mode != TimerMode::Periodic || period == 0 {
            return;
        }
        // The first point of the grid after now, and no sooner than the shortest interval.
        let earliest = now + Nanos(SHORTEST_INTERVAL.saturating_sub(period));
        let passed = (earliest - expiry).0 / period;
        self.expiry = Some(expiry + Nanos((passed + 1).saturating_mul(period)));
    }

    /// A new mode from the local vector table. A change from or to TSC-deadline mode disarms the timer.
    pub(super) fn set_mode(&mut self, mode: TimerMode, now: Nanos) {
        if mode == self.mode {
            return;
        }
        if mode.counts() && self.mode.counts() {
            // The count runs on; from periodic to one-shot, up to the next zero.
            let left = self.left(now);
            self.mode = mode;
            self.expiry = left.map(|left| now + Nanos(left));
            return;
        }
        self.mode = mode;
        self.expiry = None;
        self.tsc_deadline = 0;
        if mode == TimerMode::TscDeadline {
            self.initial = 0;
        }
    }

    /// Writes the initial count: starts the timer, or stops it with 0. Ignored in TSC-deadline mode.
    pub(super) fn set_initial(&mut self, count: u32, now: Nanos) {
        if !self.mode.counts() {
            return;
        }
        self.initial = count;
        self.expiry = (count > 0).then(|| now + Nanos(self.period()));
    }

    /// Writes the divide configuration; the count runs on at the new rate.
    pub(super) fn set_divide(&mut self, value: u32, now: Nanos) {
        let count = self.current(now);
        self.divide = value & 0b1011;
        if self.mode.counts() && count > 0 {
            self.expiry = Some(now + Nanos(u64::from(count) * self.divisor()));
        }
    }

    /// The current count.
    pub(super) fn current(&self, now: Nanos) -> u32 {
        if !self.mode.counts() {
            return 0;
        }
        self.left(now).map_or(0, |left| left.div_ceil(self.divisor()) as u32)
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Arms (or with 0 disarms) the TSC deadline, which comes at `at` (`None`: never).
    #[inline]
    pub(super) fn set_tsc_deadline(&mut self, value: u64, at: Option<Nanos>) -> bool {
        if self.mode != TimerMode::TscDeadline {
            return false;
        }
        self.tsc_deadline = value;
        self.expiry = if value == 0 { None } else { at };
        true
    }

    /// Nanoseconds until the count next reaches zero.
    fn left(&self, now: Nanos) -> Option<u64> {
        let left = (self.expiry? - now).0;
        // The expiry may lie some periods ahead.
        match self.period() {
            period if self.mode == TimerMode::Periodic && period > 0 && left > 0 => {
                Some((left - 1) % period + 1)
            }
            _ => Some(left),
        }
    }

    const fn period(&self) -> u64 {
        self.initial as u64 * self.divisor()
    }

    /// The divide configuration's bits 3, 1 and 0 are a logarithm that starts at 2 and wraps to 1.
    const fn divisor(&self) -> u64 {
        let code = (self.divide >> 1 & 4) | (self.divide & 3);
        1 << ((code + 1) & 7)
    }
}
