//! What VMX does of a guest's local APIC: the TPR shadow, virtualized accesses and registers, virtual-interrupt delivery.
//!
//! The CPU works on a page of the vCPU's own, the virtual-APIC page. It and the interrupt status in the VMCS are written before an
//! entry, and read again before the hypervisor looks.
//!
//! Sources: Intel SDM vol. 3, "APIC Virtualization and Virtual Interrupts", "Virtualizing Memory-Mapped APIC Accesses",
//! "Virtualizing MSR-Based APIC Accesses".

// UNSAFETY: reads and writes the virtual-APIC page, which the CPU uses in VMX non-root operation.
#![allow(unsafe_code)]

use bitflags::bitflags;
use vcpu::{ApicAssists, ApicState, ApicView, Hpa, MemoryError, PAGE_SIZE, VectorSet};

use super::capability::{processor, secondary};
use super::field;
use super::instruction::invept;
use super::vcpu::{Before, VmxVcpu};
use crate::memory::{self, frames::Block, frames::FrameKind};
use crate::without::Without;

bitflags! {
    /// What the CPU can do, and may.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct ApicAbilities: u8 {
        /// TPR shadow.
        const TPR_SHADOW = 1 << 0;
        /// Accesses to the page are virtualized.
        const ACCESSES = 1 << 1;
        /// APIC-register virtualization.
        const REGISTERS = 1 << 2;
        /// Virtual-interrupt delivery.
        const DELIVERY = 1 << 3;
        /// Accesses by MSRs are virtualized.
        const X2APIC = 1 << 4;
    }
}

impl ApicAbilities {
    /// By the controls that the CPU allows to be 1.
    pub(super) fn found(primary: u32, second: u32, without: Without) -> Self {
        let mut found = Self::empty();
        for (there, bit, left_out) in [
            (primary & processor::USE_TPR_SHADOW, Self::TPR_SHADOW, Without::TASK_PRIORITY),
            (second & secondary::VIRTUALIZE_APIC_ACCESSES, Self::ACCESSES, Without::APIC_ACCESSES),
            (second & secondary::APIC_REGISTER_VIRTUALIZATION, Self::REGISTERS, Without::APIC_REGISTERS),
            (second & secondary::VIRTUAL_INTERRUPT_DELIVERY, Self::DELIVERY, Without::VIRTUAL_INTERRUPTS),
            (second & secondary::VIRTUALIZE_X2APIC, Self::X2APIC, Without::X2APIC),
        ] {
            if there != 0 && !without.contains(left_out) {
                found |= bit;
            }
        }
        // Alone they cost more than they save: an x2APIC interrupt to itself 1803 instructions instead of 1065.
        if !found.contains(Self::DELIVERY) {
            found.remove(Self::REGISTERS);
        }
        // All others need the first.
        if found.contains(Self::TPR_SHADOW) { found } else { Self::empty() }
    }

    /// Those that are used, by name.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (Self::TPR_SHADOW, "TPR shadow"),
            (Self::ACCESSES, "APIC accesses"),
            (Self::X2APIC, "x2APIC"),
            (Self::REGISTERS, "APIC registers"),
            (Self::DELIVERY, "virtual interrupts"),
        ]
        .into_iter()
        .filter_map(move |(bit, name)| self.contains(bit).then_some(name))
    }
}

/// What the VMCS says while the guest reaches its local APIC in one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Plan {
    /// The TPR shadow is on, and MOV CR8 does not exit.
    shadow: bool,
    /// Secondary controls.
    secondary: u32,
    /// The MSR bitmap is the one that passes x2APIC registers.
    passes_msrs: bool,
    assists: ApicAssists,
}

impl Plan {
    /// The plan for a view. Registers and delivery need that accesses are virtualized; delivery with the page needs registers,
    /// too, since the CPU then writes the command register without telling.
    pub(super) const fn new(able: ApicAbilities, view: ApicView) -> Self {
        let (access, bit) = match view {
            ApicView::Hidden => {
                return Self {
                    shadow: false,
                    secondary: 0,
                    passes_msrs: false,
                    assists: ApicAssists::empty(),
                };
            }
            ApicView::Page => (ApicAbilities::ACCESSES, secondary::VIRTUALIZE_APIC_ACCESSES),
            ApicView::Msrs => (ApicAbilities::X2APIC, secondary::VIRTUALIZE_X2APIC),
        };
        let shadow = able.contains(ApicAbilities::TPR_SHADOW);
        let mut plan = Self {
            shadow,
            secondary: 0,
            passes_msrs: false,
            assists: if shadow { ApicAssists::TASK_PRIORITY } else { ApicAssists::empty() },
        };
        if !shadow || !able.contains(access) {
            return plan;
        }
        plan.secondary = bit;
        plan.passes_msrs = matches!(view, ApicView::Msrs);
        if able.contains(ApicAbilities::REGISTERS) {
            plan.secondary |= secondary::APIC_REGISTER_VIRTUALIZATION;
            plan.assists = plan.assists.union(ApicAssists::REGISTERS);
        }
        let silent = matches!(view, ApicView::Page) && !able.contains(ApicAbilities::REGISTERS);
        if able.contains(ApicAbilities::DELIVERY) && !silent {
            plan.secondary |= secondary::VIRTUAL_INTERRUPT_DELIVERY;
            plan.assists = plan.assists.union(ApicAssists::DELIVERY);
        }
        plan
    }

