//! A disk whose sectors somebody else has: what of it is under way.
//!
//! Of a request under way there is its head, and what it asked for; its buffers are read anew where bytes are put there or it is given back. Each
//! reading is bounded and checked as the first one; what it finds is memory of the guest whose request it is.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use spin::{Mutex, MutexGuard};
use vcpu::Gpa;

use super::server::{Answer, Order, SLOT_BYTES, SLOTS, Server, Verb};
use super::{Asked, IO_ERROR, OK, SECTOR, UNSUPPORTED};
use crate::queue::{Chain, Cursor};

/// A request of which something is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flight {
    pub(crate) queue: usize,
    pub(crate) head: u16,
    pub(crate) verb: Verb,
    /// Its first sector.
    sector: u64,
    /// Sectors of the one order that it is, where that moves no bytes.
    sectors: u32,
    /// Orders that are not answered.
    out: usize,
    /// No more orders will come of it.
    is_told: bool,
    /// The driver is gone: nobody waits for it.
    pub(crate) is_orphan: bool,
    status: u8,
    /// Bytes of its buffers that were written.
    written: u32,
}

/// What of a request an order is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Part {
    flight: usize,
    /// Where its bytes are among the request's,
    pub(crate) offset: u32,
    /// and how many.
    pub(crate) bytes: u32,
}

#[derive(Debug)]
struct Flights {
    all: [Option<Flight>; SLOTS],
    /// By slots.
    parts: [Part; SLOTS],
}

/// A request that is being told, order by order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Work {
    flight: usize,
    verb: Verb,
    sector: u64,
    /// Sectors that were not told yet.
    left: u32,
    /// Something is to be told, even if of no sectors.
    is_due: bool,
    data: Cursor,
    offset: u32,
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    ToServer,
    ToGuest,
}

/// How a request has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ended {
    pub(crate) status: u8,
    pub(crate) written: u32,
}

/// The disk.
#[derive(Debug)]
pub(crate) struct Remote {
    server: Arc<dyn Server>,
    disk: u16,
    pub(super) sectors: u64,
    flights: Mutex<Flights>,
    /// A request that is read anew.
    pub(crate) scratch: Mutex<Chain>,
    /// Queues whose next order has to wait: for a slot, or for orders of before,
    stalled: AtomicU32,
    /// and for a time.
    postponed: AtomicU32,
}

impl Work {
    /// The next order, and the bytes that it moves; those that are written lie behind the cursor.
    pub(crate) fn next(&self, disk: u16) -> Option<(Order, u32)> {
        if !self.is_due {
            return None;
        }
        let moves = matches!(self.verb, Verb::Read | Verb::Write);
        let sectors = if moves { self.left.min(SLOT_BYTES / SECTOR as u32) } else { self.left };
        let order = Order { disk, verb: self.verb, sector: self.sector, sectors };
        Some((order, if moves { sectors * SECTOR as u32 } else { 0 }))
    }

    /// It was told, with the data up to that cursor.
    fn told(&mut self, sectors: u32, bytes: u32, data: Cursor) {
        self.sector += u64::from(sectors);
        self.left -= sectors;
        self.offset += bytes;
        self.data = data;
        self.is_due = self.left != 0;
    }

    pub(crate) const fn data(&self) -> Cursor {
        self.data
    }

    /// Nothing more is told.
    pub(crate) const fn give_up(&mut self) {
        self.is_due = false;
    }
}

impl Remote {
    /// A disk of so many sectors, with that number at its server.
    pub(super) fn new(server: Arc<dyn Server>, disk: u16, sectors: u64) -> Self {
        let parts = [Part { flight: 0, offset: 0, bytes: 0 }; SLOTS];
        Self {
            server,
            disk,
            sectors,
            flights: Mutex::new(Flights { all: [None; SLOTS], parts }),
            scratch: Mutex::new(Chain::default()),
            stalled: AtomicU32::new(0),
            postponed: AtomicU32::new(0),
        }
    }

    pub(crate) const fn disk(&self) -> u16 {
        self.disk
    }

    /// A request is under way from here on. `None` where it has to wait: for others of it, or for what a driver before has left.
    pub(crate) fn begin(&self, asked: Asked, queue: usize, head: u16) -> Option<Work> {
        let mut flights = self.flights.lock();
        if flights.all.iter().flatten().any(|flight| flight.is_orphan) {
            return None;
        }
        let (number, place) = flights.all.iter_mut().enumerate().find(|(_, place)| place.is_none())?;
        let Asked { verb, sector, sectors, data } = asked;
        *place = Some(Flight {
            queue,
            head,
            verb,
            sector,
            sectors,
            out: 0,
            is_told: false,
            is_orphan: false,
            status: OK,
            written: 0,
        });
        Some(Work {
            flight: number,
            verb,
            sector,
            left: sectors,
            is_due: sectors != 0 || verb == Verb::Flush,
            data,
            offset: 0,
        })
    }

    /// A slot for an order, and where its bytes are. `None` where there is none now.
    pub(crate) fn take(&self) -> Option<(u16, usize, Gpa)> {
        let slot = self.server.take()?;
        match self.server.place(slot) {
            Some((owner, gpa)) => Some((slot, owner, gpa)),
            None => {
                self.server.give_back(slot);
                None
            }
        }
    }

    /// The slot is not needed.
    pub(crate) fn give_back(&self, slot: u16) {
        self.server.give_back(slot);
    }

    /// Tells an order. What is written was put into its slot, up to that cursor.
    pub(crate) fn tell(&self, slot: u16, work: &mut Work, (order, bytes): (Order, u32), data: Cursor) {
        let mut flights = self.flights.lock();
        let Flights { all, parts } = &mut *flights;
        let place = parts.get_mut(usize::from(slot));
        if let (Some(part), Some(Some(flight))) = (place, all.get_mut(work.flight)) {
            *part = Part { flight: work.flight, offset: work.offset, bytes };
            flight.out += 1;
            work.told(order.sectors, bytes, data);
            // Whoever answers finds it.
            drop(flights);
            self.server.tell(slot, order);
        }
    }

