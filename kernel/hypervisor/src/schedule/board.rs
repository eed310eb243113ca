//! What each CPU tells the others of its queue, and how their virtual times are kept comparable.

use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

use super::id::{Cpu, CpuSet, MAX_CPUS, Pool};
use super::shared::Shared;
use super::time::{SharedVirtual, Ticks, Virtual};

/// Queues that exchange vCPUs stay within so many slices of the lightest that runs.
const WIDEST_GAP: i64 = 8;
/// The order in which classes of vCPUs run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Class {
    /// Its VM claims its reservation.
    Claims = 1,
    /// It has just woken, and its VM is not ahead of the others.
    Woken = 2,
    /// By weight.
    Weighted = 3,
    /// It has just given way.
    GaveWay = 4,
    /// Nobody.
    Idle = 5,
}

impl Class {
    fn of(raw: u8) -> Self {
        match raw {
            1 => Self::Claims,
            2 => Self::Woken,
            3 => Self::Weighted,
            4 => Self::GaveWay,
            _ => Self::Idle,
        }
    }
}

/// What a CPU tells of its queue. Others decide by it whether a look at the queue is worth its lock: it may be out of date.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) pool: AtomicU8,
    /// 0 as long as nothing was told.
    class: AtomicU8,
    /// By how much the virtual times here are to be moved; the queue does it before it next uses them.
    shift: AtomicI64,
    /// Whether a vCPU waits.
    contended: AtomicBool,
    /// The least virtual time of the runnable; of no meaning where there is none.
    level: SharedVirtual,
    /// The virtual time at which the running one has started.
    running: SharedVirtual,
    /// How far a slice takes that one.
    slice: AtomicI64,
    /// The first of those that wait and may run elsewhere: its class,
    offer_class: AtomicU8,
    /// its virtual time
    offer_time: SharedVirtual,
    /// how far a slice takes it
    offer_slice: AtomicI64,
    /// and the CPUs for it.
    offer_cpus: AtomicU64,
}

/// What the CPUs of a pool have in common.
#[derive(Debug, Default)]
pub(super) struct PoolState {
    pub(super) cpus: AtomicU64,
    /// The middle of its queues' virtual times when a CPU last looked.
    middle: SharedVirtual,
    /// The least of them.
    least: SharedVirtual,
    /// How far apart virtual times may be that balancing keeps together.
    gap: AtomicI64,
    close_gaps_at: AtomicU64,
}

/// What a queue has told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) class: Class,
    pub(super) contended: bool,
    pub(super) level: Virtual,
    pub(super) running: Virtual,
    pub(super) slice: i64,
}

/// Virtual times of several CPUs relative to one.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Spread {
    /// Those of CPUs on which somebody waits.
    pub(super) contended: bool,
    pub(super) least: i64,
    pub(super) most: i64,
    /// How far a slice takes the lightest vCPU that runs there.
    pub(super) slice: i64,
    sum: i64,
    count: i64,
}

impl Spread {
    fn count(&mut self, ahead: i64, slice: i64) {
        self.slice = self.slice.max(slice);
        self.least = if self.count == 0 { ahead } else { self.least.min(ahead) };
        self.most = if self.count == 0 { ahead } else { self.most.max(ahead) };
        self.sum += ahead;
        self.count += 1;
    }

    pub(super) fn middle(&self) -> i64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }
}

/// A vCPU that waits and might run elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) class: Class,
    pub(super) time: Virtual,
    pub(super) slice: i64,
    pub(super) cpus: CpuSet,
}

impl Shared {
    pub(super) fn see(&self, cpu: Cpu) -> Option<Seen> {
        let board = self.board(cpu)?;
        let shift = board.shift.load(Ordering::Relaxed);
        Some(Seen {
            class: Class::of(board.class.load(Ordering::Relaxed)),
            contended: board.contended.load(Ordering::Relaxed),
            level: board.level.get().moved(shift),
            running: board.running.get().moved(shift),
            slice: board.slice.load(Ordering::Relaxed),
        })
    }

    pub(super) fn offer(&self, cpu: Cpu) -> Option<Offer> {
        let board = self.board(cpu)?;
        self.offering_of(CpuSet::of(cpu)).contains(cpu).then(|| Offer {
            class: Class::of(board.offer_class.load(Ordering::Relaxed)),
            time: board.offer_time.get().moved(board.shift.load(Ordering::Relaxed)),
            slice: board.offer_slice.load(Ordering::Relaxed),
            cpus: CpuSet::from_bits(board.offer_cpus.load(Ordering::Relaxed)),
        })
    }

    /// The idle CPUs among these.
    #[inline]
    pub(super) fn idle_of(&self, cpus: CpuSet) -> CpuSet {
        cpus.and(CpuSet::from_bits(self.idle.load(Ordering::Relaxed)))
    }

    /// Those among these where somebody waits who may run elsewhere.
    #[inline]
    pub(super) fn offering_of(&self, cpus: CpuSet) -> CpuSet {
        cpus.and(CpuSet::from_bits(self.offering.load(Ordering::Relaxed)))
    }

