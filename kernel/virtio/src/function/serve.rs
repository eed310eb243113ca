//! What a device does when its driver has rung: queues take turns, in steps of bounded work.

use core::sync::atomic::Ordering::SeqCst;

use spin::{Mutex, MutexGuard};
use vcpu::{GuestMemory, Image};

use super::{BUFFER_BYTES, Function, Kind, News, Place, Progress, Turn, Work};
use crate::STEP_BYTES;
use crate::balloon;
use crate::block::Next;
use crate::console::{self, Sent};
use crate::entropy;
use crate::interrupts::{Signal, Wires};
use crate::net::{self, Ride};
use crate::queue::{Broken, Chain};

impl<I: Image> Function<I> {
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
                Turn::Taken { moved } => moved,
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
                if let Some(remote) = disk.remote() {
                    return self.order((disk, remote), index, (chain, work), memory, wires);
                }
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
