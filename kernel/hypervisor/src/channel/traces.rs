//! What CPUs did last, for the domain. An answer with events is made where it is written: so these are copied once, and kept nowhere.

use abi::{Answer, Refusal};
use trace::EVENT_BYTES;
use vcpu::Host;

use super::refused;

/// Events in one answer.
const EVENTS: usize = 64;

/// Writes the answer to who asks for a CPU's events from that number on.
pub(super) fn answer<H: Host>(host: &H, (cpu, from): (u16, u64), id: u64, to: &mut [u8]) -> Option<usize> {
    let mut events = [[0; EVENT_BYTES]; EVENTS];
    let Some(taken) = host.trace_read(cpu.into(), from, &mut events) else {
        let most = host.cpus().saturating_sub(1);
        return refused(Refusal::Range, cpu.into(), most as u64).answer().write(id, to);
    };
    let bytes = events.get(..taken.count).unwrap_or_default().as_flattened();
    Answer::Trace { next: taken.next, lost: taken.lost, bytes }.write(id, to)
}
