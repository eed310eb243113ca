//! The memory that the heap hands out, in regions that come when they are needed and go when nothing of them is in use.

// UNSAFETY: hands out raw memory, which others give it.
#![allow(unsafe_code)]

use core::alloc::Layout;
use core::ptr::NonNull;

use arrayvec::ArrayVec;
use linked_list_allocator::Heap;

/// Regions at most. What is tried for a request is bounded by this.
pub(super) const MAX_REGIONS: usize = 128;

/// Regions of raw memory.
pub(super) struct Regions {
    /// The first one stays for good.
    list: ArrayVec<Heap, MAX_REGIONS>,
    /// Where the last request was served.
    recent: usize,
}

/// A region that is no longer used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unused {
    pub(super) start: *mut u8,
    pub(super) bytes: usize,
}

impl Regions {
    pub(super) const fn new() -> Self {
        Self { list: ArrayVec::new_const(), recent: 0 }
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.list.iter().map(Heap::used).sum()
    }

    /// Adds a region. False where there are as many as there can be.
    ///
    /// # Safety
    /// The memory is this value's, until [`Self::deallocate`] returns it.
    pub(super) unsafe fn add(&mut self, start: *mut u8, bytes: usize) -> bool {
        // SAFETY: by the caller.
        let added = !self.list.is_full() && self.list.try_push(unsafe { Heap::new(start, bytes) }).is_ok();
        if added {
            self.recent = self.list.len() - 1;
        }
        added
    }

    /// Memory for a request, if a region has it.
    pub(super) fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let recent = self.list.get_mut(self.recent).and_then(|heap| heap.allocate_first_fit(layout).ok());
        recent.or_else(|| {
            let mut others =
                self.list.iter_mut().enumerate().filter(|(_, heap)| heap.free() >= layout.size());
            let (at, found) =
                others.find_map(|(at, heap)| Some((at, heap.allocate_first_fit(layout).ok()?)))?;
            self.recent = at;
            Some(found)
        })
    }

    /// Takes memory back. Returns the region that it was the last of, whose memory is the caller's then.
    ///
    /// # Safety
    /// [`Self::allocate`] has returned the pointer for this layout, and nobody uses it any more.
    pub(super) unsafe fn deallocate(&mut self, pointer: NonNull<u8>, layout: Layout) -> Option<Unused> {
        let address = pointer.as_ptr();
        let at = self.list.iter().position(|heap| (heap.bottom()..heap.top()).contains(&address))?;
        let heap = self.list.get_mut(at)?;
        // SAFETY: by the caller; it was this region that had the memory.
        unsafe { heap.deallocate(pointer, layout) };
        if at == 0 || heap.used() != 0 {
            return None;
        }
        let unused = Unused { start: heap.bottom(), bytes: heap.size() };
        self.list.swap_remove(at);
        Some(unused)
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const REGION_WORDS: usize = 512;

    /// Memory that the tests lend.
    fn region() -> Box<[u128]> {
        vec![0_u128; REGION_WORDS / 2].into_boxed_slice()
    }

    fn add(regions: &mut Regions, lent: &mut Vec<Box<[u128]>>) -> bool {
        let mut memory = region();
        // SAFETY: the memory lives as long as the test, which does not touch it.
        let added = unsafe { regions.add(memory.as_mut_ptr().cast(), REGION_WORDS * 8) };
        lent.push(memory);
        added
    }

    #[test]
    fn a_region_goes_when_nothing_of_it_is_used_but_the_first_stays() {
        let (mut regions, mut lent) = (Regions::new(), Vec::new());
        let most = Layout::from_size_align(REGION_WORDS * 8 - 64, 8).unwrap();
        assert_eq!(regions.allocate(most), None);
        assert!(add(&mut regions, &mut lent));
        let first = regions.allocate(most).unwrap();
        assert_eq!(regions.allocate(most), None);
        assert!(add(&mut regions, &mut lent));
        let second = regions.allocate(most).unwrap();
        // SAFETY: both came from there with this layout.
        unsafe {
            let unused = regions.deallocate(second, most).unwrap();
            assert_eq!((unused.start, unused.bytes), (lent[1].as_mut_ptr().cast(), REGION_WORDS * 8));
            assert_eq!(regions.deallocate(first, most), None);
        }
        assert_eq!((regions.len(), regions.used()), (1, 0));
    }

    #[test]
    fn there_is_an_end_of_regions() {
        let (mut regions, mut lent) = (Regions::new(), Vec::new());
        assert!((0..MAX_REGIONS).all(|_| add(&mut regions, &mut lent)));
        assert!(!add(&mut regions, &mut lent));
    }

    proptest! {
        #[test]
        fn what_is_handed_out_does_not_overlap_and_all_comes_back(
            steps in proptest::collection::vec((any::<bool>(), 1_usize..900, 0_u32..7, any::<usize>()), 1..200),
        ) {
            let (mut regions, mut lent) = (Regions::new(), Vec::new());
            let mut held: Vec<(NonNull<u8>, Layout)> = Vec::new();
            for (take, size, align, which) in steps {
                if !take && !held.is_empty() {
                    let (pointer, layout) = held.swap_remove(which % held.len());
                    // SAFETY: it came from there, and is forgotten.
                    unsafe { regions.deallocate(pointer, layout) };
                    continue;
                }
                let layout = Layout::from_size_align(size, 1 << align).unwrap();
                let got = regions.allocate(layout).or_else(|| {
                    add(&mut regions, &mut lent).then(|| regions.allocate(layout)).flatten()
                });
                let Some(pointer) = got else { continue };
                prop_assert!((pointer.as_ptr() as usize).is_multiple_of(layout.align()));
                let range = |(pointer, layout): &(NonNull<u8>, Layout)| {
                    let start = pointer.as_ptr() as usize;
                    start..start + layout.size()
                };
                let new = range(&(pointer, layout));
                prop_assert!(held.iter().map(range).all(|old| old.end <= new.start || new.end <= old.start));
                held.push((pointer, layout));
            }
            for (pointer, layout) in held.drain(..) {
                // SAFETY: as above.
                unsafe { regions.deallocate(pointer, layout) };
            }
            prop_assert_eq!(regions.used(), 0);
            prop_assert!(regions.len() <= 1);
        }
    }
}
