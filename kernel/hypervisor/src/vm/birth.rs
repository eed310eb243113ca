//! What the start of a VM took, from the request for it on: for the report when it ends.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Ticks of the last start that somebody has asked for.
#[derive(Debug, Default)]
pub(crate) struct Birth {
    /// The TSC at the request; 0 where there was none.
    asked: AtomicU64,
    /// Ticks for its memory, cleared and mapped.
    memory: AtomicU64,
    /// Bytes of memory that it has by now.
    made: AtomicU64,
    /// Ticks until its own time began, right before its first instruction.
    took: AtomicU64,
}

impl Birth {
    /// Somebody has asked for the start.
    pub(crate) fn asked(&self, tsc: u64) {
        self.memory.store(0, SeqCst);
        self.made.store(0, SeqCst);
        self.took.store(0, SeqCst);
        self.asked.store(tsc, SeqCst);
    }

    /// Making its memory has taken so many ticks more.
    pub(crate) fn count_memory(&self, ticks: u64) {
        self.memory.fetch_add(ticks, SeqCst);
    }

    /// So many bytes of its memory are there.
    pub(crate) fn has_memory(&self, bytes: u64) {
        self.made.store(bytes, SeqCst);
    }

    /// How many bytes of its memory are there.
    pub(crate) fn memory_made(&self) -> u64 {
        self.made.load(SeqCst)
    }

    /// Its own time begins. A start that nobody has asked for, after its end, does not count.
    pub(crate) fn began(&self, tsc: u64) {
        let asked = self.asked.swap(0, SeqCst);
        if asked != 0 {
            self.took.store(tsc.wrapping_sub(asked), SeqCst);
        }
    }

    /// Ticks in all, and those for memory, once it has begun.
    pub(crate) fn told(&self) -> Option<(u64, u64)> {
        let took = self.took.load(SeqCst);
        (took != 0).then(|| (took, self.memory.load(SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_start_that_was_asked_for_counts() {
        let birth = Birth::default();
        birth.began(70);
        assert_eq!(birth.told(), None);
        birth.asked(100);
        birth.count_memory(20);
        birth.count_memory(5);
        assert_eq!(birth.told(), None);
        birth.began(150);
        assert_eq!(birth.told(), Some((50, 25)));
        birth.began(990);
        assert_eq!(birth.told(), Some((50, 25)), "a reset");
        birth.asked(1000);
        assert_eq!(birth.told(), None);
    }
}
