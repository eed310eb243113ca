//! How fast the TSC runs, measured against a timer of known rate. Every wait ends: by counted looks, and by what the TSC
//! shows.

use arrayvec::ArrayVec;

use super::counter::{Counter, Cpu};

/// Windows that are measured; their median counts.
const WINDOWS: usize = 3;
/// Windows until so many are of use: on a busy host an emulator may be interrupted for longer than a window, and often.
const ATTEMPTS: usize = 8;
/// Length of a window in 1/1000 s.
const WINDOW_MS: u64 = 3;
const MS_PER_SECOND: u64 = 1000;
/// Readings of a timer together with the TSC, of which the one that took least counts.
const READINGS: usize = 6;
/// Looks for a timer's next tick. The slowest ticks every 838 ns; a look takes 10 ns in the fastest emulator.
const TICK_LOOKS: u32 = 200;
/// Looks at a timer that shows the same all the time before it is taken for dead: 10 ms and more on a real machine.
const STILL_LOOKS: u32 = 20_000;
/// Looks in a window, whatever the timer shows.
const WINDOW_LOOKS: u32 = 2_000_000;
/// Rates that a TSC can have. Emulators may be slow.
pub(super) const PLAUSIBLE_HZ: core::ops::RangeInclusive<u64> = 1_000_000..=20_000_000_000;
/// TSC ticks after which a window is over, or the timer much too slow.
const MOST_TSC: u64 = *PLAUSIBLE_HZ.end() * WINDOW_MS / MS_PER_SECOND;

/// Why a timer is no reference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Defect {
    /// It shows the same all the time, as where there is none.
    StandsStill,
    /// It is so slow, or goes so unevenly, that the TSC would have an absurd rate.
    Absurd,
}

/// What a window, or the best of several, showed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Measurement {
    /// TSC ticks per second.
    pub tsc_hz: u64,
    /// Ticks of the TSC,
    pub tsc: u64,
    /// and in the same time those of the local APIC's timer.
    pub apic: u64,
}

/// All counters at one moment.
#[derive(Clone, Copy)]
struct Reading {
    reference: u32,
    tsc: u64,
    apic: u32,
    /// TSC ticks between the looks before and after: how uncertain it is.
    took: u64,
}

/// Measures TSC and local APIC timer against a timer of known rate.
pub(super) fn measure(cpu: &impl Cpu, counter: &dyn Counter) -> Result<Measurement, Defect> {
    counter.start();
    let measured = median(cpu, counter);
    counter.stop();
    measured
}

/// The middle one of several windows by rate: an interruption from below (SMM, an emulator's host) spoils
/// one.
fn median(cpu: &impl Cpu, counter: &dyn Counter) -> Result<Measurement, Defect> {
    let mut windows = ArrayVec::<_, WINDOWS>::new();
    for _ in 0..ATTEMPTS {
        match window(cpu, counter) {
            Ok(window) if PLAUSIBLE_HZ.contains(&window.tsc_hz) => windows.push(window),
            Ok(_) | Err(Defect::Absurd) => {}
            Err(Defect::StandsStill) => return Err(Defect::StandsStill),
        }
        if windows.is_full() {
            windows.sort_unstable_by_key(|window| window.tsc_hz);
            return windows.get(WINDOWS / 2).copied().ok_or(Defect::Absurd);
        }
    }
    Err(Defect::Absurd)
}

