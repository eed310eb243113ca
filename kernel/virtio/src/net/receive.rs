//! What a driver receives: frames from the queue of its port, or straight from who sends them.

use core::sync::atomic::Ordering::SeqCst;

use vcpu::{Gpa, GuestMemory};
use vswitch::checksum::complete;
use vswitch::counters::Drop;
use vswitch::frame::HEADROOM;
use vswitch::output::{Front, Next};
use vswitch::segment::Plan;
use vswitch::{Frame, Nanos, Takes};

use super::filter::Filter;
use super::frame::Start;
use super::header::{self, BUFFER_HEADER_BYTES, BUFFERS_AT};
use super::source::{Fault, Queued, Source};
use super::{Net, feature};
use crate::memory::behind;
use crate::queue::{Broken, Chain, MAX_SEGMENTS, Queue};

/// Frames in a row that nobody wants, until others have their turn.
const PASSED_OVER: usize = 64;

/// Parts of memory that the buffers for one packet have at most: more than any driver needs, which may lay out many chains of next to nothing.
const MOST_PARTS: usize = 2 * MAX_SEGMENTS;

/// What handing a frame to a receiver has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// It is in its buffers.
    Yes,
    /// It does not want it.
    Unwanted,
    /// It may later.
    NotNow,
}

/// What receiving a frame has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// It was dealt with, or a packet of it was: bytes that were copied.
    Bytes(u32),
    /// It waits for buffers.
    Waits,
}

/// What putting one packet into buffers has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    Done,
    /// There are too few buffers.
    Waits,
    /// They are too small, or have no memory.
    Lost,
}

/// The right to receive.
pub(crate) struct Claim<'a>(spin::MutexGuard<'a, Filter>);

/// A frame that is to be received.
pub(crate) struct Incoming {
    front: Front,
    frame: Frame,
}

