//! A device with a console and a port, its driver, and who is at the other ends.

use std::collections::VecDeque;
use std::string::String;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use devices::Width;
use devices::pci::register as pci_register;
use proptest::prelude::*;
use vcpu::fake::FakeImage;
use vcpu::{Gpa, GuestMemory};

use super::pipe::Pipe;
use super::{Console, Line, feature};
use crate::VmSet;
use crate::pci::{self, PAGE_SHIFT, page};
use crate::queue::driver::Driver;
use crate::transport::{register, status};
use crate::{Function, Kind, Progress, Signals};

/// Somebody at a terminal, who takes so many bytes before he has to be asked to go on.
#[derive(Default)]
struct Terminal {
    shown: Mutex<Vec<u8>>,
    room: Mutex<usize>,
    typed: Mutex<VecDeque<u8>>,
    opened: AtomicBool,
}

impl Line for Terminal {
    fn put(&self, bytes: &[u8]) -> usize {
        let mut room = self.room.lock().unwrap();
        let taken = bytes.len().min(*room);
        *room -= taken;
        self.shown.lock().unwrap().extend(&bytes[..taken]);
        taken
    }

    fn has_room(&self) -> bool {
        *self.room.lock().unwrap() > 0
    }

    fn take(&self, buffer: &mut [u8]) -> usize {
        let mut typed = self.typed.lock().unwrap();
        let given = buffer.len().min(typed.len());
        buffer.iter_mut().zip(typed.drain(..given)).for_each(|(place, byte)| *place = byte);
        given
    }

    fn has_input(&self) -> bool {
        !self.typed.lock().unwrap().is_empty()
    }

    fn is_open(&self) -> bool {
        true
    }

    fn set_open(&self, open: bool) {
        self.opened.store(open, SeqCst);
    }
}

impl Terminal {
    fn with_room(room: usize) -> Arc<Self> {
        let terminal = Self::default();
        *terminal.room.lock().unwrap() = room;
        Arc::new(terminal)
    }

    fn shown(&self) -> String {
        String::from_utf8(self.shown.lock().unwrap().clone()).unwrap()
    }
}

#[derive(Default)]
struct Told {
    changes: usize,
}

impl Signals for Told {
    fn message(&mut self, _address: u64, _data: u32) {}

    fn line(&mut self, high: bool) {
        self.changes += usize::from(high);
    }
}

impl<I, M> crate::Wires<I, M> for Told {}

const QUEUES: usize = 6;
const INPUT: usize = 0;
const OUTPUT: usize = 1;
const TELL: usize = 2;
const HEAR: usize = 3;
const PORT_INPUT: usize = 4;
const PORT_OUTPUT: usize = 5;
const BUFFER: u64 = 0x4_0000;
const SIZE: u32 = 64;

struct Bench {
    function: Function<FakeImage>,
    queues: [Driver; QUEUES],
    told: Told,
}

impl Bench {
    fn new(console: Console, without: u64) -> Self {
        let queues = console.queues();
        let function = Function::new(Kind::Console(Box::new(console)), queues).expect("memory");
        let mut space = function.config_space();
        space.write(pci_register::COMMAND, Width::Word, 6);
        let mut told = Told::default();
        function.configure(&pci::configured(&space), &mut told);
        let first = Driver::new(16);
        let queues = [0, 1, 2, 3, 4, 5].map(|number| first.beside(number));
        let mut bench = Self { function, queues, told };
        bench.start(without);
        bench
    }

    fn common(&mut self, at: u64, width: Width, value: u64) {
        self.function.write(page::COMMON << PAGE_SHIFT | at, width, value, &mut self.told);
    }

    fn start(&mut self, without: u64) {
        use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
        self.common(register::STATUS, Width::Byte, 0);
        for select in 0..2 {
            self.common(register::DRIVER_FEATURE_SELECT, Width::Dword, select);
            let wanted = if select == 0 { Console::offered() & !without } else { 1 };
            self.common(register::DRIVER_FEATURE, Width::Dword, wanted);
        }
        self.common(register::STATUS, Width::Byte, (ACKNOWLEDGE | DRIVER | FEATURES_OK).into());
        for index in 0..QUEUES {
            let layout = self.queues[index].layout;
            self.common(register::QUEUE_SELECT, Width::Word, index as u64);
            self.common(register::QUEUE_SIZE, Width::Word, layout.size.into());
            for (at, Gpa(address)) in
                [layout.descriptors, layout.driver, layout.device].into_iter().enumerate()
            {
                self.common(register::QUEUE_DESCRIPTORS + 8 * at as u64, Width::Qword, address);
            }
            self.common(register::QUEUE_ENABLE, Width::Word, 1);
        }
        self.common(register::STATUS, Width::Byte, DRIVER_OK.into());
    }

    fn is_broken(&mut self) -> bool {
        let at = page::COMMON << PAGE_SHIFT | register::STATUS;
        self.function.read(at, Width::Byte, &mut self.told) as u8 & status::NEEDS_RESET != 0
    }

