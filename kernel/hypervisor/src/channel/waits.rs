//! Requests whose answers come later: a VM has to get somewhere first, or there is much to copy.

use abi::{Answer, Event, Refusal};
use arrayvec::ArrayVec;
use vcpu::{Backend, CopyError, Gpa, GuestMemory, Nanos};

use super::carry_out::why_not;
use super::{Refused, refused};
use crate::run::{FillError, Node};
use crate::schedule::VmId;
use crate::{StopReason, VmState};

/// Requests that wait at most; while so many do, no more are read.
const MOST: usize = 16;
/// Bytes that are copied in one look.
const PIECE: u64 = 64 << 10;
/// Between two words on how far a request has come.
const PACE: Nanos = Nanos::from_millis(100);

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// The VM is gone.
    Gone(VmId),
    /// The VM has come where it was asked to go.
    Settled(VmId),
    /// All is copied.
    Copy(Copy),
}

/// Where bytes are copied to: into a VM's memory from an address on, or onto a disk of that number from an offset on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Memory(VmId, u64),
    Disk(VmId, u16, u64),
}

/// A copy between the domain's memory and a VM's memory or disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Copy {
    pub(super) to: Target,
    pub(super) from: (VmId, u64),
    pub(super) length: u64,
}

/// A request that waits.
struct Waiting {
    id: u64,
    wait: Wait,
    /// What has become of a copy.
    outcome: Option<Answer<'static>>,
    /// Bytes of a copy in all.
    all: u64,
    /// When it was last said how far it has come, or when that was first asked, and what was said.
    told: Option<(Nanos, u64)>,
}

/// What is to be said.
pub(super) enum News {
    /// The answer to a request.
    Answer(u64, Answer<'static>),
    /// How far one has come.
    Progress(Event<'static>),
}

/// Those that wait.
#[derive(Default)]
pub(super) struct Waits {
    all: ArrayVec<Waiting, MOST>,
    /// Copies take turns: the one from here on is next.
    turn: usize,
}

impl Waits {
    pub(super) fn is_full(&self) -> bool {
        self.all.is_full()
    }

    /// Whether one of them goes on by being worked at.
    pub(super) fn is_working(&self) -> bool {
        self.all.iter().any(Waiting::is_copying)
    }

    /// One more; there is room, as no request is read where there is none.
    pub(super) fn add(&mut self, id: u64, wait: Wait) {
        let all = if let Wait::Copy(copy) = wait { copy.length } else { 0 };
        let _ = self.all.try_push(Waiting { id, wait, outcome: None, all, told: None });
    }

    /// Goes on with one of the copies, by a piece.
    pub(super) fn work<B: Backend>(&mut self, node: &Node<'_, B>) {
        let count = self.all.len();
        for at in (0..count).map(|step| (self.turn + step) % count) {
            if let Some(waiting) = self.all.get_mut(at).filter(|waiting| waiting.is_copying())
                && let Wait::Copy(copy) = &mut waiting.wait
            {
                waiting.outcome = copy.step(node);
                self.turn = at + 1;
                return;
            }
        }
    }

    /// The next one that can be answered, or of which there is something to say.
    pub(super) fn next<B: Backend>(&mut self, node: &Node<'_, B>, now: Nanos) -> Option<News> {
        let answer = |waiting: &Waiting| waiting.outcome.or_else(|| waiting.wait.look(node));
        let mut answers = self.all.iter().enumerate();
        if let Some((at, answer)) = answers.find_map(|(at, waiting)| Some((at, answer(waiting)?))) {
            return Some(News::Answer(self.all.remove(at).id, answer));
        }
        self.all.iter_mut().find_map(|waiting| waiting.progress(node, now)).map(News::Progress)
    }
}

impl Waiting {
    const fn is_copying(&self) -> bool {
        matches!(self.wait, Wait::Copy(_)) && self.outcome.is_none()
    }

    /// How far it has come, where it is time to say that and it was not said.
    fn progress<B: Backend>(&mut self, node: &Node<'_, B>, now: Nanos) -> Option<Event<'static>> {
        let (then, before) = *self.told.get_or_insert((now, 0));
        if now < then + PACE {
            return None;
        }
        let (done, all) = match self.wait {
            Wait::Copy(copy) => (self.all - copy.length, self.all),
            Wait::Settled(vm) => node.memory_made(vm)?,
            Wait::Gone(_) => return None,
        };
        if done == before {
            return None;
        }
        self.told = Some((now, done));
        Some(Event::Progress { request: self.id, done, all })
    }
}

impl Wait {
    fn look<B: Backend>(&self, node: &Node<'_, B>) -> Option<Answer<'static>> {
        match self {
            Self::Gone(vm) => node.state(*vm).is_none().then_some(Answer::Done {}),
            Self::Settled(vm) => match node.state(*vm) {
                Some(VmState::Changing) => None,
                Some(VmState::Stopped(StopReason::NotStarted | StopReason::ReloadFailed)) => {
                    Some(refused(Refusal::Start, 0, 0).answer())
                }
                Some(_) => Some(Answer::Done {}),
                None => Some(refused(Refusal::NoVm, 0, 0).answer()),
            },
            Self::Copy(_) => None,
        }
    }
}

impl Target {
    const fn advance(&mut self, bytes: u64) {
        let (Self::Memory(_, at) | Self::Disk(_, _, at)) = self;
        *at = at.saturating_add(bytes);
    }
}

impl Copy {
    /// Copies a piece. What came of it, once that is known.
    fn step<B: Backend>(&mut self, node: &Node<'_, B>) -> Option<Answer<'static>> {
        let bytes = PIECE.min(self.length);
        let from = Gpa(self.from.1);
        let done = match self.to {
            Target::Memory(vm, gpa) => {
                let copied = node.with_memory(self.from.0, |source| {
                    node.with_memory(vm, |to| to.copy_from(Gpa(gpa), source, from, bytes as u32))
                });
                match copied {
                    Ok(Ok(copied)) => copied.map_err(|error| match error {
                        CopyError::Source(missing) | CopyError::Target(missing) => {
                            refused(Refusal::Address, missing.gpa.0, 0)
                        }
                    }),
                    Ok(Err(error)) | Err(error) => Err(why_not(error)),
                }
            }
            Target::Disk(vm, disk, offset) => {
                let place = (disk.into(), offset);
                match node.with_memory(self.from.0, |source| {
                    node.fill_disk(vm, place, (source, from), bytes as u32)
                }) {
                    Ok(filled) => filled.map_err(|error| unfilled(error, (bytes, node.free_memory()))),
                    Err(error) => Err(why_not(error)),
                }
            }
        };
        match done {
            Ok(()) => {
                self.length -= bytes;
                self.to.advance(bytes);
                self.from.1 = self.from.1.saturating_add(bytes);
                (self.length == 0).then_some(Answer::Done {})
            }
            Err(refusal) => Some(refusal.answer()),
        }
    }
}

/// Why so many bytes were not put on a disk, while so many are free.
fn unfilled(error: FillError, (bytes, free): (u64, u64)) -> Refused {
    match error {
        FillError::Manage(error) => why_not(error),
        FillError::Address(gpa) => refused(Refusal::Address, gpa.0, 0),
        FillError::Range { asked, most } => refused(Refusal::Range, asked, most),
        FillError::NoMemory => refused(Refusal::NoMemory, bytes, free),
    }
}
