use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::vec::Vec;

use proptest::prelude::*;
use vcpu::{Gpa, Hole, Hpa, MemoryError};

use super::holes::Taken;
use super::space::largest_page;
use super::table::{Format, Level, Mapping, NestedTable, TableMemory};
use super::{EPT, NPT};
use crate::memory::buddy::{FrameKind, FrameTable};

/// Tables in a map; refuses after `left` allocations, counts what is out.
#[derive(Debug)]
struct FakeMemory {
    tables: RefCell<HashMap<u64, [u64; 512]>>,
    next: Cell<u64>,
    left: Cell<usize>,
}

impl FakeMemory {
    fn new(left: usize) -> Self {
        Self { tables: RefCell::default(), next: Cell::new(0x10_0000), left: Cell::new(left) }
    }
}

impl TableMemory for FakeMemory {
    fn allocate(&self) -> Result<Hpa, MemoryError> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or(MemoryError::OutOfFrames { wanted: 4096, free: 0 })?);
        self.next.set(self.next.get() + 0x1000);
        self.tables.borrow_mut().insert(self.next.get(), [0; 512]);
        Ok(Hpa(self.next.get()))
    }
    fn free(&self, table: Hpa) {
        assert!(self.tables.borrow_mut().remove(&table.0).is_some(), "freed twice: {table}");
    }
    fn read(&self, table: Hpa, index: usize) -> u64 {
        self.tables.borrow()[&table.0][index]
    }
    fn write(&self, table: Hpa, index: usize, entry: u64) {
        self.tables.borrow_mut().get_mut(&table.0).unwrap()[index] = entry;
    }
}

fn table(format: Format) -> NestedTable<FakeMemory> {
    NestedTable::new(format, FakeMemory::new(10_000)).unwrap()
}

fn maps_every_size(format: Format) {
    let mut table = table(format);
    table.map(Gpa(0x1000), Hpa(0x5000), Level::Page4K).unwrap();
    table.map(Gpa(0x20_0000), Hpa(0x4000_0000), Level::Page2M).unwrap();
    table.map(Gpa(0x4000_0000), Hpa(0x8000_0000), Level::Page1G).unwrap();
    assert_eq!(table.lookup(Gpa(0x1fff)).unwrap().page, Hpa(0x5000));
    assert_eq!(table.lookup(Gpa(0x2f_ffff)).unwrap().page, Hpa(0x4000_0000));
    assert_eq!(table.lookup(Gpa(0x7fff_ffff)).unwrap().page, Hpa(0x8000_0000));
    assert_eq!(table.lookup(Gpa(0x2000)), None);
    assert_eq!(table.lookup(Gpa(u64::MAX)), None);
}

#[test]
fn ept_maps_every_size() {
    maps_every_size(EPT);
}

#[test]
fn npt_maps_every_size() {
    maps_every_size(NPT);
}

#[test]
fn entries_have_the_bits_of_the_manuals() {
    assert_eq!(EPT.leaf(0x20_0000, Level::Page2M), 0x20_0000 | 0x77 | 1 << 7);
    assert_eq!(EPT.leaf(0x1000, Level::Page4K), 0x1000 | 0x77);
    assert_eq!(NPT.leaf(0x20_0000, Level::Page2M), 0x20_0000 | 0x87);
    assert_eq!(NPT.table(0x3000), 0x3007);
}

#[test]
fn overlap_and_misalignment_are_refused() {
    let mut table = table(EPT);
    table.map(Gpa(0x4000_0000), Hpa(0x8000_0000), Level::Page1G).unwrap();
    let overlap = table.map(Gpa(0x4020_0000), Hpa(0x20_0000), Level::Page2M);
    assert!(matches!(overlap, Err(MemoryError::Overlap { .. })));
    let again = table.map(Gpa(0x4000_0000), Hpa(0x8000_0000), Level::Page1G);
    assert!(matches!(again, Err(MemoryError::Overlap { .. })));
    let askew = table.map(Gpa(0x1000), Hpa(0x20_0000), Level::Page2M);
    assert!(matches!(askew, Err(MemoryError::BadRange { .. })));
    let beyond = table.map(Gpa(1 << 48), Hpa(0x20_0000), Level::Page2M);
    assert!(matches!(beyond, Err(MemoryError::BadRange { .. })));
}

