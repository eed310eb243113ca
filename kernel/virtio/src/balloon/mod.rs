//! The balloon: a guest gives memory to the machine while it runs, on request or because it has it free, and gets it again.
//!
//! A request to take pages is given back when no CPU knows them any more: from then on the driver may touch them and finds new ones.
//!
//! Source: VIRTIO 1.2, "Traditional Memory Balloon Device".

#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use arrayvec::ArrayVec;
use spin::Mutex;
use vcpu::{Gpa, GuestMemory, Hole, NotRam, PAGE_SIZE, Taken};

use crate::queue::{Broken, Chain, Cursor};

/// The device's type, and its PCI class: no class fits.
pub(crate) const TYPE: u16 = 5;
pub(crate) const CLASS: u32 = 0xff_00_00;

/// Queues: inflate, deflate, statistics, and two places for reports of free pages. A driver that has not agreed to the hinting of free pages
/// may count without its queue.
pub const QUEUES: usize = 5;

/// The device's features.
pub mod feature {
    /// The driver tells before it uses pages out of the balloon.
    pub const MUST_TELL_HOST: u64 = 1 << 0;
    /// There is a queue for statistics.
    pub const STATS_VQ: u64 = 1 << 1;
    /// A guest that runs out of memory takes it out of the balloon.
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// The driver tells of memory that it has free.
    pub const PAGE_REPORTING: u64 = 1 << 5;
}

/// Where the configuration has what the driver has in the balloon.
const ACTUAL_AT: u64 = 4;
/// Pages in a step.
const STEP_PAGES: usize = 64;
/// Numbers of pages in a request at most: a driver has 256 of them, or a page full.
const MOST_NUMBERS: u32 = 1 << 16;
/// Bytes of a page's number, and of a statistic.
const NUMBER_BYTES: usize = 4;
const STATISTIC_BYTES: u32 = 10;

/// Statistics, by their tags.
const NAMES: [&str; 10] = [
    "swapped in",
    "swapped out",
    "major faults",
    "minor faults",
    "free",
    "total",
    "available",
    "caches",
    "huge pages taken",
    "huge pages missed",
];
/// The first of those that are no bytes, and the last.
const COUNTS: [core::ops::RangeInclusive<usize>; 2] = [2..=3, 8..=9];

/// What a driver has told of its guest, by tag.
pub type Statistics = [Option<u64>; NAMES.len()];

/// Names and values of what is there, and whether it is a number of bytes.
pub fn named(statistics: &Statistics) -> impl Iterator<Item = (&'static str, u64, bool)> + '_ {
    NAMES.iter().zip(statistics).enumerate().filter_map(|(tag, (name, value))| {
        Some((*name, (*value)?, !COUNTS.iter().any(|counts| counts.contains(&tag))))
    })
}

/// What a queue is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Report,
    Nothing,
}

/// A request under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// Numbers of pages from there on go into the balloon, or out of it.
    Pages { from: Cursor, hole: Option<Hole> },
    /// Buffers from there on are free memory.
    Report(Cursor),
    /// All is taken, and CPUs forget it.
    Settles,
    /// A buffer for statistics, until somebody wants new ones.
    Held,
}

/// What a step has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    Done,
    More(Work),
    /// Nothing is to be done until there is news.
    Stalls(Work),
    /// There is no such queue.
    Nothing,
}

/// A VM's balloon.
#[derive(Debug, Default)]
pub struct Balloon {
    /// Pages that are to be in it, and that the driver says there are.
    target: AtomicU32,
    actual: AtomicU32,
    /// The driver does not know the target yet.
    changed: AtomicBool,
    /// Features that the driver has agreed to.
    features: AtomicU32,
    statistics: Mutex<Statistics>,
    /// Bytes that were taken, in all.
    taken: AtomicU64,
    /// Somebody wants new ones, and the queue has not been looked at since.
    wants: AtomicBool,
    asked: AtomicBool,
}

