//! From an exit to an outcome. Handlers change registers and devices; RIP, events and counters are changed by the run loop
//! alone, when it applies the outcome.
//!
//! Sources: Intel SDM vol. 3, "VM Exits"; AMD APM vol. 2, "Secure Virtual Machine". Each handler names its own.

mod control_register;
mod cpuid;
pub(crate) mod doorbell;
mod emulate;
pub(crate) mod familiar;
mod hypercall;
mod io;
mod model_specific;
mod nested_fault;
mod paravirtual;
mod simple_move;
mod xsetbv;

use devices::ApicEffect;
use trace::Kind;
use vcpu::{Backend, Event, Exit, Gpa, Host, Vcpu, rflags};

use crate::counters::ExitReason;
use crate::guest::{AnyGuest, Guest};
use crate::local_apic;
use crate::processor::{Activity, Attention};
use crate::ratelimit::Site;
use crate::stop::StopReason;
use emulator::Intercept;

/// What becomes of the guest after an exit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Outcome {
    /// It goes on where it is.
    Resume,
    /// The instruction is done; it goes on here.
    Advance(u64),
    /// The instruction is done, and the guest has no use for its time now, but that vCPU of its VM may have.
    GiveWay {
        /// Where it goes on.
        next: u64,
        /// Whom it waits for, where it says so.
        to: Option<usize>,
    },
    /// It gets this event.
    Inject(Event),
    /// It goes on where it is, with memory there that it had given back.
    BringBack(Gpa),
    /// The VM ends.
    Stop(StopReason),
}

impl Outcome {
    /// #GP(0).
    pub(crate) const GP: Self = Self::Inject(Event::GENERAL_PROTECTION);
    /// #UD.
    pub(crate) const UD: Self = Self::Inject(Event::UNDEFINED);
}

/// A handler's result: both are outcomes, so that `?` ends a handler early.
pub(crate) type Handled = Result<Outcome, Outcome>;

/// Lets the guest go on where that is all there is to do; else what there is.
#[inline(always)]
fn settle<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    handled: Handled,
) -> Option<Outcome> {
    match handled {
        Ok(Outcome::Advance(next)) => {
            guest.vcpu.advance(next);
            None
        }
        Ok(Outcome::Resume) => None,
        Ok(outcome) | Err(outcome) => Some(outcome),
    }
}

/// Handles an exit. What is left to do, where the guest does not just go on.
#[inline(always)]
pub(crate) fn dispatch<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    exit: Exit,
) -> Option<Outcome> {
    match exit {
        Exit::Cpuid => {
            guest.cpu.counters.count(ExitReason::Cpuid);
            let handled = cpuid::handle(guest);
            settle(guest, handled)
        }
        Exit::WriteMsr => {
            guest.cpu.counters.count(ExitReason::WriteMsr);
            let handled = model_specific::write(guest);
            settle(guest, handled)
        }
        Exit::ReadMsr => {
            guest.cpu.counters.count(ExitReason::ReadMsr);
            let handled = model_specific::read(guest);
            settle(guest, handled)
        }
        Exit::Io(access) if !access.string() => {
            guest.cpu.counters.count(ExitReason::Io);
            let handled = io::handle(guest, access);
            settle(guest, handled)
        }
        Exit::NestedFault(fault) => {
            guest.cpu.counters.count(ExitReason::NestedFault);
            let handled = nested_fault::handle(guest, fault);
            settle(guest, handled)
        }
        Exit::Hypercall => {
            guest.cpu.counters.count(ExitReason::Hypercall);
            let handled = hypercall::handle(guest);
            settle(guest, handled)
        }
        Exit::Halt => {
            guest.cpu.counters.count(ExitReason::Halt);
            let handled = halt(guest);
            settle(guest, handled)
        }
        Exit::HostEvent => {
            guest.cpu.counters.count(ExitReason::HostEvent);
            guest.cpu.attention |= Attention::all();
            None
        }
        Exit::InterruptWindow => {
            guest.cpu.counters.count(ExitReason::InterruptWindow);
            guest.cpu.attention |= Attention::INTERRUPTS;
            None
        }
        Exit::ApicWrite { index } => {
            guest.cpu.counters.count(ExitReason::ApicWrite);
            let handled = local_apic::written(guest, index);
            settle(guest, handled)
        }
        Exit::TaskPriority => {
            guest.cpu.counters.count(ExitReason::TaskPriority);
            guest.cpu.attention |= Attention::INTERRUPTS;
            None
        }
        Exit::ApicEoi { vector } => {
            guest.cpu.counters.count(ExitReason::ApicEoi);
            guest.wiring().apply(ApicEffect::EoiBroadcast(vector));
            None
        }
        _ => {
            let handled = seldom(&mut guest.any(), exit);
            settle(guest, handled)
        }
    }
}

