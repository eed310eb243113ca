//! The last events of a CPU.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU64, fence};

use crate::event::{EVENT_BYTES, Event, WORDS};

/// Places in a ring. The next event may be on its way into one of them, so a reader finds one less.
const PLACES: usize = 128;
/// Events that a reader finds at most.
pub const KEPT: usize = PLACES - 1;

const _: () = assert!(PLACES.is_power_of_two());

/// The last events of one CPU. Only that CPU writes; anybody reads, at any time. Where the rule is broken, events are mixed up, and nothing else.
#[derive(Debug)]
pub struct Ring {
    /// How many events there were. An event has its number for ever, from 0 on.
    written: AtomicU64,
    places: [[AtomicU64; WORDS]; PLACES],
}

/// What was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// So many events.
    pub count: usize,
    /// So many before them, from where was asked on, were not there any more.
    pub lost: u64,
    /// The number of the event behind them: from where to ask next.
    pub next: u64,
}

impl Ring {
    /// Without events.
    pub const fn new() -> Self {
        Self { written: AtomicU64::new(0), places: [const { [const { AtomicU64::new(0) }; WORDS] }; PLACES] }
    }

    /// Adds an event, in the place of the oldest.
    #[inline]
    pub fn record(&self, event: Event) {
        let number = self.written.load(Relaxed);
        // Word by word: a loop would cost twice as much.
        let [tsc, what, first, second] = &self.places[number as usize % PLACES];
        // Whoever finds a word of this event in its place also finds that there were `number` before.
        fence(Release);
        tsc.store(event.0[0], Relaxed);
        what.store(event.0[1], Relaxed);
        first.store(event.0[2], Relaxed);
        second.store(event.0[3], Relaxed);
        self.written.store(number.wrapping_add(1), Release);
    }

    /// How many events there were.
    pub fn written(&self) -> u64 {
        self.written.load(Acquire)
    }

    /// Copies events in their order, from number `from` on or the oldest that is there, as little-endian words. Does not wait for the CPU that writes.
    pub fn read(&self, from: u64, to: &mut [[u8; EVENT_BYTES]]) -> Taken {
        self.read_while(from, to, || {})
    }

    /// The same, while that happens before each word.
    pub(crate) fn read_while(
        &self,
        from: u64,
        to: &mut [[u8; EVENT_BYTES]],
        mut meanwhile: impl FnMut(),
    ) -> Taken {
        let written = self.written();
        let from = from.min(written);
        let first = from.max(oldest(written));
        let mut count = 0;
        for (bytes, number) in to.iter_mut().zip(first..written) {
            let (words, _) = bytes.as_chunks_mut::<8>();
            for (bytes, word) in words.iter_mut().zip(&self.places[number as usize % PLACES]) {
                meanwhile();
                *bytes = word.load(Relaxed).to_le_bytes();
            }
            count += 1;
        }
        // Of which place there was a word of a later event, that this one is over shows here.
        fence(Acquire);
        let gone = oldest(self.written.load(Relaxed)).saturating_sub(first).min(count as u64);
        let kept = gone as usize..count;
        let count = kept.len();
        to.copy_within(kept, 0);
        Taken { count, lost: first + gone - from, next: first + gone + count as u64 }
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

/// The first event that is there when so many were written: the place of the one before may be written to.
const fn oldest(written: u64) -> u64 {
    written.saturating_sub(KEPT as u64)
}
