//! A virtio device with all that is around it: registers, queues, interrupts.

mod kind;
mod receive;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use devices::Width;
use devices::pci::ConfigSpace;
use spin::{Mutex, MutexGuard};
use vcpu::{GuestMemory, Image};

pub use kind::Kind;
pub(crate) use receive::Receiver;

use crate::balloon::{self, Balloon};
use crate::block::{self, Next};
use crate::console::{self, Sent};
use crate::entropy;
use crate::interrupts::{Interrupts, NO_VECTOR, Signal, Signals, Wires};
use crate::net::{self, Net, Ride};
use crate::pci::{self, Configured, PAGE_SHIFT, page};
use crate::queue::{Broken, Chain, Cursor, Queue};
use crate::transport::{Effect, Registers, feature, register, status};
use crate::{MAX_QUEUES, STEP_BYTES};

/// What a step has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// There may be more to do.
    More,
    /// Nothing is left to do until the driver tells of something.
    Idle,
}

/// A queue with its place in the device.
#[derive(Debug)]
struct Place {
    queue: Option<Queue>,
    vector: u16,
    chain: Chain,
    /// The request of `chain` is under way.
    work: Option<Work>,
}

/// A request under way.
#[derive(Debug)]
enum Work {
    Block(block::Work),
    /// Bytes for a port, from there on.
    Console(Cursor),
    Balloon(balloon::Work),
    /// A frame; `begun` once some have got it.
    Net {
        begun: bool,
    },
    /// Memory for its buffers, from there on, before it begins.
    Provide(Cursor),
}

/// What serving a request has come to.
enum Turn {
    /// It is given back: bytes written, and bytes that were moved.
    Done { written: u32, moved: u32 },
    /// There is more to do.
    More(Work),
    /// There is more to do once a port has room.
    Stalls(Work),
    /// Nothing is to be done with such a queue.
    Nothing,
}

/// What looking for what comes by itself has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum News {
    /// There was nothing.
    None,
    /// Another CPU is at it.
    Elsewhere,
    /// Some of it was dealt with.
    Served,
}

/// Each buffer of a request counts as so many bytes at least, so that a step has few small ones: reading a descriptor takes time, too.
pub(crate) const BUFFER_BYTES: u32 = 1024;
/// Where the BAR is while the function does not answer there.
const NOWHERE: u64 = u64::MAX;

/// A virtio device on the PCI bus.
#[derive(Debug)]
pub struct Function<I> {
    kind: Kind<I>,
    registers: Mutex<Registers>,
    interrupts: Interrupts,
    places: Vec<Mutex<Place>>,
    /// The BAR's address, or [`NOWHERE`].
    base: AtomicU64,
    /// Which queue has the next turn, so that none is passed over for long.
    turn: AtomicU32,
    /// A bit for each queue of which the driver, or a step, says that there may be something.
    rung: AtomicU32,
    /// The driver is ready, and the queues are in order.
    live: AtomicBool,
    /// The function may reach memory.
    master: AtomicBool,
    /// A queue made no sense; until the driver resets the device.
    broken: AtomicBool,
    /// How often that was so.
    breakdowns: AtomicU32,
    /// Queues that others have put something into of which the driver was not told.
    untold: AtomicU32,
}

impl<I: Image> Function<I> {
    /// A device with so many queues. `None` where there is no memory for them.
    pub fn new(kind: Kind<I>, queues: usize) -> Option<Self> {
        let queues = queues.clamp(1, MAX_QUEUES);
        let mut places = Vec::new();
        places.try_reserve_exact(queues).ok()?;
        for _ in 0..queues {
            let place = Place { queue: None, vector: NO_VECTOR, chain: Chain::default(), work: None };
            places.push(Mutex::new(place));
        }
        Some(Self {
            registers: Mutex::new(Registers::new(kind.features() | feature::COMMON, queues)),
            kind,
            interrupts: Interrupts::new(),
            places,
            base: AtomicU64::new(NOWHERE),
            turn: AtomicU32::new(0),
            rung: AtomicU32::new(0),
            live: AtomicBool::new(false),
            master: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            breakdowns: AtomicU32::new(0),
            untold: AtomicU32::new(0),
        })
    }

