use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// Ranges of frames as machines have them: below the BIOS hole, above it, above 4 GiB, with odd ends.
const SPANS: [Range<u64>; 3] = [3..159, 256..1000, 0x4_0000..0x4_0801];

fn frames(spans: &[Range<u64>]) -> usize {
    spans.iter().map(|span| span.end - span.start).sum::<u64>() as usize
}

fn table<'a>(entries: &'a mut [u64], spans: &[Range<u64>]) -> FrameTable<'a> {
    let mut table = FrameTable::new(entries);
    for span in spans {
        table.add_span(span.clone());
    }
    for span in spans {
        table.add_free(span.clone());
    }
    table
}

impl FrameTable<'_> {
    /// Walks all lists and checks that links, heads and counts agree and that no free block has a free
    /// buddy of its size.
    fn check(&self) {
        let mut free = 0;
        for order in 0..=MAX_ORDER {
            let mut previous = NONE;
            let mut index = self.free_lists[usize::from(order)];
            while index != NONE {
                let entry = self.entries[index as usize];
                assert_eq!(entry & STATE_MASK, FREE);
                assert_eq!(entry_order(entry), order);
                assert_eq!(link(entry, PREVIOUS_SHIFT), previous);
                let frame = self.frame_of(index).unwrap();
                assert_eq!(self.index_of(frame, order), Some(index));
                if let Some(buddy) = self.index_of(frame ^ (1 << order), order).filter(|_| order < MAX_ORDER)
                {
                    let entry = self.entries[buddy as usize];
                    assert!(entry & STATE_MASK != FREE || entry_order(entry) != order, "unmerged buddies");
                }
                free += 1 << order;
                previous = index;
                index = link(entry, NEXT_SHIFT);
            }
        }
        assert_eq!(free, self.free_frames);
        let heads = self.entries.iter().filter(|entry| *entry & STATE_MASK == FREE);
        assert_eq!(heads.map(|entry| 1 << entry_order(*entry)).sum::<u64>(), free);
    }
}

fn lies_in_a_span(frame: u64, order: u8) -> bool {
    SPANS.iter().any(|span| span.start <= frame && frame + (1 << order) <= span.end)
}

proptest! {
    #[test]
    fn blocks_are_aligned_disjoint_and_all_come_back(
        steps in proptest::collection::vec((any::<bool>(), 0_u8..12, any::<prop::sample::Index>()), 1..200)
    ) {
        let mut entries = vec![0xdead_beef; frames(&SPANS)];
        let mut table = table(&mut entries, &SPANS);
        let all = table.free_frames();
        prop_assert_eq!(all, frames(&SPANS) as u64);
        let mut held: BTreeMap<u64, u8> = BTreeMap::new();
        for (allocate, order, pick) in steps {
            if allocate {
                let Some(frame) = table.allocate(order, FrameKind::Guest, 7) else { continue };
                prop_assert!(frame.is_multiple_of(1 << order));
                prop_assert!(lies_in_a_span(frame, order));
                let before = held.range(..=frame).next_back();
                prop_assert!(before.is_none_or(|(start, order)| start + (1 << order) <= frame));
                let after = held.range(frame..).next();
                prop_assert!(after.is_none_or(|(start, _)| frame + (1 << order) <= *start));
                held.insert(frame, order);
            } else if !held.is_empty() {
                let (frame, order) = held.iter().nth(pick.index(held.len())).map(|(f, o)| (*f, *o)).unwrap();
                prop_assert_eq!(table.free(frame, order).map(|_| ()), Ok(()));
                held.remove(&frame);
            }
            let taken: u64 = held.values().map(|order| 1_u64 << order).sum();
            prop_assert_eq!(table.free_frames(), all - taken);
            table.check();
        }
        for (frame, order) in held {
            prop_assert_eq!(table.free(frame, order).map(|_| ()), Ok(()));
        }
        table.check();
        // Everything has joined again: the largest block that fits a range can be had.
        prop_assert_eq!(table.allocate(11, FrameKind::Guest, 0), Some(0x4_0000));
    }
}

#[test]
fn every_frame_can_be_had_and_then_none() {
    let mut entries = vec![0; frames(&SPANS)];
    let mut table = table(&mut entries, &SPANS);
    let mut got: Vec<u64> = core::iter::from_fn(|| table.allocate(0, FrameKind::Kernel, 0)).collect();
    got.sort_unstable();
    assert!(got.into_iter().eq(SPANS.into_iter().flatten()));
    assert_eq!(table.free_frames(), 0);
}

#[test]
fn a_gib_is_one_block_and_costs_few_entries() {
    let span = 0..3 << 18;
    let mut entries = vec![0; frames(core::slice::from_ref(&span))];
    let mut table = table(&mut entries, core::slice::from_ref(&span));
    let frame = table.allocate(MAX_ORDER, FrameKind::Guest, 1).unwrap();
    assert!(frame.is_multiple_of(1 << MAX_ORDER));
    assert_eq!(table.entries.iter().filter(|entry| **entry != 0).count(), 3);
    assert_eq!(table.free(frame, MAX_ORDER).map(|_| ()), Ok(()));
}

#[test]
fn parts_of_a_block_come_back_one_by_one() {
    let mut entries = vec![0; frames(&SPANS)];
    let mut table = table(&mut entries, &SPANS);
    let all = table.free_frames();
    let frame = table.allocate(5, FrameKind::Guest, 3).unwrap();
    assert_eq!(table.split(frame, 4, 0), Err(NotAllocated));
    assert_eq!(table.split(frame, 5, 6), Err(NotAllocated));
    assert_eq!(table.split(frame, 5, 2), Ok(()));
    assert_eq!(table.free(frame, 5), Err(NotAllocated));
    for part in (0..32).step_by(4) {
        if part == 8 {
            assert_eq!(table.split(frame + part, 2, 0), Ok(()));
            for single in 0..4 {
                assert_eq!(table.free(frame + part + single, 0).map(|_| ()), Ok(()));
                table.check();
            }
        } else {
            assert_eq!(table.free(frame + part, 2).map(|_| ()), Ok(()));
        }
        table.check();
    }
    assert_eq!(table.free_frames(), all);
    assert_eq!(table.allocate(11, FrameKind::Guest, 0), Some(0x4_0000));
}

#[test]
fn wrong_books_are_noticed() {
    let mut entries = vec![0; frames(&SPANS)];
    let mut table = table(&mut entries, &SPANS);
    let frame = table.allocate(3, FrameKind::Control, 0).unwrap();
    for (frame, order) in [(frame, 2), (frame, 4), (frame + 1, 0), (0, 0), (200, 0), (u64::MAX, 0), (0, 64)] {
        assert_eq!(table.free(frame, order), Err(NotAllocated), "{frame} {order}");
    }
    assert_eq!(table.free(frame, 3).map(|_| ()), Ok(()));
    assert_eq!(table.free(frame, 3), Err(NotAllocated));
    table.check();
}

#[test]
fn what_the_table_has_no_room_for_is_left_out() {
    let mut entries = vec![0; 200];
    let table = table(&mut entries, &SPANS);
    assert_eq!(table.described(), 200);
    assert_eq!(table.free_frames(), 200);
    table.check();
}
