//! What SVM does of a guest's local APIC: CR8 by V_TPR, and one interrupt at a time by V_IRQ.
//!
//! V_IRQ also serves as the interrupt window; while one is wanted no interrupt is offered.
//!
//! Source: AMD APM vol. 2, "Interrupt and Local APIC Support", "Virtual Interrupts".

use bitflags::bitflags;
use vcpu::{ApicAssists, ApicState, ApicView};

use super::intercept::{intercept_1, virtual_interrupt as control};
use super::vcpu::SvmVcpu;
use crate::without::Without;

/// Reads and writes of CR8 among the intercepts of control registers.
const CR8_READ: u32 = 1 << 8;
const CR8_WRITE: u32 = 1 << 24;

bitflags! {
    /// What of it is used.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct ApicPlan: u8 {
        /// CR8 by V_TPR.
        const TASK_PRIORITY = 1 << 0;
        /// Interrupts by V_IRQ.
        const OFFER = 1 << 1;
    }
}

impl ApicPlan {
    /// Every CPU with SVM has both. They are left alone on one without next-RIP save, which is either one of the first or QEMU's:
    /// that takes virtual interrupts of the task priority's own class and in the shadow of STI, and any value for CR8.
    pub(super) const fn new(without: Without, next_rip: bool) -> Self {
        let mut plan = if next_rip { Self::all() } else { Self::empty() };
        if without.contains(Without::TASK_PRIORITY) {
            plan = plan.difference(Self::TASK_PRIORITY);
        }
        if without.contains(Without::VIRTUAL_INTERRUPTS) {
            plan = plan.difference(Self::OFFER);
        }
        plan
    }

    const fn assists(self) -> ApicAssists {
        let mut assists = ApicAssists::empty();
        if self.contains(Self::TASK_PRIORITY) {
            assists = assists.union(ApicAssists::TASK_PRIORITY);
        }
        if self.contains(Self::OFFER) {
            assists = assists.union(ApicAssists::OFFER);
        }
        assists
    }
}

/// The virtual interrupt control's part, from the local APIC's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Offer {
    bits: u64,
    vector: Option<u8>,
    /// A write of CR8 is watched.
    watches: bool,
}

impl Offer {
    /// `window`: V_IRQ has another use now.
    fn new(plan: ApicPlan, state: &ApicState, window: bool) -> Self {
        let by_cpu = plan.contains(ApicPlan::TASK_PRIORITY);
        let priority = if by_cpu { u64::from(state.task_priority >> 4) } else { 0 };
        let masked = by_cpu && state.masked_class().is_some();
        let held_back_by_cpu = if masked { state.requests.highest() } else { None };
        let vector = if plan.contains(ApicPlan::OFFER) && !window {
            state.pending().or(held_back_by_cpu)
        } else {
            None
        };
        let Some(vector) = vector else { return Self { bits: priority, vector: None, watches: masked } };
        let by_priority =
            if by_cpu { u64::from(vector >> 4) << control::V_PRIORITY_SHIFT } else { control::V_IGNORE_TPR };
        let bits = priority | control::V_IRQ | by_priority | u64::from(vector) << control::V_VECTOR_SHIFT;
        Self { bits, vector: Some(vector), watches: false }
    }
}

impl SvmVcpu {
    pub(super) fn choose_apic_view(&mut self, view: ApicView, uses_task_priority: bool) -> ApicAssists {
        let mut plan = if view == ApicView::Hidden { ApicPlan::empty() } else { self.shared.plan.apic };
        if !uses_task_priority {
            // V_TPR has to be looked at again and again.
            plan.remove(ApicPlan::TASK_PRIORITY);
        }
        self.apic = plan;
        let watched = if plan.contains(ApicPlan::TASK_PRIORITY) { 0 } else { CR8_READ | CR8_WRITE };
        self.watch_cr8(watched);
        plan.assists()
    }