fn window(cpu: &impl Cpu, counter: &dyn Counter) -> Result<Measurement, Defect> {
    let counting = cpu.start_count();
    let start = reading(cpu, counter, counting);
    let wanted = counter.hz() * WINDOW_MS / MS_PER_SECOND;
    let passed = |now: u32| u64::from(now.wrapping_sub(start.reference) & counter.mask());
    let (mut last, mut still, mut late) = (start.reference, 0, false);
    let over = (0..WINDOW_LOOKS).find_map(|_| {
        let now = counter.read();
        still = if now == last { still + 1 } else { 0 };
        last = now;
        if passed(now) >= wanted {
            Some(Ok(()))
        } else if still >= STILL_LOOKS {
            Some(Err(Defect::StandsStill))
        } else if late {
            Some(Err(if now == start.reference { Defect::StandsStill } else { Defect::Absurd }))
        } else {
            // An interruption may have come between the two looks: the timer is looked at once more.
            late = cpu.tsc().wrapping_sub(start.tsc) > MOST_TSC;
            None
        }
    });
    over.unwrap_or(Err(Defect::Absurd))?;
    let end = reading(cpu, counter, counting);
    let tsc = end.tsc.saturating_sub(start.tsc);
    let reference = passed(end.reference).max(1);
    let tsc_hz = u128::from(tsc) * u128::from(counter.hz()) / u128::from(reference);
    Ok(Measurement {
        tsc_hz: u64::try_from(tsc_hz).unwrap_or(u64::MAX),
        tsc,
        apic: u64::from(end.apic.saturating_sub(start.apic)),
    })
}

/// The tightest of several readings: one that an interruption stretched does not count.
fn reading(cpu: &impl Cpu, counter: &dyn Counter, counting: bool) -> Reading {
    let first = at_tick(cpu, counter, counting);
    (1..READINGS).fold(first, |best, _| {
        let next = at_tick(cpu, counter, counting);
        if next.took < best.took { next } else { best }
    })
}

/// A reading just when the timer ticks: a tick of the slower ones is long.
fn at_tick(cpu: &impl Cpu, counter: &dyn Counter, counting: bool) -> Reading {
    let mut before = cpu.tsc();
    let first = counter.read();
    let (mut reference, mut after) = (first, before);
    for _ in 0..TICK_LOOKS {
        reference = counter.read();
        after = cpu.tsc();
        if reference != first {
            break;
        }
        before = after;
    }
    let took = after.saturating_sub(before);
    let apic = if counting { cpu.counted() } else { 0 };
    Reading { reference, tsc: before.wrapping_add(took / 2), apic, took }
}

