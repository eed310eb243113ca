//! What goes into a guest at an entry, the windows that are waited for, and what an exit says of a delivery that it
//! interrupted.
//!
//! Sources: AMD APM vol. 2, "Event Injection", "Virtual Interrupts", "EXITINTINFO".

use vcpu::{Event, Exit, SystemRegister, Vcpu, cr0, rflags, vector};

use super::code;
use super::intercept::{intercept_1, virtual_interrupt};
use super::nmi::{Nmi, SHADOW};
use super::plan::Injection;
use super::vcpu::{After, Before, SvmVcpu};

/// DR7.GD.
const DR7_GENERAL_DETECT: u64 = 1 << 13;

/// V_IRQ with a priority that nothing holds back.
pub(super) const WINDOW: u64 =
    virtual_interrupt::V_IRQ | virtual_interrupt::V_PRIORITY_HIGHEST | virtual_interrupt::V_IGNORE_TPR;

impl SvmVcpu {
    pub(super) fn prepare_nmi(&mut self, delivers: bool) -> bool {
        let open = self.with_nmi(|nmi, vmcb| nmi.prepare(vmcb, delivers));
        self.after.set(After::STEP, self.nmi.is_stepping());
        open
    }

    /// An emulator without next-RIP save (QEMU) does not load the interrupt shadow at VMRUN: its window would open
    /// between STI and HLT, and the guest would halt behind the interrupt it waits for. There the window stays
    /// closed for one entry, so that the next exit, at the latest the host timer's, opens it.
    pub(super) fn hold_window_in_shadow(&mut self) {
        let interrupted = self.before.contains(Before::SHADOW);
        self.before.remove(Before::SHADOW);
        if self.shared.plan.next_rip || self.vmcb().interrupt_shadow() & SHADOW == 0 {
            return;
        }
        if interrupted {
            self.shadow.enter(self.vmcb().rip());
            self.after |= After::SHADOW;
        }
        let vmcb = self.vmcb_mut();
        let wanted = vmcb.virtual_interrupt();
        if wanted & virtual_interrupt::V_IRQ != 0 {
            vmcb.set_virtual_interrupt(wanted & !virtual_interrupt::V_IRQ);
            self.after |= After::WINDOW_HELD;
        }
    }

    /// The host has interrupted the guest.
    #[inline]
    pub(super) fn note_shadow(&mut self) {
        if !self.shared.plan.next_rip && self.vmcb().interrupt_shadow() & SHADOW != 0 {
            self.before |= Before::SHADOW;
        }
    }

    /// After an entry in a shadow that was not loaded: an exit before the guest has done anything says that there is none.
    #[cold]
    pub(super) fn keep_shadow(&mut self, exit_code: u64) {
        let rip = self.vmcb().rip();
        if self.shadow.is_kept(exit_code, rip) {
            self.vmcb_mut().set_interrupt_shadow(SHADOW);
        }
    }

    /// An exit interrupted a delivery.
    #[cold]
    pub(super) fn keep_interrupted(&mut self, delivery: u64) {
        if self.is_repeated_anyway() {
            return;
        }
        let substitute = self.interrupted_substitute(delivery);
        let Some(event) = substitute.or(code::interrupted(delivery)) else { return };
        self.pending.set_interrupted(event);
        self.before |= Before::EVENTS;
        match event {
            Event::Nmi => self.with_nmi(Nmi::interrupted),
            Event::Interrupt { vector } => self.note_interrupted_offer(vector),
            _ => {}
        }
    }

    /// Makes an event pending. A CPU with virtual NMIs keeps them itself.
    #[inline]
    pub(super) fn request(&mut self, event: Event) {
        if matches!(event, Event::Nmi) && self.with_nmi(|nmi, vmcb| nmi.hand_over(vmcb)) {
            return;
        }
        self.pending.request(event);
        self.before |= Before::EVENTS;
    }

    pub(super) fn deliver(&mut self) {
        let Some(event) = self.pending.take() else { return };
        let protected = self.vmcb().cr0() & cr0::PE != 0;
        match event {
            Event::Interrupt { .. } if self.held => {
                if !self.can_take_interrupt() {
                    self.pending.set_interrupted(event);
                    self.open_window(true);
                    return;
                }
                self.held = false;
                self.open_window(self.interrupt_window);
            }
            Event::Nmi => {
                self.held = false;
                self.with_nmi(Nmi::injected);
            }
            _ => {
                self.held = self.pending.any();
                if let Event::Exception { vector: vector::DB, .. } = event {
                    // As delivery does: a handler that uses debug registers must not meet itself.
                    let vmcb = self.vmcb_mut();
                    vmcb.set_dr7(vmcb.dr7() & !DR7_GENERAL_DETECT);
                }
            }
        }
        match event {
            Event::Interrupt { vector } if self.shared.plan.injection == Injection::Emulated => {
                self.deliver_emulated(vector);
            }
            _ => self.vmcb_mut().set_event_injection(code::injection(event, protected)),
        }
    }

    /// RFLAGS.IF is set and nothing shadows it.
    #[inline]
    pub(super) fn can_take_interrupt(&self) -> bool {
        let vmcb = self.vmcb();
        vmcb.rflags() & rflags::IF != 0 && vmcb.interrupt_shadow() & SHADOW == 0
    }

    /// An exception that was intercepted for a single step goes to the guest as it is.
    #[cold]
    pub(super) fn give_back(&mut self, vector: u8) -> Exit {
        if vector == vector::PF {
            let address = self.vmcb().exit_info_2();
            self.write(SystemRegister::Cr2, address);
        }
        let error_code = vector::has_error_code(vector).then(|| self.vmcb().exit_info_1() as u32);
        Exit::Exception { vector, error_code }
    }

    /// Asks for the interrupt window, or calls it off.
    pub(super) fn want_interrupt_window(&mut self, wanted: bool) {
        self.interrupt_window = wanted;
        self.note_windows();
        self.open_window(wanted || self.held);
    }

    /// Asks for the NMI window, or calls it off.
    pub(super) fn want_nmi_window(&mut self, wanted: bool) {
        self.nmi.want(wanted);
        self.note_windows();
    }

    pub(super) fn note_windows(&mut self) {
        self.before.set(Before::WINDOWS, self.interrupt_window || self.nmi.is_busy());
    }

    /// Forgets windows and events, as a reset does.
    pub(super) fn forget_events(&mut self) {
        self.pending.clear();
        self.held = false;
        self.before = self.before & Before::UNLOADED | Before::FLUSH;
        self.with_nmi(Nmi::reset);
        self.want_interrupt_window(false);
    }

    /// V_IRQ with the highest priority makes the CPU exit when an interrupt could be taken; its vector is
    /// never delivered.
    pub(super) fn open_window(&mut self, wanted: bool) {
        if wanted == (self.vmcb().intercept_1() & intercept_1::VINTR != 0) {
            return;
        }
        // V_IRQ has but one use at a time.
        self.offered = None;
        let vmcb = self.vmcb_mut();
        vmcb.intercept(intercept_1::VINTR, wanted);
        let control = vmcb.virtual_interrupt();
        vmcb.set_virtual_interrupt(if wanted { control | WINDOW } else { control & !WINDOW });
    }
}
