//! What comes by itself: frames, a port's bytes, messages about ports; and the buffers for it.

use core::sync::atomic::Ordering::SeqCst;

use spin::Mutex;
use vcpu::{GuestMemory, Image};
use vswitch::Frame;

use super::{BUFFER_BYTES, Function, Kind, News, Place};
use crate::STEP_BYTES;
use crate::console::{self, Console};
use crate::interrupts::{NO_VECTOR, Signal, Signals, Wires};
use crate::net::{self, Fault, Net, Received, Source, Taken};
use crate::queue::{Chain, Queue};

/// A network device that receives, and one of its queues.
pub(crate) struct Receiver<'a> {
    net: &'a Net,
    queue: &'a mut Queue,
    chain: &'a mut Chain,
    has_taken: bool,
}

impl Receiver<'_> {
    /// Buffers of the chain that was taken last.
    pub(crate) fn buffers(&self) -> usize {
        self.chain.buffers()
    }

    /// Copies a frame from its sender into the driver's buffers.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn take_in<M: GuestMemory, S: Source<M>>(
        &mut self,
        frame: &mut Frame,
        source: &mut S,
        memory: &M,
    ) -> Result<Taken, Fault> {
        let taken = self.net.take_in(frame, source, (self.queue, self.chain), memory);
        self.has_taken |= taken == Ok(Taken::Yes);
        taken
    }
}

impl<I: Image> Function<I> {
    /// Whether something has come by itself.
    pub(crate) fn has_news(&self) -> bool {
        self.kind.has_news()
    }

    /// Takes care of what no doorbell tells of.
    pub(super) fn look_at_news<M: GuestMemory, W: Wires<I, M>>(&self, memory: &M, signals: &mut W) -> News {
        self.tell_of_taken(memory, signals);
        match &self.kind {
            Kind::Net(net) => {
                if net.take_link_change() {
                    self.interrupts.raise(Signal::Configuration, NO_VECTOR, signals);
                }
                if net.has_news() { self.receive(net, memory, signals) } else { News::None }
            }
            Kind::Console(console) => {
                if console.take_resize() {
                    self.interrupts.raise(Signal::Configuration, NO_VECTOR, signals);
                }
                self.rung.fetch_or(console.take_unstalled(), SeqCst);
                if console.has_news() { self.converse(console, memory, signals) } else { News::None }
            }
            Kind::Balloon(balloon) => {
                if balloon.take_change() {
                    self.interrupts.raise(Signal::Configuration, NO_VECTOR, signals);
                }
                self.rung.fetch_or(balloon.take_asked(), SeqCst);
                News::None
            }
            Kind::Block(disk) => match disk.remote() {
                Some(remote) => self.settle(remote, memory, signals),
                None => News::None,
            },
            Kind::Entropy(_) => News::None,
        }
    }

    /// Whether a queue only has buffers for what comes by itself; there may be new ones.
    pub(super) fn is_fed(&self, index: usize) -> bool {
        match &self.kind {
            Kind::Net(net) if net.role(index) == net::Role::Receive => {
                net.is_fed();
                true
            }
            Kind::Console(console) => {
                let role = console.role(index);
                console.is_fed(role);
                matches!(role, console::Role::Input(_) | console::Role::Tell)
            }
            _ => false,
        }
    }

    /// Fills buffers with what has come for ports, and with messages.
    fn converse<M: GuestMemory>(&self, console: &Console, memory: &M, signals: &mut impl Signals) -> News {
        let (mut used, mut is_elsewhere) = (0_u32, false);
        let ports = console.receivers().map(|port| (Console::input_queue(port), Some(port)));
        for (index, port) in ports.chain([(Console::TELL, None)]) {
            if port.is_none() && console.role(index) != console::Role::Tell {
                continue;
            }
            let Some(place) = self.places.get(index) else { continue };
            let Some(mut place) = place.try_lock() else {
                is_elsewhere = true;
                continue;
            };
            let Place { queue, chain, .. } = &mut *place;
            let done = match (queue, port) {
                (Some(queue), Some(port)) => console.receive(port, queue, chain, memory),
                (Some(queue), None) => console.tell(queue, chain, memory),
                (None, port) => {
                    port.map_or_else(|| console.is_mute(), |port| console.is_deaf(port));
                    Ok(false)
                }
            };
            match done {
                Ok(true) => used |= 1 << index,
                Ok(false) => {}
                // Before a reset can come in between: the queue is held.
                Err(_) => {
                    self.break_down(signals);
                    break;
                }
            }
        }
        self.untold.fetch_or(self.tell(used, memory, signals), SeqCst);
        news(used, is_elsewhere)
    }

