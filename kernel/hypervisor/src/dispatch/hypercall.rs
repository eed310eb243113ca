//! VMCALL and VMMCALL by KVM's convention: the number is in RAX, the result too (Linux documentation, "Linux KVM
//! Hypercalls"). There are none yet.

use emulator::{Intercept, Mode};
use vcpu::{Backend, Host, Vcpu};

use super::{Handled, Outcome};
use crate::guest::Guest;

/// KVM_ENOSYS: no such hypercall.
const NO_SUCH_CALL: i64 = -1000;
/// KVM_EPERM: not from user mode.
const NOT_PERMITTED: i64 = -1;

pub(super) fn handle<B: Backend, H: Host>(guest: &mut Guest<'_, '_, B, H>) -> Handled {
    let next = guest.next_rip(|found| matches!(found, Intercept::Vmcall | Intercept::Vmmcall))?;
    let result = if guest.cpu.vcpu.cpl() > 0 { NOT_PERMITTED } else { NO_SUCH_CALL } as u64;
    let result = if guest.operating_mode() == Mode::Long64 { result } else { result & 0xffff_ffff };
    guest.cpu.vcpu.registers_mut().set_rax(result);
    Ok(Outcome::Advance(next))
}
