//! CPUID (SDM vol. 2, "CPUID—CPU Identification").

use emulator::Intercept;
use vcpu::{Backend, Host, SystemRegister, Vcpu};

use super::{Handled, Outcome};
use crate::guest::Guest;

/// Extended state: its size follows XCR0.
const STATE_LEAF: u32 = 0xd;

#[inline(always)]
pub(super) fn handle<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>) -> Handled {
    let next = guest.next_rip(|found| found == Intercept::Cpuid)?;
    let leaf = guest.vcpu.registers().rax() as u32;
    if leaf == STATE_LEAF {
        // XCR0 may have changed without an exit: not every CPU intercepts XSETBV.
        guest.cpu.cpuid.set_xcr0(guest.vcpu.read(SystemRegister::Xcr0));
    }
    let registers = guest.vcpu.registers_mut();
    let result = guest.cpu.cpuid.get(leaf, registers.rcx() as u32);
    registers.set_rax(result.eax.into());
    registers.set_rbx(result.ebx.into());
    registers.set_rcx(result.ecx.into());
    registers.set_rdx(result.edx.into());
    Ok(Outcome::Advance(next))
}
