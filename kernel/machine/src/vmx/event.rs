//! What goes into a guest at an entry, and what an exit says of exceptions and interrupted deliveries.
//!
//! Sources: Intel SDM vol. 3, "Event Injection", "Information for VM Exits That Occur During Event Delivery"
//! and "Checks on Guest Non-Register State".

use vcpu::{Event, Exit, vector};

use super::capability::processor;
use super::field;
use super::reason::{self, interruption};
use super::vcpu::{VmxVcpu, blocking};
use crate::{cpu, watchdog};

/// Pending debug exceptions: single step.
const PENDING_SINGLE_STEP: u64 = 1 << 14;

impl VmxVcpu {
    /// Hands the next pending event to the entry.
    pub(super) fn deliver(&mut self) {
        let Some(event) = self.pending.take() else { return };
        match event {
            Event::Interrupt { .. } if self.held => {
                if !self.can_take_interrupt() {
                    self.pending.set_interrupted(event);
                    self.control(processor::INTERRUPT_WINDOW_EXITING, true);
                    return;
                }
                self.held = false;
                self.control(processor::INTERRUPT_WINDOW_EXITING, self.interrupt_window);
            }
            Event::Nmi => {
                // An NMI whose delivery was interrupted blocks itself. A shadow may have come since.
                self.held = false;
                self.unblock(blocking::BY_NMI | blocking::BY_STI | blocking::BY_MOV_SS);
            }
            _ => self.held = self.pending.any(),
        }
        let protected = self.get(field::GUEST_CR0) & vcpu::cr0::PE != 0;
        let encoded = reason::injection(event, protected);
        self.set(field::ENTRY_EXCEPTION_ERROR_CODE, encoded.error_code);
        self.set(field::ENTRY_INSTRUCTION_LENGTH, encoded.length);
        self.set(field::ENTRY_INTERRUPTION_INFO, encoded.info);
    }

    /// RFLAGS.IF is set and nothing shadows it.
    #[inline]
    pub(super) fn can_take_interrupt(&self) -> bool {
        self.get(field::GUEST_RFLAGS) & vcpu::rflags::IF != 0
            && self.get(field::GUEST_INTERRUPTIBILITY) & (blocking::BY_STI | blocking::BY_MOV_SS) == 0
    }

    /// Ends blocking of these kinds.
    #[inline(always)]
    pub(super) fn unblock(&mut self, kinds: u32) {
        let blocked = self.get(field::GUEST_INTERRUPTIBILITY);
        if blocked & kinds != 0 {
            self.set(field::GUEST_INTERRUPTIBILITY, blocked & !kinds);
        }
    }

    /// What the end of an instruction does to RFLAGS: the trap of TF becomes pending, RF ends.
    #[inline(always)]
    pub(super) fn end_instruction(&mut self) {
        use vcpu::rflags::{RF, TF};
        let flags = self.get(field::GUEST_RFLAGS);
        if flags & (TF | RF) != 0 {
            self.end_watched_instruction(flags);
        }
    }

    #[cold]
    fn end_watched_instruction(&mut self, flags: u64) {
        use vcpu::rflags::{RF, TF};
        self.set(field::GUEST_RFLAGS, flags & !RF);
        if flags & TF != 0 {
            let pending = self.get(field::GUEST_PENDING_DEBUG);
            self.set(field::GUEST_PENDING_DEBUG, pending | PENDING_SINGLE_STEP);
        }
    }

    /// Keeps the event whose delivery this exit interrupted, and NMI blocking that an interrupted IRET
    /// ended too early.
    #[inline(always)]
    pub(super) fn keep_interrupted(&mut self) {
        let info = self.get(field::IDT_VECTORING_INFO);
        let unblocked = self.reason == reason::EPT_VIOLATION
            && self.get(field::EXIT_QUALIFICATION) & reason::NMI_UNBLOCKED_BY_IRET != 0;
        if info & interruption::VALID != 0 || unblocked {
            self.keep_interrupted_by(info);
        }
    }

    #[cold]
    fn keep_interrupted_by(&mut self, info: u32) {
        if info & interruption::VALID != 0 {
            let error_code = self.get(field::IDT_VECTORING_ERROR_CODE);
            let length = self.get(field::EXIT_INSTRUCTION_LENGTH);
            if let Some(event) = reason::interrupted(info, error_code, length) {
                self.pending.set_interrupted(event);
            }
        } else {
            let blocked = self.get(field::GUEST_INTERRUPTIBILITY);
            self.set(field::GUEST_INTERRUPTIBILITY, blocked | blocking::BY_NMI);
        }
    }

    /// An exit by an exception or NMI.
    pub(super) fn exception(&mut self) -> Exit {
        let info = self.get(field::EXIT_INTERRUPTION_INFO);
        if interruption::kind(info) == interruption::NMI {
            watchdog::left_guest();
            cpu::invoke_nmi();
            return Exit::HostEvent;
        }
        match info as u8 {
            vector::MC => {
                cpu::invoke_machine_check();
                Exit::HostEvent
            }
            vector::DB => {
                if interruption::kind(info) == interruption::PRIVILEGED_SOFTWARE_EXCEPTION {
                    self.step_over_int1();
                } else {
                    self.note_debug_exception();
                }
                Exit::Exception { vector: vector::DB, error_code: None }
            }
            vector => {
                let error_code = (info & interruption::ERROR_CODE != 0)
                    .then(|| self.get(field::EXIT_INTERRUPTION_ERROR_CODE));
                Exit::Exception { vector, error_code }
            }
        }
    }

    /// The #DB of INT1 is a trap, but the exit leaves RIP at the instruction.
    fn step_over_int1(&mut self) {
        let next = self.get(field::GUEST_RIP).wrapping_add(self.get(field::EXIT_INSTRUCTION_LENGTH).into());
        self.set(field::GUEST_RIP, next);
        self.unblock(blocking::BY_STI | blocking::BY_MOV_SS);
    }

    /// What delivery of #DB does to DR6 and DR7 and what a later entry checks (SDM vol. 3, "Debug
    /// Exceptions" and "Checks on Guest Non-Register State").
    fn note_debug_exception(&mut self) {
        /// B0 to B3, BD, BS, BT.
        const CONDITIONS: u64 = 0xe00f;
        /// DR7.GD.
        const GENERAL_DETECT: u64 = 1 << 13;
        let cause = self.get(field::EXIT_QUALIFICATION) & CONDITIONS;
        let dr6 = self.extended.dr6();
        self.extended.set_dr6(dr6 & !0xf | cause);
        let dr7 = self.get(field::GUEST_DR7);
        self.set(field::GUEST_DR7, dr7 & !GENERAL_DETECT);
        let shadow = self.get(field::GUEST_INTERRUPTIBILITY) & (blocking::BY_STI | blocking::BY_MOV_SS);
        if shadow != 0 && self.get(field::GUEST_RFLAGS) & vcpu::rflags::TF != 0 {
            let pending = self.get(field::GUEST_PENDING_DEBUG);
            self.set(field::GUEST_PENDING_DEBUG, pending | PENDING_SINGLE_STEP);
        }
    }
}
