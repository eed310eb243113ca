//! What a CPU can do of a virtual local APIC by itself, and what it and the hypervisor tell each other of it.
//!
//! The hypervisor has a whole local APIC in software. A CPU that virtualizes parts of it keeps a copy of the interrupts'
//! state while its guest runs: it is given before an entry, and taken back before the hypervisor looks at it.
//!
//! Sources: Intel SDM vol. 3, "APIC Virtualization and Virtual Interrupts"; AMD APM vol. 2, "Interrupt and Local APIC Support".

use bitflags::bitflags;

use crate::VectorSet;

bitflags! {
    /// What the CPU takes over.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ApicAssists: u8 {
        /// The task priority: MOV to and from CR8 does not exit, nor other accesses to the register where the CPU can tell
        /// them.
        const TASK_PRIORITY = 1 << 0;
        /// Registers are read from what [`crate::Vcpu::set_apic_register`] last showed; a write exits behind the instruction
        /// ([`crate::Exit::ApicWrite`]) where it exits at all.
        const REGISTERS = 1 << 1;
        /// Requests are delivered as soon as the guest can take them, the highest first, and ended, without an exit.
        const DELIVERY = 1 << 2;
        /// The highest request alone is delivered as soon as the guest can take it.
        const OFFER = 1 << 3;
    }
}

/// How the guest reaches its local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ApicView {
    /// Not at all, or at another address than [`crate::APIC_PAGE`].
    #[default]
    Hidden,
    /// By the page at [`crate::APIC_PAGE`] (xAPIC mode).
    Page,
    /// By MSRs (x2APIC mode).
    Msrs,
}

/// The state of a local APIC's interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ApicState {
    /// TPR.
    pub task_priority: u8,
    /// IRR: interrupts that wait.
    pub requests: VectorSet,
    /// ISR: interrupts that are being served.
    pub in_service: VectorSet,
    /// TMR: which of the vectors are level-triggered.
    pub level: VectorSet,
}

impl ApicState {
    /// The processor priority register.
    #[inline(always)]
    pub fn processor_priority(&self) -> u8 {
        let served = self.in_service.highest().unwrap_or(0);
        if self.task_priority >> 4 >= served >> 4 { self.task_priority } else { served & 0xf0 }
    }

    /// The vector to deliver to the processor now: the highest request whose class is above the processor priority.
    #[inline(always)]
    pub fn pending(&self) -> Option<u8> {
        if self.requests.is_empty() {
            return None;
        }
        let vector = self.requests.highest()?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// The processor took `vector`: it goes from request to service.
    #[inline]
    pub fn acknowledge(&mut self, vector: u8) {
        self.requests.set(vector, false);
        self.in_service.set(vector, true);
    }

    /// The class that the task priority must fall below, so that the highest request can be delivered; `None` where something
    /// else holds it back, or nothing does.
    #[inline]
    pub fn masked_class(&self) -> Option<u8> {
        let class = self.requests.highest()? >> 4;
        let served = self.in_service.highest().unwrap_or(0) >> 4;
        (class > served && class <= self.task_priority >> 4).then_some(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_masked_request_is_pending_once_the_task_priority_falls(
            task_priority: u8,
            requests in prop::array::uniform4(any::<u64>()),
            in_service in prop::option::of(16u8..),
        ) {
            let mut state =
                ApicState { task_priority, requests: VectorSet::from_words(requests), ..ApicState::default() };
            state.requests.set(3, false);
            if let Some(vector) = in_service {
                state.in_service.set(vector, true);
            }
            match state.masked_class() {
                None => {}
                Some(class) => {
                    prop_assert_eq!(state.pending(), None);
                    state.task_priority = class << 4;
                    prop_assert_eq!(state.pending(), None);
                    state.task_priority = (class - 1) << 4;
                    prop_assert_eq!(state.pending().map(|vector| vector >> 4), Some(class));
                }
            }
        }
    }
}