    /// For a guest that uses its task priority seldom. What the CPU does without delivery has to be looked at again and again, and saves only the
    /// exits of the task priority.
    pub(super) const fn without_task_priority(self) -> Self {
        if self.assists.contains(ApicAssists::DELIVERY) {
            return self;
        }
        let secondary = self.secondary & secondary::VIRTUALIZE_APIC_ACCESSES;
        Self { shadow: false, secondary, passes_msrs: false, assists: ApicAssists::empty() }
    }
}

/// All controls that a plan may have.
const SECONDARY: u32 = secondary::VIRTUALIZE_APIC_ACCESSES
    | secondary::VIRTUALIZE_X2APIC
    | secondary::APIC_REGISTER_VIRTUALIZATION
    | secondary::VIRTUAL_INTERRUPT_DELIVERY;

/// Places of registers in the page.
mod place {
    pub(super) const TASK_PRIORITY: usize = 0x80;
    pub(super) const IN_SERVICE: usize = 0x100;
    pub(super) const LEVEL: usize = 0x180;
    pub(super) const REQUESTS: usize = 0x200;
    /// Between two registers.
    pub(super) const STRIDE: usize = 0x10;
}

/// x2APIC registers that guests read without an exit, where registers are virtualized: identity, version, logical
/// destination, spurious vector, ISR, TMR, IRR, errors, local vector table, initial count and divider. Not those that change
/// with time, nor the 64-bit command.
pub(super) const READABLE_MSRS: [(u32, u32); 8] = [
    (0x802, 0x803),
    (0x80d, 0x80d),
    (0x80f, 0x80f),
    (0x810, 0x827),
    (0x828, 0x828),
    (0x832, 0x837),
    (0x838, 0x838),
    (0x83e, 0x83e),
];
/// The task priority; the processor priority, the end of an interrupt and the interrupt to itself, which go with delivery.
pub(super) const TASK_PRIORITY_MSR: u32 = 0x808;
pub(super) const PROCESSOR_PRIORITY_MSR: u32 = 0x80a;
pub(super) const EOI_MSR: u32 = 0x80b;
pub(super) const SELF_IPI_MSR: u32 = 0x83f;

/// The virtual-APIC page, and what was last told the CPU.
#[derive(Debug)]
pub(super) struct VirtualApic {
    page: Option<Block>,
    /// Accesses to the page at [`vcpu::APIC_PAGE`] are virtualized by this frame.
    access: Option<Hpa>,
    plan: Plan,
    /// What the page says.
    shown: ApicState,
    eoi_exits: VectorSet,
    threshold: u32,
}

impl VirtualApic {
    /// For a vCPU in an address space with this frame at [`vcpu::APIC_PAGE`].
    pub(super) fn new(able: ApicAbilities, access: Option<Hpa>) -> Result<Self, MemoryError> {
        let page = match able.contains(ApicAbilities::TPR_SHADOW) {
            true => Some(Block::zeroed(0, FrameKind::Control)?),
            false => None,
        };
        Ok(Self {
            page,
            access,
            plan: Plan::default(),
            shown: ApicState::default(),
            eoi_exits: VectorSet::EMPTY,
            threshold: 0,
        })
    }

    fn register(&self, offset: usize) -> *mut u32 {
        let page = self.page.as_ref().map_or(core::ptr::null_mut(), |page| memory::direct_map(page.start()));
        page.wrapping_add(offset & (PAGE_SIZE as usize - 4)).cast()
    }

    fn read(&self, offset: usize) -> u32 {
        if self.page.is_none() {
            return 0;
        }
        // SAFETY: the page is this value's own frame, and the offset an aligned one in it. The CPU writes it only while the
        // guest runs, which borrows the vCPU mutably.
        unsafe { self.register(offset).read_volatile() }
    }

