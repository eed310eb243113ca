//! Instructions that the emulator executes: accesses to device memory, INS and OUTS.

use emulator::{Context, Exception, Executed, Stop};
use vcpu::{Backend, Event, Host, SystemRegister, rflags};

use super::Outcome;
use crate::guest::AnyGuest;
use crate::instruction::Code;
use crate::stop::StopReason;

/// Executes the instruction at RIP.
pub(super) fn instruction<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>) -> Outcome {
    let code = guest.code();
    execute(guest, &code)
}

/// Executes this code, which is at RIP.
pub(super) fn execute<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>, code: &Code) -> Outcome {
    // One emulator serves all kinds of vCPUs.
    match emulator::execute(code.as_slice(), guest as &mut dyn Context) {
        Ok(Executed { next_rip, finished: true }) => {
            guest.cpu.mismatches = 0;
            Outcome::Advance(next_rip)
        }
        // Single-stepping stops after each iteration of a repeated instruction.
        Ok(Executed { next_rip, .. }) if guest.vcpu.rflags() & rflags::TF != 0 => Outcome::Advance(next_rip),
        Ok(Executed { next_rip, .. }) => {
            guest.vcpu.set_rip(next_rip);
            Outcome::Resume
        }
        Err(Stop::Exception(exception)) => raise(guest, exception),
        Err(Stop::Retry) => Outcome::Resume,
        Err(Stop::Refused(bytes)) => Outcome::Stop(StopReason::Refused(bytes)),
        Err(Stop::Unsupported(bytes)) => Outcome::Stop(StopReason::Unsupported(bytes)),
        Err(Stop::Truncated) => guest.mismatch(code),
    }
}

/// The guest gets an exception; a page fault's address goes to CR2.
pub(super) fn raise<B: Backend, H: Host>(
    guest: &mut AnyGuest<'_, '_, B, H>,
    exception: Exception,
) -> Outcome {
    if let Some(address) = exception.cr2 {
        guest.vcpu.write(SystemRegister::Cr2, address.0);
    }
    Outcome::Inject(Event::Exception { vector: exception.vector, error_code: exception.error_code })
}