/// Counts the local APIC timer's ticks while the TSC, whose rate is known, goes on for a window. `None` where the TSC stands
/// still.
pub(super) fn count_by_tsc(cpu: &impl Cpu, tsc_hz: u64) -> Option<Measurement> {
    let wanted = tsc_hz / (MS_PER_SECOND / WINDOW_MS);
    let counting = cpu.start_count();
    let start = cpu.tsc();
    (0..WINDOW_LOOKS).find(|_| cpu.tsc().wrapping_sub(start) >= wanted)?;
    let apic = if counting { cpu.counted() } else { 0 };
    Some(Measurement { tsc_hz, tsc: cpu.tsc().wrapping_sub(start), apic: u64::from(apic) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fake::{Timer, World};
    use super::*;

    const PM_TIMER_HZ: u64 = 3_579_545;
    const PIT_HZ: u64 = 1_193_182;

    proptest! {
        /// Within some looks' time of the truth, whatever the rates, however slow the looks.
        #[test]
        fn the_measured_rate_is_the_true_one(
            tsc_hz in 20_000_000_u64..6_000_000_000,
            look_ns in 15_u64..3000,
            timer in prop::sample::select(vec![(PM_TIMER_HZ, 24), (PM_TIMER_HZ, 32), (PIT_HZ, 16), (100_000_000, 32)]),
            apic_hz in 1_000_000_u64..1_000_000_000,
        ) {
            let world = World { apic_hz, ..World::new(tsc_hz, look_ns) };
            let measured = measure(&world, &world.timer("a timer", timer.0, timer.1)).unwrap();
            // Of 3 ms, two looks at each end, and a tick of the TSC.
            let tolerance = u128::from(tsc_hz) * u128::from(4 * look_ns) / 3_000_000 + 1000;
            prop_assert!(
                u128::from(measured.tsc_hz.abs_diff(tsc_hz)) <= tolerance,
                "{} for {tsc_hz}, tolerance {tolerance}", measured.tsc_hz
            );
            let apic = u128::from(measured.apic) * u128::from(tsc_hz) / u128::from(measured.tsc);
            prop_assert!(apic.abs_diff(u128::from(apic_hz)) <= u128::from(apic_hz) / 100 + 1000, "{apic} for {apic_hz}");
        }

        /// Something below interrupts once, for up to 200 ms, at any moment.
        #[test]
        fn an_interruption_does_not_count(
            at_us in 0_u64..12_000,
            length_us in 0_u64..200_000,
            timer in prop::sample::select(vec![(PM_TIMER_HZ, 24), (PIT_HZ, 16), (100_000_000, 32)]),
        ) {
            let world = World::new(2_000_000_000, 500);
            let at = world.now_ps() + u128::from(at_us) * 1_000_000;
            world.interruption.set(Some((at, u128::from(length_us) * 1_000_000)));
            let measured = measure(&world, &world.timer("a timer", timer.0, timer.1)).unwrap();
            prop_assert!(measured.tsc_hz.abs_diff(2_000_000_000) < 2_000_000, "{}", measured.tsc_hz);
        }

        /// An emulator on a busy host has the CPU for some milliseconds, then not for some more.
        #[test]
        fn a_busy_host_is_no_obstacle(on_us in 4_000_u64..30_000, off_us in 1_000_u64..100_000, first_us in 0_u64..30_000) {
            let mut world = World::new(2_600_000_000, 500);
            world.again_ps = u128::from(on_us) * 1_000_000;
            let first = world.now_ps() + u128::from(first_us % on_us) * 1_000_000;
            world.interruption.set(Some((first, u128::from(off_us) * 1_000_000)));
            let measured = measure(&world, &world.timer("the ACPI timer", PM_TIMER_HZ, 24)).unwrap();
            prop_assert!(measured.tsc_hz.abs_diff(2_600_000_000) < 2_600_000, "{}", measured.tsc_hz);
        }

        /// Nothing that a timer or the TSC does keeps us for long.
        #[test]
        fn every_wait_ends(tsc_hz in 0_u64..30_000_000_000, true_hz in 0_u64..10_000_000, look_ns in 1_u64..3000) {
            let world = World::new(tsc_hz, look_ns);
            let timer = Timer { true_hz, ..world.timer("a timer", PM_TIMER_HZ, 24) };
            let _ = measure(&world, &timer);
            prop_assert!(world.looks.get() <= ATTEMPTS as u64 * (2 * u64::from(WINDOW_LOOKS) + 10_000), "{}", world.looks.get());
        }
    }

    #[test]
    fn a_timer_that_stands_still_is_found_out_soon() {
        let world = World::new(3_000_000_000, 1000);
        let timer = Timer { true_hz: 0, ..world.timer("no timer", PM_TIMER_HZ, 24) };
        let before = world.now_ps();
        assert_eq!(measure(&world, &timer), Err(Defect::StandsStill));
        let took_ms = (world.now_ps() - before) / 1_000_000_000;
        assert!(took_ms < 100, "{took_ms} ms");
    }

    #[test]
    fn a_much_too_slow_timer_is_absurd_and_so_is_a_tsc_that_stands_still() {
        let world = World::new(3_000_000_000, 500);
        let slow = Timer { true_hz: 5_000, ..world.timer("a slow timer", PM_TIMER_HZ, 24) };
        assert_eq!(measure(&world, &slow), Err(Defect::Absurd));
        let world = World::new(0, 500);
        assert_eq!(measure(&world, &world.timer("a timer", PM_TIMER_HZ, 24)), Err(Defect::Absurd));
        assert_eq!(count_by_tsc(&world, 1_000_000_000), None);
    }

    #[test]
    fn the_apic_timer_is_counted_by_the_tsc_alone() {
        let world = World::new(1_000_000_000, 100);
        let counted = count_by_tsc(&world, 1_000_000_000).unwrap();
        assert!((299_000..302_000).contains(&counted.apic), "{counted:?}");
    }
}
