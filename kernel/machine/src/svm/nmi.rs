//! What stands between a guest and its next NMI: the handler of another, or an interrupt shadow.
//!
//! A CPU with virtual NMIs does all of it. Otherwise IRET is intercepted while a handler runs. The intercept comes before
//! the instruction, so a single step over it says when it is done; an interrupt shadow is stepped over in the same way
//! where an NMI waits for its end. The RFLAGS.TF of such a step must never reach the guest: every exit takes it back, and
//! what would store RFLAGS or enter a handler with them is intercepted for the time of the step.
//!
//! Sources: AMD APM vol. 2, "NMI Intercept", "NMI Virtualization", "Interrupt Shadows", "Single Stepping".

use vcpu::{Exit, rflags, vector};

use super::code;
use super::intercept::{intercept_1, intercept_2, virtual_interrupt};
use super::plan::NmiBlocking;
use super::vmcb::Vmcb;

/// DR6.BS.
pub(super) const DR6_SINGLE_STEP: u64 = 1 << 14;
/// Bit 0 of the interrupt-shadow field.
pub(super) const SHADOW: u64 = 1 << 0;

/// Exceptions that are intercepted while IRET is stepped over: all that it can raise. INT3 and INTO are none of them, and
/// could not be given back as they are.
const RAISED_BY_IRET: u32 = !(1 << vector::NMI | 1 << vector::BP | 1 << vector::OF);
/// The same for any instruction in a shadow, which is executed again without the step.
const RAISED_BY_ANY: u32 = !(1 << vector::NMI);
/// Instructions that store or load RFLAGS, or enter a handler.
const USE_FLAGS: u32 =
    intercept_1::PUSHF | intercept_1::POPF | intercept_1::IRET | intercept_1::SOFTWARE_INTERRUPT;

/// A handler, where the CPU does not follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Handler {
    /// None.
    None,
    /// One runs; IRET is intercepted.
    Running,
    /// Its IRET is the next instruction.
    Returning,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    Iret,
    Shadow,
}

/// A single step that is under way, and what was before it.
#[derive(Clone, Copy, Debug)]
struct Step {
    over: Over,
    rip: u64,
    rsp: u64,
    dr6: u64,
    /// The guest steps itself.
    own: bool,
    exceptions: u32,
}

/// What the end of a run with a step means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Settled {
    /// What its exit code says.
    Decode,
    /// This.
    Exit(Exit),
    /// The instruction raised an exception that is intercepted for the step only.
    Exception(u8),
}

/// NMIs of one vCPU.
#[derive(Debug)]
pub(super) struct Nmi {
    blocking: NmiBlocking,
    /// The hypervisor has one that it could not inject.
    wanted: bool,
    handler: Handler,
    step: Option<Step>,
    /// Where a step over a shadow was given up.
    given_up: Option<u64>,
}

impl Nmi {
    pub(super) const fn new(blocking: NmiBlocking) -> Self {
        Self { blocking, wanted: false, handler: Handler::None, step: None, given_up: None }
    }

    /// Forgets everything, as a reset does. No run is under way.
    pub(super) fn reset(&mut self, vmcb: &mut Vmcb) {
        *self = Self::new(self.blocking);
        vmcb.intercept(intercept_1::IRET, false);
        let pending = virtual_interrupt::V_NMI | virtual_interrupt::V_NMI_MASK;
        vmcb.set_virtual_interrupt(vmcb.virtual_interrupt() & !pending);
    }

