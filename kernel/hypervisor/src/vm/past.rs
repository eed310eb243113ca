//! What has become of a VM so far, for who tells of it: counted, so that nobody has to look at the right moment.

use spin::Mutex;

use super::Vm;
use crate::stop::StopReason;
use vcpu::Backend;

/// How often a VM has come to an end and was reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Past {
    /// Ends.
    pub(crate) ends: u64,
    /// Resets after which it was there again.
    pub(crate) resets: u64,
    /// Why it ended the last time.
    pub(crate) last: StopReason,
}

impl Past {
    /// Of a VM that was never started.
    pub(super) const fn none() -> Mutex<Self> {
        Mutex::new(Self { ends: 0, resets: 0, last: StopReason::NotStarted })
    }
}

impl<B: Backend> Vm<'_, B> {
    /// What has become of it so far.
    pub(crate) fn past(&self) -> Past {
        *self.past.lock()
    }

    /// It has come to an end. To be called before anybody can start it again.
    pub(crate) fn count_end(&self, reason: StopReason) {
        let mut past = self.past.lock();
        (past.ends, past.last) = (past.ends + 1, reason);
    }

    /// It was reset, and is there again.
    pub(crate) fn count_reset(&self) {
        self.past.lock().resets += 1;
    }
}
