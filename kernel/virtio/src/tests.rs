//! Whole devices against a driver.

use std::vec;
use std::vec::Vec;

use devices::Width;
use devices::pci::register as pci_register;
use proptest::prelude::*;
use spin::Mutex;
use vcpu::fake::{FakeImage, FakeSpace};
use vcpu::{Gpa, GuestMemory, Random};

use crate::block::Block;
use crate::pci::{self, PAGE_SHIFT, page};
use crate::queue::driver::{BUFFERS, Buffer, Driver};
use crate::transport::{feature, register, status};
use crate::{Function, Kind, Progress, STEP_BYTES, Signals, Wires};

/// What a function has told the VM.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) messages: Vec<(u64, u32)>,
    pub(crate) line: bool,
}

impl Signals for Told {
    fn message(&mut self, address: u64, data: u32) {
        self.messages.push((address, data));
    }

    fn line(&mut self, high: bool) {
        self.line = high;
    }
}

impl<I, M> Wires<I, M> for Told {}

/// Not very.
struct Dice;

impl Random for Dice {
    fn fill(&mut self, buffer: &mut [u8]) {
        buffer.fill(0x5a);
    }
}

const DISK_BYTES: usize = 1 << 20;
pub(crate) const HEADER: u64 = BUFFERS;
pub(crate) const STATUS: u64 = BUFFERS + 0x20;
pub(crate) const DATA: u64 = BUFFERS + 0x1000;
/// Nothing else says this.
pub(crate) const UNTOUCHED: u8 = 0xee;
const BASE: u32 = 0xc000_0000;

/// A device with its driver, and the world around it.
pub(crate) struct Bench<W = Told> {
    pub(crate) function: Function<FakeImage>,
    pub(crate) driver: Driver,
    pub(crate) told: W,
}

impl Bench {
    fn new(kind: Kind<FakeImage>) -> Self {
        Self::with(kind, Told::default())
    }

    fn disk(read_only: bool) -> Self {
        let content: Vec<_> = (0..DISK_BYTES).map(|at| (at / 512) as u8).collect();
        let mut bench = Self::new(Kind::Block(Block::new(FakeImage::new(&content), read_only, "serial")));
        bench.start();
        bench
    }
}

impl<W: Wires<FakeImage, FakeSpace>> Bench<W> {
    pub(crate) fn with(kind: Kind<FakeImage>, mut told: W) -> Self {
        let function = Function::new(kind, 2).expect("memory");
        let mut space = function.config_space();
        pci::place(&mut space, BASE, 10);
        // Memory, bus master.
        space.write(pci_register::COMMAND, Width::Word, 6);
        function.configure(&pci::configured(&space), &mut told);
        assert_eq!(function.offset(u64::from(BASE) + 0x10), Some(0x10));
        Self { function, driver: Driver::new(16), told }
    }

    pub(crate) fn common(&mut self, at: u64, width: Width, value: u64) {
        self.function.write(page::COMMON << PAGE_SHIFT | at, width, value, &mut self.told);
    }

    fn read(&mut self, page: u64, at: u64, width: Width) -> u64 {
        self.function.read(page << PAGE_SHIFT | at, width, &mut self.told)
    }

    pub(crate) fn status(&mut self) -> u8 {
        self.read(page::COMMON, register::STATUS, Width::Byte) as u8
    }

    /// As a driver does it.
    pub(crate) fn start(&mut self) {
        use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
        self.common(register::STATUS, Width::Byte, 0);
        self.common(register::STATUS, Width::Byte, (ACKNOWLEDGE | DRIVER).into());
        for select in 0..2 {
            self.common(register::DEVICE_FEATURE_SELECT, Width::Dword, select);
            self.common(register::DRIVER_FEATURE_SELECT, Width::Dword, select);
            let offered = self.read(page::COMMON, register::DEVICE_FEATURE, Width::Dword);
            let wanted = if select == 0 { offered & !feature::EVENT_IDX } else { offered };
            self.common(register::DRIVER_FEATURE, Width::Dword, wanted);
        }
        self.common(register::STATUS, Width::Byte, (ACKNOWLEDGE | DRIVER | FEATURES_OK).into());
        assert!(self.status() & FEATURES_OK != 0);
        self.enable();
        self.common(register::STATUS, Width::Byte, (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK).into());
    }

    fn enable(&mut self) {
        let layout = self.driver.layout;
        self.common(register::QUEUE_SELECT, Width::Word, 0);
        self.common(register::QUEUE_SIZE, Width::Word, layout.size.into());
        for (index, Gpa(address)) in
            [layout.descriptors, layout.driver, layout.device].into_iter().enumerate()
        {
            let at = register::QUEUE_DESCRIPTORS + 8 * index as u64;
            self.common(at, Width::Dword, address & 0xffff_ffff);
            self.common(at + 4, Width::Dword, address >> 32);
        }
        self.common(register::QUEUE_ENABLE, Width::Word, 1);
    }

