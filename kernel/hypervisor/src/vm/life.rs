//! What a VM is doing as a whole. Any CPU may ask for a change; the gate then keeps its vCPUs from being entered, and once
//! none runs any more, the change is carried out as a task, in the turns of the first vCPU ([`super::task`]).

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use alloc::sync::Arc;

use spin::Mutex;
use virtio::VmSet;

use crate::stop::StopReason;

/// What a VM is asked to do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Request {
    /// To come into being and run.
    Start,
    /// To start over.
    Reset,
    /// To end.
    Stop(StopReason),
    /// To stand still until it is asked to resume.
    Pause,
    /// To go on.
    Resume,
}

impl Request {
    /// Its numbers in events: what it is, and why, where it is an end.
    pub(crate) const fn numbers(self) -> (u64, u64) {
        match self {
            Self::Start => (1, 0),
            Self::Reset => (2, 0),
            Self::Stop(reason) => (3, reason.number()),
            Self::Pause => (4, 0),
            Self::Resume => (5, 0),
        }
    }
}

/// Number of the request to unmake a VM, in events.
pub(crate) const DESTROY: u64 = 6;

/// Long work on a VM none of whose vCPUs runs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Task {
    /// Memory and vCPUs are made, the kernel is loaded.
    Start,
    /// Memory is cleared, the kernel is loaded.
    Reset,
    /// vCPUs begin where it was told.
    Enter,
    /// vCPUs and memory are given back.
    End(StopReason),
}

/// What a VM is doing.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum State {
    /// Its vCPUs run or wait.
    Running,
    /// They come to a halt; then this is done.
    Halting(Request),
    /// This is being done.
    Working(Task),
    /// They stand still, and keep what they have.
    Paused,
    /// Its memory and its vCPUs are there, and begin when it is asked to start again: it is told from outside what is in the one and where the others begin.
    Held,
    /// It has ended, or was not started: nothing belongs to it.
    Stopped(StopReason),
}

impl State {
    /// Its numbers in events: which it is, as the management channel has it, and why, where the VM ends or has ended.
    pub(crate) const fn numbers(self) -> (u64, u64) {
        match self {
            Self::Running => (abi::VmState::Running as u64, 0),
            Self::Halting(Request::Stop(reason)) | Self::Working(Task::End(reason)) => {
                (abi::VmState::Changing as u64, reason.number())
            }
            Self::Halting(_) | Self::Working(_) => (abi::VmState::Changing as u64, 0),
            Self::Paused => (abi::VmState::Paused as u64, 0),
            Self::Held => (abi::VmState::Held as u64, 0),
            Self::Stopped(reason) => (abi::VmState::Stopped as u64, reason.number()),
        }
    }
}

/// Number of the state of a VM that is gone, in events.
pub(crate) const GONE: u64 = 0;

/// The state, and the gate before its vCPUs.
#[derive(Debug)]
pub(crate) struct Life {
    state: Mutex<State>,
    closed: AtomicBool,
    /// It is unmade when it has ended, and starts no more.
    condemned: AtomicBool,
    /// The VMs of which something is asked, among which this one is while that is so, with its number.
    asked: (Arc<VmSet>, usize),
}

impl Life {
    /// Of a VM that is not started.
    pub(crate) fn new(asked: &Arc<VmSet>, vm: usize) -> Self {
        let state = Mutex::new(State::Stopped(StopReason::NotStarted));
        let (closed, condemned) = (AtomicBool::new(true), AtomicBool::new(false));
        Self { state, closed, condemned, asked: (Arc::clone(asked), vm) }
    }

    /// Goes to another state.
    fn set(&self, state: &mut State, to: State) {
        *state = to;
        self.closed.store(!matches!(to, State::Running), SeqCst);
        let (asked, vm) = &self.asked;
        if matches!(to, State::Halting(_) | State::Working(_)) {
            asked.insert(*vm);
        } else {
            asked.remove(*vm);
        }
    }

