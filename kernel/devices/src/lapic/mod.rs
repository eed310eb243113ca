//! One processor's local APIC: xAPIC and x2APIC views of one state.
//!
//! Sources: Intel SDM volume 3, chapter "Advanced Programmable Interrupt Controller (APIC)": "Local APIC", "Local Vector
//! Table", "Issuing Interprocessor Interrupts", "Handling Interrupts" and "Extended XAPIC (x2APIC)".
//!
//! Writes that reach beyond this APIC return what is to be done as an [`ApicEffect`]; the owner of all local APICs routes
//! messages with [`LocalApic::accepts`] and [`LocalApic::deliver`]. For a message of [`DeliveryMode::LowestPriority`] it
//! chooses among those that accept, by [`LocalApic::processor_priority`].
//!
//! Differences from hardware: the APIC id is read-only; memory-mapped accesses count only when they are aligned 32-bit
//! ones (narrower reads within a register give its part, all others read 0 and do nothing); delivery status reads idle,
//! as messages arrive at once; interprocessor interrupts are always edge-triggered; SMI and ExtINT messages are dropped.

mod inbox;
mod local_vector;
mod msr;
mod registers;
mod routing;
#[cfg(test)]
mod tests;
mod timer;

use crate::message::{ApicMessage, DeliveryMode};
pub use inbox::Inbox;
pub use local_vector::LocalInterrupt;
use local_vector::LocalVectors;
pub use msr::{ApicMode, IA32_APIC_BASE, IA32_TSC_DEADLINE, MsrError, X2APIC_MSR_FIRST, X2APIC_MSR_LAST};
pub use routing::Routing;
use timer::Timer;
use vcpu::{APIC_PAGE, ApicState, ApicView, Gpa, Nanos};

/// The timer's input clock, one tick a nanosecond. CPUID leaves that name it must say the same.
pub const APIC_TIMER_HZ: u64 = 1_000_000_000;

/// Vectors 0 to 15 cannot be delivered through the APIC.
const FIRST_LEGAL_VECTOR: u8 = 16;

/// Spurious-interrupt vector register.
mod svr {
    pub(super) const ENABLE: u32 = 1 << 8;
    pub(super) const FOCUS_DISABLED: u32 = 1 << 9;
    pub(super) const SUPPRESS_EOI_BROADCAST: u32 = 1 << 12;
    pub(super) const WRITABLE: u32 = 0xff | ENABLE | FOCUS_DISABLED | SUPPRESS_EOI_BROADCAST;
    pub(super) const RESET: u32 = 0xff;
}

/// Error status register.
mod esr {
    pub(super) const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub(super) const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub(super) const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// Interrupt command register.
mod icr {
    pub(super) const LOGICAL: u64 = 1 << 11;
    pub(super) const DELIVERY_STATUS: u64 = 1 << 12;
    pub(super) const ASSERT: u64 = 1 << 14;
    pub(super) const LEVEL: u64 = 1 << 15;
    /// The low half's defined bits but delivery status.
    pub(super) const WRITABLE: u64 = 0x000c_cfff;
}

/// Destination format register: the flat model.
const DFR_FLAT: u32 = 0xffff_ffff;
const DFR_MODEL_SHIFT: u32 = 28;

/// What a register write asks of the world outside this APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum ApicEffect {
    /// Nothing.
    None,
    /// Route this message, to the sender too when it accepts it.
    Send(ApicMessage),
    /// Tell the I/O APICs of the end of this level-triggered vector.
    EoiBroadcast(u8),
    /// The timer was changed: [`LocalApic::next_deadline`] may differ.
    TimerChanged,
    /// [`LocalApic::routing`] may differ.
    RoutingChanged,
}

/// How a local APIC is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalApicConfig {
    /// x2APIC id; its low eight bits are the xAPIC id.
    pub apic_id: u32,
    /// Whether this is the bootstrap processor.
    pub bootstrap: bool,
    /// Physical-address width that the guest's CPUID reports, in bits; at most 52.
    pub physical_address_bits: u8,
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    config: LocalApicConfig,
    base: u64,
    mode: ApicMode,
    state: ApicState,
    logical_destination: u32,
    destination_format: u32,
    spurious: u32,
    errors: u32,
    error_status: u32,
    command: u64,
    local_vectors: LocalVectors,
    timer: Timer,
    nmi: bool,
    init: bool,
    startup: Option<u8>,
}

impl LocalApic {
    /// The state after power-up: xAPIC mode at the default base, software-disabled.
    pub fn new(config: LocalApicConfig) -> Self {
        Self {
            config,
            base: msr::reset_base(config.bootstrap),
            mode: ApicMode::XApic,
            state: ApicState::default(),
            logical_destination: 0,
            destination_format: DFR_FLAT,
            spurious: svr::RESET,
            errors: 0,
            error_status: 0,
            command: 0,
            local_vectors: LocalVectors::new(),
            timer: Timer::new(),
            nmi: false,
            init: false,
            startup: None,
        }
    }

