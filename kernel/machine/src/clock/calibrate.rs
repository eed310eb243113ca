//! How fast the TSC runs, measured against a timer of known rate.
//!
//! Source: ACPI Specification, "Power Management Timer"; Intel 8254 data sheet; Intel SDM vol. 2, "CPUID",
//! leaf 15H.

// UNSAFETY: reads and programs timers through I/O ports and reads the TSC.
#![allow(unsafe_code)]

use core::arch::x86_64::_rdtsc;

use raw_cpuid::CpuId;
use x86_64::instructions::port::Port;

use crate::acpi::PmTimer;
use crate::apic::local;
use crate::fault::lies;

const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;
/// Windows that are measured; their median counts.
const WINDOWS: usize = 3;
/// Length of a window in 1/1000 s.
const WINDOW_MS: u64 = 3;
/// Readings of a timer together with the TSC, of which the one that took least counts.
const READINGS: usize = 6;
/// Looks at a timer before it is taken for dead: a look takes about 1 µs or more, a window 3 ms.
const PATIENCE: u32 = 2_000_000;
/// Rates that a TSC can have. Emulators may be slow.
const PLAUSIBLE_HZ: core::ops::RangeInclusive<u64> = 1_000_000..=20_000_000_000;
/// What the CPU says of its rate is believed within a thousandth of the measurement.
const BELIEF: u64 = 1000;

const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
/// Channel 2, both bytes, mode 0 (output goes up at the end), binary.
const PIT_CHANNEL_2_MODE_0: u8 = 0b1011_0000;
const PORT_B: u16 = 0x61;
/// Port B: lets channel 2 count.
const GATE: u8 = 1 << 0;
/// Port B: channel 2 drives the speaker.
const SPEAKER: u8 = 1 << 1;
/// Port B: channel 2's output.
const OUTPUT: u8 = 1 << 5;

/// What was measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Measurement {
    /// TSC ticks per second.
    pub tsc_hz: u64,
    /// The timer it was measured against.
    pub against: &'static str,
}

/// One window: ticks of TSC and local APIC timer, and of the reference.
#[derive(Clone, Copy, Default)]
struct Window {
    tsc: u64,
    apic: u64,
    reference: u64,
}

/// Measures TSC and local APIC timer. `None` where no reference timer works.
pub(super) fn measure(pm_timer: Option<PmTimer>) -> Option<Measurement> {
    let by_pm_timer =
        || Some((median(|| pm_timer_window(pm_timer?), PM_TIMER_HZ)?, "the ACPI timer", PM_TIMER_HZ));
    let by_pit = || Some((median(pit_window, PIT_HZ)?, "the PIT", PIT_HZ));
    let (window, against, reference_hz) = by_pm_timer().or_else(by_pit)?;
    local::calibrated(window.apic, window.tsc);
    let measured = rate(window, reference_hz);
    Some(Measurement { tsc_hz: exact(measured, stated_by_cpu()), against })
}

/// The stated rate where it agrees with the measured one, which is less exact.
const fn exact(measured: u64, stated: Option<u64>) -> u64 {
    match stated {
        Some(stated) if measured.abs_diff(stated) < measured / BELIEF => stated,
        _ => measured,
    }
}

fn stated_by_cpu() -> Option<u64> {
    CpuId::new().get_tsc_info()?.tsc_frequency()
}

fn rate(window: Window, reference_hz: u64) -> u64 {
    let hz = u128::from(window.tsc) * u128::from(reference_hz) / u128::from(window.reference.max(1));
    u64::try_from(hz).unwrap_or(u64::MAX)
}

/// The middle one of several windows by rate: an interruption from below (SMM, an emulator's host) spoils
/// one. `None` where the timer stands still or the rate is absurd.
fn median(mut window: impl FnMut() -> Option<Window>, reference_hz: u64) -> Option<Window> {
    let mut windows = [Window::default(); WINDOWS];
    for slot in &mut windows {
        *slot = window()?;
    }
    windows.sort_unstable_by_key(|window| rate(*window, reference_hz));
    let middle = windows[WINDOWS / 2];
    PLAUSIBLE_HZ.contains(&rate(middle, reference_hz)).then_some(middle)
}