    /// A buffer of the request's is where there is no memory: it fails, once what is out is back.
    pub(crate) fn fail(&self, work: &mut Work) {
        work.give_up();
        if let Some(Some(flight)) = self.flights.lock().all.get_mut(work.flight) {
            flight.status = IO_ERROR;
        }
    }

    /// All of its orders were told. How it has ended, where all are answered.
    pub(crate) fn end_telling(&self, work: &Work) -> Option<Ended> {
        let mut flights = self.flights.lock();
        let place = flights.all.get_mut(work.flight)?;
        if let Some(flight) = place {
            flight.is_told = true;
        }
        land(place)
    }

    /// An order that was answered: its slot, the request that it is of, what part of it, and the answer.
    pub(crate) fn answered(&self) -> Option<(u16, Flight, Part, Answer)> {
        let (slot, answer) = self.server.answered(self.disk)?;
        let flights = self.flights.lock();
        let part = flights.parts.get(usize::from(slot)).copied().unwrap_or_default();
        if let Some(Some(flight)) = flights.all.get(part.flight) {
            return Some((slot, *flight, part, answer));
        }
        // Nobody has told it.
        drop(flights);
        self.server.give_back(slot);
        None
    }

    /// Whether the driver whose request a part is of is there.
    pub(crate) fn is_wanted(&self, part: Part) -> bool {
        self.flights.lock().all.get(part.flight).is_some_and(|it| it.is_some_and(|flight| !flight.is_orphan))
    }

    /// Tells an order again, whose slot is filled again where it is one to write.
    pub(crate) fn retell(&self, slot: u16, flight: &Flight, part: Part) {
        let moves = matches!(flight.verb, Verb::Read | Verb::Write);
        let sectors = if moves { part.bytes / SECTOR as u32 } else { flight.sectors };
        let sector = flight.sector + u64::from(part.offset) / SECTOR;
        self.server.tell(slot, Order { disk: self.disk, verb: flight.verb, sector, sectors });
    }

    /// Where the bytes of a slot are.
    pub(crate) fn place(&self, slot: u16) -> Option<(usize, Gpa)> {
        self.server.place(slot)
    }

    /// An answered order is dealt with, and its slot free. How its request has ended, where that was the last one.
    pub(crate) fn settle(&self, slot: u16, part: Part, status: u8, written: u32) -> Option<Ended> {
        let mut flights = self.flights.lock();
        let place = flights.all.get_mut(part.flight)?;
        if let Some(flight) = place {
            flight.out = flight.out.saturating_sub(1);
            flight.written += written;
            // The first that fails counts.
            if flight.status == OK {
                flight.status = status;
            }
        }
        let ended = land(place);
        drop(flights);
        self.server.give_back(slot);
        ended
    }

    /// The driver is gone: what is under way is nobody's.
    pub(crate) fn reset(&self) {
        for place in &mut self.flights.lock().all {
            if let Some(flight) = place {
                (flight.is_orphan, flight.is_told) = (true, true);
            }
            land(place);
        }
        self.stalled.store(0, SeqCst);
        self.postponed.store(0, SeqCst);
    }

    /// A queue waits: for a slot, or for what the driver before has left.
    pub(crate) fn stalls(&self, queue: usize) {
        self.stalled.fetch_or(1 << queue, SeqCst);
    }

    /// The server's memory cannot be reached now: a queue waits until [`Self::take_postponed`].
    pub(crate) fn postpone(&self, queue: usize) {
        self.postponed.fetch_or(1 << queue, SeqCst);
    }

    /// Queues that have waited for a time.
    pub(crate) fn take_postponed(&self) -> u32 {
        self.postponed.swap(0, SeqCst)
    }

    /// Queues that can go on.
    pub(crate) fn take_unstalled(&self) -> u32 {
        if self.can_go_on() { self.stalled.swap(0, SeqCst) } else { 0 }
    }

    /// Whether there is something that no doorbell tells of.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.server.has_answers(self.disk) || self.can_go_on()
    }

    fn can_go_on(&self) -> bool {
        let is_free = || !self.flights.lock().all.iter().flatten().any(|flight| flight.is_orphan);
        self.stalled.load(SeqCst) != 0 && self.server.has_room() && is_free()
    }
}

/// A request of which all was told and answered is over.
fn land(place: &mut Option<Flight>) -> Option<Ended> {
    let flight = place.filter(|flight| flight.is_told && flight.out == 0)?;
    *place = None;
    Some(Ended { status: flight.status, written: flight.written })
}

/// The status that an answer means.
pub(crate) const fn status(answer: Answer) -> u8 {
    match answer {
        Answer::Done => OK,
        // Of a request that nobody waits for.
        Answer::Failed | Answer::Again => IO_ERROR,
        Answer::Unsupported => UNSUPPORTED,
    }
}

impl Flight {
    /// Whether bytes are to be copied, and where to: what was read to the guest, what is to be told again to the server.
    pub(crate) fn copies(&self, answer: Answer) -> Option<Way> {
        match (self.verb, answer) {
            (Verb::Read, Answer::Done) => Some(Way::ToGuest),
            (Verb::Write, Answer::Again) => Some(Way::ToServer),
            _ => None,
        }
    }
}

/// Locks what a request is read anew into. `None` where another CPU is at it.
pub(crate) fn scratch(remote: &Remote) -> Option<MutexGuard<'_, Chain>> {
    remote.scratch.try_lock()
}