    fn ring(&mut self, queue: usize) {
        let at = page::NOTIFY << PAGE_SHIFT | (4 * queue as u64);
        self.function.write(at, Width::Word, 0, &mut self.told);
        self.work();
    }

    fn work(&mut self) {
        let memory = self.queues[0].memory.clone();
        let ends = (0..1000).any(|_| self.function.step(&memory, &mut self.told) == Progress::Idle);
        assert!(ends, "it does not end");
    }

    fn place(queue: usize) -> u64 {
        BUFFER + 0x1_0000 * queue as u64
    }

    /// Offers a buffer to be filled.
    fn feed(&mut self, queue: usize) {
        self.queues[queue].offer_chain(&[(Self::place(queue), SIZE, true)]);
        self.ring(queue);
    }

    /// What a buffer was filled with, where it was.
    fn filled(&mut self, queue: usize) -> Option<Vec<u8>> {
        self.work();
        let used = self.queues[queue].collect();
        let (_, length) = used.first()?;
        let mut bytes = vec![0; *length as usize];
        self.queues[queue].memory.read(Gpa(Self::place(queue)), &mut bytes).unwrap();
        Some(bytes)
    }

    /// Sends bytes. True where they were given back.
    fn send(&mut self, queue: usize, bytes: &[u8]) -> bool {
        self.queues[queue].memory.write(Gpa(Self::place(queue)), bytes).unwrap();
        self.queues[queue].offer_chain(&[(Self::place(queue), bytes.len() as u32, false)]);
        self.ring(queue);
        !self.queues[queue].collect().is_empty()
    }

    fn message(&mut self, port: u32, event: u16, value: u16) {
        let bytes = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        assert!(self.send(HEAR, &bytes));
    }

    /// What the driver is told next: port, event, value and what follows.
    fn hears(&mut self) -> (u32, u16, u16, Vec<u8>) {
        self.feed(TELL);
        let bytes = self.filled(TELL).expect("there is a message");
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (u32::from(word(0)), word(4), word(6), bytes[8..].to_vec())
    }

    /// As a driver takes the ports into use.
    fn open(&mut self) {
        self.message(0, 0, 1);
        assert_eq!(self.hears(), (0, 1, 1, vec![]));
        assert_eq!(self.hears(), (1, 1, 1, vec![]));
        self.message(0, 3, 1);
        assert_eq!(self.hears(), (0, 4, 1, vec![]), "it is the console");
        assert_eq!(self.hears(), (0, 5, 0, vec![80, 0, 25, 0]), "its size");
        assert_eq!(self.hears(), (0, 6, 1, vec![]), "somebody is there");
        self.message(1, 3, 1);
        assert_eq!(self.hears(), (1, 7, 1, b"channel".to_vec()));
    }
}

fn device(room: usize) -> (Bench, Arc<Terminal>, Arc<super::pipe::PipeEnd>, Arc<VmSet>) {
    let calls = Arc::new(VmSet::default());
    let pipe = Pipe::new(&calls).expect("memory");
    let [own, other] = [0, 1].map(|vm| pipe.take(vm).expect("an end"));
    let terminal = Terminal::with_room(room);
    let line: Arc<dyn Line> = Arc::new(own);
    let console = Console::new(Some(terminal.clone()), [("channel", line)], (80, 25));
    (Bench::new(console, 0), terminal, Arc::new(other), calls)
}

#[test]
fn a_driver_learns_of_its_ports_and_bytes_go_both_ways() {
    let (mut bench, terminal, other, calls) = device(1000);
    bench.open();
    assert_eq!(bench.hears(), (1, 6, 0, vec![]), "nobody is at the other end");
    bench.message(0, 6, 1);
    bench.message(1, 6, 1);
    assert!(terminal.opened.load(SeqCst) && other.is_open());
    assert!(bench.send(OUTPUT, b"hello"));
    assert_eq!(terminal.shown(), "hello");
    bench.feed(INPUT);
    terminal.typed.lock().unwrap().extend(b"yes\r");
    assert_eq!(bench.filled(INPUT).unwrap(), b"yes\r");
    // The other end comes, and sends.
    let called = || {
        let mut called = Vec::new();
        calls.take(|vm| called.push(vm));
        called
    };
    called();
    other.set_open(true);
    assert_eq!(called(), [0], "the port's VM is called");
    assert_eq!(bench.hears(), (1, 6, 1, vec![]));
    assert!(bench.send(PORT_OUTPUT, b"there"));
    assert_eq!(called(), [1]);
    let mut bytes = [0; 16];
    assert_eq!((other.take(&mut bytes), &bytes[..5]), (5, &b"there"[..]));
    bench.feed(PORT_INPUT);
    assert_eq!(other.put(b"and back"), 8);
    assert_eq!(bench.filled(PORT_INPUT).unwrap(), b"and back");
    other.set_open(false);
    assert_eq!(bench.hears(), (1, 6, 0, vec![]));
    assert!(bench.send(PORT_OUTPUT, b"nobody listens"), "and the guest does not wait");
    assert!(!bench.is_broken());
}

