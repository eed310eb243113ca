//! A disk whose sectors a server has, against a driver and a server that does as it likes.

use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use devices::Width;
use proptest::prelude::*;
use spin::Mutex;
use vcpu::fake::{FakeImage, FakeSpace};
use vcpu::{AddressSpace, Gpa, GuestMemory};

use crate::block::{Answer, Block, Order, OrderVerb, SLOT_BYTES, SLOTS, Server};
use crate::queue::driver::{BUFFERS, Driver};
use crate::tests::{Bench, DATA, DISCARD, FLUSH, HEADER, IN, OUT, STATUS, Told, UNTOUCHED, WRITE_ZEROES};
use crate::transport::register;
use crate::{Function, Kind, Progress, Signals, Wires};

const DISK_BYTES: usize = 1 << 20;
const SECTOR: usize = 512;
const WINDOW: u64 = 0x10_0000;
/// The device whose memory the window is.
const OWNER: usize = 7;
const DISK: u16 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Free,
    Taken,
    Told(Order),
    Answered(Answer),
}

/// A server: slots, and what was told in which order.
#[derive(Debug)]
struct Shelf {
    slots: Mutex<[Slot; SLOTS]>,
    told: Mutex<Vec<u16>>,
}

impl Shelf {
    fn set(&self, slot: u16, state: Slot) -> Slot {
        core::mem::replace(&mut self.slots.lock()[usize::from(slot)], state)
    }

    fn free(&self) -> usize {
        self.slots.lock().iter().filter(|slot| **slot == Slot::Free).count()
    }
}

impl Server for Shelf {
    fn take(&self) -> Option<u16> {
        let mut slots = self.slots.lock();
        let free = slots.iter().position(|slot| *slot == Slot::Free)?;
        slots[free] = Slot::Taken;
        Some(free as u16)
    }

    fn has_room(&self) -> bool {
        self.free() != 0
    }

    fn place(&self, slot: u16) -> Option<(usize, Gpa)> {
        Some((OWNER, place(slot)))
    }

    fn tell(&self, slot: u16, order: Order) {
        assert_eq!(order.disk, DISK);
        let before = self.set(slot, Slot::Told(order));
        assert!(matches!(before, Slot::Taken | Slot::Answered(Answer::Again)));
        self.told.lock().push(slot);
    }

    fn answered(&self, disk: u16) -> Option<(u16, Answer)> {
        assert_eq!(disk, DISK);
        let slots = self.slots.lock();
        let answer = |slot: &Slot| if let Slot::Answered(answer) = slot { Some(*answer) } else { None };
        slots.iter().enumerate().find_map(|(at, slot)| Some((at as u16, answer(slot)?)))
    }

    fn has_answers(&self, disk: u16) -> bool {
        self.answered(disk).is_some()
    }

    fn give_back(&self, slot: u16) {
        assert!(matches!(self.set(slot, Slot::Free), Slot::Taken | Slot::Answered(_)));
    }
}

const fn place(slot: u16) -> Gpa {
    Gpa(WINDOW + slot as u64 * SLOT_BYTES as u64)
}

/// The way to the window's memory.
struct World {
    told: Told,
    window: FakeSpace,
    lobby: Function<FakeImage>,
    is_there: bool,
    wakes: usize,
}

impl Signals for World {
    fn message(&mut self, address: u64, data: u32) {
        self.told.message(address, data);
    }

    fn line(&mut self, high: bool) {
        self.told.line(high);
    }
}

impl Wires<FakeImage, FakeSpace> for World {
    fn reach<R>(
        &mut self,
        owner: usize,
        with: impl FnOnce(&Function<FakeImage>, &FakeSpace, &mut dyn Signals) -> R,
    ) -> Option<R> {
        assert_eq!(owner, OWNER);
        self.is_there.then(|| with(&self.lobby, &self.window, &mut self.told))
    }

    fn wake_at(&mut self, _at: u64) {
        self.wakes += 1;
    }
}

/// All of it.
struct Stage {
    bench: Bench<World>,
    shelf: Arc<Shelf>,
    /// What the server has on its disk.
    disk: Vec<u8>,
    /// What it was told, by kind.
    orders: Vec<Order>,
}

