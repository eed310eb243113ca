//! Where parts of a guest's memory are that were touched not long ago, so that devices need not walk its tables for every word.
//!
//! An entry is one atomic word, for a part of 2 MiB that lies together in the host. Where a page is taken out of the table
//! ([`super::reclaim`]), its entry goes; a reader that has found the page just before may put it back, sees that something has changed, and takes
//! it away again. Whoever uses it in between is in the middle of an access, which the page's frames outlive: they rest until every CPU has passed
//! an epoch that began later.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use vcpu::{Gpa, Hpa};

use super::table::{Level, Mapping};

const ENTRIES: usize = 64;
/// The part of an address that is inside an entry's part, in bits.
const SHIFT: u32 = 21;
pub(super) const PART: u64 = 1 << SHIFT;
/// Of an entry: the part's number in the guest in bits 1 to 27, that in the host from bit 28 on. Bit 0 says that it holds.
const HOST: u32 = 28;
const HOLDS: u64 = 1;

#[derive(Debug)]
pub(super) struct Recent {
    entries: [AtomicU64; ENTRIES],
    /// How often something was taken out of the table.
    changes: AtomicU64,
}

#[inline]
const fn tag(gpa: Gpa) -> u64 {
    (gpa.0 >> SHIFT) << 1 | HOLDS
}

impl Recent {
    pub(super) const fn new() -> Self {
        Self { entries: [const { AtomicU64::new(0) }; ENTRIES], changes: AtomicU64::new(0) }
    }

    #[inline(always)]
    fn entry(&self, gpa: Gpa) -> &AtomicU64 {
        // The index is below the number of entries, which the compiler sees.
        &self.entries[(gpa.0 >> SHIFT) as usize % ENTRIES]
    }

    /// The host address of a guest byte.
    #[inline(always)]
    pub(super) fn find(&self, gpa: Gpa) -> Option<Hpa> {
        let entry = self.entry(gpa).load(SeqCst);
        // An address that no guest can have has a tag that no entry has.
        let holds = entry & ((1 << HOST) - 1) == tag(gpa);
        holds.then_some(Hpa((entry >> HOST) << SHIFT | gpa.0 & (PART - 1)))
    }

    /// Looks a page up, and remembers it where it is a large one.
    #[cold]
    pub(super) fn look_up(&self, gpa: Gpa, find: impl FnOnce() -> Option<Mapping>) -> Option<Mapping> {
        let before = self.changes.load(SeqCst);
        let found = find()?;
        if found.level >= Level::Page2M {
            let host = found.page.0 + (gpa.0 & (found.level.bytes() - 1));
            self.entry(gpa).store((host >> SHIFT) << HOST | tag(gpa), SeqCst);
            if self.changes.load(SeqCst) != before {
                self.entry(gpa).store(0, SeqCst);
            }
        }
        Some(found)
    }

    /// A page at this address was taken out of the table.
    pub(super) fn forget(&self, gpa: Gpa, level: Level) {
        self.changes.fetch_add(1, SeqCst);
        if level > Level::Page2M {
            self.entries.iter().for_each(|entry| entry.store(0, SeqCst));
        } else {
            self.entry(gpa).store(0, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::GPA_LIMIT;
    use super::*;
    use proptest::prelude::*;

    fn large(page: u64) -> Option<Mapping> {
        Some(Mapping { page: Hpa(page), level: Level::Page2M })
    }

    #[test]
    fn small_pages_are_looked_up_each_time_and_large_ones_once() {
        let recent = Recent::new();
        let small = Some(Mapping { page: Hpa(0x7000), level: Level::Page4K });
        assert_eq!(recent.look_up(Gpa(0x1000), || small), small);
        assert_eq!(recent.find(Gpa(0x1000)), None);
        recent.look_up(Gpa(0x20_1234), || large(0x4000_0000_0000));
        assert_eq!(recent.find(Gpa(0x20_0007)), Some(Hpa(0x4000_0000_0007)));
        assert_eq!(recent.find(Gpa(0x20_0007 + 64 * PART)), None, "another part with the same entry");
        assert_eq!(recent.find(Gpa(GPA_LIMIT | 0x20_0007)), None);
        recent.forget(Gpa(0x20_3000), Level::Page4K);
        assert_eq!(recent.find(Gpa(0x20_0007)), None);
    }

    #[test]
    fn what_is_taken_away_meanwhile_is_not_kept() {
        let recent = Recent::new();
        recent.look_up(Gpa(0), || {
            recent.forget(Gpa(0x1000), Level::Page4K);
            large(0x20_0000)
        });
        assert_eq!(recent.find(Gpa(0)), None);
    }

    proptest! {
        /// Whatever is remembered and forgotten, what is found is what the table says.
        #[test]
        fn it_says_what_the_table_says(acts in prop::collection::vec((0_u64..200, any::<bool>(), 0_u64..1 << 30), 1..200)) {
            let recent = Recent::new();
            let mut table = std::collections::HashMap::new();
            for (part, forgets, host) in acts {
                let gpa = Gpa(part * PART + host % PART);
                if forgets {
                    table.remove(&part);
                    recent.forget(gpa, Level::Page2M);
                } else {
                    let page = *table.entry(part).or_insert(host * PART);
                    recent.look_up(gpa, || large(page));
                    prop_assert_eq!(recent.find(gpa), Some(Hpa(page + host % PART)));
                }
                for part in 0..200 {
                    let found = recent.find(Gpa(part * PART));
                    prop_assert!(found.is_none() || found.map(|it| it.0) == table.get(&part).copied());
                }
            }
        }
    }
}
