//! What a driver sends: from its buffers to the devices, or the queues, of the ports that the switch says.
//!
//! A frame that goes to many is sent in several steps. Its head was copied when it was looked at, and that is what everybody gets.

use core::sync::atomic::Ordering::SeqCst;

use vcpu::{GuestMemory, Image};
use vswitch::counters::Drop;
use vswitch::mirror::{Copies, Copy};
use vswitch::output::{Output, Waiting};
use vswitch::switch::{Port, Sent};
use vswitch::tag::Tag;
use vswitch::{Frame, Nanos, PortId, PortSet, Switch};

use super::header::{self, BUFFER_HEADER_BYTES};
use super::receive::Taken;
use super::source::{Fault, Sender, Source};
use super::{Net, feature};
use crate::interrupts::Wires;
use crate::queue::{Broken, Chain};
use crate::{BUFFER_BYTES, Function, STEP_BYTES};

/// The frame that a queue sends, for as long as it takes.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) frame: Frame,
    pub(super) sent: Sent,
    receivers: Receivers,
}

impl Outgoing {
    pub(super) const fn new() -> Self {
        let receivers =
            Receivers { left: PortSet::NONE, copies: Copies::new_const(), copied: 0, watchers: None };
        Self { frame: Frame::empty(), sent: Sent::nothing(), receivers }
    }
}

/// Who gets a frame yet.
#[derive(Debug)]
struct Receivers {
    /// Ports that it goes to.
    left: PortSet,
    /// Copies of it, and those that were made.
    copies: Copies,
    copied: usize,
    /// Ports that the present copy goes to yet, how it looks there, and how much of it they get.
    watchers: Option<(PortSet, Tag, Option<u16>)>,
}

/// What a delivery counts at least, in bytes of copying that take as long: the switch is asked, and two queues are served.
const DELIVERY_BYTES: u32 = 2048;

/// What sending has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// The frame is dealt with: bytes that were copied.
    Done(u32),
    /// It goes to more.
    More,
    /// It is not to be sent yet.
    Later,
}

/// Where a frame's bytes are, and when it is sent.
struct Way<'a, M> {
    chain: &'a Chain,
    memory: &'a M,
    now: Nanos,
}

/// A frame for one port: how it looks there, and how much of it goes there.
pub(super) struct Parcel<'a> {
    pub(super) to: PortId,
    pub(super) frame: &'a mut Frame,
    pub(super) sent: &'a Sent,
    pub(super) snap: Option<u16>,
}

impl Net {
    /// Sends what the driver has put into a request, or goes on with that.
    ///
    /// # Errors
    /// [`Broken`] where it has no header, or is not in RAM.
    pub(crate) fn transmit<I: Image, M: GuestMemory, W: Wires<I, M>>(
        &self,
        (pair, begun): (usize, bool),
        chain: &Chain,
        memory: &M,
        wires: &mut W,
    ) -> Result<Turn, Broken> {
        let Some(place) = self.outgoing.get(pair) else { return Ok(Turn::Done(0)) };
        let mut place = place.lock();
        let Outgoing { frame, sent, receivers } = &mut *place;
        let way = Way { chain, memory, now: wires.now() };
        if !begun {
            let Some(port) = self.plug.port() else { return Ok(Turn::Done(0)) };
            if let Some(at) = port.send.opens_at(way.now) {
                wires.wake_at(at);
                return Ok(Turn::Later);
            }
            if !self.read_frame(frame, chain, memory)? {
                self.plug.switch().end_train(sent);
                self.lose(Drop::Malformed);
                return Ok(Turn::Done(chain.readable_bytes()));
            }
            let switch = self.plug.switch();
            if let Some((to, tag)) = switch.go_on(frame, way.now, sent) {
                let bytes = self.send_to((to, tag, None), (frame, sent), &way, wires)?;
                return Ok(Turn::Done(bytes.max(chain.readable_bytes()).max(DELIVERY_BYTES)));
            }
            // Why not is counted there.
            if switch.accept(self.plug.id(), frame, way.now, sent).is_err() {
                return Ok(Turn::Done(DELIVERY_BYTES + Switch::cost_of_accepting(sent)));
            }
            if let Some(to) = switch.only_receiver(sent) {
                let mut bytes = chain.readable_bytes();
                if let Ok(tag) = switch.admit(sent, frame, to) {
                    switch.begin_train(sent, frame, (to, tag));
                    bytes = bytes.max(self.send_to((to, tag, None), (frame, sent), &way, wires)?);
                }
                let least = DELIVERY_BYTES + Switch::cost_of_accepting(sent) + switch.cost_of_admitting(sent);
                return Ok(Turn::Done(bytes.max(least)));
            }
            let copies = switch.copies_of_sent(sent);
            *receivers = Receivers { left: sent.to, copies, copied: 0, watchers: None };
        }
        let least = DELIVERY_BYTES + self.plug.switch().cost_of_admitting(sent);
        let mut moved = if begun { 0 } else { Switch::cost_of_accepting(sent) };
        while let Some((to, tag, snap)) = self.next_receiver((frame, sent), receivers) {
            let bytes = match tag {
                Some(tag) => self.send_to((to, tag, snap), (frame, sent), &way, wires)?,
                None => 0,
            };
            moved += bytes.max(least);
            if moved >= STEP_BYTES {
                return Ok(Turn::More);
            }
        }
        Ok(Turn::Done(moved.max(chain.readable_bytes())))
    }