    /// What an INIT does: the registers as after power-up, but for the APIC's id, base and mode. A start-up message that
    /// is pending came after the INIT and stays.
    pub fn init(&mut self) {
        let (base, mode, startup) = (self.base, self.mode, self.startup);
        *self = Self::new(self.config);
        (self.base, self.mode, self.startup) = (base, mode, startup);
    }

    /// Puts the APIC in the state that PC firmware leaves a bootstrap processor's in ("virtual wire mode"):
    /// software-enabled, the 8259s' output on LINT0, NMI on LINT1.
    pub fn enter_virtual_wire(&mut self) {
        self.spurious |= svr::ENABLE;
        self.local_vectors.enter_virtual_wire();
    }

    /// The x2APIC id.
    #[inline]
    pub const fn apic_id(&self) -> u32 {
        self.config.apic_id
    }

    /// Where the register page is, in xAPIC mode.
    #[inline]
    pub fn mmio_base(&self) -> Option<Gpa> {
        (self.mode == ApicMode::XApic).then_some(Gpa(self.base & msr::BASE_ADDRESS))
    }

    /// How the guest reaches it.
    pub fn view(&self) -> ApicView {
        match self.mode {
            ApicMode::X2Apic => ApicView::Msrs,
            ApicMode::XApic if self.mmio_base() == Some(APIC_PAGE) => ApicView::Page,
            _ => ApicView::Hidden,
        }
    }

    /// The state of its interrupts, of which a CPU may have a copy.
    #[inline]
    pub const fn state(&self) -> &ApicState {
        &self.state
    }

    /// The same, for what a CPU has changed.
    #[inline]
    pub const fn state_mut(&mut self) -> &mut ApicState {
        &mut self.state
    }

    /// Whether the I/O APICs must hear of the ends of level-triggered interrupts.
    #[inline]
    pub const fn broadcasts_ends(&self) -> bool {
        self.spurious & svr::SUPPRESS_EOI_BROADCAST == 0
    }

    /// Whether `message` is for this APIC.
    #[inline]
    pub fn accepts(&self, message: &ApicMessage) -> bool {
        self.routing().accepts(message)
    }