impl Balloon {
    pub(crate) const fn offered() -> u64 {
        feature::MUST_TELL_HOST | feature::STATS_VQ | feature::DEFLATE_ON_OOM | feature::PAGE_REPORTING
    }

    pub(crate) fn configuration(&self) -> ArrayVec<u8, 64> {
        let fields = [&self.target, &self.actual].map(|field| field.load(SeqCst).to_le_bytes());
        fields.into_iter().flatten().collect()
    }

    pub(crate) fn write_configuration(&self, at: u64, value: u64) {
        if at == ACTUAL_AT {
            self.actual.store(value as u32, SeqCst);
        }
    }

    pub(crate) fn go_live(&self, features: u64) {
        self.features.store(features as u32, SeqCst);
    }

    /// The driver is gone. What is wanted of the next one stays.
    pub(crate) fn reset(&self) {
        self.features.store(0, SeqCst);
        self.actual.store(0, SeqCst);
        self.changed.store(false, SeqCst);
        self.wants.store(false, SeqCst);
        self.asked.store(false, SeqCst);
        *self.statistics.lock() = Statistics::default();
    }

    /// So many pages of 4 KiB are to be in the balloon.
    pub fn set_target(&self, pages: u32) {
        self.target.store(pages, SeqCst);
        self.changed.store(true, SeqCst);
    }

    /// Pages that are to be in it, and that the driver says are.
    pub fn pages(&self) -> (u32, u32) {
        (self.target.load(SeqCst), self.actual.load(SeqCst))
    }

    /// Bytes that it has taken since it was made, whatever has come again.
    pub fn taken(&self) -> u64 {
        self.taken.load(SeqCst)
    }

    /// What the driver has told last; it is asked for more.
    pub fn statistics(&self) -> Statistics {
        self.wants.store(true, SeqCst);
        self.asked.store(true, SeqCst);
        *self.statistics.lock()
    }

