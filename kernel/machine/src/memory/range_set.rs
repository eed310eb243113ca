//! Sets of addresses as sorted ranges.

use core::ops::Range;

use arrayvec::ArrayVec;
use vcpu::PAGE_SIZE;

/// Ranges a set can hold.
pub(crate) const MAX_RANGES: usize = 256;

/// A set of addresses: at most [`MAX_RANGES`] ranges, sorted, apart from each other and not empty. What
/// does not fit is left out, so the set says too little rather than too much.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeSet {
    ranges: ArrayVec<Range<u64>, MAX_RANGES>,
}

impl RangeSet {
    /// An empty set.
    pub(crate) const fn new() -> Self {
        Self { ranges: ArrayVec::new_const() }
    }

    /// The ranges, lowest first.
    pub(crate) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Bytes in the set.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether all of `range` is in the set.
    pub(crate) fn contains(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.ranges.iter().any(|old| old.start <= range.start && range.end <= old.end)
    }

    /// Whether any of `range` is in the set.
    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        self.ranges.iter().any(|old| old.start < range.end && range.start < old.end)
    }

    /// Adds a range; ranges that touch become one.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut merged = range;
        self.ranges.retain(|old| {
            let touches = old.start <= merged.end && merged.start <= old.end;
            if touches {
                merged = merged.start.min(old.start)..merged.end.max(old.end);
            }
            !touches
        });
        self.insert(merged);
    }

    /// Takes a range out.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut rest = None;
        self.ranges.retain(|old| {
            if old.end <= range.start || range.end <= old.start {
                return true;
            }
            let low = old.start..range.start.max(old.start);
            let high = range.end.min(old.end)..old.end;
            match (low.is_empty(), high.is_empty()) {
                (true, true) => return false,
                (false, true) => *old = low,
                (true, false) => *old = high,
                (false, false) => {
                    *old = low;
                    rest = Some(high);
                }
            }
            true
        });
        if let Some(high) = rest {
            self.insert(high);
        }
    }

    /// Shrinks every range to the whole pages in it.
    pub(crate) fn shrink_to_pages(&mut self) {
        self.ranges.retain(|range| {
            *range =
                range.start.saturating_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1)..range.end & !(PAGE_SIZE - 1);
            !range.is_empty()
        });
    }

    /// Takes `bytes` (whole pages) out of the highest place below `limit` that has them together.
    pub(crate) fn take(&mut self, bytes: u64, limit: u64) -> Option<u64> {
        let start = self.ranges.iter().rev().find_map(|range| {
            range.end.min(limit).checked_sub(bytes).filter(|start| *start >= range.start)
        })?;
        self.remove(start..start + bytes);
        Some(start)
    }

    fn insert(&mut self, range: Range<u64>) {
        let at = self.ranges.partition_point(|old| old.start < range.start);
        // A full set leaves the range out, as promised.
        let _ = self.ranges.try_insert(at, range);
    }
}

/// The pages that `range` touches.
pub(crate) const fn pages_of(range: &Range<u64>) -> Range<u64> {
    range.start & !(PAGE_SIZE - 1)..range.end.saturating_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const SPACE: usize = 64;

    fn members(set: &RangeSet) -> Vec<bool> {
        (0..SPACE as u64).map(|at| set.ranges().iter().any(|range| range.contains(&at))).collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_bitmap(steps in proptest::collection::vec((any::<bool>(), 0..SPACE, 0..SPACE), 0..40)) {
            let mut set = RangeSet::new();
            let mut model = vec![false; SPACE];
            for (add, start, length) in steps {
                let end = (start + length).min(SPACE);
                if add { set.add(start as u64..end as u64) } else { set.remove(start as u64..end as u64) }
                model[start..end].fill(add);
                prop_assert_eq!(members(&set), model.clone());
                prop_assert!(set.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert_eq!(set.bytes(), model.iter().filter(|member| **member).count() as u64);
            }
        }
    }

    #[test]
    fn take_prefers_the_top_below_the_limit() {
        let mut set = RangeSet::new();
        set.add(0x1000..0x5000);
        set.add(0x8000..0x9000);
        assert_eq!(set.take(0x2000, u64::MAX), Some(0x3000));
        assert_eq!(set.take(0x1000, 0x8000), Some(0x2000));
        assert_eq!(set.take(0x2000, u64::MAX), None);
        assert_eq!(set.bytes(), 0x2000);
    }

    #[test]
    fn a_full_set_leaves_out_what_does_not_fit() {
        let mut set = RangeSet::new();
        for index in 0..MAX_RANGES as u64 + 10 {
            set.add(index * 2..index * 2 + 1);
        }
        assert_eq!(set.bytes(), MAX_RANGES as u64);
    }

    #[test]
    fn shrinking_drops_partial_pages() {
        let mut set = RangeSet::new();
        set.add(0x800..0x1800);
        set.add(0x2800..0x5001);
        set.shrink_to_pages();
        assert_eq!(set.ranges(), core::slice::from_ref(&(0x3000..0x5000)));
    }
}