    /// Its configuration space after power-up.
    pub fn config_space(&self) -> ConfigSpace {
        let (device_type, class) = self.kind.identity();
        pci::config_space(device_type, class)
    }

    /// The configuration space is this now.
    pub fn configure(&self, configured: &Configured, signals: &mut impl Signals) {
        self.base.store(configured.base.unwrap_or(NOWHERE), SeqCst);
        self.master.store(configured.master, SeqCst);
        self.interrupts.switch(configured.switches, signals);
    }

    /// The offset of an address into the BAR, where it is in there.
    #[inline]
    pub fn offset(&self, gpa: u64) -> Option<u64> {
        let offset = gpa.wrapping_sub(self.base.load(SeqCst));
        (offset < pci::BAR_BYTES.into()).then_some(offset)
    }

    /// Whether there may be something to do.
    #[inline(always)]
    pub fn is_rung(&self) -> bool {
        (self.rung.load(SeqCst) != 0 || self.untold.load(SeqCst) != 0 || self.kind.has_news())
            && self.live.load(SeqCst)
            && self.master.load(SeqCst)
    }

    /// Bytes of host memory that what was written to a disk takes, where it is one.
    pub fn kept(&self) -> u64 {
        if let Kind::Block(disk) = &self.kind { disk.kept() } else { 0 }
    }

    /// A time has come for which it has waited.
    pub fn advance(&self) {
        if let Kind::Net(net) = &self.kind {
            self.rung.fetch_or(net.go_on(), SeqCst);
        }
    }

    /// The network device, where it is one.
    pub const fn as_net(&self) -> Option<&Net> {
        self.kind.as_net()
    }

    /// Frames that a network device has lost, where it is one.
    pub fn lost_frames(&self) -> u64 {
        self.kind.as_net().map_or(0, Net::lost)
    }

    /// How often a driver has broken the device.
    pub fn breakdowns(&self) -> u32 {
        self.breakdowns.load(SeqCst)
    }

    /// Back to the state after power-up, the PCI function's part included.
    pub fn power_up(&self, signals: &mut impl Signals) {
        let mut registers = self.registers.lock();
        // Zero is a reset, whatever the state.
        let _ = registers.write(register::STATUS, Width::Byte, 0);
        self.forget();
        self.interrupts.reset(true, signals);
        self.base.store(NOWHERE, SeqCst);
        self.master.store(false, SeqCst);
    }

    /// Nothing is under way behind this.
    fn forget(&self) {
        self.live.store(false, SeqCst);
        self.kind.reset();
        for place in &self.places {
            let mut place = place.lock();
            (place.queue, place.work, place.vector) = (None, None, NO_VECTOR);
        }
        self.rung.store(0, SeqCst);
        self.untold.store(0, SeqCst);
        self.broken.store(false, SeqCst);
    }

    /// Reads in the BAR. All ones where nothing is read that way.
    pub fn read(&self, offset: u64, width: Width, signals: &mut impl Signals) -> u64 {
        let (page, at) = (offset >> PAGE_SHIFT, offset & ((1 << PAGE_SHIFT) - 1));
        let found = match page {
            page::COMMON => self.read_common(at, width),
            page::ISR if at == 0 => Some(self.interrupts.read_isr(signals).into()),
            page::DEVICE => self.read_device(at, width),
            page::TABLE => self.read_words(at, width, |at| self.interrupts.read_table(at)),
            page::PENDING => self.read_words(at, width, |at| Some(self.interrupts.read_pending(at))),
            _ => None,
        };
        found.unwrap_or(width.mask())
    }