impl Net {
    /// Has this CPU receive, and no other as long as it keeps this. `None` where another does.
    pub(crate) fn claim(&self) -> Option<Claim<'_>> {
        self.filter.try_lock().map(Claim)
    }

    /// Whether the driver wants a frame.
    pub(crate) fn wants(&self, Claim(filter): &Claim<'_>, frame: &Frame) -> bool {
        filter.wants(Start(frame.head()), self.has(feature::CTRL_RX), self.has(feature::CTRL_VLAN))
    }

    /// The pair of queues that a frame is for.
    pub(crate) fn pair_of(&self, frame: &Frame) -> usize {
        match u32::from(self.active.load(SeqCst)) {
            0 | 1 => 0,
            pairs => (Start(frame.head()).flow() % pairs) as usize,
        }
    }

    /// The next frame of the queue that the driver wants, with the pair that it is for. Others are passed over, a bounded number of them.
    /// `Err` where it is not to be received before some time.
    pub(crate) fn next_frame(
        &self,
        claim: &Claim<'_>,
        now: Nanos,
    ) -> Result<Option<(Incoming, usize)>, Nanos> {
        let Some(port) = self.plug.port() else { return Ok(None) };
        for _ in 0..PASSED_OVER {
            let front = match port.output.next(self.plug.switch().guaranteed(now), now) {
                Next::Frame(front) => front,
                Next::Nothing => return Ok(None),
                Next::NotBefore(at) => return Err(at),
            };
            let mut frame = Frame::empty();
            let place = frame.begin(front.frame.length).and_then(|place| place.get_mut(HEADROOM..));
            let source = Queued::new(&port.output, front);
            let read = place.is_some_and(|place| source.bytes_at(0, place).is_ok());
            frame.offload = front.frame.offload;
            let frame = read.then_some(frame);
            match frame.filter(|frame| self.wants(claim, frame)) {
                Some(frame) => {
                    let pair = self.pair_of(&frame);
                    return Ok(Some((Incoming { front, frame }, pair)));
                }
                None => self.finish(&front, false, now),
            }
        }
        Ok(None)
    }

    /// A frame of the queue is done with.
    fn finish(&self, front: &Front, received: bool, now: Nanos) {
        self.segment.store(0, SeqCst);
        self.starved.store(false, SeqCst);
        let Some(port) = self.plug.port() else { return };
        port.output.pop(front, received, now);
        if received {
            port.counters.received.count(front.frame.packets, front.frame.wire_bytes);
            self.plug.switch().was_received(front.frame.from, front.frame.wire_bytes, now);
        }
    }

    /// Copies a frame of the queue into the driver's buffers, or, where it is a large one that the driver does not take, the next packet of it.
    ///
    /// # Errors
    /// [`Broken`]: a buffer has no room for a header, or is not in RAM.
    pub(crate) fn receive<M: GuestMemory>(
        &self,
        Incoming { front, frame }: Incoming,
        queue: &mut Queue,
        chain: &mut Chain,
        memory: &M,
        now: Nanos,
    ) -> Result<Received, Broken> {
        let Some(port) = self.plug.port() else { return Ok(Received::Bytes(0)) };
        // Before the look at the queue: buffers that come behind it undo it.
        self.starved.store(true, SeqCst);
        let mut source = Queued::new(&port.output, front);
        let takes = self.received_offloads();
        let Some((mut packet, last)) = self.packet_of(frame, takes) else {
            self.lose(Drop::Unsuited);
            self.finish(&front, false, now);
            return Ok(Received::Bytes(0));
        };
        if !takes.checksum {
            // A checksum that belongs behind the head is none of a transport's; its frame arrives without.
            let _ = complete(&mut packet, |at, bytes| source.bytes_at(at, bytes))?;
        }
        let put = self.put(&mut packet, front.frame.cut, &mut source, queue, chain, memory);
        match put {
            Ok(Put::Done) if last => self.finish(&front, true, now),
            Ok(Put::Done) => {
                self.segment.fetch_add(1, SeqCst);
                self.starved.store(false, SeqCst);
            }
            Ok(Put::Waits) => return Ok(Received::Waits),
            Ok(Put::Lost) => {
                self.lose(Drop::Unsuited);
                self.finish(&front, false, now);
            }
            Err(Fault::Sender(broken) | Fault::Receiver(broken)) => return Err(broken),
        }
        Ok(Received::Bytes(packet.length()))
    }

    /// What of a frame is next: all of it, or where it is a large one that the driver does not take, one packet of it. With it, whether that is the last.
    /// `None` where it can be neither.
    fn packet_of(&self, frame: Frame, takes: Takes) -> Option<(Frame, bool)> {
        if frame.offload.large.is_none_or(|large| takes.large(large)) {
            return Some((frame, true));
        }
        let plan = Plan::new(&frame, &frame.layers()).ok()?;
        let number = self.segment.load(SeqCst);
        Some((plan.segment(&frame, number)?, number + 1 == plan.segments()))
    }

    /// As [`Self::put`], where the next buffer is one piece of memory with room for all of it, as almost all are. False where it is not: then nothing
    /// was done.
    #[inline]
    fn put_whole<M: GuestMemory, S: Source<M>>(
        packet: &mut Frame,
        source: &mut S,
        queue: &mut Queue,
        chain: &mut Chain,
        memory: &M,
    ) -> Result<bool, Fault> {
        let before = *queue;
        let put = Self::put_into_one(packet, source, queue, chain, memory);
        if put != Ok(true) {
            *queue = before;
        }
        put
    }

    #[inline]
    fn put_into_one<M: GuestMemory, S: Source<M>>(
        packet: &mut Frame,
        source: &mut S,
        queue: &mut Queue,
        chain: &mut Chain,
        memory: &M,
    ) -> Result<bool, Fault> {
        if memory.taken_back() != 0 || queue.take(memory, chain)?.is_none() {
            return Ok(false);
        }
        let bytes = packet.length() + BUFFER_HEADER_BYTES;
        let Some(buffer) = chain.one_writable().filter(|buffer| buffer.length >= bytes) else {
            return Ok(false);
        };
        let (rest, rest_at) = (packet.rest_bytes(), packet.rest_at());
        let head = packet.behind(header::bytes(packet.offload, 1));
        memory.write(buffer.gpa, head).map_err(Broken::from)?;
        if rest != 0 {
            source.copy_at(rest_at, rest, memory, behind(buffer.gpa, head.len() as u64))?;
        }
        queue.give(memory, chain.head(), bytes)?;
        Ok(true)
    }

    /// Copies a packet into the driver's buffers: one chain of them, or as many as it takes where the driver has agreed to that.
    ///
    /// # Errors
    /// [`Fault`]: a buffer has no room for a header, or is not in RAM; or the frame's bytes cannot be had.
    pub(super) fn put<M: GuestMemory, S: Source<M>>(
        &self,
        packet: &mut Frame,
        cut: bool,
        source: &mut S,
        queue: &mut Queue,
        chain: &mut Chain,
        memory: &M,
    ) -> Result<Put, Fault> {
        if !cut && Self::put_whole(packet, source, queue, chain, memory)? {
            return Ok(Put::Done);
        }
        let mergeable = self.has(feature::MRG_RXBUF);
        let length = packet.length();
        let (mut done, mut buffers, mut number_at) = (0, 0_u16, [Gpa(0); 2]);
        let mut parts = 0;
        let mut batch = queue.batch();
        source.seek(packet.rest_at());
        let before = if cut { header::bytes_of_cut(1) } else { header::bytes(packet.offload, 1) };
        let mut first = packet.behind(before);
        while done < length {
            if batch.take(memory, chain)?.is_none() {
                return Ok(Put::Waits);
            }
            parts += chain.buffers();
            if parts > MOST_PARTS {
                return Err(Broken::Length.into());
            }
            let mut place = chain.writable();
            let mut room = chain.writable_bytes();
            if !chain.has_memory(memory, room.min(length - done + BUFFER_HEADER_BYTES)) {
                return Ok(Put::Lost);
            }
            let used = if buffers == 0 { BUFFER_HEADER_BYTES } else { 0 };
            room = room.checked_sub(used).ok_or(Broken::Request)?;
            let now = room.min(length - done);
            if buffers == 0 && now < length {
                let mut number = place;
                number.skip(chain, BUFFERS_AT);
                number_at = number.two_bytes(chain)?;
            }
            if !mergeable && now < length {
                // The next one may do; what is in this buffer does not matter.
                return Ok(Put::Lost);
            }
            let mut left = now + used;
            while left != 0 {
                let most = if first.is_empty() { left } else { left.min(first.len() as u32) };
                let part = place.next(chain, most).ok_or(Broken::Request)?;
                if first.is_empty() {
                    source.copy(part.length, memory, part.gpa)?;
                } else {
                    let (written, later) = first.split_at(part.length as usize);
                    memory.write(part.gpa, written).map_err(Broken::from)?;
                    first = later;
                }
                left -= part.length;
            }
            batch.give(memory, chain.head(), now + used)?;
            (done, buffers) = (done + now, buffers + 1);
            if now == 0 && buffers > 1 {
                return Err(Broken::Request.into());
            }
        }
        if buffers > 1 {
            for (gpa, byte) in number_at.into_iter().zip(buffers.to_le_bytes()) {
                memory.write(gpa, &[byte]).map_err(Broken::from)?;
            }
        }
        batch.keep();
        Ok(Put::Done)
    }

    /// Copies a frame from its sender into the driver's buffers.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn take_in<M: GuestMemory, S: Source<M>>(
        &self,
        frame: &mut Frame,
        source: &mut S,
        (queue, chain): (&mut Queue, &mut Chain),
        memory: &M,
    ) -> Result<Taken, Fault> {
        if frame.offload.checksum.is_some() {
            let takes = self.received_offloads();
            // Summing up its bytes, or dividing it, is for the receiver's own time.
            if !takes.checksum || frame.offload.large.is_some_and(|large| !takes.large(large)) {
                return Ok(Taken::NotNow);
            }
        }
        match self.put(frame, false, source, queue, chain, memory)? {
            Put::Done => Ok(Taken::Yes),
            Put::Waits => Ok(Taken::NotNow),
            Put::Lost => {
                self.lose(Drop::Unsuited);
                Ok(Taken::Unwanted)
            }
        }
    }
}
