//! What all CPUs know of a VM, in atomics: parameters, what it has had, and what it may have.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::id::{Cpu, CpuSet, MAX_VCPUS};
use super::time::{SharedVirtual, Ticks, Timing, Virtual, service, span};

/// Caps and reservations are in parts of this.
const PERCENT: u64 = 100;

/// Where a vCPU is and what it has had. Written by the CPU whose queue holds it, or by the management.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) present: AtomicBool,
    /// It is in the registers of the CPU whose queue holds it, and stays there.
    pub(super) loaded: AtomicBool,
    /// The CPU whose queue holds it.
    pub(super) home: AtomicU8,
    /// The CPUs it may use, of its VM's pool.
    pub(super) pin: AtomicU64,
    pub(super) charged: AtomicU64,
    pub(super) steal: AtomicU64,
    pub(super) throttled: AtomicU64,
}

impl Slot {
    fn new() -> Self {
        Self {
            present: AtomicBool::new(false),
            loaded: AtomicBool::new(false),
            home: AtomicU8::new(0),
            pin: AtomicU64::new(CpuSet::ALL.bits()),
            charged: AtomicU64::new(0),
            steal: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
        }
    }

    pub(super) fn start(&self, home: Cpu, pin: CpuSet) {
        for counter in [&self.charged, &self.steal, &self.throttled] {
            counter.store(0, Ordering::Relaxed);
        }
        self.loaded.store(false, Ordering::Relaxed);
        self.home.store(home.0, Ordering::Relaxed);
        self.pin.store(pin.bits(), Ordering::Relaxed);
    }
}

/// How many of a VM's vCPUs are runnable, and the integral of that number over time, in one word, so that both are
/// read and changed together: the number n in the low 8 bits; above them c, where c + n * now is the integral modulo 2^56.
#[derive(Debug, Default)]
struct RunnableClock(AtomicU64);

impl RunnableClock {
    const COUNT_BITS: u32 = 8;
    const COUNT: u64 = (1 << Self::COUNT_BITS) - 1;

    fn add(&self, now: Ticks) -> u64 {
        let word = (now.0.wrapping_neg() << Self::COUNT_BITS).wrapping_add(1);
        self.0.fetch_add(word, Ordering::Relaxed) & Self::COUNT
    }

    fn remove(&self, now: Ticks) {
        self.0.fetch_add((now.0 << Self::COUNT_BITS).wrapping_sub(1), Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & Self::COUNT
    }

    /// The integral at `now`, in the upper 56 bits.
    fn integral(&self, now: Ticks) -> u64 {
        let word = self.0.load(Ordering::Relaxed);
        (word & !Self::COUNT).wrapping_add((word & Self::COUNT).wrapping_mul(now.0) << Self::COUNT_BITS)
    }

    fn between(earlier: u64, later: u64) -> u64 {
        later.wrapping_sub(earlier) >> Self::COUNT_BITS
    }
}

/// A VM.
#[derive(Debug)]
pub(super) struct Account {
    /// Odd while a VM is here.
    pub(super) generation: AtomicU32,
    pub(super) pool: AtomicU8,
    pub(super) weight: AtomicU32,
    /// In percent of a CPU, 0 for none.
    pub(super) cap: AtomicU32,
    /// In percent of a CPU.
    pub(super) reservation: AtomicU32,
    runnable: RunnableClock,
    /// Service of all vCPUs by weight; kept near the virtual time of where they wake.
    virtual_time: SharedVirtual,
    /// When the cap has let the service happen that there was: ahead of now, the VM is throttled.
    cap_clock: AtomicU64,
    /// When the reservation alone would have given that service: behind now, the VM has a claim.
    reservation_clock: AtomicU64,
    pub(super) slots: Vec<Slot>,
}

impl Account {
    pub(super) fn new() -> Result<Self, TryReserveError> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(MAX_VCPUS)?;
        slots.resize_with(MAX_VCPUS, Slot::new);
        Ok(Self {
            generation: AtomicU32::new(0),
            pool: AtomicU8::new(0),
            weight: AtomicU32::new(1),
            cap: AtomicU32::new(0),
            reservation: AtomicU32::new(0),
            runnable: RunnableClock::default(),
            virtual_time: SharedVirtual::default(),
            cap_clock: AtomicU64::new(0),
            reservation_clock: AtomicU64::new(0),
            slots,
        })
    }