    /// Whether there is something that no doorbell tells of.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.changed.load(SeqCst) || self.asked.load(SeqCst)
    }

    /// Whether the driver has to look at its configuration.
    pub(crate) fn take_change(&self) -> bool {
        self.changed.swap(false, SeqCst)
    }

    /// A bit for the queue of statistics, where somebody wants new ones.
    pub(crate) fn take_asked(&self) -> u32 {
        let asked = self.asked.swap(false, SeqCst) && self.role(2) == Role::Statistics;
        u32::from(asked) << 2
    }

    fn role(&self, index: usize) -> Role {
        let has = |feature: u64| u64::from(self.features.load(SeqCst)) & feature != 0;
        match index {
            0 => Role::Inflate,
            1 => Role::Deflate,
            2 if has(feature::STATS_VQ) => Role::Statistics,
            2..QUEUES if has(feature::PAGE_REPORTING) => Role::Report,
            _ => Role::Nothing,
        }
    }

    /// Begins with a request.
    ///
    /// # Errors
    /// [`Broken`]: its statistics are not RAM, or it names more pages than a request may.
    pub(crate) fn begin<M: GuestMemory>(
        &self,
        index: usize,
        chain: &Chain,
        memory: &M,
    ) -> Result<Next, Broken> {
        let role = self.role(index);
        let moves = matches!(role, Role::Inflate | Role::Deflate);
        if moves && chain.readable_bytes() > MOST_NUMBERS * NUMBER_BYTES as u32 {
            return Err(Broken::Length);
        }
        let pages = |hole| Next::More(Work::Pages { from: chain.readable(), hole });
        Ok(match role {
            Role::Inflate => pages(Some(Hole::Kept)),
            Role::Deflate => pages(None),
            Role::Report => Next::More(Work::Report(chain.writable())),
            Role::Statistics => {
                self.read_statistics(chain, memory)?;
                Next::Stalls(Work::Held)
            }
            Role::Nothing => Next::Nothing,
        })
    }

    fn read_statistics<M: GuestMemory>(&self, chain: &Chain, memory: &M) -> Result<(), Broken> {
        let mut from = chain.readable();
        let mut statistics = Statistics::default();
        // A tag that comes twice, or that nobody knows, does no harm.
        for _ in 0..(chain.readable_bytes() / STATISTIC_BYTES).min(2 * NAMES.len() as u32) {
            let (mut tag, mut value) = ([0; 2], [0; 8]);
            from.read(chain, memory, &mut tag)?;
            from.read(chain, memory, &mut value)?;
            if let Some(place) = statistics.get_mut(usize::from(u16::from_le_bytes(tag))) {
                *place = Some(u64::from_le_bytes(value));
            }
        }
        *self.statistics.lock() = statistics;
        Ok(())
    }

    /// Goes on with a request.
    ///
    /// # Errors
    /// [`Broken`]: the numbers of its pages are not in RAM.
    pub(crate) fn go_on<M: GuestMemory>(
        &self,
        work: Work,
        chain: &Chain,
        memory: &M,
    ) -> Result<Next, Broken> {
        Ok(match work {
            Work::Pages { from, hole } => self.move_pages(from, hole, chain, memory)?,
            Work::Report(from) => self.report(from, chain, memory),
            Work::Settles if memory.settle() => Next::Done,
            Work::Settles => Next::More(work),
            Work::Held if self.wants.swap(false, SeqCst) => Next::Done,
            Work::Held => Next::Stalls(work),
        })
    }

    /// Takes pages, or lets them go, by their numbers. Those that are no RAM mean nothing.
    fn move_pages<M: GuestMemory>(
        &self,
        mut from: Cursor,
        hole: Option<Hole>,
        chain: &Chain,
        memory: &M,
    ) -> Result<Next, Broken> {
        for _ in 0..STEP_PAGES {
            let (before, mut number) = (from, [0; NUMBER_BYTES]);
            match from.read(chain, memory, &mut number) {
                Ok(()) => {}
                Err(Broken::Request) if hole.is_some() => return Ok(Next::More(Work::Settles)),
                Err(Broken::Request) => return Ok(Next::Done),
                Err(error) => return Err(error),
            }
            let gpa = Gpa(u64::from(u32::from_le_bytes(number)) * PAGE_SIZE);
            let Some(hole) = hole else {
                memory.let_go(gpa, PAGE_SIZE);
                continue;
            };
            if let Ok(Taken::Full) = self.take(gpa, PAGE_SIZE, hole, memory) {
                return Ok(Next::More(Work::Pages { from: before, hole: Some(hole) }));
            }
        }
        Ok(Next::More(Work::Pages { from, hole }))
    }

    /// Takes the pages that lie in a request's buffers.
    fn report<M: GuestMemory>(&self, mut from: Cursor, chain: &Chain, memory: &M) -> Next {
        for _ in 0..STEP_PAGES {
            let mut ahead = from;
            let Some(part) = ahead.next(chain, u32::MAX) else { return Next::More(Work::Settles) };
            let (before_page, length) = (part.gpa.0.wrapping_neg() % PAGE_SIZE, u64::from(part.length));
            // A buffer over the end of the address space is nobody's memory.
            let done = if part.gpa.checked_add(length).is_none() || before_page == 0 && length < PAGE_SIZE {
                length
            } else if before_page != 0 {
                before_page.min(length)
            } else {
                match self.take(part.gpa, length & !(PAGE_SIZE - 1), Hole::Free, memory) {
                    Ok(Taken::Bytes(bytes)) => bytes.min(length),
                    Ok(Taken::Full) => return Next::More(Work::Report(from)),
                    // A buffer without RAM is nobody's free memory.
                    Err(_) => length,
                }
            };
            from.skip(chain, done as u32);
        }
        Next::More(Work::Report(from))
    }

    fn take<M: GuestMemory>(&self, gpa: Gpa, length: u64, hole: Hole, memory: &M) -> Result<Taken, NotRam> {
        let taken = memory.take_back(gpa, length, hole)?;
        match taken {
            Taken::Bytes(bytes) => {
                self.taken.fetch_add(bytes, SeqCst);
            }
            Taken::Full => {
                memory.settle();
            }
        }
        Ok(taken)
    }
}
