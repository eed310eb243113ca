//! Flush before reuse, and nobody waits. Memory that is taken from a guest may still be known to CPUs that have
//! translations of it. So it is unmapped, a new *epoch* begins, and the memory rests in the *limbo* with that epoch. Every
//! CPU passes the epoch when it next drops its translations, before it enters a guest again; what rests is free when all
//! have passed. Kicks make that soon; nothing depends on when.
//!
//! A CPU that runs no guest for a while is *away*, and not waited for. When it comes back it is as far as it was, so it
//! drops its translations where an epoch has begun meanwhile, and only then.
//!
//! This is a pure data structure: what flushing is, the caller knows. Source: Intel SDM vol. 3, "Translation
//! Invalidation"; AMD APM vol. 2, "TLB Management". No locks in [`Epochs`]; a [`Limbo`] belongs to whoever has it.

#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;

/// What the epoch of a CPU is that is away.
const AWAY: u64 = u64::MAX;

/// How far a CPU was when it left.
#[derive(Debug)]
#[must_use]
pub struct Away(u64);

/// The epochs of up to `N` CPUs. The first is 1.
#[derive(Debug)]
pub struct Epochs<const N: usize> {
    current: AtomicU64,
    /// What each CPU has passed, or [`AWAY`].
    passed: [AtomicU64; N],
}

/// An epoch that has begun: what was unmapped before is free when it has passed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Epoch(u64);

impl<const N: usize> Epochs<N> {
    /// All CPUs are away.
    pub const fn new() -> Self {
        Self { current: AtomicU64::new(1), passed: [const { AtomicU64::new(AWAY) }; N] }
    }

    /// Begins an epoch, after something was unmapped. CPUs that [`Self::holds`] names may be kicked.
    pub fn begin(&self) -> Epoch {
        Epoch(self.current.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// True where this CPU has to drop its translations and to [`Self::pass`] before it enters a guest.
    #[inline]
    pub fn is_behind(&self, cpu: usize) -> bool {
        let passed = self.passed.get(cpu).map_or(AWAY, |passed| passed.load(Ordering::Relaxed));
        // One that has never passed is as if away.
        passed == AWAY || passed < self.current.load(Ordering::SeqCst)
    }

    /// Passes all epochs that have begun: `flush` makes the calling CPU drop the translations that it has. It is in no
    /// guest, so it gets no new ones meanwhile.
    #[inline]
    pub fn pass(&self, cpu: usize, flush: impl FnOnce()) {
        // Read before the flush: what is unmapped for a later epoch may be known still after it.
        let epoch = self.current.load(Ordering::SeqCst);
        flush();
        if let Some(passed) = self.passed.get(cpu) {
            passed.store(epoch, Ordering::SeqCst);
        }
    }

    /// The calling CPU enters no guest until it has given back what this returns.
    #[inline]
    pub fn leave(&self, cpu: usize) -> Away {
        Away(self.passed.get(cpu).map_or(AWAY, |passed| passed.swap(AWAY, Ordering::SeqCst)))
    }

    /// The calling CPU is back. It looks whether it [`Self::is_behind`] before it enters a guest.
    #[inline]
    pub fn come_back(&self, cpu: usize, away: Away) {
        if let Some(passed) = self.passed.get(cpu) {
            passed.store(away.0, Ordering::SeqCst);
        }
    }

    /// Whether this CPU may still hold translations of what was unmapped before this epoch began.
    pub fn holds(&self, cpu: usize, epoch: Epoch) -> bool {
        self.passed.get(cpu).is_some_and(|passed| passed.load(Ordering::SeqCst) < epoch.0)
    }

    /// Whether no CPU does any more.
    pub fn has_passed(&self, epoch: Epoch) -> bool {
        self.passed.iter().all(|passed| passed.load(Ordering::SeqCst) >= epoch.0)
    }
}

impl<const N: usize> Default for Epochs<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// What rests until its epoch has passed: at most `N` pieces. Each goes in with an epoch that began after it was unmapped,
/// so in the order of the epochs.
#[derive(Debug)]
pub struct Limbo<T, const N: usize> {
    /// Oldest last.
    resting: ArrayVec<(Epoch, T), N>,
}

impl<T, const N: usize> Limbo<T, N> {
    /// Nothing rests.
    pub const fn new() -> Self {
        Self { resting: ArrayVec::new_const() }
    }

    /// Pieces that rest.
    pub fn len(&self) -> usize {
        self.resting.len()
    }

    /// True where nothing rests.
    pub fn is_empty(&self) -> bool {
        self.resting.is_empty()
    }

    /// Puts something to rest. Gives it back where there is no room: it must be kept elsewhere and tried again, when
    /// something has been taken out.
    pub fn rest(&mut self, epoch: Epoch, piece: T) -> Result<(), T> {
        let at = self.resting.iter().position(|(other, _)| *other <= epoch).unwrap_or(self.resting.len());
        self.resting.try_insert(at, (epoch, piece)).map_err(|full| full.element().1)
    }

    /// The piece that has rested longest, if its epoch has passed.
    pub fn take<const CPUS: usize>(&mut self, epochs: &Epochs<CPUS>) -> Option<T> {
        let (epoch, _) = self.resting.last()?;
        if !epochs.has_passed(*epoch) {
            return None;
        }
        self.resting.pop().map(|(_, piece)| piece)
    }
}

impl<T, const N: usize> Default for Limbo<T, N> {
    fn default() -> Self {
        Self::new()
    }
}
