//! The machine's time: the TSC, its rate measured at boot, and the wall clock.

// UNSAFETY: reads the TSC.
#![allow(unsafe_code)]

mod calibrate;
mod rtc;
mod scale;

use core::arch::x86_64::_rdtsc;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use log::{info, warn};
use spin::Once;
use vcpu::Nanos;

use self::scale::Scale;
use crate::acpi::Acpi;
use crate::cpu;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The TSC when the kernel started, which is time zero.
static START: AtomicU64 = AtomicU64::new(0);
static CLOCK: Once<Clock> = Once::new();

/// No timer of the machine works as a reference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoReference;

impl fmt::Display for NoReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither the ACPI timer nor the PIT counts, so the time-stamp counter cannot be measured")
    }
}

/// A running clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Clock {
    start: u64,
    tsc_hz: u64,
    to_nanos: Scale,
    to_tsc: Scale,
    /// Unix time of time zero, in seconds.
    wall_start_s: u64,
}

impl Clock {
    const fn new(start: u64, tsc_hz: u64) -> Self {
        Self {
            start,
            tsc_hz,
            to_nanos: Scale::new(tsc_hz, NANOS_PER_SECOND),
            to_tsc: Scale::new(NANOS_PER_SECOND, tsc_hz),
            wall_start_s: 0,
        }
    }

    /// TSC ticks per second.
    pub(crate) const fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// Time at a TSC value; zero before the start.
    #[inline]
    pub(crate) const fn time_of(&self, tsc: u64) -> Nanos {
        Nanos(self.to_nanos.floor(tsc.saturating_sub(self.start)))
    }

    /// A TSC value at which the time has come.
    #[inline]
    pub(crate) const fn tsc_of(&self, time: Nanos) -> u64 {
        self.to_tsc.ceiling(time.0).saturating_add(self.start)
    }

    /// Unix time in seconds.
    pub(crate) const fn wall_clock_s(&self, now: Nanos) -> u64 {
        self.wall_start_s + now.0 / NANOS_PER_SECOND
    }
}

/// The time-stamp counter.
#[inline]
pub(crate) fn tsc() -> u64 {
    // SAFETY: reading the TSC has no effect.
    unsafe { _rdtsc() }
}

/// Takes the TSC's value as time zero. The first call counts.
pub(crate) fn mark_start() {
    let _ = START.compare_exchange(0, tsc(), Ordering::Relaxed, Ordering::Relaxed);
}

/// Measures the TSC's rate and the local APIC timer's, for at most about 20 ms, and reads the wall clock.
/// The interrupt controllers must be up.
pub fn start(acpi: &Acpi) -> Result<(), NoReference> {
    let measured = calibrate::measure(acpi.fadt.pm_timer).ok_or(NoReference)?;
    let mut clock = Clock::new(START.load(Ordering::Relaxed), measured.tsc_hz);
    let wall = rtc::read(acpi.fadt.century);
    let since_start_s = clock.time_of(tsc()).0 / NANOS_PER_SECOND;
    clock.wall_start_s = wall.unwrap_or(0).saturating_sub(since_start_s);
    CLOCK.call_once(|| clock);
    info!(
        "TSC at {}.{:03} MHz by {}",
        measured.tsc_hz / 1_000_000,
        measured.tsc_hz / 1000 % 1000,
        measured.against
    );
    if wall.is_none() {
        warn!("the real-time clock shows no valid time; guests start in 1970");
    }
    let features = cpu::features();
    if !features.invariant_tsc && !features.hypervisor {
        warn!("the TSC may change its rate when the CPU saves power; guests' time may drift");
    }
    Ok(())
}

/// The clock, once it runs.
pub(crate) fn clock() -> Option<&'static Clock> {
    CLOCK.get()
}

/// Time since the kernel's start; zero until the clock runs.
pub fn uptime() -> Nanos {
    clock().map_or(Nanos::ZERO, |clock| clock.time_of(tsc()))
}

/// Time since the kernel's start; while the clock does not run, `Err` with the TSC's ticks since then.
pub(crate) fn uptime_or_ticks() -> Result<Nanos, u64> {
    let ticks = tsc().saturating_sub(START.load(Ordering::Relaxed));
    clock().map(|clock| clock.time_of(tsc())).ok_or(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_starts_at_the_start_and_never_is_early() {
        let clock = Clock::new(5_000, 200_000_000);
        assert_eq!(clock.time_of(4_000), Nanos::ZERO);
        assert_eq!(clock.time_of(5_000 + 200_000_000), Nanos::from_secs(1));
        for ns in [0, 1, 4, 5, 999, 1_000_000_007] {
            assert!(clock.time_of(clock.tsc_of(Nanos(ns))) >= Nanos(ns));
        }
        assert_eq!(clock.tsc_of(Nanos::NEVER), clock.to_tsc.ceiling(u64::MAX) + 5_000);
    }

    #[test]
    fn the_wall_clock_goes_on_from_its_reading() {
        let clock = Clock { wall_start_s: 1_700_000_000, ..Clock::new(0, 1_000_000_000) };
        assert_eq!(clock.wall_clock_s(Nanos::from_millis(2_500)), 1_700_000_002);
    }
}