fn tsc() -> u64 {
    // SAFETY: reading the TSC has no effect.
    unsafe { _rdtsc() }
}

/// A reading of all counters at one moment.
#[derive(Clone, Copy)]
struct Reading {
    reference: u32,
    tsc: u64,
    apic: u32,
    /// TSC ticks that the reading took: how uncertain it is.
    took: u64,
}

/// The tightest of several readings: one that an interruption stretched does not count.
fn reading(counting: bool, reference: impl Fn() -> u32) -> Reading {
    let read = |_| {
        let before = tsc();
        let reference = reference();
        let after = tsc();
        let apic = if counting { local::counted() } else { 0 };
        let took = tsc().saturating_sub(before);
        Reading { reference, tsc: before + (after - before) / 2, apic, took }
    };
    let first = read(0);
    (1..READINGS).map(read).fold(first, |best, next| if next.took < best.took { next } else { best })
}

fn pm_timer_window(timer: PmTimer) -> Option<Window> {
    let mask = if timer.bits >= 32 { u32::MAX } else { (1 << timer.bits) - 1 };
    // SAFETY: firmware says that the timer is at this port; reading it has no effect.
    let read = || unsafe { Port::<u32>::new(timer.port).read() } & mask & lies::counting();
    let counting = local::start_count();
    let start = reading(counting, read);
    let wanted = (PM_TIMER_HZ * WINDOW_MS / 1000) as u32;
    let passed = |now: u32| now.wrapping_sub(start.reference) & mask;
    (0..PATIENCE).find(|_| passed(read()) >= wanted)?;
    let end = reading(counting, read);
    Some(Window {
        tsc: end.tsc.saturating_sub(start.tsc),
        apic: u64::from(end.apic.saturating_sub(start.apic)),
        reference: u64::from(passed(end.reference)),
    })
}

fn pit_window() -> Option<Window> {
    let ticks = (PIT_HZ * WINDOW_MS / 1000) as u16;
    let [low, high] = ticks.to_le_bytes();
    // SAFETY: the PIT and port B belong to the kernel; channel 2 drives nothing but the speaker, which is
    // off.
    unsafe {
        let mut port_b = Port::<u8>::new(PORT_B);
        let before = port_b.read();
        port_b.write(before & !SPEAKER | GATE);
        Port::<u8>::new(PIT_COMMAND).write(PIT_CHANNEL_2_MODE_0);
        Port::<u8>::new(PIT_CHANNEL_2).write(low);
        // The count starts with its upper byte.
        Port::<u8>::new(PIT_CHANNEL_2).write(high);
        let (tsc_start, counting) = (tsc(), local::start_count());
        let ended = (0..PATIENCE).find(|_| port_b.read() & OUTPUT & lies::counting() as u8 != 0);
        let tsc = tsc() - tsc_start;
        let apic = if counting { u64::from(local::counted()) } else { 0 };
        port_b.write(before);
        ended.map(|_| Window { tsc, apic, reference: u64::from(ticks) + 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stated_rate_counts_only_where_it_was_measured_too() {
        assert_eq!(exact(2_999_500_000, Some(3_000_000_000)), 3_000_000_000);
        assert_eq!(exact(200_010_000, Some(3_500_000_000)), 200_010_000);
        assert_eq!(exact(200_010_000, None), 200_010_000);
    }

    #[test]
    fn one_spoilt_window_does_not_count() {
        let mut windows = [9_000_000, 600_100, 600_000].into_iter();
        let median = median(
            || windows.next().map(|tsc| Window { tsc, apic: 0, reference: PM_TIMER_HZ * 3 / 1000 }),
            PM_TIMER_HZ,
        );
        assert_eq!(median.unwrap().tsc, 600_100);
    }

    #[test]
    fn a_timer_that_stands_still_is_no_reference() {
        assert!(median(|| None, PIT_HZ).is_none());
        assert!(median(|| Some(Window { tsc: 10, apic: 0, reference: 10_000 }), PIT_HZ).is_none());
    }
}