#[test]
fn running_out_of_tables_is_an_error_and_nothing_leaks() {
    for left in 1..5 {
        let mut table = NestedTable::new(NPT, FakeMemory::new(left)).unwrap();
        let result = table.map(Gpa(0x1000), Hpa(0x1000), Level::Page4K);
        assert_eq!(result.is_ok(), left >= 4);
        table.clear(|_| ());
        assert!(table.memory().tables.borrow().is_empty());
    }
}

proptest! {
    /// Against a plain map: what was mapped is found, everything else is not; taking down returns each
    /// page once and every table.
    #[test]
    fn behaves_like_a_map(pages in proptest::collection::vec((0u64..2048, 0u64..1 << 20), 1..60), step in 0usize..70) {
        let mut table = table(EPT);
        let mut model: HashMap<u64, u64> = HashMap::new();
        for (page, frame) in pages {
            let result = table.map(Gpa(page << 12), Hpa(frame << 12), Level::Page4K);
            prop_assert_eq!(result.is_ok(), !model.contains_key(&page));
            model.entry(page).or_insert(frame);
        }
        for page in 0..2048u64 {
            let found = table.lookup(Gpa(page << 12 | 0x123)).map(|m| m.page.0 >> 12);
            prop_assert_eq!(found, model.get(&page).copied());
        }
        let mut released = Vec::new();
        // In steps: each gives back as many as it may, and the last one says so.
        let before = model.len();
        let all = table.clear_some(step, |mapping| released.push(mapping.page.0 >> 12));
        prop_assert_eq!(all, before <= step);
        prop_assert_eq!(released.len(), before.min(step));
        let left = (0..2048u64).filter(|page| table.lookup(Gpa(page << 12)).is_some()).count();
        prop_assert_eq!(left, before - released.len());
        table.clear(|mapping| released.push(mapping.page.0 >> 12));
        let mut expected: Vec<u64> = model.values().copied().collect();
        released.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(released, expected);
        prop_assert!(table.memory().tables.borrow().is_empty());
    }
}

