//! What guests that know KVM use of the hypervisor: shared pages, and the MSRs that name them. Hypercalls are in
//! `dispatch::hypercall`, which features there are is told by CPUID leaf 4000_0001H.
//!
//! Shared pages are the guest's memory. They are written by copies, never trusted, and an area that is no RAM any more is
//! left alone.
//!
//! Source: Linux documentation, "KVM-specific MSRs", "KVM CPUID bits" and "Linux KVM Hypercall".

mod clock;
mod eoi;
mod features;
mod steal;

use vcpu::{GuestMemory, Nanos};

use crate::msr::Denied;
pub(crate) use clock::ParavirtualClock;
pub(crate) use eoi::EoiFlag;
pub use features::Features;
pub(crate) use steal::StealTime;

/// MSR_KVM_POLL_CONTROL: the host may wait a little at a HLT.
const POLL_ENABLE: u64 = 1;
/// Bit 0 of the registers that name a shared area: it is in use.
const ENABLE: u64 = 1;

/// What belongs to one vCPU.
#[derive(Debug)]
pub(crate) struct Paravirtual {
    pub(crate) features: Features,
    pub(crate) clock: ParavirtualClock,
    pub(crate) steal: StealTime,
    pub(crate) eoi: EoiFlag,
    /// The host may wait a little at a HLT.
    pub(crate) polls: bool,
    /// Another vCPU has ended the next HLT, or the present one, even where interrupts are off.
    pub(crate) unhalted: bool,
}

impl Paravirtual {
    /// Nothing in use.
    pub(crate) fn new(features: Features, tsc_hz: u64) -> Self {
        Self {
            features,
            clock: ParavirtualClock::new(tsc_hz),
            steal: StealTime::default(),
            eoi: EoiFlag::default(),
            polls: true,
            unhalted: false,
        }
    }

    /// Back to nothing in use.
    pub(crate) fn reset(&mut self) {
        self.clock.reset();
        self.steal.reset();
        self.eoi = EoiFlag::default();
        self.polls = true;
        self.unhalted = false;
    }

    /// MSR_KVM_POLL_CONTROL.
    pub(crate) const fn poll_control(&self) -> u64 {
        if self.polls { POLL_ENABLE } else { 0 }
    }

    /// Writes MSR_KVM_POLL_CONTROL.
    pub(crate) fn write_poll_control(&mut self, value: u64) -> Result<(), Denied> {
        if value & !POLL_ENABLE != 0 {
            return Err(Denied);
        }
        self.polls = value == POLL_ENABLE;
        Ok(())
    }

    /// The vCPU begins to run, having been kept from it for `stolen` so far. True where its translations must go first.
    pub(crate) fn begin_turn<M: GuestMemory>(&mut self, stolen: Nanos, memory: &M) -> bool {
        self.steal.begin_turn(stolen, memory) && self.features.contains(Features::TLB_FLUSH)
    }

    /// The vCPU stops running.
    pub(crate) fn end_turn<M: GuestMemory>(&self, memory: &M) {
        self.steal.end_turn(memory);
    }
}