    /// The hypervisor waits for [`Exit::NmiWindow`], or not any more.
    pub(super) const fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
        self.given_up = None;
    }

    /// Whether an entry must be prepared.
    #[inline]
    pub(super) const fn is_busy(&self) -> bool {
        self.wanted || matches!(self.handler, Handler::Returning)
    }

    /// Whether an NMI can be taken now, where nothing else is delivered. With virtual NMIs always: the CPU keeps one that
    /// must wait, and a second is lost as in a real one.
    pub(super) fn is_ready(&self, vmcb: &Vmcb) -> bool {
        matches!(self.blocking, NmiBlocking::Virtual)
            || self.handler == Handler::None && vmcb.interrupt_shadow() & SHADOW == 0
    }

    /// Leaves an NMI to the CPU, where that keeps them.
    pub(super) fn hand_over(&self, vmcb: &mut Vmcb) -> bool {
        let keeps = matches!(self.blocking, NmiBlocking::Virtual);
        if keeps {
            vmcb.set_virtual_interrupt(vmcb.virtual_interrupt() | virtual_interrupt::V_NMI);
        }
        keeps
    }

    /// An NMI is injected with the next entry.
    pub(super) fn injected(&mut self, vmcb: &mut Vmcb) {
        if matches!(self.blocking, NmiBlocking::ByIret) {
            self.handler = Handler::Running;
            vmcb.intercept(intercept_1::IRET, true);
        }
    }

    /// An exit interrupted the delivery of an NMI: its handler has not begun.
    pub(super) fn interrupted(&mut self, vmcb: &mut Vmcb) {
        self.handler = Handler::None;
        vmcb.intercept(intercept_1::IRET, false);
    }

    /// IRET was intercepted.
    pub(super) fn meet_iret(&mut self, vmcb: &mut Vmcb) {
        vmcb.intercept(intercept_1::IRET, false);
        self.handler = Handler::Returning;
    }

    /// Before an entry that delivers something or not: begins a step where one is needed. True where the window is open, so
    /// that there is no need to enter.
    pub(super) fn prepare(&mut self, vmcb: &mut Vmcb, delivers: bool) -> bool {
        match self.handler {
            Handler::Returning if delivers => {
                // Another handler comes in between and would be entered with TF set.
                self.handler = Handler::Running;
                vmcb.intercept(intercept_1::IRET, true);
            }
            Handler::Returning => self.begin(vmcb, Over::Iret),
            Handler::None if self.wanted && !delivers => {
                if vmcb.interrupt_shadow() & SHADOW == 0 {
                    return true;
                }
                // Where the guest steps itself, its own trap ends the run.
                if vmcb.rflags() & rflags::TF == 0 && self.given_up != Some(vmcb.rip()) {
                    self.begin(vmcb, Over::Shadow);
                }
            }
            _ => {}
        }
        false
    }

    /// Whether a step is under way, so that the run's end must be settled.
    pub(super) const fn is_stepping(&self) -> bool {
        self.step.is_some()
    }

    fn begin(&mut self, vmcb: &mut Vmcb, over: Over) {
        let (flags, dr6, exceptions) = (vmcb.rflags(), vmcb.dr6(), vmcb.intercept_exceptions());
        let own = flags & rflags::TF != 0;
        self.step = Some(Step { over, rip: vmcb.rip(), rsp: vmcb.rsp(), dr6, own, exceptions });
        vmcb.set_rflags(flags | rflags::TF);
        vmcb.set_dr6(dr6 & !DR6_SINGLE_STEP);
        match over {
            Over::Iret => vmcb.set_intercept_exceptions(RAISED_BY_IRET),
            Over::Shadow => {
                vmcb.set_intercept_exceptions(RAISED_BY_ANY);
                vmcb.intercept(USE_FLAGS, true);
                vmcb.set_intercept_2(vmcb.intercept_2() | intercept_2::ICEBP);
            }
        }
    }

    /// After the run: takes the step back and says what the exit with `exit_code` means.
    pub(super) fn settle(&mut self, vmcb: &mut Vmcb, exit_code: u64) -> Settled {
        let Some(step) = self.step.take() else { return Settled::Decode };
        vmcb.set_intercept_exceptions(step.exceptions);
        if step.over == Over::Shadow {
            vmcb.intercept(USE_FLAGS, false);
            vmcb.set_intercept_2(vmcb.intercept_2() & !intercept_2::ICEBP);
        }
        let trap = exit_code == code::EXCEPTION + u64::from(vector::DB);
        let moved = (vmcb.rip(), vmcb.rsp()) != (step.rip, step.rsp);
        // IRET may return to itself, with the same stack pointer; an emulator may forget DR6.BS.
        if trap && (moved || vmcb.dr6() & DR6_SINGLE_STEP != 0) {
            return self.finish(vmcb, &step);
        }
        vmcb.set_dr6(vmcb.dr6() | step.dr6 & DR6_SINGLE_STEP);
        if moved && step.over == Over::Iret {
            // It is done, and something else came before its trap. TF is the one that it has loaded.
            self.handler = Handler::None;
            return Settled::Decode;
        }
        if !step.own {
            vmcb.set_rflags(vmcb.rflags() & !rflags::TF);
        }
        match step.over {
            Over::Iret => self.unfinished_iret(vmcb, exit_code, step.exceptions),
            Over::Shadow => self.unfinished_in_shadow(vmcb, exit_code, step.exceptions),
        }
    }

    /// The instruction is done and its trap has come.
    fn finish(&mut self, vmcb: &mut Vmcb, step: &Step) -> Settled {
        match step.over {
            Over::Iret => self.handler = Handler::None,
            Over::Shadow => vmcb.set_rflags(vmcb.rflags() & !rflags::TF),
        }
        if step.own {
            vmcb.set_dr6(vmcb.dr6() | step.dr6 & DR6_SINGLE_STEP);
            return Settled::Decode;
        }
        let dr6 = vmcb.dr6() & !DR6_SINGLE_STEP | step.dr6 & DR6_SINGLE_STEP;
        if vmcb.dr6() & enabled_breakpoints(vmcb.dr7()) != 0 {
            // A breakpoint of the guest's was hit as well.
            vmcb.set_dr6(dr6);
            return Settled::Decode;
        }
        vmcb.set_dr6(step.dr6);
        Settled::Exit(if self.wanted { Exit::NmiWindow } else { Exit::HostEvent })
    }

    /// IRET that raised an exception: the handler goes on. Else it is stepped over again.
    fn unfinished_iret(&mut self, vmcb: &mut Vmcb, exit_code: u64, watched: u32) -> Settled {
        let Some(vector) = code::exception_vector(exit_code) else { return Settled::Decode };
        self.handler = Handler::Running;
        vmcb.intercept(intercept_1::IRET, true);
        if watched >> vector & 1 != 0 { Settled::Decode } else { Settled::Exception(vector) }
    }

    /// An instruction in a shadow that exits by itself is handled as always. One that cannot be stepped over runs without
    /// the step: the NMI then waits for the next exit.
    fn unfinished_in_shadow(&mut self, vmcb: &Vmcb, exit_code: u64, watched: u32) -> Settled {
        let for_the_step = match code::exception_vector(exit_code) {
            Some(vector) => watched >> vector & 1 == 0,
            None => matches!(
                exit_code,
                code::PUSHF | code::POPF | code::IRET | code::SOFTWARE_INTERRUPT | code::ICEBP
            ),
        };
        if !for_the_step {
            return Settled::Decode;
        }
        self.given_up = Some(vmcb.rip());
        Settled::Exit(Exit::HostEvent)
    }
}

/// DR6 bits of the breakpoints that DR7 enables: the CPU may set others, too.
const fn enabled_breakpoints(dr7: u64) -> u64 {
    let either = dr7 | dr7 >> 1;
    either & 1 | either >> 1 & 2 | either >> 2 & 4 | either >> 3 & 8
}

#[cfg(test)]
mod tests;
