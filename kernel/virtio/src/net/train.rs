//! A train on its way: frames that are alike go to their receiver one after the other, which is looked up, and whose queue is taken, once for all of them.

use core::sync::atomic::Ordering::SeqCst;

use vcpu::{GuestMemory, Image};
use vswitch::counters::Drop;
use vswitch::switch::{Port, Sent};
use vswitch::tag::Tag;
use vswitch::{Frame, Nanos, PortId, PortSet};

use super::Net;
use super::receive::Taken;
use super::send::{Outgoing, Parcel, count_delivery};
use super::source::{Fault, Sender};
use crate::Function;
use crate::function::Receiver;
use crate::interrupts::Wires;
use crate::queue::{Broken, Chain, Queue};

/// What a frame of a train counts at least, in bytes of copying that take as long.
const FRAME_BYTES: u32 = 1024;

/// What sending a train has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ride {
    /// There is none, or it cannot go on that way.
    None,
    /// The queue is empty.
    Empty,
    /// A request was taken that is not of it, or for which something is to be waited.
    Over,
    /// The step is full.
    Full,
    /// The last frame has to wait for its receiver.
    Left,
}

/// What is sent, and from where.
struct Load<'a, M> {
    queue: &'a mut Queue,
    chain: &'a mut Chain,
    memory: &'a M,
    sent: &'a mut Sent,
    budget: &'a mut u32,
    now: Nanos,
}

impl Net {
    /// Sends frames as long as they are of the train that the pair's last one has begun.
    ///
    /// # Errors
    /// [`Broken`] where a request has no header, or is not in RAM.
    pub(crate) fn send_train<I: Image, M: GuestMemory, W: Wires<I, M>>(
        &self,
        pair: usize,
        (queue, chain): (&mut Queue, &mut Chain),
        memory: &M,
        (wires, budget): (&mut W, &mut u32),
    ) -> Result<Ride, Broken> {
        let Some(place) = self.outgoing.get(pair) else { return Ok(Ride::None) };
        let Outgoing { frame, sent, .. } = &mut *place.lock();
        // What has another tag there is another frame for each.
        let Some((to, Tag::Keep)) = sent.train() else { return Ok(Ride::None) };
        let (Some(own), Some(port)) = (self.plug.port(), self.plug.switch().port(to)) else {
            return Ok(Ride::None);
        };
        let Some(owner) = port.owner().filter(|_| port.is_ready() && port.output.is_empty()) else {
            return Ok(Ride::None);
        };
        let mut load = Load { queue, chain, memory, sent, budget, now: wires.now() };
        let rode = wires.reach(owner, |function: &Function<I>, theirs, signals| {
            function.receive_like(frame, signals, |receiver, frame| {
                self.load((own, port), &mut load, frame, (receiver, theirs))
            })
        });
        // Whoever has come to that queue meanwhile has found it taken.
        if matches!(rode, Some(Ok(Ok(_)) | Err(_))) {
            self.touched.fetch_or(PortSet::one(to).bits(), SeqCst);
        }
        match rode {
            Some(Ok(Ok(Ride::Left))) => self.leave((to, port), load, frame, wires),
            Some(Ok(Ok(ride))) => Ok(ride),
            Some(Err(Fault::Sender(broken))) => Err(broken),
            // Its receiver is broken now, or cannot have it: what comes next finds out.
            Some(Ok(Err(_)) | Err(Fault::Receiver(_))) | None => Ok(Ride::None),
        }
    }

    /// Frames from the queue into the receiver's buffers.
    fn load<M: GuestMemory>(
        &self,
        (own, port): (&Port, &Port),
        load: &mut Load<'_, M>,
        frame: &mut Frame,
        (receiver, theirs): (&mut Receiver<'_>, &M),
    ) -> Result<Ride, Fault> {
        let (switch, now) = (self.plug.switch(), load.now);
        loop {
            if load.queue.take(load.memory, load.chain).map_err(Fault::Sender)?.is_none() {
                return Ok(Ride::Empty);
            }
            let waits = load.memory.taken_back() != 0 || own.send.opens_at(now).is_some();
            if waits
                || !self.read_frame(frame, load.chain, load.memory).map_err(Fault::Sender)?
                || switch.go_on(frame, now, load.sent).is_none()
            {
                return Ok(Ride::Over);
            }
            if port.output.rate.opens_at(now).is_some() {
                return Ok(Ride::Left);
            }
            let mut source = Sender::new(load.chain, load.memory);
            let taken = receiver.take_in(frame, &mut source, theirs);
            match taken {
                Ok(Taken::Yes) => count_delivery((own, port), load.sent, now),
                Ok(Taken::Unwanted) => {}
                Ok(Taken::NotNow) => return Ok(Ride::Left),
                Err(Fault::Receiver(_)) => port.counters.lose(Drop::Unsuited),
                Err(Fault::Sender(broken)) => return Err(Fault::Sender(broken)),
            }
            load.queue.give(load.memory, load.chain.head(), 0).map_err(Fault::Sender)?;
            let is_full = !load.count(receiver.buffers());
            taken?;
            if is_full {
                return Ok(Ride::Full);
            }
        }
    }

    /// Puts the last frame where it waits for its receiver.
    fn leave<I: Image, M: GuestMemory, W: Wires<I, M>>(
        &self,
        (to, port): (PortId, &Port),
        mut load: Load<'_, M>,
        frame: &mut Frame,
        wires: &mut W,
    ) -> Result<Ride, Broken> {
        let parcel = Parcel { to, frame, sent: &*load.sent, snap: None };
        self.enqueue(&parcel, port, &mut Sender::new(load.chain, load.memory), wires)?;
        load.queue.give(load.memory, load.chain.head(), 0)?;
        Ok(if load.count(0) { Ride::None } else { Ride::Full })
    }
}

impl<M: GuestMemory> Load<'_, M> {
    /// Counts a frame that has gone into so many buffers. False where the step is full.
    fn count(&mut self, buffers: usize) -> bool {
        let least = FRAME_BYTES * self.chain.buffers().max(buffers) as u32;
        let left = self.budget.checked_sub(self.chain.readable_bytes().max(least));
        *self.budget = left.unwrap_or(0);
        left.is_some()
    }
}
