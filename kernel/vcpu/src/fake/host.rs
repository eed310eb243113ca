//! The machine under a fake backend: time, timer and console.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::vec::Vec;

use assert_no_alloc::permit_alloc;
use trace::{EVENT_BYTES, Event, Kind, Ring, Subject, Taken};

use crate::{BringUp, Host, LogPlace, LogRead, Nanos};

/// The machine's time and timer.
#[derive(Debug)]
pub struct Clock {
    tsc: Cell<u64>,
    hz: u64,
    timer: Cell<Option<Nanos>>,
    interrupt: Cell<bool>,
    /// What passes whenever the host looks, so that time goes on while it does something.
    pub ticks_a_look: Cell<u64>,
    /// How much too early the timer fires.
    pub early: Cell<Nanos>,
}

/// Where the fake TSC starts: not at zero, so that a forgotten offset shows.
pub const TSC_START: u64 = 5_000_000;

impl Clock {
    /// A clock of `hz` ticks a second.
    pub fn new(hz: u64) -> Rc<Self> {
        Rc::new(Self {
            tsc: Cell::new(TSC_START),
            hz,
            timer: Cell::new(None),
            interrupt: Cell::new(false),
            ticks_a_look: Cell::new(0),
            early: Cell::new(Nanos::ZERO),
        })
    }

    /// Lets `ticks` pass.
    pub fn pass(&self, ticks: u64) {
        self.tsc.set(self.tsc.get() + ticks);
    }

    /// The TSC.
    pub fn tsc(&self) -> u64 {
        self.tsc.get()
    }

    /// The time of a TSC value.
    pub fn time_of(&self, tsc: u64) -> Nanos {
        let nanos = u128::from(tsc) * 1_000_000_000 / u128::from(self.hz);
        Nanos(nanos.try_into().unwrap_or(u64::MAX))
    }

    /// The TSC value at a time.
    pub fn tsc_of(&self, time: Nanos) -> u64 {
        let tsc = (u128::from(time.0) * u128::from(self.hz)).div_ceil(1_000_000_000);
        tsc.try_into().unwrap_or(u64::MAX)
    }

    /// When the host timer fires, where it is armed.
    pub fn timer(&self) -> Option<Nanos> {
        self.timer.get()
    }

    /// Something else than the timer interrupts the host, such as its serial port.
    pub fn raise_interrupt(&self) {
        self.interrupt.set(true);
    }

    /// True where the host has an interrupt pending; takes it.
    pub(super) fn take_interrupt(&self) -> bool {
        let due = self.time_of(self.tsc()) + self.early.get();
        if self.timer.get().is_some_and(|deadline| deadline <= due) {
            self.timer.set(None);
            self.interrupt.set(true);
        }
        self.interrupt.replace(false)
    }
}

/// The machine under a fake backend.
#[derive(Debug)]
pub struct FakeHost {
    /// The clock that vCPUs run on.
    pub clock: Rc<Clock>,
    /// Bytes typed on the console.
    pub input: VecDeque<u8>,
    /// Bytes shown on the console.
    pub output: Vec<u8>,
    /// How many more bytes the console takes before it is busy; refilled by waiting.
    pub output_room: usize,
    /// How many bytes the console takes between two waits.
    pub output_burst: usize,
    /// What [`Host::tsc_is_steady`] says.
    pub tsc_is_steady: bool,
    /// What [`Host::wall_clock_s`] says.
    pub wall_clock_s: u64,
    /// Log lines not shown yet.
    pub log: VecDeque<Vec<u8>>,
    /// Log lines that were shown before.
    pub log_shown: VecDeque<Vec<u8>>,
    /// All log lines that are kept, behind those that are not any more.
    pub log_kept: VecDeque<Vec<u8>>,
    /// How many of these there were.
    pub log_gone: u64,
    /// How often the timer was armed.
    pub timer_writes: usize,
    /// How often the CPU waited.
    pub waits: usize,
    /// [`Host::power_off`] was called.
    pub powered_off: bool,
    /// [`Host::restart`] was called.
    pub restarted: bool,
    /// CPUs that were kicked.
    pub kicks: Vec<usize>,
    /// A ring for each CPU, of which this host writes its own: hosts of other CPUs have others.
    rings: Vec<Ring>,
    cpus: usize,
    cpu: usize,
}

impl FakeHost {
    /// A machine on this clock with a fast console.
    pub fn new(clock: &Rc<Clock>) -> Self {
        Self {
            clock: Rc::clone(clock),
            input: VecDeque::new(),
            output: Vec::new(),
            output_room: usize::MAX,
            output_burst: usize::MAX,
            tsc_is_steady: true,
            wall_clock_s: 1_700_000_000,
            log: VecDeque::new(),
            log_shown: VecDeque::new(),
            log_kept: VecDeque::new(),
            log_gone: 0,
            timer_writes: 0,
            waits: 0,
            powered_off: false,
            restarted: false,
            kicks: Vec::new(),
            rings: rings(1),
            cpus: 1,
            cpu: 0,
        }
    }