    /// A CPU tells of its queue.
    pub(super) fn tell(&self, cpu: Cpu, seen: Seen, offer: Option<Offer>) {
        let Some(board) = self.board(cpu) else { return };
        board.level.set(seen.level);
        board.running.set(seen.running);
        board.slice.store(seen.slice, Ordering::Relaxed);
        board.contended.store(seen.contended, Ordering::Relaxed);
        board.class.store(seen.class as u8, Ordering::Relaxed);
        if let Some(offer) = offer {
            board.offer_class.store(offer.class as u8, Ordering::Relaxed);
            board.offer_time.set(offer.time);
            board.offer_slice.store(offer.slice, Ordering::Relaxed);
            board.offer_cpus.store(offer.cpus.bits(), Ordering::Relaxed);
        }
        mark(&self.offering, cpu, offer.is_some());
        mark(&self.idle, cpu, seen.class == Class::Idle);
    }

    /// The virtual times of a pool's CPUs where vCPUs wait, or, where there are none, of the busy ones; relative to
    /// `level`. Their middle is kept for those who find nobody to compare with.
    pub(super) fn spread(&self, pool: Pool, level: Virtual) -> Spread {
        /// Sums of 64 of these do not overflow.
        const MOST: i64 = 1 << 56;
        let (mut contended, mut busy) = (Spread::default(), Spread::default());
        for seen in self.pool(pool).iter().filter_map(|cpu| self.see(cpu)) {
            let ahead = seen.level.ahead_of(level).clamp(-MOST, MOST);
            if seen.contended {
                contended.count(ahead, seen.slice);
            }
            if seen.class != Class::Idle {
                busy.count(ahead, seen.slice);
            }
        }
        let spread = if contended.count > 0 { Spread { contended: true, ..contended } } else { busy };
        if let Some(state) = self.pool_state(pool) {
            state.middle.set(level.moved(spread.middle()));
            state.least.set(level.moved(spread.least));
        }
        spread
    }

    /// Queues that cannot take vCPUs from each other, because of pinning, go at their own speeds. Balancing keeps the others
    /// within a few slices: so where the virtual times of a pool's queues have a gap larger than that, those behind
    /// it are moved up, all together, so that they do not seem to be owed something when the pinning changes.
    pub(super) fn close_gaps(&self, pool: Pool, now: Ticks) {
        let Some(state) = self.pool_state(pool) else { return };
        let at = state.close_gaps_at.load(Ordering::Relaxed);
        let next = (now + self.timing.gaps).0;
        let relaxed = Ordering::Relaxed;
        if now.0 < at || state.close_gaps_at.compare_exchange(at, next, relaxed, relaxed).is_err() {
            return;
        }
        let mut queues: ArrayVec<(i64, Cpu), MAX_CPUS> = ArrayVec::new();
        let (middle, mut slice) = (state.middle.get(), 0);
        for cpu in self.pool(pool).iter().take(MAX_CPUS) {
            if let Some(seen) = self.see(cpu).filter(|seen| seen.class != Class::Idle) {
                // Those ahead come first.
                let queue = (seen.level.ahead_of(middle), cpu);
                queues.insert(queues.partition_point(|other| *other > queue), queue);
                slice = slice.max(seen.slice);
            }
        }
        let widest = slice.saturating_mul(WIDEST_GAP);
        state.gap.store(widest, Ordering::Relaxed);
        let mut shift: i64 = 0;
        for (ahead, behind) in queues.iter().zip(queues.iter().skip(1)) {
            shift = shift.saturating_add((ahead.0.saturating_sub(behind.0).saturating_sub(widest)).max(0));
            if let Some(board) = self.board(behind.1) {
                board.shift.fetch_add(shift, Ordering::Relaxed);
            }
        }
    }

    /// By how much a queue is to move its virtual times now.
    #[inline]
    pub(super) fn take_shift(&self, cpu: Cpu) -> i64 {
        let Some(board) = self.board(cpu) else { return 0 };
        if board.shift.load(Ordering::Relaxed) == 0 { 0 } else { board.shift.swap(0, Ordering::Relaxed) }
    }

    /// How far apart the virtual times of queues in the pool may be.
    pub(super) fn gap(&self, pool: Pool) -> i64 {
        self.pool_state(pool).map_or(0, |state| state.gap.load(Ordering::Relaxed))
    }

    pub(super) fn least(&self, pool: Pool) -> Virtual {
        self.pool_state(pool).map_or(Virtual::default(), |state| state.least.get())
    }

    pub(super) fn middle(&self, pool: Pool) -> Virtual {
        self.pool_state(pool).map_or(Virtual::default(), |state| state.middle.get())
    }
}

/// Sets or clears a CPU's bit; a write only where it changes, since all CPUs read it.
fn mark(set: &AtomicU64, cpu: Cpu, value: bool) {
    let bit = CpuSet::of(cpu).bits();
    if (set.load(Ordering::Relaxed) & bit != 0) != value {
        if value {
            set.fetch_or(bit, Ordering::Relaxed);
        } else {
            set.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}
