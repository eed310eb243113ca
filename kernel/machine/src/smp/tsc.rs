//! Whether a started CPU's TSC shows what the boot CPU's shows. The two exchange values through memory: the started
//! CPU reads its own counter before and after it gets the boot CPU's, which is from a moment in between. Of many
//! exchanges the fastest says most.
//!
//! Source: Intel SDM vol. 3, "Time-Stamp Counter Adjustment".

// UNSAFETY: reads the TSC and reads and writes IA32_TSC_ADJUST.
#![allow(unsafe_code)]

use core::arch::x86_64::{_mm_lfence, _rdtsc};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use log::{debug, warn};

use super::{LeftOut, wait};
use crate::clock;
use crate::registers;

/// Exchanges of a comparison; fewer where they take longer than this part of a second all in all, as between the threads
/// of an emulator.
const ROUNDS: u32 = 64;
const LEAST_ROUNDS: u32 = 8;
const ROUNDS_PARTS: u64 = 500;
/// Ends the exchange.
const DONE: u32 = u32::MAX;
/// Looks for an answer, which is given up after a second by the TSC: a bound for where that stands still.
const LOOKS: u64 = 1 << 34;
/// Counters that differ by more than this part of a second would let guests see time go backwards: 1 µs.
const BOUND_PARTS: u64 = 1_000_000;

const IA32_TSC_ADJUST: u32 = 0x3b;
/// CPUID leaf 7 EBX: IA32_TSC_ADJUST.
const CPUID_TSC_ADJUST: u32 = 1 << 1;

/// The exchange that the started CPU waits for, the one that is answered, and the answer.
static ASKED: AtomicU32 = AtomicU32::new(0);
static ANSWERED: AtomicU32 = AtomicU32::new(0);
static ANSWER: AtomicU64 = AtomicU64::new(0);

/// The boot CPU's IA32_TSC_ADJUST.
static BOOT_ADJUST: AtomicU64 = AtomicU64::new(0);
static ADJUSTS_DIFFER: AtomicBool = AtomicBool::new(false);
/// The largest difference that is certain, in ticks.
static LARGEST: AtomicU64 = AtomicU64::new(0);

/// By how many ticks the TSCs of the CPUs that run are known to differ.
pub fn largest_difference() -> u64 {
    LARGEST.load(Ordering::Relaxed)
}

fn tsc() -> u64 {
    // SAFETY: reading the TSC, when all reads before are done, has no effect.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// One exchange, or the best of several: how far the other CPU's counter is ahead of this one's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sample {
    /// Ticks, give or take [`Self::uncertainty`].
    ahead: i64,
    uncertainty: u64,
}

impl Sample {
    /// From this CPU's values around the other's.
    const fn new(before: u64, other: u64, after: u64) -> Self {
        let took = after.wrapping_sub(before);
        let middle = before.wrapping_add(took / 2);
        Self { ahead: other.wrapping_sub(middle) as i64, uncertainty: took / 2 + 1 }
    }

    const fn better(self, other: Self) -> Self {
        if other.uncertainty < self.uncertainty { other } else { self }
    }

    /// What the counters differ by at least.
    const fn certain(self) -> u64 {
        self.ahead.unsigned_abs().saturating_sub(self.uncertainty)
    }
}

/// Forgets the last exchange. On the boot CPU.
pub(super) fn expect() {
    ASKED.store(0, Ordering::SeqCst);
    ANSWERED.store(0, Ordering::SeqCst);
    BOOT_ADJUST.store(adjust().unwrap_or(0), Ordering::SeqCst);
}

/// Answers until the started CPU has enough, or has not asked for `ns`. On the boot CPU.
pub(super) fn answer(ns: u64) {
    loop {
        let last = ANSWERED.load(Ordering::SeqCst);
        if !wait(ns, || ASKED.load(Ordering::SeqCst) != last) {
            return;
        }
        let asked = ASKED.load(Ordering::SeqCst);
        if asked == DONE {
            return;
        }
        ANSWER.store(tsc(), Ordering::SeqCst);
        ANSWERED.store(asked, Ordering::SeqCst);
    }
}

