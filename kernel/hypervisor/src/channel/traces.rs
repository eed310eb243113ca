//! What CPUs did last, for the domain. An answer with events is made where it is written: so these are copied once, and kept nowhere.

use abi::{Answer, Refusal};
use trace::EVENT_BYTES;
use vcpu::Host;

use super::refused;

/// Events in one answer.
const EVENTS: usize = 64;

/// A question for a CPU's events, which is answered before anything more is heard.
pub(super) struct Question {
    pub(super) id: u64,
    pub(super) cpu: u16,
    pub(super) from: u64,
}

impl Question {
    /// Writes the answer.
    pub(super) fn answer<H: Host>(&self, host: &H, buffer: &mut [u8]) -> Option<usize> {
        let mut events = [[0; EVENT_BYTES]; EVENTS];
        let Some(taken) = host.trace_read(self.cpu.into(), self.from, &mut events) else {
            let most = host.cpus().saturating_sub(1);
            return refused(Refusal::Range, self.cpu.into(), most as u64).answer().write(self.id, buffer);
        };
        let bytes = events.get(..taken.count).unwrap_or_default().as_flattened();
        Answer::Trace { next: taken.next, lost: taken.lost, bytes }.write(self.id, buffer)
    }
}