    pub(crate) fn ring(&mut self) {
        self.function.write(page::NOTIFY << PAGE_SHIFT, Width::Word, 0, &mut self.told);
    }

    /// Steps until nothing is left, and how many.
    pub(crate) fn work(&mut self) -> usize {
        let mut steps = 1;
        while self.function.step(&self.driver.memory, &mut self.told) == Progress::More {
            steps += 1;
            assert!(steps < 1000, "it does not end");
        }
        steps
    }

    fn header(&self, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.driver.memory.write(Gpa(HEADER), &header).unwrap();
        self.driver.memory.write(Gpa(STATUS), &[UNTOUCHED]).unwrap();
    }

    /// Carries out a request with these data buffers: the status, and the bytes written by the device's account.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        self.header(kind, sector);
        let buffers = [&[(HEADER, 16, false)], data, &[(STATUS, 1, true)]].concat();
        let head = self.driver.offer_chain(&buffers);
        self.ring();
        self.work();
        let used = self.driver.collect();
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].0, u32::from(head));
        (self.bytes(STATUS, 1)[0], used[0].1)
    }

    pub(crate) fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.driver.memory.read(Gpa(at), &mut bytes).unwrap();
        bytes
    }
}

pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;

#[test]
fn a_disk_reads_and_writes() {
    let mut bench = Bench::disk(false);
    assert_eq!(bench.read(page::DEVICE, 0, Width::Dword), (DISK_BYTES / 512) as u64);
    // Buffers of any shape.
    assert_eq!(bench.request(IN, 3, &[(DATA, 700, true), (DATA + 700, 324, true)]), (0, 1025));
    assert_eq!(bench.bytes(DATA, 1024), [vec![3; 512], vec![4; 512]].concat());
    bench.driver.memory.write(Gpa(DATA), &[0xaa; 512]).unwrap();
    assert_eq!(bench.request(OUT, 9, &[(DATA, 512, false)]), (0, 1));
    assert_eq!(bench.request(FLUSH, 0, &[]), (0, 1));
    assert_eq!(bench.request(IN, 8, &[(DATA + 0x1000, 1536, true)]), (0, 1537));
    assert_eq!(bench.bytes(DATA + 0x1000, 1536), [[8; 512], [0xaa; 512], [10; 512]].concat());
    assert_eq!(bench.request(GET_ID, 0, &[(DATA, 20, true)]), (0, 21));
    assert_eq!(bench.bytes(DATA, 7), b"serial\0");
    let range = |sector: u64, sectors: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    bench.driver.memory.write(Gpa(DATA), &range(8, 2, 1)).unwrap();
    assert_eq!(bench.request(WRITE_ZEROES, 0, &[(DATA, 16, false)]), (0, 1));
    assert_eq!(bench.request(DISCARD, 0, &[(DATA, 16, false)]), (2, 1), "an unknown flag");
    assert_eq!(bench.request(IN, 8, &[(DATA, 1536, true)]), (0, 1537));
    assert_eq!(bench.bytes(DATA, 1536), [[0; 512], [0; 512], [10; 512]].concat());
    assert_eq!(bench.status() & status::NEEDS_RESET, 0);
}

#[test]
fn what_a_disk_cannot_do_is_an_error_of_the_request() {
    let mut bench = Bench::disk(false);
    let last = (DISK_BYTES / 512) as u64;
    for (kind, sector, data, expected) in [
        (IN, last, (DATA, 512, true), 1),
        (IN, u64::MAX, (DATA, 512, true), 1),
        (IN, 0, (DATA, 511, true), 1),
        (OUT, last - 1, (DATA, 1024, false), 1),
        (IN, 0, (1 << 40, 512, true), 1),
        (OUT, 0, (u64::MAX - 5, 512, false), 1),
        (77, 0, (DATA, 512, true), 2),
        (WRITE_ZEROES, 0, (DATA, 32, false), 2),
    ] {
        assert_eq!(bench.request(kind, sector, &[data]), (expected, 1), "{kind} {sector} {data:x?}");
    }
    assert_eq!(bench.status() & status::NEEDS_RESET, 0);
    let mut fixed = Bench::disk(true);
    assert_eq!(fixed.request(OUT, 0, &[(DATA, 512, false)]).0, 1);
    assert_eq!(fixed.request(IN, 1, &[(DATA, 512, true)]), (0, 513));
}

