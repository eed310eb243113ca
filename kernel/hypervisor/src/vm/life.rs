//! What a VM is doing as a whole. Any CPU may ask for a change; the gate then keeps its vCPUs from being entered, and once
//! none runs any more, the CPU that is home to the first one carries the change out.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use spin::Mutex;

use super::boot::Scrub;
use crate::stop::StopReason;

/// What a VM is asked to do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Request {
    /// To start over.
    Reset,
    /// To end.
    Stop(StopReason),
}

/// What a VM is doing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    /// Its vCPUs run or wait.
    Running,
    /// They come to a halt; then this is done.
    Halting(Request),
    /// Its memory is being cleared for a restart.
    Resetting(Scrub),
    /// It has ended.
    Stopped(StopReason),
}

/// The state, and the gate before its vCPUs.
#[derive(Debug)]
pub(crate) struct Life {
    state: Mutex<State>,
    closed: AtomicBool,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State::Running), closed: AtomicBool::new(false) }
    }

    /// Whether no vCPU may be entered.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    pub(crate) fn state(&self) -> State {
        *self.state.lock()
    }

    pub(crate) fn set(&self, state: State) {
        *self.state.lock() = state;
        self.closed.store(!matches!(state, State::Running), SeqCst);
    }

    /// Asks for a change. Of several, the first counts, but an end comes before a restart. True where the gate was closed
    /// by this: the caller kicks the vCPUs that run.
    pub(crate) fn ask(&self, request: Request) -> bool {
        let mut state = self.state.lock();
        let (next, closes) = match (*state, request) {
            (State::Running, _) => (State::Halting(request), true),
            (State::Halting(Request::Reset) | State::Resetting(_), Request::Stop(_)) => {
                (State::Halting(request), false)
            }
            (State::Stopped(_), Request::Reset) => (State::Halting(request), false),
            (unchanged, _) => (unchanged, false),
        };
        *state = next;
        self.closed.store(!matches!(next, State::Running), SeqCst);
        closes
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
        let life = Life::new();
        assert!(life.is_alive() && !life.is_closed());
        assert!(life.ask(Request::Reset) && life.is_closed());
        assert!(!life.ask(Request::Stop(StopReason::TripleFault)));
        assert!(!life.ask(Request::Stop(StopReason::Ended)) && !life.ask(Request::Reset));
        assert!(matches!(life.state(), State::Halting(Request::Stop(StopReason::TripleFault))));
        life.set(State::Stopped(StopReason::TripleFault));
        assert!(!life.is_alive() && life.is_closed());
        assert!(!life.ask(Request::Stop(StopReason::Ended)) && !life.is_alive());
        assert!(!life.ask(Request::Reset) && life.is_alive() && life.is_closed());
        life.set(State::Running);
        assert!(!life.is_closed());
    }
}
