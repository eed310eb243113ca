//! IN and OUT (SDM vol. 2, "IN—Input From Port", "OUT—Output to Port"). INS and OUTS go through the emulator.

use devices::Width;
use vcpu::{Backend, Host, IoExit, Vcpu};

use super::{Handled, Outcome};
use crate::guest::Guest;

#[inline(always)]
pub(super) fn handle<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    access: IoExit,
) -> Handled {
    let next = match guest.vcpu.next_rip() {
        Some(next) => next,
        None => behind_port_instruction(guest)?,
    };
    let (width, mask) = match access.size() {
        1 => (Width::Byte, 0xff),
        2 => (Width::Word, 0xffff),
        _ => (Width::Dword, 0xffff_ffff),
    };
    let rax = guest.vcpu.registers().rax();
    if access.input() {
        let value = u64::from(guest.port_read(access.port(), width)) & mask;
        // A 32-bit result clears the upper half, smaller ones keep the rest.
        let keep = if width == Width::Dword { 0 } else { rax & !mask };
        guest.vcpu.registers_mut().set_rax(keep | value);
    } else {
        guest.port_write(access.port(), width, (rax & mask) as u32);
    }
    Ok(Outcome::Advance(next))
}

/// Where IN or OUT ends, on a CPU that does not tell.
#[cold]
fn behind_port_instruction<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
) -> Result<u64, Outcome> {
    const OPCODES: [u8; 8] = [0xe4, 0xe5, 0xe6, 0xe7, 0xec, 0xed, 0xee, 0xef];
    let code = guest.code();
    let length = emulator::length(code.as_slice(), guest.operating_mode());
    // The opcode is the last byte, or the last but one before an immediate port.
    let is_port = |length: u8| {
        let end = usize::from(length);
        [end.wrapping_sub(1), end.wrapping_sub(2)]
            .iter()
            .any(|at| code.as_slice().get(*at).is_some_and(|byte| OPCODES.contains(byte)))
    };
    match length.filter(|length| is_port(*length)) {
        Some(length) => Ok(guest.behind(length)),
        None => Err(guest.mismatch(&code)),
    }
}
