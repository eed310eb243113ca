//! XSETBV (SDM vol. 2, "XSETBV—Set Extended Control Register").

use emulator::Intercept;
use vcpu::{Backend, Host, SystemRegister, cr4};

use super::{Handled, Outcome};
use crate::control;
use crate::guest::AnyGuest;

const XCR0: u32 = 0;

pub(super) fn handle<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>) -> Handled {
    let next = guest.next_rip(|found| found == Intercept::Xsetbv)?;
    let vcpu = &mut guest.vcpu;
    if vcpu.read(SystemRegister::Cr4) & cr4::OSXSAVE == 0 {
        return Ok(Outcome::UD);
    }
    let (register, value) = (vcpu.registers().rcx() as u32, vcpu.registers().edx_eax());
    if register != XCR0 || vcpu.cpl() > 0 {
        return Ok(Outcome::GP);
    }
    let Ok(value) = control::write_xcr0(value, &guest.cpu.permissions) else { return Ok(Outcome::GP) };
    vcpu.write(SystemRegister::Xcr0, value);
    Ok(Outcome::Advance(next))
}
