use std::vec::Vec;

use super::*;
use crate::queue::driver::{BUFFERS, Driver};
use crate::queue::{Abilities, Queue};

const PAGES_AT: u64 = 0x8_0000;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const REPORT: usize = 4;

struct Bench {
    balloon: Balloon,
    driver: Driver,
    queue: Queue,
    chain: Chain,
}

impl Bench {
    fn new() -> Self {
        let driver = Driver::new(16);
        let queue = Queue::new(driver.layout, Abilities::default()).unwrap();
        let balloon = Balloon::default();
        balloon.go_live(Balloon::offered());
        Self { balloon, driver, queue, chain: Chain::default() }
    }

    fn put(&self, bytes: &[u8]) {
        self.driver.memory.write(Gpa(BUFFERS), bytes).unwrap();
    }

    /// Makes a request, and what it comes to; with how many steps.
    fn ask(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> (Result<Next, Broken>, usize) {
        self.driver.offer_chain(buffers);
        let memory = &self.driver.memory;
        self.queue.take(memory, &mut self.chain).unwrap().unwrap();
        let mut next = self.balloon.begin(queue, &self.chain, memory);
        let mut steps = 1;
        while let Ok(Next::More(work)) = next {
            next = self.balloon.go_on(work, &self.chain, memory);
            steps += 1;
            assert!(steps < 2000, "no end");
        }
        (next, steps)
    }

    fn numbers(&mut self, queue: usize, numbers: &[u32]) -> Result<Next, Broken> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.put(&bytes);
        self.ask(queue, &[(BUFFERS, bytes.len() as u32, false)]).0
    }

    fn taken(&self) -> u64 {
        self.driver.memory.taken_back() / PAGE_SIZE
    }

    fn byte(&self, gpa: u64) -> u8 {
        let mut byte = [0xee];
        self.driver.memory.read(Gpa(gpa), &mut byte).unwrap();
        byte[0]
    }
}

#[test]
fn pages_go_and_come_as_new() {
    let mut bench = Bench::new();
    bench.driver.memory.write(Gpa(PAGES_AT), &[7; 64]).unwrap();
    let pages: Vec<u32> = (0x80..0x80 + 20).collect();
    assert_eq!(bench.numbers(INFLATE, &pages), Ok(Next::Done));
    assert_eq!(bench.taken(), 20);
    assert!(bench.driver.memory.settle(), "it was given back before all had forgotten it");
    assert_eq!(bench.numbers(DEFLATE, &pages), Ok(Next::Done));
    // They come when they are touched.
    assert_eq!(bench.taken(), 20);
    assert_eq!((bench.byte(PAGES_AT), bench.taken()), (0, 19));
}

#[test]
fn free_memory_is_taken_in_whole_pages() {
    let mut bench = Bench::new();
    let parts = [
        (PAGES_AT + 0x800, 0x2000, true),
        (PAGES_AT + 0x4000, 0xfff, true),
        (PAGES_AT + 0x6000, 0x3001, true),
    ];
    assert_eq!(bench.ask(REPORT, &parts).0, Ok(Next::Done));
    assert_eq!(bench.taken(), 1 + 3);
}

#[test]
fn what_is_no_ram_means_nothing() {
    let mut bench = Bench::new();
    assert_eq!(bench.numbers(INFLATE, &[u32::MAX, 0x80, 0x1000, 0x80]), Ok(Next::Done));
    assert_eq!(bench.taken(), 1);
    assert_eq!(bench.numbers(DEFLATE, &[u32::MAX, 0x1000]), Ok(Next::Done));
    let huge = [(u64::MAX - 0xfff, 0x1000, true), (u64::MAX, u32::MAX / 2, true), (0, 0x7fff_0000, true)];
    let (next, steps) = bench.ask(REPORT, &huge);
    assert_eq!(next, Ok(Next::Done));
    assert!((10..100).contains(&steps), "{steps} steps");
}

#[test]
fn numbers_outside_ram_break_the_device() {
    let mut bench = Bench::new();
    assert!(matches!(bench.ask(INFLATE, &[(1 << 40, 8, false)]).0, Err(Broken::NotRam(_))));
}

#[test]
fn requests_are_bounded() {
    let mut bench = Bench::new();
    let part = (BUFFERS, 0x4_0000, false);
    assert_eq!(bench.ask(DEFLATE, &[part]).0, Ok(Next::Done));
    assert_eq!(bench.ask(INFLATE, &[part, (BUFFERS, 1, false)]).0, Err(Broken::Length));
}

#[test]
fn statistics_come_when_they_are_wanted() {
    let mut bench = Bench::new();
    let mut bytes = Vec::new();
    for (tag, value) in [(4_u16, 1000_u64), (5, 4000), (99, 1), (4, 2000)] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bench.put(&bytes);
    let (next, _) = bench.ask(STATISTICS, &[(BUFFERS, bytes.len() as u32, false)]);
    assert_eq!(next, Ok(Next::Stalls(Work::Held)));
    assert!(!bench.balloon.has_news());
    let told = bench.balloon.statistics();
    let named: Vec<_> = named(&told).collect();
    assert_eq!(named, [("free", 2000, true), ("total", 4000, true)]);
    assert!(bench.balloon.has_news());
    assert_eq!(bench.balloon.take_asked(), 1 << STATISTICS);
    let held = bench.balloon.go_on(Work::Held, &bench.chain, &bench.driver.memory);
    assert_eq!(held, Ok(Next::Done), "the driver fills it anew");
    bench.balloon.reset();
    assert_eq!(bench.balloon.statistics(), Statistics::default());
}

#[test]
fn the_target_is_news_and_stays_over_a_reset() {
    let balloon = Balloon::default();
    balloon.set_target(77);
    assert!(balloon.has_news() && balloon.take_change() && !balloon.has_news());
    balloon.write_configuration(ACTUAL_AT, 70);
    balloon.write_configuration(0, 1);
    assert_eq!(balloon.configuration().as_slice(), [77, 0, 0, 0, 70, 0, 0, 0]);
    balloon.reset();
    assert_eq!(balloon.pages(), (77, 0));
}

#[test]
fn queues_are_what_was_agreed() {
    let balloon = Balloon::default();
    assert_eq!(balloon.role(3), Role::Nothing);
    balloon.go_live(feature::PAGE_REPORTING);
    assert_eq!(
        [2, 3, 4, 5].map(|queue| balloon.role(queue)),
        [Role::Report, Role::Report, Role::Report, Role::Nothing]
    );
    balloon.go_live(feature::STATS_VQ);
    assert_eq!([2, 3].map(|queue| balloon.role(queue)), [Role::Statistics, Role::Nothing]);
}