#[test]
fn a_large_request_is_done_in_steps() {
    let mut bench = Bench::disk(false);
    bench.header(IN, 0);
    let data = 512 << 10;
    let head = bench.driver.offer_chain(&[(HEADER, 16, false), (DATA, data, true), (STATUS, 1, true)]);
    bench.ring();
    assert_eq!(bench.function.step(&bench.driver.memory, &mut bench.told), Progress::More);
    assert_eq!(bench.driver.collect(), []);
    assert!(bench.work() >= (data / STEP_BYTES) as usize - 1);
    assert_eq!(bench.driver.collect(), [(head.into(), data + 1)]);
    assert_eq!(bench.bytes(DATA + u64::from(data) - 1, 1), [((data - 1) / 512) as u8]);
}

#[test]
fn a_reset_forgets_what_is_under_way() {
    let mut bench = Bench::disk(false);
    bench.header(IN, 0);
    bench.driver.offer_chain(&[(HEADER, 16, false), (DATA, 512 << 10, true), (STATUS, 1, true)]);
    bench.ring();
    assert_eq!(bench.function.step(&bench.driver.memory, &mut bench.told), Progress::More);
    bench.common(register::STATUS, Width::Byte, 0);
    assert_eq!((bench.status(), bench.function.is_rung()), (0, false));
    assert_eq!(bench.function.step(&bench.driver.memory, &mut bench.told), Progress::Idle);
    assert_eq!(bench.driver.collect(), []);
    bench.driver = Driver::new(8);
    bench.start();
    assert_eq!(bench.request(IN, 2, &[(DATA, 512, true)]), (0, 513));
}

#[test]
fn a_broken_queue_breaks_its_device_until_the_reset() {
    let mut bench = Bench::disk(false);
    bench.driver.offer(99);
    bench.ring();
    assert_eq!(bench.function.step(&bench.driver.memory, &mut bench.told), Progress::Idle);
    assert!(bench.status() & status::NEEDS_RESET != 0);
    assert!(bench.told.line, "it is told");
    assert_eq!(bench.read(page::ISR, 0, Width::Byte), 2);
    assert!(!bench.told.line);
    bench.ring();
    assert!(!bench.function.is_rung());
    assert_eq!(bench.function.breakdowns(), 1);
    bench.driver = Driver::new(8);
    bench.start();
    assert_eq!(bench.status() & status::NEEDS_RESET, 0);
    assert_eq!(bench.request(IN, 2, &[(DATA, 512, true)]), (0, 513));
    // A request that nothing can be answered to.
    bench.driver.offer_chain(&[(HEADER, 16, false)]);
    bench.ring();
    bench.work();
    assert_eq!(bench.function.breakdowns(), 2);
}

#[test]
fn an_enabled_queue_stays_as_it_is() {
    let mut bench = Bench::disk(false);
    let at = register::QUEUE_DESCRIPTORS;
    let before = bench.read(page::COMMON, at, Width::Qword);
    bench.common(at, Width::Qword, 0x7000);
    bench.common(register::QUEUE_SIZE, Width::Word, 4);
    bench.common(register::QUEUE_ENABLE, Width::Word, 1);
    assert_eq!(bench.read(page::COMMON, at, Width::Qword), before);
    assert_eq!(bench.read(page::COMMON, register::QUEUE_SIZE, Width::Word), 16);
    assert_eq!(bench.request(IN, 2, &[(DATA, 512, true)]), (0, 513));
}

#[test]
fn messages_wait_while_they_are_masked() {
    let mut bench = Bench::disk(false);
    let mut space = bench.function.config_space();
    space.write(pci_register::COMMAND, Width::Word, 6);
    // MSI-X is the last capability: find it as a driver does.
    let mut at = space.read(0x34, Width::Byte) as u8;
    while space.read(at, Width::Byte) != 0x11 {
        at = space.read(at + 1, Width::Byte) as u8;
    }
    space.write(at + 2, Width::Word, 1 << 15);
    let Bench { function, told, .. } = &mut bench;
    function.configure(&pci::configured(&space), told);
    bench.common(register::QUEUE_VECTOR, Width::Word, 1);
    assert_eq!(bench.read(page::COMMON, register::QUEUE_VECTOR, Width::Word), 1);
    bench.common(register::QUEUE_VECTOR, Width::Word, 99);
    assert_eq!(bench.read(page::COMMON, register::QUEUE_VECTOR, Width::Word), 0xffff);
    bench.common(register::QUEUE_VECTOR, Width::Word, 1);
    let entry = page::TABLE << PAGE_SHIFT | 16;
    bench.function.write(entry, Width::Qword, 0xfee0_1000, &mut bench.told);
    bench.function.write(entry + 8, Width::Dword, 0x41, &mut bench.told);
    assert_eq!(bench.request(FLUSH, 0, &[]), (0, 1));
    assert!(bench.told.messages.is_empty() && !bench.told.line);
    assert_eq!(bench.read(page::PENDING, 0, Width::Qword), 2);
    bench.function.write(entry + 12, Width::Dword, 0, &mut bench.told);
    assert_eq!(bench.told.messages, [(0xfee0_1000, 0x41)]);
    assert_eq!(bench.read(page::PENDING, 0, Width::Dword), 0);
    assert_eq!(bench.request(FLUSH, 0, &[]), (0, 1));
    assert_eq!(bench.told.messages.len(), 2);
}

