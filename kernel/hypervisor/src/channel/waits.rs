//! Requests whose answers come later: a VM has to get somewhere first, or there is much to copy.

use abi::{Answer, Refusal};
use arrayvec::ArrayVec;
use vcpu::{Backend, CopyError, Gpa, GuestMemory};

use super::carry_out::why_not;
use super::{Refused, refused};
use crate::run::{FillError, Node};
use crate::schedule::VmId;
use crate::{StopReason, VmState};

/// Requests that wait at most; while so many do, no more are read.
const MOST: usize = 16;
/// Bytes that are copied in one look.
const PIECE: u64 = 64 << 10;

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// The VM is gone.
    Gone(VmId),
    /// The VM has come where it was asked to go.
    Settled(VmId),
    /// All is copied.
    Copy(Copy),
    /// All is on the disk.
    Fill(Fill),
}

/// A copy between the domain's memory and a VM's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Copy {
    pub(super) to: (VmId, u64),
    pub(super) from: (VmId, u64),
    pub(super) length: u64,
}

/// A copy from the domain's memory to a disk of a VM's: the VM, the disk's number and the offset there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fill {
    pub(super) disk: (VmId, usize, u64),
    pub(super) from: (VmId, u64),
    pub(super) length: u64,
}

/// Those that wait.
#[derive(Default)]
pub(super) struct Waits(ArrayVec<(u64, Wait), MOST>);

impl Waits {
    pub(super) fn is_full(&self) -> bool {
        self.0.is_full()
    }

    /// Whether one of them goes on by being asked.
    pub(super) fn is_working(&self) -> bool {
        self.0.iter().any(|(_, wait)| matches!(wait, Wait::Copy(_) | Wait::Fill(_)))
    }

    /// One more; there is room, as no request is read where there is none.
    pub(super) fn add(&mut self, id: u64, wait: Wait) {
        let _ = self.0.try_push((id, wait));
    }

    /// Goes on with all of them, until one can be answered: its request's id, and the answer.
    pub(super) fn next<B: Backend>(&mut self, node: &Node<'_, B>) -> Option<(u64, Answer<'static>)> {
        let found = self.0.iter_mut().enumerate().find_map(|(at, (_, wait))| Some((at, wait.look(node)?)));
        let (at, answer) = found?;
        Some((self.0.remove(at).0, answer))
    }
}

impl Wait {
    fn look<B: Backend>(&mut self, node: &Node<'_, B>) -> Option<Answer<'static>> {
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
            Self::Copy(copy) => copy.step(node),
            Self::Fill(fill) => fill.step(node),
        }
    }
}

impl Copy {
    /// Copies a piece. What came of it, once that is known.
    fn step<B: Backend>(&mut self, node: &Node<'_, B>) -> Option<Answer<'static>> {
        let bytes = PIECE.min(self.length);
        let done = node.with_memory(self.to.0, |to| {
            node.with_memory(self.from.0, |from| {
                to.copy_from(Gpa(self.to.1), from, Gpa(self.from.1), bytes as u32)
            })
        });
        match done {
            Ok(Ok(Ok(()))) => {
                self.length -= bytes;
                self.to.1 = self.to.1.saturating_add(bytes);
                self.from.1 = self.from.1.saturating_add(bytes);
                (self.length == 0).then_some(Answer::Done {})
            }
            Ok(Ok(Err(CopyError::Source(missing) | CopyError::Target(missing)))) => {
                Some(refused(Refusal::Address, missing.gpa.0, 0).answer())
            }
            Ok(Err(_)) | Err(_) => Some(refused(Refusal::State, 0, 0).answer()),
        }
    }
}

impl Fill {
    /// Copies a piece. What came of it, once that is known.
    fn step<B: Backend>(&mut self, node: &Node<'_, B>) -> Option<Answer<'static>> {
        let bytes = PIECE.min(self.length);
        let (vm, disk, offset) = self.disk;
        let done = node.with_memory(self.from.0, |from| {
            node.fill_disk(vm, (disk, offset), (from, Gpa(self.from.1)), bytes as u32)
        });
        match done {
            Ok(Ok(())) => {
                self.length -= bytes;
                self.disk.2 = offset.saturating_add(bytes);
                self.from.1 = self.from.1.saturating_add(bytes);
                (self.length == 0).then_some(Answer::Done {})
            }
            Ok(Err(error)) => Some(unfilled(error, (bytes, node.free_memory())).answer()),
            Err(_) => Some(refused(Refusal::State, 0, 0).answer()),
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
