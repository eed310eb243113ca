//! The instruction behind an exit: where it ends, and which it is where the CPU does not tell.

use emulator::{Intercept, Intercepted, MAX_INSTRUCTION_LENGTH};
use vcpu::{Backend, Gva, Host, SegmentName, Vcpu};

use crate::dispatch::Outcome;
use crate::guest::Guest;
use crate::stop::StopReason;

/// Bytes of code at RIP.
pub(crate) struct Code {
    bytes: [u8; MAX_INSTRUCTION_LENGTH],
    length: usize,
}

impl Code {
    /// The bytes that could be read.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// Exits in a row with another instruction than expected before the VM is stopped.
const MISMATCHES: u8 = 16;

impl<B: Backend, V: Vcpu + ?Sized, H: Host> Guest<'_, '_, B, V, H> {
    /// RIP as a linear address.
    pub(crate) fn linear_rip(&self) -> Gva {
        let rip = self.vcpu.rip();
        if self.vcpu.is_in_64_bit_mode() {
            return Gva(rip);
        }
        let base = self.vcpu.segment(SegmentName::Cs).base;
        Gva(base.wrapping_add(rip) & 0xffff_ffff)
    }

    /// The code at RIP: from the CPU where it gives it, else from guest memory. Nothing where it cannot be read, which
    /// only a change of the guest's page tables since the exit can bring about.
    pub(crate) fn code(&self) -> Code {
        let mut bytes = [0; MAX_INSTRUCTION_LENGTH];
        let mut length = self.vcpu.instruction_bytes(&mut bytes);
        if length == 0 {
            length = self.read_code(self.linear_rip(), &mut bytes).unwrap_or(0);
        }
        Code { bytes, length: length.min(MAX_INSTRUCTION_LENGTH) }
    }

    /// Where the instruction ends that `expected` recognises. An error says what to do instead: run it again, or stop.
    #[inline(always)]
    pub(crate) fn next_rip(&mut self, expected: fn(Intercept) -> bool) -> Result<u64, Outcome> {
        match self.vcpu.next_rip() {
            Some(next) => Ok(next),
            None => self.intercepted(expected).map(|found| self.behind(found.length)),
        }
    }

    /// The instruction at RIP, where `expected` recognises it.
    #[cold]
    pub(crate) fn intercepted(&mut self, expected: fn(Intercept) -> bool) -> Result<Intercepted, Outcome> {
        let code = self.code();
        match emulator::decode_intercept(code.as_slice(), self.operating_mode()) {
            Some(found) if expected(found.intercept) => {
                self.cpu.mismatches = 0;
                Ok(found)
            }
            _ => Err(self.mismatch(&code)),
        }
    }

    /// The address `length` bytes behind RIP.
    pub(crate) fn behind(&self, length: u8) -> u64 {
        let next = self.vcpu.rip().wrapping_add(length.into());
        if self.vcpu.is_in_64_bit_mode() { next } else { next & 0xffff_ffff }
    }

    /// What to do where the instruction at RIP is not the one that the CPU left for: the guest has changed its code or its
    /// page tables, so it is run again, but not for ever.
    #[cold]
    pub(crate) fn mismatch(&mut self, code: &Code) -> Outcome {
        self.cpu.mismatches = self.cpu.mismatches.saturating_add(1);
        if self.cpu.mismatches < MISMATCHES {
            return Outcome::Resume;
        }
        let reason =
            if code.as_slice().is_empty() { StopReason::NoCode } else { StopReason::WrongInstruction };
        Outcome::Stop(reason)
    }
}