    /// Reads a frame's header and head. False where they make no sense.
    // A call of it for each frame would cost a quarter of what it does.
    #[inline(always)]
    pub(super) fn read_frame<M: GuestMemory>(
        &self,
        frame: &mut Frame,
        chain: &Chain,
        memory: &M,
    ) -> Result<bool, Broken> {
        use feature::{CSUM, HOST_ECN, HOST_TSO4, HOST_TSO6, HOST_USO};
        let length = chain.readable_bytes().checked_sub(BUFFER_HEADER_BYTES).ok_or(Broken::Request)?;
        let Some(start) = frame.begin(length) else { return Ok(false) };
        chain.read_start(memory, start)?;
        let header = frame.headroom();
        if !header::is_plain(header) {
            let may = self.takes(CSUM, [HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_USO, HOST_USO]);
            let Some(offload) = header::read(header, length, may) else { return Ok(false) };
            frame.offload = offload;
        }
        Ok(self.fits(frame))
    }

    /// Who gets the frame next, and how it looks there; without a tag's fate, nobody does this time.
    fn next_receiver(
        &self,
        (frame, sent): (&Frame, &Sent),
        receivers: &mut Receivers,
    ) -> Option<(PortId, Option<Tag>, Option<u16>)> {
        let switch = self.plug.switch();
        if let Some(to) = receivers.left.take_first() {
            let Ok(tag) = switch.admit(sent, frame, to) else { return Some((to, None, None)) };
            for copy in switch.copies_of_received(sent, to) {
                // A frame that several receive who are watched is copied once.
                if !receivers.copies.contains(&copy) {
                    let _ = receivers.copies.try_push(copy);
                }
            }
            return Some((to, Some(tag), None));
        }
        loop {
            if let Some((ports, tag, snap)) = &mut receivers.watchers {
                if let Some(to) = ports.take_first() {
                    return Some((to, Some(*tag), *snap));
                }
                receivers.watchers = None;
            }
            let Copy { target, snap } = *receivers.copies.get(receivers.copied)?;
            receivers.copied += 1;
            let (ports, tag) = switch.watchers(sent, target);
            receivers.watchers = Some((ports, tag, snap));
        }
    }

    /// Sends the frame to one port. Returns how many bytes were copied, or what takes as long.
    fn send_to<I: Image, M: GuestMemory, W: Wires<I, M>>(
        &self,
        (to, tag, snap): (PortId, Tag, Option<u16>),
        (frame, sent): (&mut Frame, &Sent),
        way: &Way<'_, M>,
        wires: &mut W,
    ) -> Result<u32, Broken> {
        let Some(port) = self.plug.switch().port(to) else { return Ok(0) };
        if !port.is_ready() {
            port.counters.lose(Drop::Down);
            return Ok(0);
        }
        let mut changed;
        let frame = if tag == Tag::Keep && snap.is_none() {
            frame
        } else {
            let Some(retagged) = tag.apply(frame) else {
                port.counters.lose(Drop::Malformed);
                return Ok(0);
            };
            changed = match snap {
                Some(snap) => retagged.cut(snap),
                None => retagged,
            };
            &mut changed
        };
        let length = frame.length();
        let mut parcel = Parcel { to, frame, sent, snap };
        let mut source = Sender::new(way.chain, way.memory);
        let buffers = self.hand_over(&mut parcel, port, &mut source, (way.now, wires))?;
        if buffers.is_none() {
            self.enqueue(&parcel, port, &mut source, wires)?;
            // It took some of the switch's reserve, which is filled between two steps: the next frame finds it full.
            if self.plug.switch().is_low() {
                return Ok(STEP_BYTES.max(length));
            }
        }
        Ok(length.max(BUFFER_BYTES * buffers.unwrap_or(0) as u32))
    }

