//! Requests to a disk that a server has: told order by order, and answered as it answers.

use core::sync::atomic::Ordering::SeqCst;

use vcpu::{CopyError, Gpa, GuestMemory, Image};

use super::{BUFFER_BYTES, Function, News, Place, Turn, Work};
use crate::STEP_BYTES;
use crate::block::{self, Answer, Block, Ended, Looked, Next, Remote, Way};
use crate::interrupts::Wires;
use crate::memory::behind;
use crate::queue::{Broken, Chain, Cursor};

/// After how long to look again for a server's memory that cannot be reached now, in nanoseconds.
const AGAIN: vswitch::Nanos = 1_000_000;

/// What copying for an order has come to.
enum Copied {
    /// The bytes are there; behind them the cursor is here.
    All(Cursor),
    /// The guest has no RAM there.
    NoRam,
    /// The server's memory cannot be had now.
    Later,
}

impl<I: Image> Function<I> {
    /// Tells more of a request.
    pub(super) fn order<M: GuestMemory, W: Wires<I, M>>(
        &self,
        (disk, remote): (&Block<I>, &Remote),
        index: usize,
        (chain, work): (&Chain, Option<Work>),
        memory: &M,
        wires: &mut W,
    ) -> Result<Turn, Broken> {
        let mut work = match work {
            Some(Work::Telling(work)) => work,
            _ => match disk.look(chain, memory)? {
                Looked::Done(Next::Done { written, moved }) => return Ok(Turn::Done { written, moved }),
                // An image's.
                Looked::Done(Next::More(_)) => return Ok(Turn::Nothing),
                Looked::Asked(asked) => match remote.begin(asked, index, chain.head()) {
                    Some(work) => work,
                    None => {
                        remote.stalls(index);
                        self.note_answers();
                        return Ok(Turn::Stalls(Work::Anew));
                    }
                },
            },
        };
        let mut moved = 0;
        while let Some((order, bytes)) = work.next(remote.disk()) {
            if moved >= STEP_BYTES {
                return Ok(Turn::More(Work::Telling(work)));
            }
            let Some((slot, owner, to)) = remote.take() else {
                remote.stalls(index);
                // There may be room by now.
                self.note_answers();
                return Ok(Turn::Stalls(Work::Telling(work)));
            };
            let mut data = work.data();
            if order.verb == block::OrderVerb::Write {
                let there = (owner, to, bytes);
                match copy(Way::ToServer, (chain, data), memory, there, wires) {
                    Copied::All(behind) => data = behind,
                    Copied::NoRam => {
                        remote.give_back(slot);
                        remote.fail(&mut work);
                        break;
                    }
                    Copied::Later => {
                        remote.give_back(slot);
                        remote.postpone(index);
                        let now = wires.now();
                        wires.wake_at(now + AGAIN);
                        return Ok(Turn::Stalls(Work::Telling(work)));
                    }
                }
            }
            remote.tell(slot, &mut work, (order, bytes), data);
            moved += bytes;
        }
        match remote.end_telling(&work) {
            Some(Ended { status, written }) => {
                match block::finish(chain, memory, status, (written, moved))? {
                    Next::Done { written, moved } => Ok(Turn::Done { written, moved }),
                    Next::More(_) => Ok(Turn::Nothing),
                }
            }
            None => Ok(Turn::Taken { moved }),
        }
    }