fn takes_parts_of_large_pages(format: Format) {
    const SIZE: u64 = 0x4000_0000;
    let mut table = table(format);
    table.map(Gpa(SIZE), Hpa(2 * SIZE), Level::Page1G).unwrap();
    let mut divided = Vec::new();
    let taken =
        table.take(Gpa(SIZE + 0x20_3000), 0x1000, Hole::Kept, |page, parts| divided.push((page, parts)));
    let page = |at, level| Mapping { page: Hpa(2 * SIZE + at), level };
    assert_eq!(taken, Ok(Taken::Page(page(0x20_3000, Level::Page4K))));
    assert_eq!(
        divided,
        [(page(0, Level::Page1G), Level::Page2M), (page(0x20_0000, Level::Page2M), Level::Page4K)]
    );
    assert_eq!(table.hole(Gpa(SIZE + 0x20_3fff)), Some(Hole::Kept));
    assert_eq!(table.lookup(Gpa(SIZE + 0x20_3000)), None);
    assert_eq!(table.lookup(Gpa(SIZE + 0x20_4000)), Some(page(0x20_4000, Level::Page4K)));
    assert_eq!(table.lookup(Gpa(SIZE + 0x40_0000)), Some(page(0x40_0000, Level::Page2M)));
    // A large page goes whole.
    let whole = table.take(Gpa(SIZE + 0x40_0000), 0x30_0000, Hole::Free, |_, _| panic!("divided"));
    assert_eq!(whole, Ok(Taken::Page(page(0x40_0000, Level::Page2M))));
    assert_eq!(table.hole(Gpa(SIZE + 0x40_1000)), Some(Hole::Free));
    // Again, and a part of it otherwise.
    assert_eq!(
        table.take(Gpa(SIZE + 0x40_1000), 0x1000, Hole::Free, |_, _| ()),
        Ok(Taken::Before(0x1f_f000))
    );
    assert_eq!(table.take(Gpa(SIZE + 0x40_1000), 0x1000, Hole::Kept, |_, _| ()), Ok(Taken::Before(0x1000)));
    assert_eq!(table.hole(Gpa(SIZE + 0x40_1000)), Some(Hole::Kept));
    assert_eq!(table.hole(Gpa(SIZE + 0x40_2000)), Some(Hole::Free));
    assert_eq!(table.let_go(Gpa(SIZE + 0x40_1000)), 0x1000);
    assert_eq!(table.hole(Gpa(SIZE + 0x40_1000)), Some(Hole::Free));
    // A hole is filled once, and what is none is not.
    assert_eq!(table.fill(Gpa(SIZE + 0x40_1000), Hpa(0x7000), Level::Page4K), Ok(true));
    assert_eq!(table.fill(Gpa(SIZE + 0x40_1000), Hpa(0x8000), Level::Page4K), Ok(false));
    assert_eq!(table.lookup(Gpa(SIZE + 0x40_1000)).map(|page| page.page), Some(Hpa(0x7000)));
    assert_eq!(table.fill(Gpa(0x1000), Hpa(0x8000), Level::Page4K), Ok(false));
    assert_eq!(table.take(Gpa(0x1000), 0x1000, Hole::Free, |_, _| ()), Ok(Taken::NotRam));
    assert_eq!(table.take(Gpa(1 << 48), 0x1000, Hole::Free, |_, _| ()), Ok(Taken::NotRam));
    table.clear(|_| ());
    assert!(table.memory().tables.borrow().is_empty());
}

#[test]
fn ept_takes_parts_of_large_pages() {
    takes_parts_of_large_pages(EPT);
}

#[test]
fn npt_takes_parts_of_large_pages() {
    takes_parts_of_large_pages(NPT);
}

#[test]
fn a_page_stays_where_there_is_no_memory_to_divide_it() {
    let mut table = NestedTable::new(EPT, FakeMemory::new(3)).unwrap();
    table.map(Gpa(0x20_0000), Hpa(0x40_0000), Level::Page2M).unwrap();
    let taken = table.take(Gpa(0x20_1000), 0x1000, Hole::Free, |_, _| panic!("divided"));
    assert!(matches!(taken, Err(MemoryError::OutOfFrames { .. })));
    assert!(table.lookup(Gpa(0x20_1000)).is_some());
}

/// Two large pages of memory, of which the second one is given back.
const LARGE: u64 = 2 << 20;

fn with_a_large_hole() -> NestedTable<FakeMemory> {
    let mut table = table(EPT);
    table.map(Gpa(0), Hpa(0x4000_0000), Level::Page2M).unwrap();
    table.map(Gpa(LARGE), Hpa(0x4020_0000), Level::Page2M).unwrap();
    let taken = table.take(Gpa(LARGE), LARGE, Hole::Free, |_, _| panic!("divided"));
    assert!(matches!(taken, Ok(Taken::Page(_))));
    table
}

#[test]
fn a_large_hole_is_filled_with_one_page() {
    let table = with_a_large_hole();
    assert!(table.is_large_hole(Gpa(LARGE + 0x3000)) && !table.is_large_hole(Gpa(0x3000)));
    assert_eq!(table.next_free(Gpa(LARGE + 0x3000)), None, "there are no small pages");
    assert_eq!(table.fill(Gpa(LARGE), Hpa(0x8000_0000), Level::Page2M), Ok(true));
    let mapping = Mapping { page: Hpa(0x8000_0000), level: Level::Page2M };
    assert_eq!(table.lookup(Gpa(2 * LARGE - 1)), Some(mapping));
    assert_eq!(table.fill(Gpa(LARGE), Hpa(0x8020_0000), Level::Page2M), Ok(false), "it is none any more");
}

