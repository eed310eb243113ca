//! MOV to and from control registers, CLTS, LMSW and SMSW (SDM vol. 2, same titles).

use arrayvec::ArrayVec;
use emulator::{Context, Fault, Intercept, Intercepted, Operand};
use vcpu::{Backend, ControlRegisterAccess, Gpa, Gpr, GuestMemory, Host, SystemRegister, cr0};

use super::{Handled, Outcome, emulate};
use crate::control::{self, Change, Refusal};
use crate::guest::AnyGuest;
use crate::processor::Attention;
use crate::ratelimit::Site;

/// LMSW writes these bits of CR0, and can set but not clear PE.
const MACHINE_STATUS: u64 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;

/// What was executed, the source's value fetched.
enum Action {
    Write { register: u8, value: u64 },
    Read { register: u8, destination: Gpr },
    ReadStatus(Operand),
}

pub(super) fn handle<B: Backend, H: Host>(
    guest: &mut AnyGuest<'_, '_, B, H>,
    access: Option<ControlRegisterAccess>,
) -> Handled {
    let (action, next) = match access {
        Some(access) => {
            let next = guest.next_rip(is_control)?;
            (action_of(guest, access), next)
        }
        None => {
            let found = guest.intercepted(is_control)?;
            (decoded_action(guest, found)?, guest.behind(found.length))
        }
    };
    match action {
        Action::Write { register, value } => {
            write(guest, register, value)?;
        }
        Action::Read { register, destination } => {
            guest.cpu.take_apic(guest.vcpu);
            let value = read(guest, register).ok_or(Outcome::UD)?;
            guest.vcpu.set_gpr(destination, value);
        }
        Action::ReadStatus(operand) => store_status(guest, operand)?,
    }
    Ok(Outcome::Advance(next))
}

fn is_control(found: Intercept) -> bool {
    matches!(
        found,
        Intercept::ReadCr { .. }
            | Intercept::WriteCr { .. }
            | Intercept::Clts
            | Intercept::Lmsw(_)
            | Intercept::Smsw(_)
    )
}

fn action_of<B: Backend, H: Host>(guest: &AnyGuest<'_, '_, B, H>, access: ControlRegisterAccess) -> Action {
    match access {
        ControlRegisterAccess::Write { register, source } => {
            Action::Write { register, value: guest.vcpu.gpr(source) & guest.register_mask() }
        }
        ControlRegisterAccess::Read { register, destination } => Action::Read { register, destination },
        ControlRegisterAccess::Clts => clear_task_switched(guest),
        ControlRegisterAccess::Lmsw { value } => load_status(guest, value),
    }
}

/// The same from the instruction itself, on a CPU that does not tell.
fn decoded_action<B: Backend, H: Host>(
    guest: &mut AnyGuest<'_, '_, B, H>,
    found: Intercepted,
) -> Result<Action, Outcome> {
    Ok(match found.intercept {
        Intercept::WriteCr { cr, gpr } => Action::Write { register: cr, value: gpr.get(guest) },
        Intercept::ReadCr { cr, gpr } => {
            Action::Read { register: cr, destination: Gpr::from_number(gpr.number) }
        }
        Intercept::Smsw(operand) => Action::ReadStatus(operand),
        Intercept::Lmsw(Operand::Register(gpr)) => load_status(guest, gpr.get(guest) as u16),
        Intercept::Lmsw(Operand::Memory(operand)) => {
            let mut bytes = [0; 2];
            let linear = operand.linear(guest, bytes.len(), emulator::Access::Read);
            let linear = linear.map_err(|exception| emulate::raise(guest, exception))?;
            let read = Context::read(guest, linear, &mut bytes);
            read.map_err(|fault| give_up(guest, fault))?;
            load_status(guest, u16::from_le_bytes(bytes))
        }
        _ => clear_task_switched(guest),
    })
}

fn clear_task_switched<B: Backend, H: Host>(guest: &AnyGuest<'_, '_, B, H>) -> Action {
    Action::Write { register: 0, value: guest.vcpu.read(SystemRegister::Cr0) & !cr0::TS }
}

fn load_status<B: Backend, H: Host>(guest: &AnyGuest<'_, '_, B, H>, value: u16) -> Action {
    let old = guest.vcpu.read(SystemRegister::Cr0);
    let new = old & !MACHINE_STATUS | u64::from(value) & MACHINE_STATUS | old & cr0::PE;
    Action::Write { register: 0, value: new }
}