    /// Takes in `message`, whoever it is addressed to. Returns whether the processor has something new to look at.
    pub fn deliver(&mut self, message: &ApicMessage) -> bool {
        match message.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.deliver_vector(message.vector, message.level_triggered)
            }
            DeliveryMode::Nmi => {
                self.note_nmi();
                true
            }
            DeliveryMode::Init if message.assert => {
                self.note_init();
                true
            }
            DeliveryMode::Startup => {
                self.note_startup(message.vector);
                true
            }
            DeliveryMode::Init | DeliveryMode::Smi | DeliveryMode::ExtInt => false,
        }
    }

    const fn note_nmi(&mut self) {
        self.nmi = true;
    }

    /// A start-up message that came before it is void.
    const fn note_init(&mut self) {
        self.init = true;
        self.startup = None;
    }

    const fn note_startup(&mut self, page: u8) {
        self.startup = Some(page);
    }

    fn deliver_vector(&mut self, vector: u8, level_triggered: bool) -> bool {
        if !self.software_enabled() {
            return false;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.note_error(esr::RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        self.state.level.set(vector, level_triggered);
        self.state.requests.set(vector, true);
        true
    }

    /// The vector to deliver to the processor now: the highest request whose class is above the processor priority.
    #[inline(always)]
    pub fn pending_vector(&self) -> Option<u8> {
        if self.mode == ApicMode::Disabled {
            return None;
        }
        self.state.pending()
    }

    /// The processor took `vector`: it goes from request to service.
    #[inline]
    pub fn acknowledge(&mut self, vector: u8) {
        self.state.acknowledge(vector);
    }

    /// A write of the EOI register. Returns the vector that the I/O APICs must hear of.
    #[inline]
    pub fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.state.in_service.highest()?;
        self.state.in_service.set(vector, false);
        (self.broadcasts_ends() && self.state.level.contains(vector)).then_some(vector)
    }

    /// Whether nobody else needs to hear of the end of the interrupt that is being served, and nothing follows from it: it is
    /// edge-triggered, it is the only one, and none waits.
    #[inline]
    pub fn end_is_private(&self) -> bool {
        let ApicState { requests, in_service, level, .. } = &self.state;
        requests.is_empty() && in_service.only().is_some_and(|vector| !level.contains(vector))
    }

    /// The processor priority register.
    #[inline]
    pub fn processor_priority(&self) -> u8 {
        self.state.processor_priority()
    }

    /// CR8: the class of the task priority.
    #[inline]
    pub const fn cr8(&self) -> u8 {
        self.state.task_priority >> 4
    }

    /// Writes CR8; bits above the lowest four are the caller's to refuse.
    #[inline]
    pub fn set_cr8(&mut self, class: u8) {
        self.state.task_priority = class << 4;
    }

    /// Takes a pending NMI.
    #[inline]
    pub fn take_nmi(&mut self) -> bool {
        core::mem::take(&mut self.nmi)
    }

    /// Whether an NMI is pending.
    #[inline]
    pub const fn nmi_pending(&self) -> bool {
        self.nmi
    }

    /// Takes a pending INIT; the caller resets the processor and calls [`Self::init`].
    #[inline]
    pub fn take_init(&mut self) -> bool {
        core::mem::take(&mut self.init)
    }

    /// Takes a pending start-up message: the page to start at. It counts only for a processor that waits for it; look
    /// for an INIT first.
    #[inline]
    pub fn take_startup(&mut self) -> Option<u8> {
        self.startup.take()
    }

    /// Whether an INIT or a start-up message is pending.
    #[inline]
    pub const fn init_or_startup_pending(&self) -> bool {
        self.init || self.startup.is_some()
    }

    /// When the timer next needs [`Self::advance`]. A masked periodic timer needs nobody.
    #[inline]
    pub fn next_deadline(&self) -> Option<Nanos> {
        if self.mode == ApicMode::Disabled || self.local_vectors.timer_sleeps() {
            return None;
        }
        self.timer.deadline()
    }

    /// Lets the timer catch up with `now`. Returns whether the processor has something new to look at.
    #[inline]
    pub fn advance(&mut self, now: Nanos) -> bool {
        self.timer.advance(now) && self.raise_local(LocalInterrupt::Timer)
    }

    /// The vector that the timer raises where it does so in the usual way: not masked, as a fixed interrupt, at an APIC that is on.
    #[inline]
    pub fn timer_vector(&self) -> Option<u8> {
        match self.local_vectors.delivery(LocalInterrupt::Timer) {
            Some((DeliveryMode::Fixed, vector)) => {
                Some(vector).filter(|vector| *vector >= FIRST_LEGAL_VECTOR && self.software_enabled())
            }
            _ => None,
        }
    }

    /// As [`Self::advance`], where somebody else has raised what the timer raises.
    #[inline]
    pub fn advance_timer_alone(&mut self, now: Nanos) {
        self.timer.advance(now);
    }

    /// IA32_TSC_DEADLINE as the guest reads it: 0 when it is disarmed or has fired.
    #[inline]
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE: `value` in the guest's TSC, which comes at `at` (`None`: beyond the clock's range).
    /// 0 disarms. A moment that has passed fires at the next [`Self::advance`]. Ignored outside TSC-deadline mode;
    /// returns whether it was taken.
    #[inline]
    pub fn write_tsc_deadline(&mut self, value: u64, at: Option<Nanos>) -> bool {
        self.timer.set_tsc_deadline(value, at)
    }

    /// Whether the 8259s' output reaches the processor: through LINT0 in ExtINT mode, or because the APIC is off.
    #[inline]
    pub fn accepts_pic(&self) -> bool {
        self.mode == ApicMode::Disabled || self.local_vectors.lint0_is_extint()
    }

    /// An interrupt of a local source, by its entry in the local vector table: for LINT0 and LINT1 a rising edge of the
    /// pin, for the others an event. Returns whether the processor has something new to look at.
    pub fn raise_local(&mut self, source: LocalInterrupt) -> bool {
        let Some((delivery, vector)) = self.local_vectors.delivery(source) else { return false };
        match delivery {
            DeliveryMode::Fixed => self.deliver_vector(vector, false),
            DeliveryMode::Nmi => {
                self.nmi = true;
                true
            }
            DeliveryMode::Init => {
                self.init = true;
                true
            }
            // The 8259s' vector is fetched by the owner, see `accepts_pic`.
            _ => false,
        }
    }

    fn software_enabled(&self) -> bool {
        self.mode != ApicMode::Disabled && self.spurious & svr::ENABLE != 0
    }

    /// Records an error and, when it is new, raises the error interrupt.
    fn note_error(&mut self, error: u32) {
        let new = self.errors & error == 0;
        self.errors |= error;
        if !new {
            return;
        }
        if let Some((DeliveryMode::Fixed, vector)) = self.local_vectors.delivery(LocalInterrupt::Error) {
            // An illegal vector in the error entry itself must not raise itself again.
            if vector >= FIRST_LEGAL_VECTOR {
                self.deliver_vector(vector, false);
            } else {
                self.errors |= esr::RECEIVE_ILLEGAL_VECTOR;
            }
        }
    }
}