    fn write(&mut self, offset: usize, value: u32) {
        if self.page.is_some() {
            // SAFETY: as in `read`.
            unsafe { self.register(offset).write_volatile(value) };
        }
    }

    /// A 256-bit register.
    fn read_set(&self, place: usize) -> VectorSet {
        let half = |index: usize| u64::from(self.read(place + index * place::STRIDE));
        VectorSet::from_words([0, 1, 2, 3].map(|word| half(2 * word) | half(2 * word + 1) << 32))
    }

    /// Writes what differs from `shown`.
    fn write_set(&mut self, place: usize, set: VectorSet, shown: VectorSet) {
        if set == shown {
            return;
        }
        for (word, (new, old)) in set.words().into_iter().zip(shown.words()).enumerate() {
            if new != old {
                self.write(place + 2 * word * place::STRIDE, new as u32);
                self.write(place + (2 * word + 1) * place::STRIDE, (new >> 32) as u32);
            }
        }
    }

    fn clear(&mut self) {
        for offset in (0..PAGE_SIZE as usize).step_by(4) {
            self.write(offset, 0);
        }
        self.shown = ApicState::default();
    }
}

impl VmxVcpu {
    /// Writes the addresses that never change. The VMCS is current.
    pub(super) fn set_up_apic(&mut self) {
        if let Some(page) = self.apic.page.as_ref().map(Block::start) {
            self.set(field::VIRTUAL_APIC_ADDRESS, page.0);
            self.set(field::TPR_THRESHOLD, 0);
        }
        if let Some(frame) = self.apic.access {
            self.set(field::APIC_ACCESS_ADDRESS, frame.0);
        }
        if self.controls().apic.contains(ApicAbilities::DELIVERY) {
            self.set(field::GUEST_INTERRUPT_STATUS, 0);
            (0..4).for_each(|word| self.set(field::eoi_exits(word), 0));
        }
    }

    pub(super) fn choose_apic_view(&mut self, view: ApicView, uses_task_priority: bool) -> ApicAssists {
        let mut able = self.controls().apic;
        if self.apic.access.is_none() {
            able.remove(ApicAbilities::ACCESSES);
        }
        let mut plan = Plan::new(able, view);
        if !uses_task_priority {
            plan = plan.without_task_priority();
        }
        self.apic.clear();
        if plan != core::mem::replace(&mut self.apic.plan, plan) {
            self.control(processor::USE_TPR_SHADOW, plan.shadow);
            self.control(processor::CR8_LOAD_EXITING | processor::CR8_STORE_EXITING, !plan.shadow);
            self.second_control(SECONDARY & !plan.secondary, false);
            self.second_control(plan.secondary, true);
            self.use_msr_bitmap();
            // Translations may be of accesses that were virtualized, or were not.
            self.before |= Before::FLUSH;
            invept(self.controls().invept(self.eptp));
        }
        plan.assists
    }

    /// The guest reaches x2APIC registers without exits.
    pub(super) const fn passes_x2apic(&self) -> bool {
        self.apic.plan.passes_msrs
    }

    pub(super) fn give_apic_state(&mut self, state: &ApicState, broadcasts: bool) {
        let (plan, shown) = (self.apic.plan, self.apic.shown);
        if state.task_priority != shown.task_priority {
            self.apic.write(place::TASK_PRIORITY, state.task_priority.into());
        }
        let delivers = plan.assists.contains(ApicAssists::DELIVERY);
        if plan.assists.intersects(ApicAssists::DELIVERY | ApicAssists::REGISTERS) {
            self.apic.write_set(place::IN_SERVICE, state.in_service, shown.in_service);
            self.apic.write_set(place::LEVEL, state.level, shown.level);
            self.apic.write_set(place::REQUESTS, state.requests, shown.requests);
        }
        self.apic.shown = *state;
        if !delivers {
            let threshold = state.masked_class().unwrap_or(0).into();
            if threshold != core::mem::replace(&mut self.apic.threshold, threshold) {
                self.set(field::TPR_THRESHOLD, threshold);
            }
            return;
        }
        let (requested, served) = (state.requests.highest(), state.in_service.highest());
        let status = u16::from_le_bytes([requested.unwrap_or(0), served.unwrap_or(0)]);
        self.set(field::GUEST_INTERRUPT_STATUS, status);
        let eoi_exits = if broadcasts { state.level } else { VectorSet::EMPTY };
        if eoi_exits != self.apic.eoi_exits {
            self.apic.eoi_exits = eoi_exits;
            for (word, bits) in (0..).zip(eoi_exits.words()) {
                self.set(field::eoi_exits(word), bits);
            }
        }
    }

