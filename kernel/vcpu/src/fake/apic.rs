//! What a fake CPU does of its local APIC.

use crate::{ApicAssists, ApicState, ApicView, Exit, VectorSet};

/// Registers of a local APIC's page.
const REGISTERS: usize = 64;

/// The CPU's part of a local APIC: what it was given, as the guest uses it.
#[derive(Clone, Debug)]
pub struct FakeApic {
    /// What the CPU can do, where the guest reaches the APIC.
    pub able: ApicAssists,
    /// How the guest reaches it.
    pub view: ApicView,
    /// What the hypervisor has handed over, if it has.
    pub given: Option<ApicState>,
    /// The vectors whose end exits.
    pub eoi_exits: VectorSet,
    /// The registers as the guest sees and writes them.
    pub registers: [u32; REGISTERS],
}

impl FakeApic {
    pub(super) const fn new(able: ApicAssists) -> Self {
        Self {
            able,
            view: ApicView::Hidden,
            given: None,
            eoi_exits: VectorSet::EMPTY,
            registers: [0; REGISTERS],
        }
    }

    /// What it does now.
    pub fn assists(&self) -> ApicAssists {
        if self.view == ApicView::Hidden { ApicAssists::empty() } else { self.able }
    }

    /// The guest writes its task priority; an exit where a request becomes deliverable by that.
    pub fn write_task_priority(&mut self, value: u8) -> Option<Exit> {
        assert!(self.assists().contains(ApicAssists::TASK_PRIORITY), "it would have exited");
        let state = self.given.as_mut().expect("the state is in the CPU while the guest runs");
        let masked = state.masked_class();
        state.task_priority = value;
        (masked.is_some() && state.masked_class().is_none()).then_some(Exit::TaskPriority)
    }

    /// The guest ends the interrupt that it serves; an exit where the I/O APIC is to hear of it.
    pub fn end_of_interrupt(&mut self) -> Option<Exit> {
        assert!(self.assists().contains(ApicAssists::DELIVERY), "it would have exited");
        let state = self.given.as_mut().expect("the state is in the CPU while the guest runs");
        let vector = state.in_service.highest()?;
        state.in_service.set(vector, false);
        self.eoi_exits.contains(vector).then_some(Exit::ApicEoi { vector })
    }

    /// The vector that the guest takes now, where it can take one.
    pub(super) fn deliver(&mut self) -> Option<u8> {
        let delivers = self.assists().intersects(ApicAssists::DELIVERY | ApicAssists::OFFER);
        let state = self.given.as_mut().filter(|_| delivers)?;
        let vector = state.pending()?;
        state.acknowledge(vector);
        Some(vector)
    }
}