/// From wherever the first touch was, all of the free pages are found, each once; what the guest keeps in its balloon is left alone.
#[test]
fn small_holes_around_a_touch_are_filled_and_no_large_page_fits_then() {
    for touched in [0, 0x7000, LARGE - 0x1000] {
        let table = with_a_large_hole();
        let kept = if touched == 0x7000 { 0x1f_0000 } else { 0x7000 };
        assert_eq!(
            table.take(Gpa(LARGE + kept), 0x1000, Hole::Kept, |_, _| ()),
            Ok(Taken::Before(0x1000)),
            "a part of the hole is kept"
        );
        assert!(!table.is_large_hole(Gpa(LARGE + touched)));
        assert_eq!(table.fill(Gpa(LARGE), Hpa(0x8000_0000), Level::Page2M), Ok(false));
        let (mut at, mut filled) = (Gpa(LARGE + touched), 0);
        loop {
            assert_eq!(table.fill(at, Hpa(0x9000_0000 + filled * 0x1000), Level::Page4K), Ok(true));
            filled += 1;
            match table.next_free(at) {
                Some(next) => at = next,
                None => break,
            }
        }
        assert_eq!(filled, 511);
        assert_eq!(table.hole(Gpa(LARGE + kept)), Some(Hole::Kept));
        assert!(
            table.lookup(Gpa(0)).is_some_and(|page| page.page == Hpa(0x4000_0000)),
            "its neighbour is as before"
        );
    }
}

/// Where no 2 MiB of the host are together any more, a VM gets its memory in small pages.
#[test]
fn memory_in_pieces_is_enough_for_a_vm() {
    const FRAMES: u64 = 4 << 9;
    let mut entries = std::vec![0; FRAMES as usize];
    let mut frames = FrameTable::new(&mut entries);
    frames.add_span(0..FRAMES);
    frames.add_free(0..FRAMES);
    let kind = FrameKind::Guest;
    let all: Vec<u64> = (0..FRAMES).map_while(|_| frames.allocate(0, kind, 0)).collect();
    assert_eq!(all.len() as u64, FRAMES);
    // Of a part, every second frame is free; then there is a large page.
    for frame in all.iter().filter(|frame| **frame >= FRAMES - 512 || frame.is_multiple_of(2)) {
        assert_eq!(frames.free(*frame, 0), Ok(kind));
    }
    let free = frames.free_frames() << 12;
    let frames = RefCell::new(frames);
    let take =
        |level: Level| frames.borrow_mut().allocate(level.order(), kind, 0).map(|frame| Hpa(frame << 12));
    let mut table = table(NPT);
    let (mut at, mut sizes) = (0, Vec::new());
    while let Some(filling) = largest_page(Gpa(at), free - at, Level::Page1G, take) {
        table.map(Gpa(at), filling.page, filling.level).unwrap();
        sizes.push(filling.level);
        at += filling.level.bytes();
    }
    assert_eq!(at, free, "all that is free is the VM's");
    assert_eq!(sizes.iter().filter(|size| **size == Level::Page2M).count(), 1);
    assert_eq!(sizes.iter().filter(|size| **size == Level::Page4K).count() as u64, 3 << 8);
    assert!((0..free).step_by(0x1000).all(|gpa| table.lookup(Gpa(gpa)).is_some()));
    table.clear(|mapping| {
        assert_eq!(frames.borrow_mut().free(mapping.page.0 >> 12, mapping.level.order()), Ok(kind));
    });
    assert_eq!(frames.borrow().free_frames() << 12, free);
}
