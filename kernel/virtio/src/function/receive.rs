//! What comes by itself: frames, a port's bytes, messages about ports; and the buffers for it.

use core::sync::atomic::Ordering::SeqCst;

use spin::Mutex;
use vcpu::{GuestMemory, Image};

use super::{BUFFER_BYTES, Function, Kind, Place};
use crate::STEP_BYTES;
use crate::console::{self, Console};
use crate::interrupts::{NO_VECTOR, Signal, Signals};
use crate::net::{self, Net, Received};

impl<I: Image> Function<I> {
    /// Takes care of what no doorbell tells of. True where another CPU is at it.
    pub(super) fn look_at_news<M: GuestMemory>(&self, memory: &M, signals: &mut impl Signals) -> bool {
        match &self.kind {
            Kind::Net(net) => {
                if net.take_link_change() {
                    self.interrupts.raise(Signal::Configuration, NO_VECTOR, signals);
                }
                net.has_news() && self.receive(net, memory, signals)
            }
            Kind::Console(console) => {
                if console.take_resize() {
                    self.interrupts.raise(Signal::Configuration, NO_VECTOR, signals);
                }
                self.rung.fetch_or(console.take_unstalled(), SeqCst);
                console.has_news() && self.converse(console, memory, signals)
            }
            Kind::Balloon(balloon) => {
                if balloon.take_change() {
                    self.interrupts.raise(Signal::Configuration, NO_VECTOR, signals);
                }
                self.rung.fetch_or(balloon.take_asked(), SeqCst);
                false
            }
            Kind::Block(_) | Kind::Entropy(_) => false,
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

    /// Fills buffers with what has come for ports, and with messages. True where another CPU has one of the queues.
    fn converse<M: GuestMemory>(&self, console: &Console, memory: &M, signals: &mut impl Signals) -> bool {
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
        self.tell(used, memory, signals);
        is_elsewhere
    }

    /// Receives frames until the step is full. True where another CPU does.
    fn receive<M: GuestMemory>(&self, net: &Net, memory: &M, signals: &mut impl Signals) -> bool {
        let (mut budget, mut used, mut is_elsewhere) = (STEP_BYTES, 0_u32, false);
        while self.live.load(SeqCst) {
            let Some(mut filter) = net.claim() else {
                is_elsewhere = true;
                break;
            };
            let Some((frame, pair)) = net.next_frame(&mut filter) else { break };
            let index = 2 * pair;
            let Some(mut place) = self.places.get(index).and_then(Mutex::try_lock) else {
                is_elsewhere = true;
                break;
            };
            let Place { queue: Some(queue), chain, .. } = &mut *place else {
                net.is_deaf();
                break;
            };
            match frame.receive(queue, chain, memory) {
                Ok(Received::Bytes(bytes)) => {
                    used |= 1 << index;
                    match budget.checked_sub(bytes.max(BUFFER_BYTES)) {
                        Some(left) => budget = left,
                        None => break,
                    }
                }
                Ok(Received::Waits) => break,
                Err(_) => {
                    self.break_down(signals);
                    break;
                }
            }
        }
        self.tell(used, memory, signals);
        is_elsewhere
    }

    /// Interrupts for what some queues have given back.
    fn tell<M: GuestMemory>(&self, queues: u32, memory: &M, signals: &mut impl Signals) {
        for (_, place) in self.places.iter().enumerate().filter(|(index, _)| queues >> index & 1 != 0) {
            let mut place = place.lock();
            let Some(queue) = &mut place.queue else { continue };
            match queue.wants_interrupt(memory) {
                Ok(true) => self.interrupts.raise(Signal::Queue, place.vector, signals),
                Ok(false) => {}
                Err(_) => {
                    self.break_down(signals);
                    return;
                }
            }
        }
    }
}