    /// Deals with what a server has answered, until the step is full.
    pub(super) fn settle<M: GuestMemory, W: Wires<I, M>>(
        &self,
        remote: &Remote,
        memory: &M,
        wires: &mut W,
    ) -> News {
        self.rung.fetch_or(remote.take_unstalled(), SeqCst);
        let Some(mut scratch) = block::scratch(remote) else { return News::Elsewhere };
        let (mut used, mut moved, mut is_elsewhere, mut is_served) = (0_u32, 0, false, false);
        while moved < STEP_BYTES
            && let Some((slot, flight, part, answer)) = remote.answered()
        {
            is_served = true;
            // A reset comes to an end only when it has had the queue: what it finds under way is nobody's from then on.
            let place = self.places.get(flight.queue).map(spin::Mutex::try_lock);
            let Some(Some(mut place)) = place else {
                is_elsewhere = true;
                break;
            };
            let queue = match &mut *place {
                Place { queue: Some(queue), .. } if remote.is_wanted(part) => queue,
                _ => {
                    remote.settle(slot, part, block::status(answer), 0);
                    continue;
                }
            };
            let done = queue.reread(memory, &mut scratch, flight.head).and_then(|()| {
                let (mut status, mut written, mut is_there) = (block::status(answer), 0, true);
                moved += part.bytes.max(BUFFER_BYTES);
                if let Some(way) = flight.copies(answer) {
                    let data = data_of(way, &scratch, part.offset);
                    let Some((owner, there)) = remote.place(slot) else { return Ok(None) };
                    match copy(way, (&scratch, data), memory, (owner, there, part.bytes), wires) {
                        Copied::All(_) if way == Way::ToGuest => written = part.bytes,
                        Copied::All(_) => {}
                        Copied::NoRam => (status, is_there) = (block::FAILED, false),
                        Copied::Later => return Ok(None),
                    }
                }
                if answer == Answer::Again && is_there {
                    remote.retell(slot, &flight, part);
                    return Ok(Some(()));
                }
                let Some(ended) = remote.settle(slot, part, status, written) else { return Ok(Some(())) };
                if let Next::Done { written, .. } =
                    block::finish(&scratch, memory, ended.status, (ended.written, 0))?
                {
                    queue.give(memory, flight.head, written)?;
                    used |= 1 << flight.queue;
                }
                Ok(Some(()))
            });
            match done {
                Ok(Some(())) => {}
                Ok(None) => {
                    let now = wires.now();
                    wires.wake_at(now + AGAIN);
                    is_elsewhere = true;
                    break;
                }
                Err(_) => {
                    // Its buffers are where they cannot be: the driver has to begin anew.
                    remote.settle(slot, part, block::FAILED, 0);
                    self.break_down(wires);
                    break;
                }
            }
        }
        drop(scratch);
        self.untold.fetch_or(self.tell(used, memory, wires), SeqCst);
        if !is_elsewhere {
            // What has come meanwhile, and what has found room.
            self.note_answers();
        }
        if is_served && !is_elsewhere { News::Served } else { super::receive::news(used, is_elsewhere) }
    }
}

/// Where the bytes of a part are among a request's buffers: behind the header, or in front of the status.
fn data_of(way: Way, chain: &Chain, offset: u32) -> Cursor {
    let (mut data, before) = match way {
        Way::ToServer => (chain.readable(), block::HEADER_BYTES),
        Way::ToGuest => (chain.writable(), 0),
    };
    data.skip(chain, before);
    data.skip(chain, offset);
    data
}

/// Copies between a request's buffers, from the cursor on, and the memory of a server.
fn copy<I: Image, M: GuestMemory, W: Wires<I, M>>(
    way: Way,
    (chain, mut data): (&Chain, Cursor),
    memory: &M,
    (owner, there, bytes): (usize, Gpa, u32),
    wires: &mut W,
) -> Copied {
    let copied = wires.reach(owner, |_, theirs, _| {
        let mut done = 0;
        while done < bytes {
            let Some(part) = data.next(chain, bytes - done) else { return Copied::NoRam };
            let at = behind(there, done.into());
            let moved = match way {
                Way::ToServer => theirs.copy_from(at, memory, part.gpa, part.length),
                Way::ToGuest => memory.copy_from(part.gpa, theirs, at, part.length),
            };
            match (way, moved) {
                (_, Ok(())) => done += part.length,
                (Way::ToServer, Err(CopyError::Source(_))) | (Way::ToGuest, Err(CopyError::Target(_))) => {
                    return Copied::NoRam;
                }
                (_, Err(_)) => return Copied::Later,
            }
        }
        Copied::All(data)
    });
    copied.unwrap_or(Copied::Later)
}