    /// Receives frames until the step is full.
    fn receive<M: GuestMemory, W: Wires<I, M>>(&self, net: &Net, memory: &M, wires: &mut W) -> News {
        let (mut budget, mut used, mut is_elsewhere) = (STEP_BYTES, 0_u32, false);
        let now = wires.now();
        while self.live.load(SeqCst) {
            let Some(claim) = net.claim() else {
                is_elsewhere = true;
                break;
            };
            let (frame, pair) = match net.next_frame(&claim, now) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(at) => {
                    net.hold();
                    wires.wake_at(at);
                    break;
                }
            };
            let index = 2 * pair;
            let Some(mut place) = self.places.get(index).and_then(Mutex::try_lock) else {
                is_elsewhere = true;
                break;
            };
            let Place { queue: Some(queue), chain, .. } = &mut *place else {
                net.is_deaf();
                break;
            };
            match net.receive(frame, queue, chain, memory, now) {
                Ok(Received::Bytes(bytes)) => {
                    used |= 1 << index;
                    match budget.checked_sub(bytes.max(BUFFER_BYTES * chain.buffers() as u32)) {
                        Some(left) => budget = left,
                        None => break,
                    }
                }
                Ok(Received::Waits) => break,
                Err(_) => {
                    self.break_down(wires);
                    break;
                }
            }
        }
        self.untold.fetch_or(self.tell(used, memory, wires), SeqCst);
        news(used, is_elsewhere)
    }

    /// Copies a frame that another device sends into the driver's buffers, and says how many that were at least. The driver is told of it by
    /// [`Self::tell_of_taken`].
    pub(crate) fn take_in<M: GuestMemory, S: Source<M>>(
        &self,
        frame: &mut Frame,
        source: &mut S,
        memory: &M,
        signals: &mut dyn Signals,
    ) -> Result<(Taken, usize), Fault> {
        let taken = self.receive_like(frame, signals, |receiver, frame| {
            let taken = receiver.take_in(frame, source, memory)?;
            Ok((taken, receiver.buffers()))
        });
        taken.map(|taken| taken.unwrap_or_else(|why| (why, 0)))
    }

    /// Has somebody copy frames into the driver's buffers that all are as this one: for the same address, and the same queue. `Ok(Err)` says why that
    /// is not so now.
    #[inline]
    pub(crate) fn receive_like<R>(
        &self,
        frame: &mut Frame,
        signals: &mut dyn Signals,
        with: impl FnOnce(&mut Receiver<'_>, &mut Frame) -> Result<R, Fault>,
    ) -> Result<Result<R, Taken>, Fault> {
        let Kind::Net(net) = &self.kind else { return Ok(Err(Taken::NotNow)) };
        if !self.live.load(SeqCst) || !self.master.load(SeqCst) {
            return Ok(Err(Taken::NotNow));
        }
        let Some(claim) = net.claim() else { return Ok(Err(Taken::NotNow)) };
        if !net.wants(&claim, frame) {
            return Ok(Err(Taken::Unwanted));
        }
        let index = 2 * net.pair_of(frame);
        let Some(mut place) = self.places.get(index).and_then(Mutex::try_lock) else {
            return Ok(Err(Taken::NotNow));
        };
        let Place { queue: Some(queue), chain, .. } = &mut *place else { return Ok(Err(Taken::NotNow)) };
        let mut receiver = Receiver { net, queue, chain, has_taken: false };
        let done = with(&mut receiver, frame);
        if receiver.has_taken {
            self.untold.fetch_or(1 << index, SeqCst);
        }
        if let Err(Fault::Receiver(_)) = done {
            self.break_down(signals);
        }
        done.map(Ok)
    }

    /// Tells the driver of frames that others have copied into its buffers. False where another CPU has one of the queues.
    pub(crate) fn tell_of_taken<M: GuestMemory>(
        &self,
        memory: &M,
        signals: &mut (impl Signals + ?Sized),
    ) -> bool {
        if self.untold.load(SeqCst) == 0 || !self.live.load(SeqCst) {
            return true;
        }
        let untold = self.untold.swap(0, SeqCst);
        let later = self.tell(untold, memory, signals);
        self.untold.fetch_or(later, SeqCst);
        later == 0
    }

    /// Interrupts for what some queues have given back. Returns those that another CPU has.
    pub(super) fn tell<M: GuestMemory>(
        &self,
        queues: u32,
        memory: &M,
        signals: &mut (impl Signals + ?Sized),
    ) -> u32 {
        let mut later = 0;
        for (index, place) in self.places.iter().enumerate().filter(|(index, _)| queues >> index & 1 != 0) {
            let Some(mut place) = place.try_lock() else {
                later |= 1 << index;
                continue;
            };
            let Some(queue) = &mut place.queue else { continue };
            match queue.wants_interrupt(memory) {
                Ok(true) => self.interrupts.raise(Signal::Queue, place.vector, signals),
                Ok(false) => {}
                Err(_) => {
                    self.break_down(signals);
                    return 0;
                }
            }
        }
        later
    }
}

/// What was come to where these queues have got something, and whether another CPU has one of those that would.
pub(super) const fn news(used: u32, is_elsewhere: bool) -> News {
    if used != 0 {
        News::Served
    } else if is_elsewhere {
        News::Elsewhere
    } else {
        News::None
    }
}
