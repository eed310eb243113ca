use super::counter::Counter;
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
    let clock = Clock::new(0, 1_000_000_000);
    clock.set_wall_clock_s(1_700_000_000, Nanos::ZERO);
    assert_eq!(clock.wall_clock_s(Nanos::from_millis(2_500)), 1_700_000_002);
    clock.set_wall_clock_s(1_700_000_100, Nanos::from_millis(3_000));
    assert_eq!(clock.wall_clock_s(Nanos::from_millis(4_500)), 1_700_000_101);
}

struct Timer;

impl Counter for Timer {
    fn name(&self) -> &'static str {
        "a timer"
    }

    fn hz(&self) -> u64 {
        1_000_000
    }

    fn mask(&self) -> u32 {
        u32::MAX
    }

    fn start(&self) {}

    fn read(&self) -> u32 {
        0
    }
}

#[test]
fn time_goes_by_another_timer_only_where_the_tsc_is_not_trusted() {
    let by_timer = |tsc_use, invariant| choose(tsc_use, invariant, Some(Timer)).is_some();
    assert!(!by_timer(TscUse::IfInvariant, true));
    assert!(by_timer(TscUse::IfInvariant, false));
    assert!(!by_timer(TscUse::Always, false));
    assert!(by_timer(TscUse::Never, true));
    assert!(choose(TscUse::IfInvariant, false, None::<Timer>).is_none());
}
