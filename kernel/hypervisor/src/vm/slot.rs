//! The place of a virtual CPU in its VM: what others see of it, and the lock of the CPU that runs it. `docs/smp.md`
//! tells the protocol.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use alloc::boxed::Box;

use devices::Inbox;
use spin::Mutex;
use vcpu::{Backend, Nanos};

use crate::counters::TOLD;
use crate::heap;
use crate::processor::{Activity, Processor, VirtualCpu};

const BLOCKED: u32 = 0;
const QUEUED: u32 = 1;
const RUNNING: u32 = 2;

/// Nobody has it loaded.
const NOWHERE: u32 = u32::MAX;

/// Where a vCPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// It waits for an interrupt, or its VM does not run.
    Blocked,
    /// It waits for its turn, or is about to be put in a queue by the one who woke it.
    Queued,
    /// That CPU runs it.
    Running(usize),
}

/// A vCPU's slot.
pub(crate) struct Slot<B: Backend> {
    /// Interrupts and requests for it.
    pub(crate) inbox: Inbox,
    place: AtomicU32,
    home: AtomicU32,
    loaded: AtomicU32,
    /// When its local APIC's timer is due, as of the last time it ran.
    deadline: AtomicU64,
    /// Only an NMI, an INIT or a start-up message can wake it, as of the last time it ran.
    dormant: AtomicBool,
    /// Its exits, as of the last time it ran: nothing else depends on them.
    exits: [AtomicU64; TOLD],
    /// All of them together.
    all_exits: AtomicU64,
    /// How often it went on after it had slept, as of then.
    wakes: AtomicU64,
    /// The user wants to see its registers.
    dump: AtomicBool,
    /// It is there while its VM has something. Who runs it takes it away meanwhile.
    processor: Mutex<Option<Seat<B>>>,
}

/// What a processor is in, on the heap as long as its VM is there: so it is handed on by its address.
pub(crate) type Seat<B> = Box<Option<VirtualCpu<B>>>;

impl<B: Backend> Slot<B> {
    /// A slot without a vCPU. `None` where there is no memory for one.
    pub(crate) fn new() -> Option<Self> {
        Some(Self {
            inbox: Inbox::default(),
            place: AtomicU32::new(BLOCKED),
            home: AtomicU32::new(0),
            loaded: AtomicU32::new(NOWHERE),
            deadline: AtomicU64::new(Nanos::NEVER.0),
            dormant: AtomicBool::new(false),
            exits: [const { AtomicU64::new(0) }; TOLD],
            all_exits: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
            dump: AtomicBool::new(false),
            processor: Mutex::new(Some(heap::boxed(None)?)),
        })
    }

    /// Does something with the processor, or with the place for one, of a VM that does not run. `None` where a CPU has it.
    pub(crate) fn with_processor<R>(&self, with: impl FnOnce(&mut Option<VirtualCpu<B>>) -> R) -> Option<R> {
        self.processor.try_lock()?.as_deref_mut().map(with)
    }

    /// Takes the processor away to run it. `None` where another CPU has it, or there is none.
    pub(crate) fn take(&self) -> Option<Seat<B>> {
        self.processor.try_lock()?.take_if(|seat| seat.is_some())
    }

    /// Puts it back.
    pub(crate) fn put_back(&self, seat: Seat<B>) {
        *self.processor.lock() = Some(seat);
    }

    pub(crate) fn place(&self) -> Place {
        match self.place.load(SeqCst) {
            BLOCKED => Place::Blocked,
            QUEUED => Place::Queued,
            running => Place::Running((running - RUNNING) as usize),
        }
    }

    pub(crate) fn set_place(&self, place: Place) {
        let place = match place {
            Place::Blocked => BLOCKED,
            Place::Queued => QUEUED,
            Place::Running(cpu) => RUNNING + cpu as u32,
        };
        self.place.store(place, SeqCst);
    }

    /// From blocked to queued; true for the one who did it, and who must see that it gets into a queue.
    pub(crate) fn wake(&self) -> bool {
        self.place.compare_exchange(BLOCKED, QUEUED, SeqCst, SeqCst).is_ok()
    }

    /// The CPU whose queue it is in.
    #[inline]
    pub(crate) fn home(&self) -> usize {
        self.home.load(SeqCst) as usize
    }

    /// It has changed its queue.
    pub(crate) fn set_home(&self, home: usize) {
        self.home.store(home as u32, SeqCst);
    }

    /// The CPU that has its state in its registers, if one has.
    pub(crate) fn loaded_on(&self) -> Option<usize> {
        let cpu = self.loaded.load(SeqCst);
        (cpu != NOWHERE).then_some(cpu as usize)
    }

    pub(crate) fn set_loaded(&self, cpu: Option<usize>) {
        self.loaded.store(cpu.map_or(NOWHERE, |cpu| cpu as u32), SeqCst);
    }

    /// What others may know of the processor when it stops running.
    pub(crate) fn publish(&self, processor: &Processor) {
        self.deadline.store(processor.deadline().0, SeqCst);
        let mut all = 0_u64;
        for (place, count) in self.exits.iter().zip(processor.counters.told()) {
            place.store(count, Relaxed);
            all = all.wrapping_add(count);
        }
        self.all_exits.store(all, Relaxed);
        self.wakes.store(processor.counters.wakes, SeqCst);
        let dormant = matches!(processor.activity, Activity::HaltedMasked | Activity::WaitForStartup);
        self.dormant.store(dormant, SeqCst);
    }

    /// It is about to run: what was published of its sleep no longer holds.
    pub(crate) fn rouse(&self) {
        self.dormant.store(false, SeqCst);
    }

    /// Whether only an NMI, an INIT or a start-up message can wake it, and none has come.
    pub(crate) fn is_dormant(&self) -> bool {
        self.dormant.load(SeqCst) && self.inbox.is_empty()
    }

    /// Has it woken then, whatever its own timer says.
    pub(crate) fn set_deadline(&self, deadline: Nanos) {
        self.deadline.store(deadline.0, SeqCst);
    }

    /// When its timer is due; meaningful while it does not run.
    pub(crate) fn deadline(&self) -> Nanos {
        Nanos(self.deadline.load(SeqCst))
    }

    /// Has its registers told when it next runs or looks.
    pub(crate) fn ask_for_dump(&self) {
        self.dump.store(true, SeqCst);
    }

    /// Whether they are to be told.
    #[inline]
    pub(crate) fn takes_dump(&self) -> bool {
        self.dump.load(SeqCst) && self.dump.swap(false, SeqCst)
    }

    /// How often it went on after it had slept.
    pub(crate) fn wakes(&self) -> u64 {
        self.wakes.load(SeqCst)
    }

    /// Exits so far.
    pub(crate) fn exits(&self) -> u64 {
        self.all_exits.load(Relaxed)
    }

    /// The same as [`crate::counters::Counters::told`] has them.
    pub(crate) fn exits_told(&self) -> [u64; TOLD] {
        self.exits.each_ref().map(|count| count.load(Relaxed))
    }
}