/// Compares this CPU's TSC with the boot CPU's, and sets it right where the two were only started differently. On the
/// started CPU.
pub(super) fn compare() -> Result<(), LeftOut> {
    let hz = clock::clock().map_or(0, clock::Clock::tsc_hz);
    let bound = hz / BOUND_PARTS;
    let mut number = 0;
    let mut best = exchange(&mut number, hz)?;
    let own = adjust();
    let wanted = BOOT_ADJUST.load(Ordering::SeqCst);
    if own.is_some_and(|own| own != wanted) {
        debug!("IA32_TSC_ADJUST is {:#x} here and {wanted:#x} on the boot CPU", own.unwrap_or(0));
        if best.certain() > bound {
            if !ADJUSTS_DIFFER.swap(true, Ordering::Relaxed) {
                warn!("firmware has set the CPUs' TSCs apart; they are set right");
            }
            // SAFETY: CPUID says that the MSR is there (`adjust` has read it); nothing on this CPU has used the TSC yet
            // but for waiting.
            unsafe { registers::write_msr(IA32_TSC_ADJUST, wanted) };
            best = exchange(&mut number, hz)?;
        }
    }
    ASKED.store(DONE, Ordering::SeqCst);
    debug!("the boot CPU's TSC is {} ticks ahead, give or take {}", best.ahead, best.uncertainty);
    match best.certain() {
        ticks if ticks > bound => Err(LeftOut::TscDiffers { ticks }),
        ticks => {
            LARGEST.fetch_max(ticks, Ordering::Relaxed);
            Ok(())
        }
    }
}

fn exchange(number: &mut u32, hz: u64) -> Result<Sample, LeftOut> {
    let start = tsc();
    let mut best = round(number, hz)?;
    for done in 1..ROUNDS {
        if done >= LEAST_ROUNDS && tsc().wrapping_sub(start) > hz / ROUNDS_PARTS {
            break;
        }
        best = best.better(round(number, hz)?);
    }
    Ok(best)
}

fn round(number: &mut u32, hz: u64) -> Result<Sample, LeftOut> {
    *number += 1;
    let before = tsc();
    ASKED.store(*number, Ordering::SeqCst);
    for _ in 0..LOOKS {
        if ANSWERED.load(Ordering::SeqCst) == *number {
            let after = tsc();
            return Ok(Sample::new(before, ANSWER.load(Ordering::SeqCst), after));
        }
        if tsc().wrapping_sub(before) > hz {
            break;
        }
    }
    ASKED.store(DONE, Ordering::SeqCst);
    Err(LeftOut::Lost)
}

/// IA32_TSC_ADJUST, where the CPU has it.
fn adjust() -> Option<u64> {
    let has = registers::cpuid(0, 0).eax >= 7 && registers::cpuid(7, 0).ebx & CPUID_TSC_ADJUST != 0;
    // SAFETY: CPUID says that the MSR is there; reading it has no effect.
    has.then(|| unsafe { registers::read_msr(IA32_TSC_ADJUST) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_that_is_right_may_be_anywhere_in_the_exchange() {
        for other in [100, 150, 200] {
            assert_eq!(Sample::new(100, other, 200).certain(), 0);
        }
        assert_eq!(Sample::new(100, 251, 200).certain(), 50);
        assert_eq!(Sample::new(1000, 100, 1010).certain(), 899);
    }

    #[test]
    fn the_fastest_exchange_counts() {
        let slow = Sample::new(0, 5000, 10_000);
        let fast = Sample::new(20_000, 20_030, 20_040);
        assert_eq!(slow.better(fast), fast);
        assert_eq!(fast.better(slow), fast);
    }

    proptest! {
        /// Whatever the delays: a difference that is called certain is none that is not there.
        #[test]
        fn what_is_certain_is_so(
            offset in -1_000_000_i64..1_000_000,
            start: u64,
            rounds in proptest::collection::vec((0..10_000_u64, 0..10_000_u64), 1..20),
        ) {
            let mut now = start;
            let mut best: Option<Sample> = None;
            for (there, back) in rounds {
                let other = now.wrapping_add(there).wrapping_add_signed(offset);
                let sample = Sample::new(now, other, now.wrapping_add(there + back));
                best = Some(best.map_or(sample, |best| best.better(sample)));
                now = now.wrapping_add(there + back);
            }
            let best = best.unwrap();
            prop_assert!(best.certain() <= offset.unsigned_abs());
            prop_assert!(best.ahead.abs_diff(offset) <= best.uncertainty);
        }
    }
}
