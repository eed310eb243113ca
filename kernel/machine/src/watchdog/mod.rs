//! The kernel's watchdog: a CPU that no longer looks for work is stuck, and says where, instead of standing silent.
//!
//! Every CPU beats when it looks. All of them are watched a few times a second: by the first CPU in NMIs that a timer of the
//! chipset's sends it ([`timer`]), so that it notices even that it is stuck itself; where there is no such timer, or the user wants none, the
//! first CPU watches the others when it looks for work, and the second one the first. Looks at a CPU are counted rather than time, so that a
//! machine that stood still as a whole accuses nobody. A CPU without a beat for [`STRIKES`] looks gets an NMI, which comes
//! through wherever it is, and there tells its place as a panic does. One that is held by a guest is only freed by that, and goes on.
//!
//! NMIs that are neither the watchdog's nor a panic's are counted, and told when a CPU looks for work ([`stray`]).

mod stray;
pub(crate) mod timer;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::apic::ipi;
use crate::cpu::{self, InterruptFrame, PerCpu, registry};
use crate::{panic, svm};

pub(crate) use self::stray::tell as tell_strays;
pub use self::timer::start;

/// Whose messages those of all these modules are, in the log.
const TARGET: &str = "watchdog";
/// Looks without a beat until a CPU counts as stuck, and until it is given up because it does not even take an NMI.
const STRIKES: u32 = 10;
const LOST: u32 = STRIKES + 3;
/// How long that takes where the option `watchdog=` says nothing else, in seconds.
pub const DEFAULT_S: u32 = 10;
const MILLIS_IN_STRIKE: u64 = 1000 / STRIKES as u64;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// Who watches: the option `watchdog=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Watcher {
    /// The NMIs of a timer, where the machine has one that can send them.
    #[default]
    Timer,
    /// The CPUs each other, for machines whose timer cannot be trusted to.
    Peers,
}

/// The CPUs watch each other even where a timer could do it.
static ONLY_PEERS: AtomicBool = AtomicBool::new(false);

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
    /// The NMI that its handler gets next has been dealt with: it ended a guest's run.
    answered: AtomicBool,
}

impl Watched {
    pub(crate) const fn new() -> Self {
        Self {
            beats: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            strikes: AtomicU32::new(0),
            accused: AtomicU64::new(0),
            answered: AtomicBool::new(false),
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

    /// How often it has looked for work, or gone to rest.
    #[cfg(feature = "faults")]
    pub(crate) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
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

    /// Whether it is still where it was when it was accused; `None` where it is not accused. It is not any more.
    fn verdict(&self) -> Option<bool> {
        let accused = self.accused.swap(0, Ordering::SeqCst);
        (accused != 0).then(|| accused == self.beats.load(Ordering::Relaxed))
    }
}

/// Says after how many seconds a CPU counts as stuck; 0 for never.
pub fn set_limit(seconds: u32) {
    LIMIT_S.store(seconds, Ordering::Relaxed);
}

/// Says who watches from [`start`] on.
pub fn set_watcher(watcher: Watcher) {
    ONLY_PEERS.store(watcher == Watcher::Peers, Ordering::Relaxed);
}

/// Watches nobody any more: the machine is being stopped, and the CPU that does it looks for nothing else.
pub(crate) fn silence() {
    set_limit(0);
}

/// Nanoseconds between two looks; `None` where nobody watches.
fn distance_ns() -> Option<u64> {
    let limit = LIMIT_S.load(Ordering::Relaxed);
    (limit != 0).then(|| u64::from(limit) * MILLIS_IN_STRIKE * NANOS_PER_MILLI)
}

/// How often the calling CPU looks at others when it looks for work, in nanoseconds; `None` where it does not.
pub(crate) fn period() -> Option<u64> {
    let watches = cpu::current() < 2 && cpu::count() > 1 && !timer::is_heard();
    distance_ns().filter(|_| watches)
}

/// Looks at the CPUs that the calling one watches when it looks for work.
pub(crate) fn look() {
    let own = cpu::current();
    look_at(own, |cpu| if own == 0 { cpu.number != 0 } else { cpu.number == 0 });
}

/// Looks at some of the CPUs. `own` is the calling one, which is accused but needs no NMI.
fn look_at(own: usize, watched: impl Fn(&PerCpu) -> bool) {
    for cpu in (0..cpu::count()).filter_map(registry::get).filter(|cpu| watched(cpu)) {
        match cpu.watched.look() {
            STRIKES => {
                cpu.watched.accuse();
                if cpu.number != own {
                    ipi::send_nmi(cpu.apic_id.load(Ordering::Relaxed));
                }
            }
            LOST if cpu.number != own => {
                panic!("CPU {} is stuck, and takes no NMI either: its hardware may be broken", cpu.number)
            }
            _ => {}
        }
    }
}

/// In an NMI of this CPU: where its timer sent it, looks at all CPUs. False where it did not.
fn tick(cpu: &PerCpu) -> bool {
    let ticks = timer::has_sent(cpu.number);
    if ticks && LIMIT_S.load(Ordering::Relaxed) != 0 {
        look_at(cpu.number, |_| true);
    }
    ticks
}

/// Called for each NMI, on the stack of the CPU that got it: does not come back where that is stuck in the kernel.
pub(crate) fn answer(frame: &InterruptFrame) {
    let Some(cpu) = registry::owner_of(&raw const *frame as u64) else { return };
    if cpu.watched.answered.swap(false, Ordering::Relaxed) {
        return;
    }
    if svm::ended_by_nmi(frame.rip) {
        return free(cpu);
    }
    let ticks = tick(cpu);
    match cpu.watched.verdict() {
        Some(true) => panic::stuck(frame, cpu.number, LIMIT_S.load(Ordering::Relaxed)),
        Some(false) => {}
        None if ticks => {}
        None => stray::count(),
    }
}

/// An NMI has ended a guest's run, and the CPU has not run its handler yet.
pub(crate) fn left_guest() {
    let cpu = cpu::this();
    free(cpu);
    cpu.watched.answered.store(true, Ordering::Relaxed);
}

/// An NMI has ended a guest's run on this CPU: one that is accused was held by the guest, and is free now.
fn free(cpu: &PerCpu) {
    let ticks = tick(cpu);
    match cpu.watched.verdict() {
        Some(true) => log::error!(
            "CPU {} was held by a guest for {} s: its timer and kicks do not end the guest's run here; an NMI did",
            cpu.number,
            LIMIT_S.load(Ordering::Relaxed)
        ),
        Some(false) => {}
        None if ticks => {}
        None => stray::count(),
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
        assert_eq!(cpu.verdict(), None);
        cpu.beat();
        while cpu.look() < STRIKES {}
        cpu.accuse();
        assert_eq!((cpu.verdict(), cpu.verdict()), (Some(true), None), "once");
        cpu.accuse();
        cpu.beat();
        assert_eq!(cpu.verdict(), Some(false));
    }
}
