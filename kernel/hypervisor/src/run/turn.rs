//! The beginning and the end of a vCPU's turn, as its processor keeps account of them.

use vcpu::{GuestMemory, Nanos, Vcpu};

use super::slice::SliceEnd;
use crate::processor::{Activity, Processor};

impl Processor {
    /// It begins to run at this TSC value, and has been kept from it so long since its VM's start. Returns for how many ticks
    /// it slept, if it did. It is loaded.
    pub(super) fn begin_turn(
        &mut self,
        vcpu: &mut (impl Vcpu + ?Sized),
        tsc: u64,
        kept: Nanos,
        space: &impl GuestMemory,
    ) -> Option<u64> {
        let slept = (self.activity != Activity::Running).then(|| tsc.wrapping_sub(self.waiting_since));
        self.counters.ticks.idle += slept.unwrap_or_default();
        self.counters.wakes += u64::from(slept.is_some());
        if self.paravirtual.begin_turn(kept, space) {
            vcpu.flush_tlb();
        }
        slept
    }

    /// It stops running at this TSC value.
    pub(super) fn end_turn(&mut self, tsc: u64, space: &impl GuestMemory) {
        self.waiting_since = tsc;
        self.paravirtual.end_turn(space);
    }
}

impl SliceEnd {
    /// Its number in events.
    pub(super) const fn number(self) -> u64 {
        match self {
            Self::Over => 1,
            Self::GivesWay(_) => 2,
            Self::Waiting => 3,
            Self::Halting => 4,
            Self::Reset => 5,
            Self::Stopped(_) => 6,
        }
    }
}