    fn read_common(&self, at: u64, width: Width) -> Option<u64> {
        let value = self.registers.lock().read(at, width, self.interrupts.configuration_vector())?;
        let broken = at == register::STATUS && self.broken.load(SeqCst);
        Some(if broken { value | u64::from(status::NEEDS_RESET) } else { value })
    }

    fn read_device(&self, at: u64, width: Width) -> Option<u64> {
        let bytes = self.kind.configuration(self.places.len());
        let part = bytes.get(at as usize..)?.get(..width.bytes().into())?;
        Some(part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn read_words(&self, at: u64, width: Width, read: impl Fn(u64) -> Option<u32>) -> Option<u64> {
        match width {
            Width::Dword if at.is_multiple_of(4) => read(at).map(u64::from),
            Width::Qword if at.is_multiple_of(8) => {
                Some(u64::from(read(at + 4)?) << 32 | u64::from(read(at)?))
            }
            _ => None,
        }
    }

    /// Writes in the BAR. What nothing takes is lost.
    pub fn write(&self, offset: u64, width: Width, value: u64, signals: &mut impl Signals) {
        let (page, at) = (offset >> PAGE_SHIFT, offset & ((1 << PAGE_SHIFT) - 1));
        match page {
            page::NOTIFY => self.ring(pci::doorbell(offset).unwrap_or(usize::MAX)),
            page::COMMON => self.write_common(at, width, value, signals),
            page::TABLE => self.write_table(at, width, value, signals),
            page::DEVICE => self.kind.write_configuration(at, value),
            _ => {}
        }
    }

    /// The window of a console has another size, where it is one.
    pub fn resize(&self, columns: u16, rows: u16) {
        if let Kind::Console(console) = &self.kind {
            console.resize(columns, rows);
        }
    }

    /// The balloon, where it is one.
    pub fn as_balloon(&self) -> Option<&Balloon> {
        if let Kind::Balloon(balloon) = &self.kind { Some(balloon) } else { None }
    }

    /// The driver tells that there is something in a queue.
    #[inline(always)]
    pub fn ring(&self, queue: usize) {
        if queue < self.places.len() {
            self.rung.fetch_or(1 << queue, SeqCst);
        }
    }

    fn write_table(&self, at: u64, width: Width, value: u64, signals: &mut impl Signals) {
        match width {
            Width::Dword if at.is_multiple_of(4) => {
                let _ = self.interrupts.write_table(at, value as u32, signals);
            }
            Width::Qword if at.is_multiple_of(8) => {
                let _ = self.interrupts.write_table(at, value as u32, signals);
                let _ = self.interrupts.write_table(at + 4, (value >> 32) as u32, signals);
            }
            _ => {}
        }
    }

    fn write_common(&self, at: u64, width: Width, value: u64, signals: &mut impl Signals) {
        let mut registers = self.registers.lock();
        match registers.write(at, width, value).unwrap_or(Effect::None) {
            Effect::None => {}
            Effect::Reset => {
                self.forget();
                self.interrupts.reset(false, signals);
            }
            Effect::Live => {
                let features = registers.features();
                self.kind.go_live(features);
                self.live.store(!self.broken.load(SeqCst), SeqCst);
            }
            Effect::ConfigurationVector(vector) => self.interrupts.set_configuration_vector(vector),
            Effect::Vector { queue, vector } => {
                if let Some(place) = self.places.get(queue) {
                    place.lock().vector = vector;
                }
            }
            Effect::Enable { queue, layout, abilities } => {
                if let Some(place) = self.places.get(queue) {
                    match Queue::new(layout, abilities) {
                        Ok(made) => place.lock().queue = Some(made),
                        Err(_) => self.break_down(signals),
                    }
                }
            }
        }
    }

    /// A queue makes no sense: only a reset helps.
    fn break_down(&self, signals: &mut (impl Signals + ?Sized)) {
        self.live.store(false, SeqCst);
        if !self.broken.swap(true, SeqCst) {
            self.breakdowns.fetch_add(1, SeqCst);
            self.interrupts.raise(Signal::Configuration, NO_VECTOR, signals);
        }
    }

    /// Does some of what there is to do, about as much as copying [`STEP_BYTES`] takes.
    pub fn step<M: GuestMemory, W: Wires<I, M>>(&self, memory: &M, signals: &mut W) -> Progress {
        if !self.is_rung() {
            return Progress::Idle;
        }
        let turn = self.turn.fetch_add(1, SeqCst) % u32::BITS;
        // One of the two in a step, in turns: what comes by itself, or a queue.
        let mut is_elsewhere = false;
        if turn & 1 == 0 || self.rung.load(SeqCst) == 0 {
            match self.look_at_news(memory, signals) {
                News::None => {}
                News::Elsewhere => is_elsewhere = true,
                News::Served => return self.progress(),
            }
        }
        let rung = self.rung.load(SeqCst);
        // Queues at which another CPU is are passed over.
        let Some((index, mut place)) = self.rung_from(turn, rung) else {
            // Who is at it looks again when it is done.
            return if is_elsewhere || rung != 0 { Progress::Idle } else { self.progress() };
        };
        self.rung.fetch_and(!(1 << index), SeqCst);
        let served = self.serve(index, &mut place, memory, signals);
        // Also where a reset has just made another queue of it.
        if let Kind::Net(net) = &self.kind
            && !index.is_multiple_of(2)
        {
            net.end_step(index / 2);
        }
        let told = match &mut place.queue {
            Some(queue) => queue.wants_interrupt(memory),
            None => Ok(false),
        };
        let vector = place.vector;
        if matches!(served, Ok(Progress::More)) {
            self.rung.fetch_or(1 << index, SeqCst);
        }
        // Before a reset can come in between.
        match (served, told) {
            (Ok(_), Ok(told)) => {
                if told {
                    self.interrupts.raise(Signal::Queue, vector, signals);
                }
            }
            _ => self.break_down(signals),
        }
        drop(place);
        if let Kind::Net(net) = &self.kind {
            net.tell_receivers(signals);
        }
        self.progress()
    }

    /// The first queue of those that are rung, from a number on, that nobody is at.
    fn rung_from(&self, turn: u32, rung: u32) -> Option<(usize, MutexGuard<'_, Place>)> {
        let mut left = rung.rotate_right(turn);
        while left != 0 {
            let index = ((left.trailing_zeros() + turn) % u32::BITS) as usize;
            if let Some(place) = self.places.get(index).and_then(Mutex::try_lock) {
                return Some((index, place));
            }
            left &= left - 1;
        }
        None
    }

    fn progress(&self) -> Progress {
        if self.is_rung() { Progress::More } else { Progress::Idle }
    }

    /// Serves a queue until the step is full.
    fn serve<M: GuestMemory, W: Wires<I, M>>(
        &self,
        index: usize,
        place: &mut Place,
        memory: &M,
        wires: &mut W,
    ) -> Result<Progress, Broken> {
        if self.is_fed(index) {
            return Ok(Progress::Idle);
        }
        let Place { queue: Some(queue), chain, work, .. } = place else { return Ok(Progress::Idle) };
        let mut budget = STEP_BYTES;
        let sender = self.kind.as_net().filter(|net| net.role(index) == net::Role::Transmit);
        while self.live.load(SeqCst) {
            if work.is_none() {
                let ride = match sender {
                    Some(net) => net.send_train(index / 2, (queue, chain), memory, (wires, &mut budget))?,
                    None => Ride::None,
                };
                match ride {
                    Ride::Empty => return Ok(Progress::Idle),
                    Ride::Full => return Ok(Progress::More),
                    Ride::Over => {}
                    Ride::None | Ride::Left => {
                        if queue.take(memory, chain)?.is_none() {
                            return Ok(Progress::Idle);
                        }
                    }
                }
                // What a balloon's driver tells of is not to be there.
                if memory.taken_back() != 0 && self.as_balloon().is_none() {
                    *work = Some(Work::Provide(chain.whole()));
                }
            }
            if let Some(Work::Provide(from)) = work {
                if !chain.provide(from, memory, STEP_BYTES) {
                    return Ok(Progress::More);
                }
                *work = None;
            }
            let bytes = match self.turn(index, chain, work.take(), memory, wires)? {
                Turn::More(begun) => {
                    *work = Some(begun);
                    return Ok(Progress::More);
                }
                Turn::Stalls(begun) => {
                    *work = Some(begun);
                    return Ok(Progress::Idle);
                }
                Turn::Nothing => return Ok(Progress::Idle),
                Turn::Done { written, moved } => {
                    queue.give(memory, chain.head(), written)?;
                    moved
                }
            };
            match budget.checked_sub(bytes.max(BUFFER_BYTES * chain.buffers() as u32)) {
                Some(left) => budget = left,
                None => return Ok(Progress::More),
            }
        }
        Ok(Progress::Idle)
    }

    /// Does a piece of a request.
    fn turn<M: GuestMemory, W: Wires<I, M>>(
        &self,
        index: usize,
        chain: &Chain,
        work: Option<Work>,
        memory: &M,
        wires: &mut W,
    ) -> Result<Turn, Broken> {
        let both = |written: u32| Turn::Done { written, moved: written.max(chain.readable_bytes()) };
        Ok(match &self.kind {
            Kind::Entropy(random) => both(entropy::serve(chain, memory, &mut **random.lock())?),
            Kind::Net(net) => match net.role(index) {
                net::Role::Transmit => {
                    let begun = matches!(work, Some(Work::Net { begun: true }));
                    match net.transmit((index / 2, begun), chain, memory, wires)? {
                        net::Turn::Done(moved) => Turn::Done { written: 0, moved },
                        net::Turn::More => Turn::More(Work::Net { begun: true }),
                        net::Turn::Later => Turn::Stalls(Work::Net { begun: false }),
                    }
                }
                net::Role::Control => both(net.command(chain, memory)?),
                net::Role::Receive | net::Role::Nothing => Turn::Nothing,
            },
            Kind::Console(console) => match console.role(index) {
                console::Role::Output(port) => {
                    let from = if let Some(Work::Console(from)) = work { from } else { chain.readable() };
                    match console.transmit(port, from, chain, memory, STEP_BYTES)? {
                        Sent::All => both(0),
                        Sent::More(from) => Turn::More(Work::Console(from)),
                        Sent::Stalls(from) => Turn::Stalls(Work::Console(from)),
                    }
                }
                console::Role::Hear => both(console.hear(chain, memory)?),
                _ => Turn::Nothing,
            },
            Kind::Balloon(balloon) => {
                let next = match work {
                    Some(Work::Balloon(begun)) => balloon.go_on(begun, chain, memory)?,
                    _ => balloon.begin(index, chain, memory)?,
                };
                match next {
                    balloon::Next::Done => both(0),
                    balloon::Next::More(begun) => Turn::More(Work::Balloon(begun)),
                    balloon::Next::Stalls(begun) => Turn::Stalls(Work::Balloon(begun)),
                    balloon::Next::Nothing => Turn::Nothing,
                }
            }
            Kind::Block(disk) => {
                let begun = match work {
                    Some(Work::Block(begun)) => Next::More(begun),
                    _ => disk.begin(chain, memory)?,
                };
                // What is small is done at once.
                let next =
                    if let Next::More(begun) = begun { disk.go_on(begun, chain, memory)? } else { begun };
                match next {
                    Next::More(begun) => Turn::More(Work::Block(begun)),
                    Next::Done { written, moved } => Turn::Done { written, moved },
                }
            }
        })
    }
}