    /// A new VM takes this place; nobody else uses it yet.
    pub(super) fn reset(&self, now: Ticks) {
        self.runnable.0.store(0, Ordering::Relaxed);
        self.cap_clock.store(now.0, Ordering::Relaxed);
        self.reservation_clock.store(now.0, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn weight(&self) -> u64 {
        u64::from(self.weight.load(Ordering::Relaxed))
    }

    /// Starts the cap's clock anew, so that a new cap does not answer for what happened before it.
    pub(super) fn set_cap(&self, percent: u32, now: Ticks) {
        self.cap.store(percent, Ordering::Relaxed);
        self.cap_clock.store(now.0, Ordering::Relaxed);
    }

    pub(super) fn set_reservation(&self, percent: u32, now: Ticks) {
        self.reservation.store(percent, Ordering::Relaxed);
        self.reservation_clock.store(now.0, Ordering::Relaxed);
    }

    /// A vCPU becomes runnable. Where it is the VM's first, what the VM did not use while it slept is gone but for a
    /// burst.
    pub(super) fn wake(&self, now: Ticks, timing: &Timing) {
        if self.runnable.add(now) == 0 {
            self.cap_clock.fetch_max((now - timing.cap_burst.0).0, Ordering::Relaxed);
            let claim = self.claim_span(timing).unwrap_or_default();
            self.reservation_clock.fetch_max((now - claim).0, Ordering::Relaxed);
        }
    }

    /// A vCPU ceases to be runnable. Its run was charged before.
    pub(super) fn block(&self, now: Ticks) {
        self.runnable.remove(now);
    }

    /// How many vCPUs are runnable, at least 1.
    #[inline]
    pub(super) fn siblings(&self) -> u64 {
        self.runnable.count().max(1)
    }

    /// To be given to [`Account::charge`] when the run that starts now has ended.
    pub(super) fn runnable_integral(&self, now: Ticks) -> u64 {
        self.runnable.integral(now)
    }

    /// How far a vCPU's virtual time has come in the run since `start`: it has a share of the VM's weight for as long as
    /// siblings were runnable beside it, to the tick, whatever they do at the moment of charging.
    pub(super) fn progress(&self, start: u64, ran: Ticks, now: Ticks) -> i64 {
        // Counters of CPUs that differ a little must not look like an age.
        let most = ran.0.saturating_mul(MAX_VCPUS as u64);
        span(RunnableClock::between(start, self.runnable.integral(now)).min(most).max(ran.0), self.weight())
    }

    /// Charges a run and returns how far the vCPU's virtual time has come.
    pub(super) fn charge(&self, start: u64, ran: Ticks, now: Ticks, timing: &Timing) -> i64 {
        self.virtual_time.advance(span(ran.0, self.weight()));
        if let Some(cap) = percent(&self.cap) {
            self.cap_clock.fetch_max((now - timing.cap_burst.1).0, Ordering::Relaxed);
            self.cap_clock.fetch_add(ran.0.saturating_mul(PERCENT) / cap, Ordering::Relaxed);
        }
        if let Some(reservation) = percent(&self.reservation) {
            self.reservation_clock.fetch_max((now - timing.claim_burst).0, Ordering::Relaxed);
            self.reservation_clock.fetch_add(ran.0.saturating_mul(PERCENT) / reservation, Ordering::Relaxed);
            // What it has beyond its reservation, by its weight, does not count against it later.
            let pieces = self.siblings().saturating_mul(self.claim_span(timing).unwrap_or_default().0);
            let most = now + timing.claim_cycle + Ticks(pieces);
            self.reservation_clock.fetch_min(most.0, Ordering::Relaxed);
        }
        self.progress(start, ran, now)
    }

    /// `service` of one of the vCPUs as virtual time.
    #[inline]
    pub(super) fn vcpu_span(&self, service: Ticks) -> i64 {
        span(service.0.saturating_mul(self.siblings()), self.weight())
    }

    /// The service that takes one of the vCPUs so far in virtual time.
    #[inline]
    pub(super) fn vcpu_service(&self, span: i64) -> Ticks {
        Ticks(service(span, self.weight()) / self.siblings())
    }

    /// `service` of the VM as virtual time.
    #[inline]
    pub(super) fn span(&self, service: Ticks) -> i64 {
        span(service.0, self.weight())
    }

    /// The VM's virtual time where a vCPU of it wakes among others whose virtual time is `level`; `least` is that of the
    /// CPU of the pool that is most behind. What the VM has not used is gone but for a bonus; it is not far ahead.
    pub(super) fn virtual_near(&self, level: Virtual, least: Virtual, timing: &Timing) -> Virtual {
        let from = least.min(level).moved(-self.span(timing.bonus));
        self.virtual_time.bring_within(from, level.moved(self.vcpu_span(timing.carried)))
    }

    /// Until when the cap keeps the VM from running.
    #[inline]
    pub(super) fn throttled_until(&self, now: Ticks) -> Option<Ticks> {
        percent(&self.cap)?;
        let until = Ticks(self.cap_clock.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// How long one vCPU may run before the cap is looked at again.
    pub(super) fn cap_run(&self, timing: &Timing) -> Option<Ticks> {
        let cap = percent(&self.cap)?;
        let run = timing.cap_cycle.0.saturating_mul(cap) / PERCENT / self.siblings();
        Some(Ticks(run.clamp(timing.cap_shortest.0, timing.balance.0)))
    }

    /// How far the reservation's clock is behind when the claim is worth a run.
    fn claim_span(&self, timing: &Timing) -> Option<Ticks> {
        let reservation = percent(&self.reservation)?;
        Some(Ticks((timing.claim.0.saturating_mul(PERCENT) / reservation).min(timing.claim_cycle.0)))
    }

    /// From when on the VM goes before others because of its reservation, and its clock, by which those with a claim
    /// are ordered.
    #[inline]
    pub(super) fn claim(&self, timing: &Timing) -> Option<(Ticks, Ticks)> {
        let clock = Ticks(self.reservation_clock.load(Ordering::Relaxed));
        Some((clock + self.claim_span(timing)?, clock))
    }

    /// A vCPU starts to run on the claim: how long. Until [`Account::claimed`] the clock counts this as done, so that
    /// siblings don't claim the same.
    pub(super) fn start_claim(&self, timing: &Timing) -> Ticks {
        let Some(reservation) = percent(&self.reservation) else { return Ticks::default() };
        let span = self.claim_span(timing).unwrap_or_default().0;
        self.reservation_clock.fetch_add(span, Ordering::Relaxed);
        Ticks((span.saturating_mul(reservation) / PERCENT).max(1))
    }

    /// The run on a claim has ended, and what it took is charged.
    pub(super) fn claimed(&self, run: Ticks) {
        if let Some(reservation) = percent(&self.reservation) {
            self.reservation_clock.fetch_sub(run.0.saturating_mul(PERCENT) / reservation, Ordering::Relaxed);
        }
    }
}

/// A share in percent, `None` for 0.
#[inline]
fn percent(share: &AtomicU32) -> Option<u64> {
    match share.load(Ordering::Relaxed) {
        0 => None,
        percent => Some(u64::from(percent)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runnable_time_is_integrated() {
        let clock = RunnableClock::default();
        let start = clock.integral(Ticks(1 << 60));
        assert_eq!(clock.add(Ticks((1 << 60) + 10)), 0);
        assert_eq!(clock.add(Ticks((1 << 60) + 15)), 1);
        clock.remove(Ticks((1 << 60) + 20));
        assert_eq!(clock.count(), 1);
        assert_eq!(RunnableClock::between(start, clock.integral(Ticks((1 << 60) + 100))), 90 + 5);
    }
}
