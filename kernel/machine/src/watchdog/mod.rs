//! The kernel's watchdog: a CPU that no longer looks for work is stuck, and says where, instead of standing silent.
//!
//! Every CPU beats when it looks. The first CPU watches the others, the second one the first, a few times a second, and counts
//! looks at a CPU rather than time, so that a machine that stood still as a whole accuses nobody. A CPU without a beat for
//! [`STRIKES`] looks gets an NMI, which comes through wherever it is, and there tells its place as a panic does. One that is held
//! by a guest is only freed by that, and goes on. A machine with one CPU has nobody who could watch it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::apic::ipi;
use crate::cpu::{self, InterruptFrame, PerCpu, registry};
use crate::fault::{self, Fault};
use crate::{panic, svm};

/// Looks without a beat until a CPU counts as stuck, and until it is given up because it does not even take an NMI.
const STRIKES: u32 = 10;
const LOST: u32 = STRIKES + 3;
/// How long that takes where the option `watchdog=` says nothing else, in seconds.
pub const DEFAULT_S: u32 = 10;
const MILLIS_IN_STRIKE: u64 = 1000 / STRIKES as u64;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// Seconds until a CPU counts as stuck; 0 for a watchdog that sleeps.
static LIMIT_S: AtomicU32 = AtomicU32::new(DEFAULT_S);

/// What the watchdog knows of a CPU.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// How often it has looked for work. Even while it rests.
    beats: AtomicU64,
    /// The beats at the watcher's last look, and the looks since they changed. Only the watcher changes these.
    seen: AtomicU64,
    strikes: AtomicU32,
    /// The beats at which it is accused; 0 where it is not.
    accused: AtomicU64,
}

impl Watched {
    pub(crate) const fn new() -> Self {
        Self {
            beats: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            strikes: AtomicU32::new(0),
            accused: AtomicU64::new(0),
        }
    }

    /// The CPU looks for work: it is not at rest.
    #[inline]
    pub(crate) fn beat(&self) {
        let next = (self.beats.load(Ordering::Relaxed) + 1) | 1;
        self.beats.store(next, Ordering::Relaxed);
    }

    /// The CPU is about to rest.
    #[inline]
    pub(crate) fn rest(&self) {
        let next = (self.beats.load(Ordering::Relaxed) | 1) + 1;
        self.beats.store(next, Ordering::Relaxed);
    }

    /// The watcher's look: how many in a row have found no beat of a CPU that does not rest.
    fn look(&self) -> u32 {
        let beats = self.beats.load(Ordering::Relaxed);
        let seen = self.seen.swap(beats, Ordering::Relaxed);
        let strikes = match beats {
            // It has not begun, or rests.
            _ if beats.is_multiple_of(2) || beats != seen => 0,
            _ => self.strikes.load(Ordering::Relaxed).saturating_add(1),
        };
        self.strikes.store(strikes, Ordering::Relaxed);
        strikes
    }

    fn accuse(&self) {
        self.accused.store(self.seen.load(Ordering::Relaxed), Ordering::SeqCst);
    }

    /// Whether it is accused and still where it was then. It is not accused any more.
    fn is_guilty(&self) -> bool {
        let accused = self.accused.swap(0, Ordering::SeqCst);
        accused != 0 && accused == self.beats.load(Ordering::Relaxed)
    }
}

/// Says after how many seconds a CPU counts as stuck; 0 for never.
pub fn set_limit(seconds: u32) {
    LIMIT_S.store(seconds, Ordering::Relaxed);
}

/// How often a watcher looks, in nanoseconds; `None` where the calling CPU watches nobody.
pub(crate) fn period() -> Option<u64> {
    let limit = LIMIT_S.load(Ordering::Relaxed);
    let watches = cpu::current() < 2 && cpu::count() > 1 && limit != 0;
    watches.then(|| u64::from(limit) * MILLIS_IN_STRIKE * NANOS_PER_MILLI)
}

/// Looks at the CPUs that the calling one watches.
pub(crate) fn look() {
    let own = cpu::current();
    let watched = |cpu: &&PerCpu| if own == 0 { cpu.number != 0 } else { cpu.number == 0 };
    for cpu in (0..cpu::count()).filter_map(registry::get).filter(watched) {
        match cpu.watched.look() {
            STRIKES => {
                cpu.watched.accuse();
                ipi::send_nmi(cpu.apic_id.load(Ordering::Relaxed));
            }
            LOST => {
                panic!("CPU {} is stuck, and takes no NMI either: its hardware may be broken", cpu.number)
            }
            _ => {}
        }
    }
}

/// Called for each NMI, on the stack of the CPU that got it: does not come back where that is stuck in the kernel.
pub(crate) fn answer(frame: &InterruptFrame) {
    let Some(cpu) = registry::owner_of(&raw const *frame as u64) else { return };
    if svm::ended_by_nmi(frame.rip) {
        // GS is the kernel's again there.
        return left_guest();
    }
    if cpu.watched.is_guilty() {
        panic::stuck(frame, cpu.number, LIMIT_S.load(Ordering::Relaxed));
    }
}

/// An NMI has ended a guest's run: a CPU that is accused was held by the guest, and is free now.
pub(crate) fn left_guest() {
    let cpu = cpu::this();
    if cpu.watched.is_guilty() {
        log::error!(
            "CPU {} was held by a guest for {} s: its timer and kicks do not end the guest's run here; an NMI did",
            cpu.number,
            LIMIT_S.load(Ordering::Relaxed)
        );
    }
}

/// Is stuck, where a test asks for that.
#[inline]
pub(crate) fn provoke() {
    const SOON: u64 = 100;
    let stuck = fault::is(Fault::StuckCpu) && cpu::current() == 1
        || fault::is(Fault::StuckBootCpu) && cpu::current() == 0;
    if stuck && cpu::this().watched.beats.load(Ordering::Relaxed) > SOON {
        hang();
    }
}

/// Without PAUSE, at which an emulator would let others go on that have nothing to do.
#[inline(never)]
fn hang() {
    static TURNS: AtomicU64 = AtomicU64::new(0);
    loop {
        TURNS.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_beats_or_rests_is_never_accused() {
        let cpu = Watched::new();
        for _ in 0..20 {
            assert_eq!(cpu.look(), 0, "it has not begun");
        }
        for _ in 0..20 {
            cpu.beat();
            assert_eq!(cpu.look(), 0);
        }
        cpu.rest();
        for _ in 0..20 {
            assert_eq!(cpu.look(), 0);
        }
        cpu.rest();
        cpu.beat();
        assert_eq!((cpu.look(), cpu.look(), cpu.look()), (0, 1, 2));
        cpu.beat();
        assert_eq!(cpu.look(), 0);
    }

    #[test]
    fn who_has_gone_on_meanwhile_is_not_guilty() {
        let cpu = Watched::new();
        assert!(!cpu.is_guilty());
        cpu.beat();
        while cpu.look() < STRIKES {}
        cpu.accuse();
        assert!(cpu.is_guilty() && !cpu.is_guilty(), "once");
        cpu.accuse();
        cpu.beat();
        assert!(!cpu.is_guilty());
    }
}