    /// With so many CPUs, of which this is the first.
    pub fn with_cpus(self, cpus: usize) -> Self {
        Self { cpus, rings: rings(cpus), ..self }
    }

    /// Another CPU of the same machine, which has a host of its own on the same clock.
    pub fn as_cpu(self, cpu: usize) -> Self {
        Self { cpu, ..self }
    }
}

impl Host for FakeHost {
    fn cpu(&self) -> usize {
        self.cpu
    }

    fn cpus(&self) -> usize {
        self.cpus
    }

    fn kick(&mut self, cpu: usize) {
        permit_alloc(|| self.kicks.push(cpu));
    }

    fn tsc(&self) -> u64 {
        self.clock.pass(self.clock.ticks_a_look.get());
        self.clock.tsc()
    }

    fn tsc_hz(&self) -> u64 {
        self.clock.hz
    }

    fn bring_up(&self) -> BringUp {
        BringUp { total: self.tsc(), ..BringUp::default() }
    }

    fn taken(&self) -> u64 {
        0
    }

    fn tsc_is_steady(&self) -> bool {
        self.tsc_is_steady
    }

    fn time_of(&self, tsc: u64) -> Nanos {
        self.clock.time_of(tsc)
    }

    fn tsc_of(&self, time: Nanos) -> u64 {
        self.clock.tsc_of(time)
    }

    fn wall_clock_s(&self) -> u64 {
        self.wall_clock_s
    }

    fn set_wall_clock_s(&mut self, seconds: u64) {
        self.wall_clock_s = seconds;
    }

    fn set_timer(&mut self, deadline: Nanos) {
        let deadline = (deadline != Nanos::NEVER).then_some(deadline);
        if self.clock.timer.replace(deadline) != deadline {
            self.timer_writes += 1;
        }
    }

    fn poll_interrupts(&mut self) {
        self.clock.take_interrupt();
    }

    fn wait_for_interrupt(&mut self) {
        self.waits += 1;
        self.output_room = self.output_burst;
        if !self.clock.interrupt.get() {
            let deadline = self.clock.timer.get().expect("the host would wait for ever");
            self.clock.tsc.set(self.clock.tsc().max(self.clock.tsc_of(deadline)));
        }
        assert!(self.clock.take_interrupt(), "the host waited and nothing came");
    }

    fn console_read(&mut self) -> Option<u8> {
        self.input.pop_front()
    }

    fn console_write(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.get(..self.output_room).unwrap_or(bytes);
        self.output_room -= taken.len();
        permit_alloc(|| self.output.extend_from_slice(taken));
        taken.len()
    }

    fn log_read(&mut self, buffer: &mut [u8]) -> usize {
        copy_line(&mut self.log, buffer)
    }

    fn log_read_shown(&mut self, buffer: &mut [u8]) -> usize {
        copy_line(&mut self.log_shown, buffer)
    }

    fn log_read_at(&mut self, place: &mut LogPlace, buffer: &mut [u8]) -> LogRead {
        if place.lines < self.log_gone {
            let lost = self.log_gone - place.lines;
            place.lines = self.log_gone;
            return LogRead::Lost(lost);
        }
        let index = usize::try_from(place.lines - self.log_gone).unwrap_or(usize::MAX);
        let Some(line) = self.log_kept.get(index) else { return LogRead::End };
        place.lines += 1;
        let length = line.len().min(buffer.len());
        buffer[..length].copy_from_slice(&line[..length]);
        LogRead::Line(length)
    }

    fn trace(&self, kind: Kind, subject: Subject, first: u64, second: u64) {
        if let Some(ring) = self.rings.get(self.cpu) {
            ring.record(Event::new(self.clock.tsc(), kind, subject, first, second));
        }
    }

    fn trace_read(&self, cpu: usize, from: u64, to: &mut [[u8; EVENT_BYTES]]) -> Option<Taken> {
        Some(self.rings.get(cpu)?.read(from, to))
    }

    fn power_off(&mut self) {
        self.powered_off = true;
    }

    fn restart(&mut self) {
        self.restarted = true;
    }
}

fn rings(cpus: usize) -> Vec<Ring> {
    (0..cpus).map(|_| Ring::new()).collect()
}

fn copy_line(lines: &mut VecDeque<Vec<u8>>, buffer: &mut [u8]) -> usize {
    let Some(line) = lines.pop_front() else { return 0 };
    let length = line.len().min(buffer.len());
    buffer[..length].copy_from_slice(&line[..length]);
    permit_alloc(|| drop(line));
    length
}