impl Stage {
    fn new(read_only: bool) -> Self {
        let shelf = Arc::new(Shelf { slots: Mutex::new([Slot::Free; SLOTS]), told: Mutex::default() });
        let mut window = FakeSpace::with_memory(4 << 20);
        window.grow_all(Gpa(0), 4 << 20).expect("memory");
        let server: Arc<dyn Server> = Arc::<Shelf>::clone(&shelf);
        let sectors = (DISK_BYTES / SECTOR) as u64;
        let block = Block::served(server, DISK, sectors, read_only, "far").expect("memory");
        let lobby = Function::new(Kind::Block(Block::new(FakeImage::new(&[]), true, "")), 1).expect("memory");
        let world = World { told: Told::default(), window, lobby, is_there: true, wakes: 0 };
        let mut bench = Bench::with(Kind::Block(block), world);
        bench.start();
        let disk = (0..DISK_BYTES).map(|at| (at / SECTOR) as u8).collect();
        Self { bench, shelf, disk, orders: Vec::new() }
    }

    /// Offers a request with one data buffer, its header and status at that place of their own.
    fn offer(&mut self, at: u64, kind: u32, sector: u64, data: Option<(u64, u32)>) -> u16 {
        let (header, status) = (HEADER + 64 * at, STATUS + 64 * at);
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        self.bench.driver.memory.write(Gpa(header), &bytes).unwrap();
        self.bench.driver.memory.write(Gpa(status), &[UNTOUCHED]).unwrap();
        let data: Vec<_> = data.into_iter().map(|(gpa, length)| (gpa, length, kind == IN)).collect();
        let buffers = [&[(header, 16, false)], &data[..], &[(status, 1, true)]].concat();
        let head = self.bench.driver.offer_chain(&buffers);
        self.bench.ring();
        head
    }

    fn status_of(&self, at: u64) -> u8 {
        self.bench.bytes(STATUS + 64 * at, 1)[0]
    }

    /// The server carries out what it was told at that place of its list, and answers.
    fn serve(&mut self, at: usize) {
        let slot = self.shelf.told.lock().remove(at);
        let Slot::Told(order) = self.shelf.slots.lock()[usize::from(slot)] else { panic!("it was told") };
        let (from, bytes) = (order.sector as usize * SECTOR, order.sectors as usize * SECTOR);
        let window = &self.bench.told.window;
        let sectors = &mut self.disk[from..from + bytes];
        match order.verb {
            OrderVerb::Read => window.write(place(slot), sectors).unwrap(),
            OrderVerb::Write => window.read(place(slot), sectors).unwrap(),
            OrderVerb::Zero { .. } => sectors.fill(0),
            OrderVerb::Flush | OrderVerb::Discard => {}
        }
        self.orders.push(order);
        self.shelf.set(slot, Slot::Answered(Answer::Done));
    }

    /// What there is to do for the device, now that it was called.
    fn work(&mut self) {
        self.bench.function.note_answers();
        self.bench.work();
    }