/// Exits that no guest makes often.
#[cold]
fn seldom<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>, exit: Exit) -> Handled {
    let (reason, handled) = match exit {
        Exit::NmiWindow => {
            guest.cpu.attention |= Attention::INTERRUPTS;
            (ExitReason::NmiWindow, Ok(Outcome::Resume))
        }
        Exit::ControlRegister(access) => {
            (ExitReason::ControlRegister, control_register::handle(guest, access))
        }
        Exit::Io(_) => (ExitReason::StringIo, Ok(emulate::instruction(guest))),
        Exit::Xsetbv => (ExitReason::Xsetbv, xsetbv::handle(guest)),
        Exit::CacheControl => (ExitReason::CacheControl, cache_control(guest)),
        Exit::Pause => (ExitReason::Pause, pause(guest)),
        Exit::ReadPmc => (ExitReason::ReadPmc, Ok(Outcome::GP)),
        Exit::Undefined => (ExitReason::Undefined, Ok(undefined(guest))),
        Exit::Exception { vector, error_code } => {
            (ExitReason::Exception, Ok(Outcome::Inject(Event::Exception { vector, error_code })))
        }
        Exit::TripleFault => (ExitReason::TripleFault, Ok(Outcome::Stop(StopReason::TripleFault))),
        Exit::TaskSwitch => (ExitReason::TaskSwitch, Ok(Outcome::Stop(StopReason::TaskSwitch))),
        Exit::EntryFailure(failure) => {
            (ExitReason::EntryFailure, Ok(Outcome::Stop(StopReason::EntryFailure(failure))))
        }
        Exit::Unknown { code, qualification } => {
            (ExitReason::Unknown, Ok(Outcome::Stop(StopReason::UnknownExit { code, qualification })))
        }
        // The others are handled by `dispatch`.
        _ => return Ok(Outcome::Resume),
    };
    guest.cpu.counters.count(reason);
    guest.host.trace(Kind::Exit, guest.subject(), reason as u64, guest.vcpu.rip());
    handled
}

/// HLT (SDM vol. 2, "HLT—Halt").
fn halt<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>) -> Handled {
    let next = guest.next_rip(|found| found == Intercept::Hlt)?;
    let masked = guest.vcpu.rflags() & rflags::IF == 0;
    guest.cpu.activity = if masked { Activity::HaltedMasked } else { Activity::Halted };
    guest.cpu.attention |= Attention::INTERRUPTS | Attention::TIME;
    Ok(Outcome::Advance(next))
}

/// INVD and WBINVD: caches are coherent, and what the guest has in them must not be lost.
fn cache_control<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>) -> Handled {
    guest.next_rip(|found| matches!(found, Intercept::Invd | Intercept::Wbinvd)).map(Outcome::Advance)
}

fn pause<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>) -> Handled {
    guest.next_rip(|found| found == Intercept::Pause).map(|next| Outcome::GiveWay { next, to: None })
}

fn undefined<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>) -> Outcome {
    if let Some(suppressed) = guest.may_log(Site::Undefined) {
        let rip = guest.vcpu.rip();
        log::info!(
            "vm {}: #UD for an instruction it has not got, at {rip:#x} ({suppressed} lines left out)",
            guest.name()
        );
    }
    Outcome::UD
}