    /// Copies the frame into the receiver's buffers, and says how many at least. `None` where that cannot be now.
    fn hand_over<I: Image, M: GuestMemory, W: Wires<I, M>>(
        &self,
        parcel: &mut Parcel<'_>,
        port: &Port,
        source: &mut Sender<'_, M>,
        (now, wires): (Nanos, &mut W),
    ) -> Result<Option<usize>, Broken> {
        let Some(owner) = port.owner() else { return Ok(None) };
        // What waits there comes first.
        if !port.output.is_empty() || parcel.snap.is_some() || port.output.rate.opens_at(now).is_some() {
            return Ok(None);
        }
        let taken = wires.reach(owner, |function: &Function<I>, memory, signals| {
            function.take_in(parcel.frame, source, memory, signals)
        });
        match taken {
            Some(Ok((Taken::Yes, buffers))) => {
                if let Some(own) = self.plug.port() {
                    count_delivery((own, port), parcel.sent, now);
                }
                self.touched.fetch_or(PortSet::one(parcel.to).bits(), SeqCst);
                Ok(Some(buffers))
            }
            Some(Ok((Taken::Unwanted, buffers))) => {
                // Whoever has come to that device meanwhile has found it taken.
                self.touched.fetch_or(PortSet::one(parcel.to).bits(), SeqCst);
                Ok(Some(buffers))
            }
            Some(Ok((Taken::NotNow, _))) | None => Ok(None),
            Some(Err(Fault::Sender(broken))) => Err(broken),
            // Its device is broken now, and the frame lost.
            Some(Err(Fault::Receiver(_))) => {
                port.counters.lose(Drop::Unsuited);
                Ok(Some(0))
            }
        }
    }

    /// Copies the frame into the queue of the receiver's port.
    pub(super) fn enqueue<I: Image, M: GuestMemory, W: Wires<I, M>>(
        &self,
        parcel: &Parcel<'_>,
        port: &Port,
        source: &mut Sender<'_, M>,
        wires: &mut W,
    ) -> Result<(), Broken> {
        let (frame, sent) = (&*parcel.frame, parcel.sent);
        let Some(mut room) = self.plug.switch().room(port, sent.from, frame.length()) else {
            port.counters.lose(Drop::QueueFull);
            return Ok(());
        };
        let copied = fill(&port.output, &mut room, frame, source);
        if let Err(broken) = copied {
            port.output.cancel(&room);
            return Err(broken);
        }
        let (packets, wire_bytes) = vswitch::segment::segments_of(frame);
        let waiting = Waiting {
            from: sent.from,
            priority: sent.priority,
            length: frame.length(),
            offload: frame.offload,
            packets,
            wire_bytes,
            cut: parcel.snap.is_some(),
        };
        port.output.push(&room, waiting);
        if let Some(owner) = port.owner() {
            wires.call(owner);
        }
        Ok(())
    }

    /// Whether some pair has a train.
    #[cfg(test)]
    pub(super) fn has_train(&self) -> bool {
        self.outgoing.iter().any(|place| place.lock().sent.train().is_some())
    }

    /// A step of a pair's queue is over: what comes later is looked at in full again.
    pub(crate) fn end_step(&self, pair: usize) {
        if let Some(place) = self.outgoing.get(pair) {
            self.plug.switch().end_train(&mut place.lock().sent);
        }
    }

    /// Tells the drivers of those that have received something, once for all that a step has sent.
    pub(crate) fn tell_receivers<I: Image, M: GuestMemory, W: Wires<I, M>>(&self, wires: &mut W) {
        if self.touched.load(SeqCst) == 0 {
            return;
        }
        for to in PortSet::from_bits(self.touched.swap(0, SeqCst)) {
            let Some(owner) = self.plug.switch().port(to).and_then(Port::owner) else { continue };
            let told = wires.reach(owner, |function: &Function<I>, memory, signals| {
                // What came for it from others while this step had its queue has found nobody.
                function.tell_of_taken(memory, signals) && !function.has_news()
            });
            if told != Some(true) {
                wires.call(owner);
            }
        }
    }
}

/// A frame of one port is in the buffers of another's device.
#[inline]
pub(super) fn count_delivery((own, port): (&Port, &Port), sent: &Sent, now: Nanos) {
    port.counters.received.count(sent.packets, sent.wire_bytes);
    port.output.rate.take(sent.wire_bytes, now);
    own.was_received(sent.wire_bytes, now);
}

fn fill<M: GuestMemory>(
    output: &Output,
    room: &mut vswitch::output::Room,
    frame: &Frame,
    source: &mut Sender<'_, M>,
) -> Result<(), Broken> {
    let mut head = frame.head();
    output.fill(room, head.len() as u32, |places| {
        let (now, later) = head.split_at(places.len().min(head.len()));
        places.iter_mut().zip(now).for_each(|(place, byte)| *place = *byte);
        head = later;
        Ok::<(), Broken>(())
    })?;
    source.seek(frame.rest_at());
    output.fill(room, frame.rest_bytes(), |places| source.read(places))
}