    /// Until nothing is left.
    fn run(&mut self) {
        for _ in 0..1000 {
            self.bench.function.note_answers();
            while self.bench.function.step(&self.bench.driver.memory, &mut self.bench.told) == Progress::More
            {
            }
            if self.shelf.told.lock().is_empty() {
                return;
            }
            self.serve(0);
        }
        panic!("it does not end");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut stage = Stage::new(false);
    stage.bench.driver.memory.write(Gpa(DATA), &[0xab; 1024]).unwrap();
    let write = stage.offer(0, OUT, 4, Some((DATA, 1024)));
    stage.run();
    assert_eq!(stage.bench.driver.collect(), [(write.into(), 1)]);
    let read = stage.offer(1, IN, 3, Some((DATA + 0x1000, 2048)));
    let flush = stage.offer(2, FLUSH, 0, None);
    stage.run();
    assert_eq!(stage.bench.driver.collect(), [(read.into(), 2049), (flush.into(), 1)]);
    let found = stage.bench.bytes(DATA + 0x1000, 2048);
    assert_eq!(found, [vec![3; 512], vec![0xab; 1024], vec![6; 512]].concat());
    assert_eq!([0, 1, 2].map(|at| stage.status_of(at)), [0; 3]);
    let verbs: Vec<_> = stage.orders.iter().map(|order| order.verb).collect();
    assert_eq!(verbs, [OrderVerb::Write, OrderVerb::Read, OrderVerb::Flush]);
    assert_eq!(stage.shelf.free(), SLOTS);
}

#[test]
fn ranges_are_told_as_they_are() {
    let mut stage = Stage::new(false);
    let range = |flags: u32| [&8_u64.to_le_bytes()[..], &2_u32.to_le_bytes(), &flags.to_le_bytes()].concat();
    for (at, kind, flags) in [(0, WRITE_ZEROES, 1), (1, WRITE_ZEROES, 0), (2, DISCARD, 0)] {
        stage.bench.driver.memory.write(Gpa(DATA), &range(flags)).unwrap();
        stage.offer(at, kind, 0, Some((DATA, 16)));
        stage.run();
        assert_eq!(stage.status_of(at), 0);
    }
    let told: Vec<_> = stage.orders.iter().map(|order| (order.verb, order.sector, order.sectors)).collect();
    let zero = |may_unmap| OrderVerb::Zero { may_unmap };
    assert_eq!(told, [(zero(true), 8, 2), (zero(false), 8, 2), (OrderVerb::Discard, 8, 2)]);
}

#[test]
fn a_large_request_is_several_orders_and_ends_with_the_last() {
    let mut stage = Stage::new(false);
    let bytes = 3 * SLOT_BYTES + 512;
    let head = stage.offer(0, IN, 5, Some((DATA, bytes)));
    stage.work();
    let told = stage.shelf.told.lock().len();
    assert_eq!(told, 4);
    // Backwards, one by one.
    for left in (0..told).rev() {
        assert_eq!(stage.bench.driver.collect(), []);
        stage.serve(left);
        stage.work();
    }
    assert_eq!(stage.bench.driver.collect(), [(head.into(), bytes + 1)]);
    assert_eq!(stage.bench.bytes(DATA, bytes as usize), stage.disk[5 * SECTOR..][..bytes as usize]);
}

#[test]
fn what_finds_no_slot_waits() {
    let mut stage = Stage::new(false);
    let slots: Vec<_> = (0..SLOTS - 1).map(|_| stage.shelf.take().expect("free")).collect();
    let head = stage.offer(0, IN, 0, Some((DATA, 2 * SLOT_BYTES)));
    stage.work();
    assert_eq!(stage.shelf.told.lock().len(), 1, "one order, and the other waits");
    stage.serve(0);
    stage.work();
    stage.run();
    assert_eq!(stage.bench.driver.collect(), [(head.into(), 2 * SLOT_BYTES + 1)]);
    slots.into_iter().for_each(|slot| stage.shelf.give_back(slot));
}

#[test]
fn errors_reach_the_guest_once_all_is_back() {
    let mut stage = Stage::new(false);
    let head = stage.offer(0, OUT, 0, Some((DATA, 2 * SLOT_BYTES)));
    stage.work();
    let first = stage.shelf.told.lock().remove(0);
    stage.shelf.set(first, Slot::Answered(Answer::Failed));
    stage.work();
    assert_eq!((stage.bench.driver.collect(), stage.status_of(0)), (vec![], UNTOUCHED));
    stage.run();
    assert_eq!((stage.bench.driver.collect(), stage.status_of(0)), (vec![(head.into(), 1)], 1));
    // Buffers where there is no memory.
    let head = stage.offer(0, OUT, 0, Some((1 << 40, 512)));
    stage.run();
    assert_eq!((stage.bench.driver.collect(), stage.status_of(0)), (vec![(head.into(), 1)], 1));
    let head = stage.offer(0, IN, 0, Some((1 << 40, 512)));
    stage.run();
    assert_eq!((stage.bench.driver.collect(), stage.status_of(0)), (vec![(head.into(), 1)], 1));
    assert_eq!(stage.shelf.free(), SLOTS);
    let mut fixed = Stage::new(true);
    fixed.offer(0, OUT, 0, Some((DATA, 512)));
    fixed.run();
    assert_eq!((fixed.status_of(0), fixed.orders.len()), (1, 0));
}

#[test]
fn a_window_that_cannot_be_reached_is_tried_again() {
    let mut stage = Stage::new(false);
    stage.bench.told.is_there = false;
    let head = stage.offer(0, OUT, 0, Some((DATA, 512)));
    stage.work();
    assert!(stage.bench.told.wakes == 1 && stage.shelf.told.lock().is_empty());
    stage.bench.told.is_there = true;
    stage.bench.function.advance();
    stage.run();
    assert_eq!(stage.bench.driver.collect(), [(head.into(), 1)]);
}

#[test]
fn after_a_reset_nobody_hears_of_what_was_before_and_all_of_it_comes_first() {
    let mut stage = Stage::new(false);
    stage.offer(0, IN, 0, Some((DATA, 512)));
    stage.work();
    stage.bench.common(register::STATUS, Width::Byte, 0);
    assert_eq!(stage.bench.status(), 0);
    stage.bench.driver = Driver::new(16);
    stage.bench.start();
    let head = stage.offer(1, IN, 9, Some((DATA, 512)));
    stage.work();
    assert_eq!(stage.shelf.told.lock().len(), 1, "the new one waits for the old one");
    stage.serve(0);
    stage.work();
    assert_eq!(stage.bench.driver.collect(), [], "nobody hears of it");
    assert_eq!(stage.bench.bytes(DATA, 1), [0], "nor sees its bytes");
    stage.run();
    assert_eq!(stage.bench.driver.collect(), [(head.into(), 513)]);
    assert_eq!((stage.bench.bytes(DATA, 1), stage.shelf.free()), (vec![9], SLOTS));
}

#[test]
fn a_chain_that_has_become_none_breaks_its_device_only() {
    let mut stage = Stage::new(false);
    let head = stage.offer(0, IN, 0, Some((DATA, 512)));
    stage.work();
    stage.bench.driver.own(head, (BUFFERS, 16), 1, 999);
    stage.run();
    assert!(stage.bench.status() & crate::transport::status::NEEDS_RESET != 0);
    assert_eq!(stage.shelf.free(), SLOTS, "its slot is free");
}

#[test]
fn what_a_server_has_forgotten_is_told_again_with_its_bytes() {
    let mut stage = Stage::new(false);
    let bytes = SLOT_BYTES + 512;
    stage.bench.driver.memory.write(Gpa(DATA), &vec![0xcd; bytes as usize]).unwrap();
    let write = stage.offer(0, OUT, 7, Some((DATA, bytes)));
    let flush = stage.offer(1, FLUSH, 0, None);
    stage.work();
    // It is another one now, with another window.
    let told = core::mem::take(&mut *stage.shelf.told.lock());
    assert_eq!(told.len(), 3);
    for slot in told {
        stage.bench.told.window.write(place(slot), &[0; 512]).unwrap();
        stage.shelf.set(slot, Slot::Answered(Answer::Again));
    }
    stage.run();
    assert_eq!(stage.bench.driver.collect(), [(write.into(), 1), (flush.into(), 1)]);
    assert!(stage.disk[7 * SECTOR..][..bytes as usize].iter().all(|byte| *byte == 0xcd));
    let told: Vec<_> = stage.orders.iter().map(|order| (order.verb, order.sector, order.sectors)).collect();
    assert_eq!(told, [(OrderVerb::Write, 7, 128), (OrderVerb::Write, 135, 1), (OrderVerb::Flush, 0, 0)]);
}

/// One request: what, where, how many sectors, and which buffer.
type Script = (u8, u64, u32);

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Whatever is asked and however it is served, each request is answered once, and reads find what was written.
    #[test]
    fn requests_in_any_order(scripts in prop::collection::vec((0_u8..3, 0_u64..64, 1_u32..300), 1..20), order in any::<u64>()) {
        let mut stage = Stage::new(false);
        let mut model = stage.disk.clone();
        let mut order = order;
        for (kind, sector, sectors) in scripts as Vec<Script> {
            let bytes = sectors as usize * SECTOR;
            let range = sector as usize * SECTOR..sector as usize * SECTOR + bytes;
            let head = match kind {
                0 => stage.offer(0, IN, sector, Some((DATA, bytes as u32))),
                1 => {
                    let fill = vec![order as u8; bytes];
                    stage.bench.driver.memory.write(Gpa(DATA), &fill).unwrap();
                    model[range.clone()].copy_from_slice(&fill);
                    stage.offer(0, OUT, sector, Some((DATA, bytes as u32)))
                }
                _ => stage.offer(0, FLUSH, 0, None),
            };
            for _ in 0..1000 {
                stage.work();
                let told = stage.shelf.told.lock().len();
                if told == 0 {
                    break;
                }
                order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                stage.serve((order >> 33) as usize % told);
            }
            let written = if kind == 0 { bytes as u32 + 1 } else { 1 };
            prop_assert_eq!(stage.bench.driver.collect(), [(head.into(), written)]);
            prop_assert_eq!(stage.status_of(0), 0);
            if kind == 0 {
                prop_assert_eq!(&stage.bench.bytes(DATA, bytes), &model[range]);
            }
        }
        prop_assert_eq!(&stage.disk, &model);
        prop_assert_eq!(stage.shelf.free(), SLOTS);
    }
}
