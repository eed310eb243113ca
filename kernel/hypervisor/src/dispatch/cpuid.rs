//! CPUID (SDM vol. 2, "CPUID—CPU Identification").

use emulator::Intercept;
use vcpu::{Backend, Host, Vcpu};

use super::{Handled, Outcome};
use crate::guest::Guest;

#[inline]
pub(super) fn handle<B: Backend, H: Host>(guest: &mut Guest<'_, '_, B, H>) -> Handled {
    let next = guest.next_rip(|found| found == Intercept::Cpuid)?;
    let registers = guest.cpu.vcpu.registers_mut();
    let result = guest.cpu.cpuid.get(registers.rax() as u32, registers.rcx() as u32);
    registers.set_rax(result.eax.into());
    registers.set_rbx(result.ebx.into());
    registers.set_rcx(result.ecx.into());
    registers.set_rdx(result.edx.into());
    Ok(Outcome::Advance(next))
}
