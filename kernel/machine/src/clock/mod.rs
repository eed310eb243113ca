//! The machine's time: by the TSC, whose rate is measured at boot, or by a slower timer where the TSC does not keep time;
//! and the wall clock.
//!
//! A TSC that is not invariant may change its rate or stop when the CPU saves power. Then time goes by the HPET or the ACPI
//! timer ([`steady`]): a reading costs about a microsecond instead of some nanoseconds. TSC values convert as before, by
//! the rate that was measured, but always from the present, so that an error does not grow.
//!
//! Source: Intel SDM vol. 3, "Time-Stamp Counter" and "Invariant TSC".

// UNSAFETY: reads the TSC.
#![allow(unsafe_code)]

mod calibrate;
mod counter;
#[cfg(test)]
mod fake;
mod judge;
mod kvm_clock;
mod reference;
mod rtc;
mod scale;
mod stated;
mod steady;
#[cfg(test)]
mod tests;

use core::arch::x86_64::_rdtsc;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use log::{Level, info, log, warn};
use raw_cpuid::CpuIdReaderNative;
use spin::Once;
use vcpu::Nanos;

use self::counter::{Counter, Cpu};
use self::judge::{MegaHertz, Verdict};
use self::reference::{Pit, PmTimer, Steady};
use self::scale::Scale;
use self::steady::SteadyClock;
use crate::acpi::Acpi;
use crate::apic::local;
use crate::bring_up;
use crate::cpu;
use crate::fault::lies;
use crate::hpet::Hpet;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The TSC when the kernel started, which is time zero.
static START: AtomicU64 = AtomicU64::new(0);
static CLOCK: Once<Clock> = Once::new();

/// Whether time goes by the TSC.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TscUse {
    /// Where the CPU says that it is invariant.
    #[default]
    IfInvariant,
    /// Always.
    Always,
    /// Never, where there is another timer: for tests.
    Never,
}

/// Why there is no clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockError {
    /// No timer of the machine works as a reference, and nobody states the TSC's rate.
    NoReference,
    /// The local APIC's timer stands still.
    NoTimer,
}

impl fmt::Display for ClockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoReference => f.write_str(
                "neither HPET nor ACPI timer nor PIT counts, so the time-stamp counter cannot be measured",
            ),
            Self::NoTimer => f.write_str("the local APIC's timer does not count"),
        }
    }
}

/// A running clock.
#[derive(Debug)]
pub(crate) struct Clock {
    start: u64,
    tsc_hz: u64,
    to_nanos: Scale,
    to_tsc: Scale,
    /// Unix time of time zero, in seconds. Whoever knows it better may correct it.
    wall_start_s: AtomicU64,
    /// What time goes by instead of the TSC.
    steady: Option<SteadyClock<Steady>>,
}

impl Clock {
    const fn new(start: u64, tsc_hz: u64) -> Self {
        Self {
            start,
            tsc_hz,
            to_nanos: Scale::new(tsc_hz, NANOS_PER_SECOND),
            to_tsc: Scale::new(NANOS_PER_SECOND, tsc_hz),
            wall_start_s: AtomicU64::new(0),
            steady: None,
        }
    }

    /// TSC ticks per second, once measured.
    pub(crate) const fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// True where time goes by the TSC.
    pub(crate) const fn goes_by_tsc(&self) -> bool {
        self.steady.is_none()
    }

    /// The time now.
    #[inline(always)]
    pub(crate) fn now(&self) -> Nanos {
        self.now_at(tsc())
    }

    /// The time now, which is when the TSC is `present`.
    #[inline(always)]
    fn now_at(&self, present: u64) -> Nanos {
        match &self.steady {
            None => Nanos(self.to_nanos.floor(present.saturating_sub(self.start))),
            Some(steady) => steady.now(present),
        }
    }

    /// Time at a TSC value; zero before the start.
    #[inline]
    pub(crate) fn time_of(&self, at: u64) -> Nanos {
        if self.steady.is_none() {
            return self.now_at(at);
        }
        let present = tsc();
        let now = self.now_at(present);
        if at < present {
            now - Nanos(self.to_nanos.floor(present - at))
        } else {
            now + Nanos(self.to_nanos.floor(at - present))
        }
    }

    /// A TSC value at which the time has come.
    #[inline]
    pub(crate) fn tsc_of(&self, time: Nanos) -> u64 {
        if self.steady.is_none() {
            return self.to_tsc.ceiling(time.0).saturating_add(self.start);
        }
        let present = tsc();
        let now = self.now_at(present);
        if time < now {
            present.saturating_sub(self.to_tsc.floor((now - time).0))
        } else {
            present.saturating_add(self.to_tsc.ceiling((time - now).0))
        }
    }

    /// Unix time in seconds.
    pub(crate) fn wall_clock_s(&self, now: Nanos) -> u64 {
        self.wall_start_s.load(Ordering::Relaxed).saturating_add(now.0 / NANOS_PER_SECOND)
    }

    /// It is so many seconds since 1970 now.
    pub(crate) fn set_wall_clock_s(&self, seconds: u64, now: Nanos) {
        self.wall_start_s.store(seconds.saturating_sub(now.0 / NANOS_PER_SECOND), Ordering::Relaxed);
    }
}

