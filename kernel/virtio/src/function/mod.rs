//! A virtio device with all that is around it: registers, queues, interrupts.

mod kind;
mod receive;
mod remote;
mod serve;
mod window;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use devices::Width;
use devices::pci::ConfigSpace;
use spin::Mutex;
use vcpu::Image;

pub use kind::Kind;
pub(crate) use receive::Receiver;

use crate::MAX_QUEUES;
use crate::balloon::{self, Balloon};
use crate::block::{self, Block};
use crate::interrupts::{Interrupts, NO_VECTOR, Signal, Signals};
use crate::net::Net;
use crate::pci::{self, Configured};
use crate::queue::{Chain, Cursor, Queue};
use crate::transport::{Registers, feature, register};

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
    /// Of a disk that a server has.
    Telling(block::Telling),
    /// A request that was taken and not looked at yet.
    Anew,
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
    /// It is given back later.
    Taken { moved: u32 },
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
/// Among the queues of which the driver was not told: a server has answered.
const ANSWERS: u32 = 1 << 31;
const _: () = assert!(MAX_QUEUES < 31);
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

    /// Whether the BAR has an address of this range.
    pub fn overlaps(&self, range: &core::ops::Range<u64>) -> bool {
        let base = self.base.load(SeqCst);
        base < range.end && range.start < base.saturating_add(pci::BAR_BYTES.into())
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

    /// Takes note of what the server of a disk has answered, where it is such a one: there is something to do then.
    pub fn note_answers(&self) {
        if let Kind::Block(disk) = &self.kind
            && disk.remote().is_some_and(block::Remote::has_news)
        {
            self.untold.fetch_or(ANSWERS, SeqCst);
        }
    }

    /// A time has come for which it has waited.
    pub fn advance(&self) {
        match &self.kind {
            Kind::Net(net) => {
                self.rung.fetch_or(net.go_on(), SeqCst);
            }
            Kind::Block(disk) => {
                if let Some(remote) = disk.remote() {
                    self.rung.fetch_or(remote.take_postponed(), SeqCst);
                }
            }
            _ => {}
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

    /// The window of a console has another size, where it is one.
    pub fn resize(&self, columns: u16, rows: u16) {
        if let Kind::Console(console) = &self.kind {
            console.resize(columns, rows);
        }
    }

    /// The disk, where it is one.
    pub const fn as_block(&self) -> Option<&Block<I>> {
        if let Kind::Block(block) = &self.kind { Some(block) } else { None }
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

    /// A queue makes no sense: only a reset helps.
    fn break_down(&self, signals: &mut (impl Signals + ?Sized)) {
        self.live.store(false, SeqCst);
        if !self.broken.swap(true, SeqCst) {
            self.breakdowns.fetch_add(1, SeqCst);
            self.interrupts.raise(Signal::Configuration, NO_VECTOR, signals);
        }
    }
}