    /// Where the CPU delivers: IRR gets the vector, and RVI where it is the highest (SDM vol. 3, "Evaluation of Pending Virtual Interrupts").
    ///
    /// Not while the guest cannot take it: Bochs delivers at an entry whatever IF says what was added so.
    pub(super) fn add_apic_request(&mut self, vector: u8) -> bool {
        if !self.can_take_interrupt() {
            return false;
        }
        let apic = &mut self.apic;
        // TMR says of each vector how it came last.
        if !apic.plan.assists.contains(ApicAssists::DELIVERY) || apic.shown.level.contains(vector) {
            return false;
        }
        let offset = place::REQUESTS + usize::from(vector >> 5) * place::STRIDE;
        let word = apic.read(offset) | 1 << (vector & 31);
        apic.write(offset, word);
        let [requested, served] = self.get(field::GUEST_INTERRUPT_STATUS).to_le_bytes();
        if vector > requested {
            self.set(field::GUEST_INTERRUPT_STATUS, u16::from_le_bytes([vector, served]));
        }
        true
    }

    pub(super) fn take_apic_state(&mut self, state: &mut ApicState) {
        let apic = &mut self.apic;
        state.task_priority = apic.read(place::TASK_PRIORITY) as u8;
        if apic.plan.assists.contains(ApicAssists::DELIVERY) {
            state.in_service = apic.read_set(place::IN_SERVICE);
            state.requests = apic.read_set(place::REQUESTS);
        }
        apic.shown = *state;
    }

    pub(super) fn virtual_register(&self, index: u16) -> u32 {
        self.apic.read(usize::from(index) * place::STRIDE)
    }

    pub(super) fn show_virtual_register(&mut self, index: u16, value: u32) {
        self.apic.write(usize::from(index) * place::STRIDE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_used_that_needs_what_is_missing() {
        let all = ApicAbilities::found(u32::MAX, u32::MAX, Without::empty());
        assert_eq!(all, ApicAbilities::all());
        assert!(ApicAbilities::found(u32::MAX, u32::MAX, Without::TASK_PRIORITY).is_empty());
        assert!(ApicAbilities::found(0, u32::MAX, Without::empty()).is_empty());
        assert_eq!(ApicAbilities::found(u32::MAX, 0, Without::empty()), ApicAbilities::TPR_SHADOW);
        let few = ApicAbilities::found(u32::MAX, u32::MAX, Without::X2APIC | Without::VIRTUAL_INTERRUPTS);
        assert_eq!(few, ApicAbilities::TPR_SHADOW | ApicAbilities::ACCESSES);
        assert_eq!(all.names().count(), 5);
    }

    #[test]
    fn a_plan_follows_from_abilities_and_view() {
        let all = ApicAbilities::all();
        assert_eq!(Plan::new(all, ApicView::Hidden), Plan::default());
        let (page, msrs) = (Plan::new(all, ApicView::Page), Plan::new(all, ApicView::Msrs));
        let both = ApicAssists::TASK_PRIORITY | ApicAssists::REGISTERS | ApicAssists::DELIVERY;
        assert_eq!((page.assists, msrs.assists), (both, both));
        // The two ways exclude each other (SDM vol. 3, "Checks on VMX Controls").
        assert_eq!(page.secondary & secondary::VIRTUALIZE_X2APIC, 0);
        assert_eq!(msrs.secondary & secondary::VIRTUALIZE_APIC_ACCESSES, 0);
        assert!(msrs.passes_msrs && !page.passes_msrs);
        let blind = Plan::new(all - ApicAbilities::ACCESSES, ApicView::Page);
        assert_eq!((blind.secondary, blind.assists, blind.shadow), (0, ApicAssists::TASK_PRIORITY, true));
        assert_eq!(Plan::new(ApicAbilities::empty(), ApicView::Msrs), Plan::default());
        let few = all - ApicAbilities::REGISTERS;
        assert_eq!(Plan::new(few, ApicView::Page).assists, ApicAssists::TASK_PRIORITY);
        let seldom = Plan::new(few - ApicAbilities::DELIVERY, ApicView::Page).without_task_priority();
        assert_eq!(
            (seldom.shadow, seldom.secondary, seldom.assists),
            (false, secondary::VIRTUALIZE_APIC_ACCESSES, ApicAssists::empty())
        );
        assert_eq!(page.without_task_priority(), page);
        assert!(Plan::new(few, ApicView::Msrs).assists.contains(ApicAssists::DELIVERY));
    }
}