/// The time-stamp counter.
#[inline]
pub(crate) fn tsc() -> u64 {
    // SAFETY: reading the TSC has no effect.
    unsafe { _rdtsc() }
}

/// Takes a value of the TSC, when the boot loader jumped to the kernel, as time zero. The first call counts.
pub(crate) fn mark_start(entered: u64) {
    let _ = START.compare_exchange(0, entered, Ordering::Relaxed, Ordering::Relaxed);
}

/// Ticks of the TSC since then.
pub(crate) fn ticks() -> u64 {
    tsc().saturating_sub(START.load(Ordering::Relaxed))
}

/// This CPU's own counters.
struct ThisCpu;

impl Cpu for ThisCpu {
    fn tsc(&self) -> u64 {
        tsc()
    }

    fn start_count(&self) -> bool {
        local::start_count()
    }

    fn counted(&self) -> u32 {
        local::counted()
    }
}

/// Measures the TSC's rate and the local APIC timer's, for at most about 50 ms, and reads the wall clock.
/// The interrupt controllers must be up.
pub fn start(acpi: &Acpi, tsc_use: TscUse) -> Result<(), ClockError> {
    let hpet = acpi.hpet.and_then(Hpet::new);
    let pm_timer = acpi.fadt.pm_timer.map(PmTimer);
    let pit = Pit::default();
    let begun = tsc();
    let verdict = measure(hpet.as_ref(), pm_timer.as_ref(), &pit)?;
    bring_up::calibrated(tsc().wrapping_sub(begun));
    report(&verdict);
    let steady = match verdict.by {
        reference::HPET => hpet.map(Steady::Hpet),
        reference::PM_TIMER => pm_timer.map(Steady::PmTimer),
        _ => None,
    };
    let mut clock = Clock::new(START.load(Ordering::Relaxed), verdict.tsc_hz);
    let present = tsc();
    let now = clock.now_at(present);
    let wall = rtc::read(acpi.fadt.century);
    clock.set_wall_clock_s(wall.unwrap_or(0), now);
    if wall.is_none() {
        warn!("the real-time clock shows no valid time; guests start in 1970");
    }
    clock.steady = choose(tsc_use, cpu::features().invariant_tsc, steady)
        .map(|timer| SteadyClock::new(timer, clock.now_at(tsc()), tsc(), verdict.tsc_hz));
    CLOCK.call_once(|| clock);
    Ok(())
}

fn measure(hpet: Option<&Hpet>, pm_timer: Option<&PmTimer>, pit: &Pit) -> Result<Verdict, ClockError> {
    let mut counters = ArrayVec::<&dyn Counter, { judge::COUNTERS }>::new();
    counters.extend(hpet.map(|hpet| hpet as &dyn Counter));
    counters.extend(pm_timer.map(|timer| timer as &dyn Counter));
    counters.push(pit);
    let statement = stated::best(CpuIdReaderNative).filter(|_| lies::counting() != 0);
    let verdict = judge::judge(&ThisCpu, &counters, statement).ok_or(ClockError::NoReference)?;
    let measured = verdict.measurement;
    if local::needs_calibration() && measured.apic == 0 {
        return Err(ClockError::NoTimer);
    }
    local::calibrated(measured.apic, measured.tsc);
    Ok(verdict)
}

fn report(verdict: &Verdict) {
    for remark in &verdict.remarks {
        log!(if remark.is_warning() { Level::Warn } else { Level::Info }, "{remark}");
    }
    let rate = MegaHertz(verdict.tsc_hz);
    match verdict.confirmed_by {
        Some(other) => info!("TSC at {rate} by {}, confirmed by {other}", verdict.by),
        None => info!("TSC at {rate} by {} alone", verdict.by),
    }
}

/// The timer that time goes by, `None` for the TSC; says so where that is not as everybody expects.
fn choose<T: Counter>(tsc_use: TscUse, invariant: bool, steady: Option<T>) -> Option<T> {
    const MEANING: &str = "it may change its rate or stop when the CPU saves power";
    match (tsc_use, invariant, &steady) {
        (TscUse::IfInvariant | TscUse::Always, true, _) => return None,
        (TscUse::Always, false, _) => {
            info!("the TSC is not invariant: {MEANING}; time goes by it nevertheless, because of tsc=trust");
            return None;
        }
        (TscUse::IfInvariant, false, Some(timer)) => warn!(
            "the TSC is not invariant: {MEANING}; time goes by {}, which is right and slower (tsc=trust: by the TSC)",
            timer.name()
        ),
        (TscUse::Never, _, Some(timer)) => info!("time goes by {}, because of tsc=distrust", timer.name()),
        (_, _, None) => {
            warn!(
                "the TSC is not to be trusted: {MEANING}; but no other timer can keep time, guests' time may drift"
            );
        }
    }
    steady
}

/// The clock, once it runs.
pub(crate) fn clock() -> Option<&'static Clock> {
    CLOCK.get()
}

/// Time since the kernel's start; zero until the clock runs.
pub fn uptime() -> Nanos {
    clock().map_or(Nanos::ZERO, Clock::now)
}

/// Time since the kernel's start; while the clock does not run, `Err` with the TSC's ticks since then.
pub(crate) fn uptime_or_ticks() -> Result<Nanos, u64> {
    clock().map(Clock::now).ok_or_else(ticks)
}