    /// Whether no vCPU may be entered.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Whether neither vCPUs nor a task have anything to do.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_closed() && !matches!(self.state(), State::Working(_))
    }

    pub(crate) fn state(&self) -> State {
        *self.state.lock()
    }

    /// Goes from one state to another, if nobody has asked for something else meanwhile.
    pub(crate) fn pass(&self, from: State, to: State) -> bool {
        let mut state = self.state.lock();
        let passes = *state == from;
        if passes {
            self.set(&mut state, to);
        }
        passes
    }

    /// Asks for a change. Of several, the first counts, but an end comes before a start. True where something comes of it:
    /// the caller kicks the vCPUs that run.
    pub(crate) fn ask(&self, request: Request) -> bool {
        let mut state = self.state.lock();
        let next = match (*state, request) {
            (State::Running, Request::Reset | Request::Stop(_) | Request::Pause)
            | (State::Halting(Request::Reset), Request::Stop(_))
            | (State::Halting(Request::Pause) | State::Paused, Request::Reset | Request::Stop(_))
            | (State::Working(Task::Start | Task::Reset | Task::Enter) | State::Held, Request::Stop(_)) => {
                State::Halting(request)
            }
            (State::Stopped(_), Request::Start) if !self.is_condemned() => State::Working(Task::Start),
            (State::Held, Request::Start) if !self.is_condemned() => State::Working(Task::Enter),
            (State::Halting(Request::Pause) | State::Paused, Request::Resume) => State::Running,
            _ => return false,
        };
        self.set(&mut state, next);
        true
    }

    /// It starts no more: it is to be unmade when it has ended.
    pub(crate) fn condemn(&self) {
        // Nobody finds it not condemned and starts it then.
        let _state = self.state.lock();
        self.condemned.store(true, SeqCst);
    }

    /// Whether it is to be unmade.
    pub(crate) fn is_condemned(&self) -> bool {
        self.condemned.load(SeqCst)
    }

    /// True until it has ended.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state(), State::Stopped(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_comes_before_a_restart_and_the_first_end_counts() {
        let asked: Arc<VmSet> = Arc::default();
        let life = Life::new(&asked, 200);
        assert!(!life.is_alive() && life.is_closed());
        assert!(!life.ask(Request::Reset) && !life.ask(Request::Stop(StopReason::Ended)));
        assert!(life.ask(Request::Start) && life.is_alive() && life.is_closed());
        assert!(asked.any(|vm| vm == 200));
        assert!(!life.ask(Request::Start) && !life.ask(Request::Reset));
        assert!(life.pass(State::Working(Task::Start), State::Running) && !life.is_closed());
        assert!(asked.is_empty(), "nothing is asked of who runs");
        assert!(life.ask(Request::Reset) && life.is_closed());
        assert!(life.ask(Request::Stop(StopReason::TripleFault)));
        assert!(!life.ask(Request::Stop(StopReason::Ended)) && !life.ask(Request::Reset));
        assert_eq!(life.state(), State::Halting(Request::Stop(StopReason::TripleFault)));
        // What was to come of the restart does not any more.
        assert!(!life.pass(State::Halting(Request::Reset), State::Working(Task::Reset)));
        let end = State::Working(Task::End(StopReason::TripleFault));
        assert!(life.pass(life.state(), end));
        assert!(!life.ask(Request::Start) && !life.ask(Request::Stop(StopReason::Ended)));
        assert!(life.pass(end, State::Stopped(StopReason::TripleFault)));
        assert!(!life.is_alive() && life.is_closed() && life.ask(Request::Start));
        assert!(life.ask(Request::Stop(StopReason::Ended)), "a start is broken off");
    }

    #[test]
    fn who_is_held_begins_or_ends_and_who_is_condemned_does_not_begin() {
        let life = Life::new(&Arc::default(), 0);
        life.ask(Request::Start);
        assert!(life.pass(State::Working(Task::Start), State::Held) && life.is_closed() && life.is_at_rest());
        assert!(!life.ask(Request::Reset) && !life.ask(Request::Pause) && !life.ask(Request::Resume));
        assert!(life.ask(Request::Start) && life.state() == State::Working(Task::Enter));
        assert!(life.ask(Request::Stop(StopReason::Ended)));
        life.pass(life.state(), State::Held);
        life.condemn();
        assert!(!life.ask(Request::Start) && life.ask(Request::Stop(StopReason::Ended)));
        life.pass(life.state(), State::Stopped(StopReason::Ended));
        assert!(life.is_condemned() && !life.ask(Request::Start) && !life.is_alive());
    }

    #[test]
    fn who_is_paused_resumes_restarts_or_ends() {
        let life = Life::new(&Arc::default(), 0);
        assert!(!life.ask(Request::Pause) && !life.ask(Request::Resume));
        life.ask(Request::Start);
        assert!(!life.ask(Request::Pause), "it is not there yet");
        life.pass(State::Working(Task::Start), State::Running);
        assert!(!life.ask(Request::Resume) && life.ask(Request::Pause) && life.is_closed());
        assert!(life.ask(Request::Resume) && !life.is_closed(), "before it stood still");
        for request in [Request::Reset, Request::Stop(StopReason::Ended)] {
            assert!(life.ask(Request::Pause) && !life.ask(Request::Pause));
            assert!(life.pass(State::Halting(Request::Pause), State::Paused) && life.is_at_rest());
            assert!(life.is_alive() && !life.ask(Request::Start));
            assert!(life.ask(request) && life.is_closed());
            assert_eq!(life.state(), State::Halting(request));
            life.pass(life.state(), State::Running);
        }
    }
}
