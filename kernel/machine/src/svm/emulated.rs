//! Interrupts for guests under QEMU's TCG, which has two ways to lose or double one.
//!
//! - It keeps the vector of an EVENTINJ of an external interrupt until the next #VMEXIT. Where its main loop wants the CPU's thread before
//!   that, it delivers the vector once more, as an exception: the handler interrupts itself with RFLAGS.IF clear. With counted instructions
//!   that is at each deadline of a timer.
//! - VMRUN with V_IRQ set changes the CPU's pending requests without the lock that others hold for it, so that an interrupt of the host's from another
//!   thread may be lost. With counted instructions all CPUs and timers have one thread.
//!
//! So in CPL 0 an interrupt goes in by EVENTINJ as that of an INT instruction, which is delivered by the mechanism of exceptions, and only once, and
//! differs there by nothing; in CPL 3, where a gate's DPL would forbid that, by V_IRQ.
//!
//! Source: QEMU 7.2, `target/i386/tcg/sysemu/svm_helper.c`, `accel/tcg/cpu-exec.c`.

use vcpu::{Event, cr0};

use super::code;
use super::event::WINDOW;
use super::intercept::virtual_interrupt;
use super::vcpu::{After, Before, SvmVcpu};

impl SvmVcpu {
    /// The guest takes an interrupt with this entry, as nothing holds it back.
    pub(super) fn deliver_emulated(&mut self, vector: u8) {
        let vmcb = self.vmcb();
        if vmcb.cr0() & cr0::PE == 0 || vmcb.cpl() == 0 {
            self.vmcb_mut().set_event_injection(code::as_software(vector));
            self.after |= After::AS_SOFTWARE;
        } else {
            self.deliver_by_virtual_interrupt(vector);
        }
    }

    /// A window has to wait for this.
    fn deliver_by_virtual_interrupt(&mut self, vector: u8) {
        debug_assert!(self.can_take_interrupt());
        self.open_window(false);
        let vmcb = self.vmcb_mut();
        let control = vmcb.virtual_interrupt() & !virtual_interrupt::VECTOR;
        vmcb.set_virtual_interrupt(control | WINDOW | u64::from(vector) << virtual_interrupt::V_VECTOR_SHIFT);
        self.after |= After::INTERRUPT;
    }

    /// After a run in which V_IRQ delivered an interrupt: where it did not, because the host had one of its own or the delivery
    /// met a nested fault, the next entry does.
    pub(super) fn settle_interrupt(&mut self) {
        let vmcb = self.vmcb_mut();
        let control = vmcb.virtual_interrupt();
        vmcb.set_virtual_interrupt(control & !(WINDOW | virtual_interrupt::VECTOR));
        if control & virtual_interrupt::V_IRQ != 0 {
            let vector = (control >> virtual_interrupt::V_VECTOR_SHIFT) as u8;
            self.pending.set_interrupted(Event::Interrupt { vector });
            self.before |= Before::EVENTS;
        }
        self.open_window(self.interrupt_window || self.held);
    }

    /// Whether an interrupted delivery is that of V_IRQ, whatever its kind is said to be (an exception): `settle_interrupt` sees to
    /// that.
    pub(super) fn is_repeated_anyway(&self) -> bool {
        let waits = self.vmcb().virtual_interrupt() & virtual_interrupt::V_IRQ != 0;
        self.after.contains(After::INTERRUPT) && waits
    }

    /// The interrupt whose delivery as an INT instruction's was interrupted.
    pub(super) fn interrupted_substitute(&self, delivery: u64) -> Option<Event> {
        let vector = code::interrupted_software(delivery)?;
        self.after.contains(After::AS_SOFTWARE).then_some(Event::Interrupt { vector })
    }
}