#[test]
fn a_function_that_may_not_reach_memory_does_not() {
    let mut bench = Bench::disk(false);
    let mut space = bench.function.config_space();
    space.write(pci_register::COMMAND, Width::Word, 2);
    bench.function.configure(&pci::configured(&space), &mut bench.told);
    bench.ring();
    assert!(!bench.function.is_rung());
    space.write(pci_register::COMMAND, Width::Word, 0);
    bench.function.configure(&pci::configured(&space), &mut bench.told);
    assert_eq!(bench.function.offset(BASE.into()), None);
}

#[test]
fn features_are_settled_before_anything_works() {
    let mut bench = Bench::new(Kind::Entropy(Mutex::new(Box::new(Dice))));
    bench.common(register::STATUS, Width::Byte, 0xb);
    assert_eq!(bench.status(), 3, "without VERSION_1 nothing is settled");
    bench.common(register::STATUS, Width::Byte, 0xf);
    bench.enable();
    bench.ring();
    assert!(!bench.function.is_rung());
    bench.common(register::DRIVER_FEATURE_SELECT, Width::Dword, 1);
    bench.common(register::DRIVER_FEATURE, Width::Dword, u64::MAX);
    bench.common(register::STATUS, Width::Byte, 0xb);
    assert_eq!(bench.status(), 3, "features that were not offered");
}

#[test]
fn entropy_fills_buffers() {
    let mut bench = Bench::new(Kind::Entropy(Mutex::new(Box::new(Dice))));
    bench.start();
    let head = bench.driver.offer_chain(&[(DATA, 300, true), (DATA + 300, 9000, true)]);
    bench.ring();
    bench.work();
    assert_eq!(bench.driver.collect(), [(head.into(), 4096)]);
    assert_eq!(bench.bytes(DATA + 4095, 2), [0x5a, 0]);
}

/// Anything a guest can do to a device.
#[derive(Clone, Copy, Debug)]
enum Act {
    Write { offset: u64, width: Width, value: u64 },
    Read { offset: u64, width: Width },
    Poke { at: u64, value: u64 },
    Ring,
    Step,
    Start,
}

fn acts() -> impl Strategy<Value = Act> {
    let widths = prop::sample::select(vec![Width::Byte, Width::Word, Width::Dword, Width::Qword]);
    let offset = prop_oneof![0_u64..0x40, 0_u64..u64::from(pci::BAR_BYTES), any::<u64>()];
    let value = prop_oneof![0_u64..20, Just(0x1000), Just(0x2002), Just(0x3004), any::<u64>()];
    let place =
        prop_oneof![0x1000_u64..0x1100, 0x2000_u64..0x2040, 0x3000_u64..0x3090, BUFFERS..BUFFERS + 64];
    prop_oneof![
        (offset.clone(), widths.clone(), value.clone()).prop_map(|(offset, width, value)| Act::Write {
            offset,
            width,
            value
        }),
        (offset, widths).prop_map(|(offset, width)| Act::Read { offset, width }),
        (place, value).prop_map(|(at, value)| Act::Poke { at, value }),
        Just(Act::Ring),
        Just(Act::Step),
        Just(Act::Start),
    ]
}

proptest! {
    #[test]
    fn no_guest_harms_more_than_its_device(acts in prop::collection::vec(acts(), 1..120), entropy: bool) {
        let mut bench = if entropy { Bench::new(Kind::Entropy(Mutex::new(Box::new(Dice)))) } else { Bench::disk(false) };
        for act in acts {
            match act {
                Act::Write { offset, width, value } => bench.function.write(offset, width, value, &mut bench.told),
                Act::Read { offset, width } => drop(bench.function.read(offset, width, &mut bench.told).to_le_bytes()),
                Act::Poke { at, value } => bench.driver.memory.write(Gpa(at), &value.to_le_bytes()).unwrap(),
                Act::Ring => bench.ring(),
                Act::Step => drop(bench.function.step(&bench.driver.memory, &mut bench.told) == Progress::More),
                Act::Start => bench.start(),
            }
        }
        // It ends, and a reset makes it whole.
        bench.work();
        bench.driver = Driver::new(16);
        bench.start();
        if !entropy {
            prop_assert_eq!(bench.request(FLUSH, 0, &[]), (0, 1));
        }
    }
}