    fn watch_cr8(&mut self, watched: u32) {
        self.watches_cr8 = watched != 0;
        let vmcb = self.vmcb_mut();
        let wanted = vmcb.intercept_cr() & !(CR8_READ | CR8_WRITE) | watched;
        if wanted != vmcb.intercept_cr() {
            vmcb.set_intercept_cr(wanted);
        }
    }

    #[inline]
    pub(super) fn give_apic_state(&mut self, state: &ApicState) {
        let plan = self.apic;
        if state.requests.is_empty() && self.offered.is_none() {
            // By far the most frequent: there is nothing to offer, and nothing that a task priority masks.
            let class =
                if plan.contains(ApicPlan::TASK_PRIORITY) { u64::from(state.task_priority >> 4) } else { 0 };
            let old = self.vmcb().virtual_interrupt();
            if old & control::V_TPR != class {
                self.vmcb_mut().set_virtual_interrupt(old & !control::V_TPR | class);
            }
            if self.watches_cr8 && plan.contains(ApicPlan::TASK_PRIORITY) {
                self.watch_cr8(0);
            }
            return;
        }
        self.offer(state);
    }

    fn offer(&mut self, state: &ApicState) {
        let window = self.vmcb().intercept_1() & intercept_1::VINTR != 0;
        let offer = Offer::new(self.apic, state, window);
        let old = self.vmcb().virtual_interrupt();
        let changed = if window { control::V_TPR } else { control::OFFER };
        let new = old & !changed | offer.bits;
        if new != old {
            self.vmcb_mut().set_virtual_interrupt(new);
        }
        self.offered = offer.vector;
        if self.apic.contains(ApicPlan::TASK_PRIORITY) {
            self.watch_cr8(if offer.watches { CR8_WRITE } else { 0 });
        }
    }

    #[inline]
    pub(super) fn take_apic_state(&mut self, state: &mut ApicState) {
        let bits = self.vmcb().virtual_interrupt();
        if self.apic.contains(ApicPlan::TASK_PRIORITY) {
            let class = (bits & control::V_TPR) as u8 & 0xf;
            if class != state.task_priority >> 4 {
                state.task_priority = class << 4;
            }
        }
        let Some(vector) = self.offered.take() else { return };
        if bits & control::V_IRQ == 0 {
            state.acknowledge(vector);
        } else {
            self.vmcb_mut().set_virtual_interrupt(bits & !(control::OFFER & !control::V_TPR));
        }
    }

    /// An exit interrupted the delivery of this vector, which will be repeated: where it was the one offered, it is no longer.
    pub(super) fn note_interrupted_offer(&mut self, vector: u8) {
        if self.offered == Some(vector) {
            let vmcb = self.vmcb_mut();
            let bits = vmcb.virtual_interrupt();
            vmcb.set_virtual_interrupt(bits & !control::V_IRQ);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vcpu::VectorSet;

    proptest! {
        /// What the CPU does with an offer is what the software would do.
        #[test]
        fn an_offer_is_delivered_when_it_may_be(
            requests in prop::array::uniform4(any::<u64>()),
            in_service in prop::option::of(16u8..),
            task_priority: u8,
            window: bool,
            by_cpu: bool,
        ) {
            let mut state =
                ApicState { task_priority, requests: VectorSet::from_words(requests), ..ApicState::default() };
            if let Some(vector) = in_service {
                state.in_service.set(vector, true);
            }
            let plan = if by_cpu { ApicPlan::all() } else { ApicPlan::OFFER };
            let offer = Offer::new(plan, &state, window);
            let irq = offer.bits & control::V_IRQ != 0;
            prop_assert_eq!(irq, offer.vector.is_some());
            let above = offer.bits & control::V_IGNORE_TPR != 0
                || offer.bits >> control::V_PRIORITY_SHIFT & 0xf > offer.bits & control::V_TPR;
            let taken = offer.vector.filter(|_| irq && above);
            prop_assert_eq!(taken, if window { None } else { state.pending() });
            // Nothing is forgotten that a lower task priority would let through.
            if by_cpu && state.masked_class().is_some() {
                prop_assert!(offer.watches || irq);
            }
        }
    }
}