#[test]
fn output_waits_for_room_and_goes_on_where_it_was() {
    let (mut bench, terminal, _, _) = device(700);
    bench.open();
    let text: Vec<u8> = (0..1000).map(|at| b'a' + (at % 26) as u8).collect();
    assert!(!bench.send(OUTPUT, &text), "it is not done");
    assert_eq!(terminal.shown().len(), 700);
    assert!(!bench.function.is_rung(), "and does not go round in a circle");
    *terminal.room.lock().unwrap() = 1000;
    assert!(bench.function.is_rung());
    bench.work();
    assert_eq!(terminal.shown().into_bytes(), text);
    assert_eq!(bench.queues[OUTPUT].collect().len(), 1);
}

#[test]
fn a_new_size_is_told() {
    let (mut bench, _, _, _) = device(0);
    bench.open();
    bench.hears();
    bench.function.resize(132, 43);
    assert_eq!(bench.hears(), (0, 5, 0, vec![132, 0, 43, 0]));
    bench.function.resize(132, 43);
    assert!(!bench.function.is_rung(), "the same is no news");
    // A driver that knows no messages reads it.
    bench.start(feature::MULTIPORT);
    let before = bench.told.changes;
    bench.function.resize(100, 30);
    bench.work();
    assert_eq!(bench.told.changes, before + 1);
    let read = bench.function.read(page::DEVICE << PAGE_SHIFT, Width::Dword, &mut bench.told);
    assert_eq!(read, 30 << 16 | 100);
}

#[test]
fn a_driver_without_ports_has_the_console() {
    let (mut bench, terminal, _, _) = device(1000);
    bench.start(feature::MULTIPORT);
    bench.queues = [0, 1, 2, 3, 4, 5].map(|number| bench.queues[0].beside(number));
    assert!(terminal.opened.load(SeqCst));
    assert!(bench.send(OUTPUT, b"plain"));
    assert_eq!(terminal.shown(), "plain");
    bench.start(0);
    bench.function.write(page::DEVICE << PAGE_SHIFT | 8, Width::Dword, b'!'.into(), &mut bench.told);
    assert_eq!(terminal.shown(), "plain!", "an emergency needs no queue");
    assert!(!terminal.opened.load(SeqCst));
}

#[test]
fn messages_that_make_no_sense_say_nothing() {
    let (mut bench, _, other, _) = device(10);
    for (port, event, value) in [(9, 3, 1), (u32::MAX, 6, 1), (1, 99, 1), (0, 0, 0), (0, 3, 0)] {
        bench.message(port, event, value);
    }
    assert!(!other.is_open() && !bench.is_broken());
    bench.send(HEAR, &[1, 2, 3]);
    assert!(bench.is_broken(), "less than a message is none");
}

#[test]
fn an_end_that_is_given_up_is_the_next_ones_with_nothing_in_it() {
    let calls = Arc::new(VmSet::default());
    let pipe = Pipe::new(&calls).expect("memory");
    let (a, b) = (pipe.take(3).expect("an end"), pipe.take(4).expect("an end"));
    assert!(pipe.take(5).is_none() && pipe.is_used());
    a.set_open(true);
    b.set_open(true);
    assert_eq!((a.put(b"old"), b.has_input()), (3, true));
    calls.take(|_| ());
    drop(b);
    let mut called = vec![];
    calls.take(|vm| called.push(vm));
    assert_eq!((called, a.is_open()), (vec![3], false));
    a.set_open(true);
    assert!(calls.is_empty(), "nobody is called for who is gone");
    let b = pipe.take(5).expect("the same end");
    assert_eq!((b.has_input(), b.take(&mut [0; 8])), (false, 0));
    b.set_open(true);
    assert_eq!((a.put(b"new"), b.take(&mut [0; 8])), (3, 3));
    drop((a, b));
    assert!(!pipe.is_used());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What goes through a pipe comes out in order and whole, however the two sides take turns.
    #[test]
    fn a_pipe_keeps_order(sizes in prop::collection::vec((1_usize..9000, 1_usize..9000), 1..30)) {
        let calls = Arc::new(VmSet::default());
        let pipe = Pipe::new(&calls).expect("memory");
        let [a, b] = [0, 1].map(|vm| pipe.take(vm).expect("an end"));
        a.set_open(true);
        b.set_open(true);
        let (mut sent, mut got, mut next): (Vec<u8>, Vec<u8>, u32) = (vec![], vec![], 0);
        for (put, take) in sizes {
            let bytes: Vec<u8> = (0..put).map(|at| (next as usize + at) as u8).collect();
            let taken = a.put(&bytes);
            prop_assert!(taken == put || !a.has_room());
            sent.extend(&bytes[..taken]);
            next += taken as u32;
            let mut buffer = vec![0; take];
            let given = b.take(&mut buffer);
            got.extend(&buffer[..given]);
        }
        prop_assert_eq!(b.has_input(), got.len() < sent.len());
        prop_assert_eq!(&got[..], &sent[..got.len()]);
    }
}
