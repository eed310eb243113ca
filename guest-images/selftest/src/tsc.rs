//! Time by the time-stamp counter, calibrated once against the ACPI PM timer or the PIT.

use crate::cpu::{self, inb, inl, outb, rdtsc};
use crate::{Global, acpi, pit};

/// Ticks a second of the PM timer (ACPI specification, "Power Management Timer").
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// The PM timer's bits that every machine has.
pub const PM_TIMER_MASK: u32 = 0xff_ffff;
/// How long the calibration takes.
const CALIBRATION_US: u64 = 10_000;

static FREQUENCY: Global<u64> = Global::new(0);

/// Ticks a second.
pub fn frequency() -> u64 {
    if FREQUENCY.get() == 0 {
        let by_pm_timer =
            acpi::fadt().filter(|fadt| fadt.pm_timer != 0).map(|fadt| against_pm_timer(fadt.pm_timer));
        FREQUENCY.set(by_pm_timer.filter(|&hz| hz != 0).unwrap_or_else(against_pit).max(1));
    }
    FREQUENCY.get()
}

/// The PM timer's value with the TSC's at that moment: the closest of some reads, since somebody else may have the
/// processor between a read and the next instruction.
fn read_both(port: u16) -> (u32, u64) {
    const READS: u32 = 4;
    let read = |_| {
        let before = rdtsc();
        let value = inl(port);
        let after = rdtsc();
        (after - before, value, before)
    };
    let closest = (0..READS).map(read).min_by_key(|&(took, ..)| took).unwrap_or_default();
    (closest.1, closest.2 + closest.0 / 2)
}

/// 0 when that timer does not run.
fn against_pm_timer(port: u16) -> u64 {
    const POLLS: u32 = 10_000_000;
    let wanted = (PM_TIMER_HZ * CALIBRATION_US / 1_000_000) as u32;
    let (first, start) = read_both(port);
    let since = |value: u32| value.wrapping_sub(first) & PM_TIMER_MASK;
    for _ in 0..POLLS {
        let ticks = since(inl(port));
        if ticks >= wanted {
            let (last, end) = read_both(port);
            return (end - start) * PM_TIMER_HZ / u64::from(since(last));
        }
        if ticks == 0 && rdtsc() - start > 20_000_000_000 {
            break;
        }
    }
    0
}

fn against_pit() -> u64 {
    const OUTPUT: u8 = 0x20;
    let ticks = (pit::HZ * CALIBRATION_US / 1_000_000) as u16;
    outb(pit::PORT_B, inb(pit::PORT_B) & !3 | 1);
    pit::program(2, 0, ticks);
    let start = rdtsc();
    while inb(pit::PORT_B) & OUTPUT == 0 {}
    (rdtsc() - start) * pit::HZ / u64::from(ticks)
}

/// Ticks in that many microseconds.
pub fn us(microseconds: u64) -> u64 {
    frequency() / 1000 * microseconds / 1000
}

/// Waits without HLT.
pub fn delay_us(microseconds: u64) {
    let (start, ticks) = (rdtsc(), us(microseconds));
    while rdtsc().wrapping_sub(start) < ticks {
        cpu::pause();
    }
}

/// Waits until the condition holds, at most that long. Says whether it held.
pub fn wait_us(microseconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let (start, ticks) = (rdtsc(), us(microseconds));
    loop {
        if condition() {
            return true;
        }
        if rdtsc().wrapping_sub(start) >= ticks {
            return condition();
        }
        cpu::pause();
    }
}
