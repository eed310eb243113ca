//! The watchdog's own timer: the HPET's first comparator, whose interrupts arrive as NMIs at the first CPU. It is in the PIT's
//! place, which the kernel needs for nothing. Whether such NMIs really come depends on wires that firmware only describes, so
//! others watch until the first one has come.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use log::info;
use spin::Once;

use super::{ONLY_PEERS, TARGET, distance_ns};
use crate::acpi::Acpi;
use crate::apic;
use crate::fault::{self, Fault};
use crate::hpet::Hpet;

const NANOS_PER_SECOND: u128 = 1_000_000_000;
/// The CPU that gets the NMIs.
const RECEIVER: usize = 0;

/// In a storm so many NMIs come instead of one, and all but that one are strays.
const STORM: u32 = 1000;

/// The timer, and how many of its ticks are between two NMIs.
static TIMER: Once<(Hpet, u32)> = Once::new();
/// Its counter at the last NMI.
static LAST: AtomicU32 = AtomicU32::new(0);
/// One has come.
static HEARD: AtomicBool = AtomicBool::new(false);

/// Has the calling CPU, the first one, get NMIs by which it watches itself and all others, where the machine has what it takes.
pub fn start(acpi: &Acpi) {
    let Some(nanos) = distance_ns() else {
        info!(target: TARGET, "off");
        return;
    };
    let by = if !ONLY_PEERS.load(Ordering::Relaxed) && arm(acpi, nanos) {
        "the HPET's non-maskable interrupts watch all CPUs"
    } else if crate::cpu::count() > 1 {
        "CPUs watch each other"
    } else {
        "none, as no HPET can watch the only CPU"
    };
    info!(target: TARGET, "{by}");
}

fn arm(acpi: &Acpi, nanos: u64) -> bool {
    let Some(hpet) = acpi.hpet.and_then(Hpet::new) else { return false };
    let Some(ticks) = ticks_of(nanos, hpet.hz()) else { return false };
    LAST.store(hpet.count(), Ordering::Relaxed);
    // An NMI that comes at once finds the timer here.
    let (hpet, ticks) = TIMER.call_once(|| (hpet, ticks));
    let distance = if fault::is(Fault::NmiStorm) { ticks / STORM } else { *ticks };
    apic::route_pit_as_nmi(acpi) && hpet.repeat(distance)
}

/// So many ticks, where the counter's lower half tells them from a whole round.
fn ticks_of(nanos: u64, hz: u64) -> Option<u32> {
    let ticks = u128::from(nanos) * u128::from(hz) / NANOS_PER_SECOND;
    u32::try_from(ticks).ok().filter(|ticks| (1..=u32::MAX / 2).contains(ticks))
}

/// Whether NMIs of the timer come.
#[inline]
pub(super) fn is_heard() -> bool {
    HEARD.load(Ordering::Relaxed)
}

/// Whether an NMI that this CPU has just got may be the timer's: it is about time for one.
pub(super) fn has_sent(cpu: usize) -> bool {
    let Some((hpet, ticks)) = TIMER.get().filter(|_| cpu == RECEIVER) else { return false };
    let now = hpet.count();
    let is = is_due(now.wrapping_sub(LAST.load(Ordering::Relaxed)), *ticks);
    if is {
        LAST.store(now, Ordering::Relaxed);
        HEARD.store(true, Ordering::Relaxed);
    }
    is
}

/// A late NMI brings the next one closer, so half a distance is enough.
const fn is_due(since: u32, ticks: u32) -> bool {
    since >= ticks / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_that_the_counter_cannot_tell_are_refused() {
        assert_eq!(ticks_of(1_000_000_000, 14_318_180), Some(14_318_180));
        assert_eq!(ticks_of(100_000_000, 100_000_000), Some(10_000_000));
        assert_eq!(ticks_of(30_000_000_000, 100_000_000), None);
        assert_eq!(ticks_of(0, 100_000_000), None);
        assert_eq!(ticks_of(u64::MAX, u64::MAX), None);
    }

    #[test]
    fn an_nmi_is_the_timers_when_it_is_about_time() {
        assert!(is_due(1000, 1000) && is_due(600, 1000));
        assert!(!is_due(3, 1000));
    }
}