/// SMSW: 16 bits to memory, as many as it is wide to a register.
fn store_status<B: Backend, H: Host>(
    guest: &mut AnyGuest<'_, '_, B, H>,
    operand: Operand,
) -> Result<(), Outcome> {
    let value = guest.vcpu.read(SystemRegister::Cr0);
    match operand {
        Operand::Register(gpr) => gpr.set(guest, value & gpr.width.mask()),
        Operand::Memory(operand) => {
            let bytes = (value as u16).to_le_bytes();
            let linear = operand.linear(guest, bytes.len(), emulator::Access::Write);
            let linear = linear.map_err(|exception| emulate::raise(guest, exception))?;
            let written = Context::write(guest, linear, &bytes);
            written.map_err(|fault| give_up(guest, fault))?;
        }
    }
    Ok(())
}

fn give_up<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>, fault: Fault) -> Outcome {
    match fault {
        Fault::Exception(exception) => emulate::raise(guest, exception),
        Fault::Retry => Outcome::Resume,
        Fault::Refused => {
            let code = guest.code();
            guest.mismatch(&code)
        }
    }
}

fn read<B: Backend, H: Host>(guest: &AnyGuest<'_, '_, B, H>, register: u8) -> Option<u64> {
    let vcpu = &guest.vcpu;
    Some(match register {
        0 => vcpu.read(SystemRegister::Cr0),
        2 => vcpu.read(SystemRegister::Cr2),
        3 => vcpu.read(SystemRegister::Cr3),
        4 => vcpu.read(SystemRegister::Cr4),
        8 => guest.cpu.apic.cr8().into(),
        _ => return None,
    })
}

fn write<B: Backend, H: Host>(
    guest: &mut AnyGuest<'_, '_, B, H>,
    register: u8,
    value: u64,
) -> Result<(), Outcome> {
    const PRIORITY_CLASS: u64 = 0xf;
    let state = guest.control_state();
    let permissions = &guest.cpu.permissions;
    let checked = match register {
        0 => control::write_cr0(&state, value),
        3 => control::write_cr3(&state, value, permissions),
        4 => control::write_cr4(&state, value, permissions),
        2 => {
            guest.vcpu.write(SystemRegister::Cr2, value);
            return Ok(());
        }
        8 if value & !PRIORITY_CLASS == 0 => {
            guest.cpu.take_apic(guest.vcpu);
            guest.cpu.apic.set_cr8(value as u8);
            guest.cpu.note_task_priority(guest.vcpu);
            guest.cpu.attention |= Attention::INTERRUPTS;
            return Ok(());
        }
        8 => Err(Refusal::Reserved { bits: value & !PRIORITY_CLASS }),
        _ => return Err(Outcome::UD),
    };
    let change = checked.map_err(|refusal| refused(guest, register, value, refusal))?;
    if change.load_pdptes {
        let root = if register == 3 { change.value } else { state.cr3 };
        load_pdptes(guest, root).ok_or_else(|| {
            refused(guest, register, value, Refusal::Combination("bad page-directory-pointer entry"))
        })?;
    }
    apply(guest, register, change, state.efer);
    Ok(())
}

fn apply<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>, register: u8, change: Change, efer: u64) {
    match register {
        0 => guest.vcpu.write(SystemRegister::Cr0, change.value),
        3 => guest.vcpu.write(SystemRegister::Cr3, change.value),
        _ => guest.cpu.write_cr4(guest.vcpu, change.value),
    }
    if change.efer != efer {
        guest.vcpu.write(SystemRegister::Efer, change.efer);
    }
}

/// Loads the four entries at `root`; `None` where one is not valid or there is no RAM.
fn load_pdptes<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>, root: u64) -> Option<()> {
    const TABLE: u64 = 0xffff_ffe0;
    let space = guest.space;
    let entries: ArrayVec<u64, 4> = (0..4)
        .map_while(|index| space.load_u64(Gpa((root & TABLE) + index * 8)).ok())
        .filter(|entry| control::pdpte_is_valid(*entry, &guest.cpu.permissions))
        .collect();
    guest.vcpu.set_pdptes(entries.into_inner().ok()?);
    Some(())
}

#[cold]
fn refused<B: Backend, H: Host>(
    guest: &mut AnyGuest<'_, '_, B, H>,
    register: u8,
    value: u64,
    refusal: Refusal,
) -> Outcome {
    if let Some(suppressed) = guest.may_log(Site::ControlRegister) {
        log::info!(
            "vm {}: MOV CR{register}, {value:#x}: #GP, {refusal:?} ({suppressed} lines left out)",
            guest.name()
        );
    }
    Outcome::GP
}

impl<B: Backend, H: Host> AnyGuest<'_, '_, B, H> {
    /// Outside 64-bit mode a move to a control register has 32 bits.
    fn register_mask(&self) -> u64 {
        if self.vcpu.is_in_64_bit_mode() { u64::MAX } else { 0xffff_ffff }
    }
}
