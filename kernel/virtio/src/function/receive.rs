//! Frames that come by themselves.

use core::sync::atomic::Ordering::SeqCst;

use spin::Mutex;
use vcpu::{GuestMemory, Image};

use super::{BUFFER_BYTES, Function, Place};
use crate::STEP_BYTES;
use crate::interrupts::{Signal, Signals};
use crate::net::{Net, Received};

impl<I: Image> Function<I> {
    /// Receives frames until the step is full.
    pub(super) fn receive<M: GuestMemory>(&self, net: &Net, memory: &M, signals: &mut impl Signals) {
        let (mut budget, mut used) = (STEP_BYTES, 0_u32);
        while self.live.load(SeqCst)
            && let Some((frame, pair)) = net.next_frame()
        {
            let index = 2 * pair;
            let Some(mut place) = self.places.get(index).and_then(Mutex::try_lock) else { break };
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
                    drop(place);
                    self.break_down(signals);
                    break;
                }
            }
        }
        self.tell(used, memory, signals);
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
                    drop(place);
                    self.break_down(signals);
                    return;
                }
            }
        }
    }
}
