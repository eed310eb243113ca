//! RDMSR and WRMSR (SDM vol. 2, same titles). Deny by default: what is not named is #GP(0), counted and logged.

use devices::lapic::MsrError;
use devices::{ApicEffect, ApicMode, LocalApic};
use emulator::Intercept;
use vcpu::{Backend, Host, SystemRegister, Vcpu};

use super::{Handled, Outcome, paravirtual};
use crate::control;
use crate::guest::{AnyGuest, Guest};
use crate::local_apic;
use crate::msr::{Denied, is_canonical, is_pat, number};
use crate::processor::Attention;
use crate::ratelimit::Site;

impl From<MsrError> for Denied {
    fn from(_: MsrError) -> Self {
        Self
    }
}

/// RDMSR.
#[inline(always)]
pub(super) fn read<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>) -> Handled {
    let next = guest.next_rip(|found| found == Intercept::Rdmsr)?;
    let msr = guest.vcpu.registers().rcx() as u32;
    match value_of(guest, msr) {
        Ok(value) => {
            guest.vcpu.registers_mut().set_edx_eax(value);
            Ok(Outcome::Advance(next))
        }
        Err(Denied) => Ok(denied(&mut guest.any(), Site::ReadMsr, msr, 0)),
    }
}

/// WRMSR.
#[inline(always)]
pub(super) fn write<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>) -> Handled {
    let next = guest.next_rip(|found| found == Intercept::Wrmsr)?;
    let registers = guest.vcpu.registers();
    let (msr, value) = (registers.rcx() as u32, registers.edx_eax());
    match set(guest, msr, value) {
        Ok(()) => Ok(Outcome::Advance(next)),
        Err(Denied) => Ok(denied(&mut guest.any(), Site::WriteMsr, msr, value)),
    }
}

#[cold]
fn denied<B: Backend, H: Host>(
    guest: &mut AnyGuest<'_, '_, B, H>,
    site: Site,
    msr: u32,
    value: u64,
) -> Outcome {
    guest.cpu.counters.denied_msrs += 1;
    if let Some(suppressed) = guest.may_log(site) {
        let name = guest.name();
        if site == Site::ReadMsr {
            log::info!("vm {name}: RDMSR {msr:#x} denied ({suppressed} lines left out)");
        } else {
            log::info!("vm {name}: WRMSR {msr:#x} = {value:#x} denied ({suppressed} lines left out)");
        }
    }
    Outcome::GP
}

fn value_of<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    msr: u32,
) -> Result<u64, Denied> {
    let (vcpu, cpu) = (&mut *guest.vcpu, &mut *guest.cpu);
    Ok(match msr {
        number::X2APIC_FIRST..=number::X2APIC_LAST => {
            cpu.take_apic(vcpu);
            cpu.apic.msr_read(msr, guest.host.now())?
        }
        number::TSC_DEADLINE => cpu.apic.tsc_deadline(),
        number::TSC => cpu.clock.guest_tsc(guest.host.tsc()),
        number::TSC_ADJUST => cpu.clock.adjust(),
        number::APIC_BASE => cpu.apic.base(),
        number::KVM_FIRST..=number::KVM_LAST => paravirtual::read(cpu, msr)?,
        _ => match kept_by_backend(msr) {
            Some(SystemRegister::TscAux) if !cpu.permissions.tsc_aux => return Err(Denied),
            Some(register) => vcpu.read(register),
            None => match cpu.msrs.read(msr, &cpu.permissions) {
                Ok(value) => value,
                Err(Denied) => read_speculation(vcpu, msr)?,
            },
        },
    })
}

fn set<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    msr: u32,
    value: u64,
) -> Result<(), Denied> {
    match msr {
        number::TSC_DEADLINE => guest.cpu.write_tsc_deadline(value, guest.host),
        number::X2APIC_FIRST..=number::X2APIC_LAST => {
            if guest.cpu.apic.is_end(msr, value) {
                guest.cpu.take_apic(guest.vcpu);
                if let Some(vector) = guest.cpu.apic.end_of_interrupt() {
                    guest.apply(ApicEffect::EoiBroadcast(vector));
                }
                guest.cpu.attention |= Attention::INTERRUPTS;
                return Ok(());
            }
            if guest.cpu.apic.is_self_interrupt(msr, value) {
                guest.cpu.take_apic(guest.vcpu);
                guest.cpu.apic.interrupt_itself(value as u8);
                guest.cpu.attention |= Attention::INTERRUPTS;
                return Ok(());
            }
            let now = guest.host.now();
            if LocalApic::write_is_for_others(msr, value) {
                let effect = guest.cpu.apic.msr_write(msr, value, now)?;
                guest.wiring().apply(effect);
            } else {
                guest.cpu.take_apic(guest.vcpu);
                let effect = guest.cpu.apic.msr_write(msr, value, now)?;
                guest.apply(effect);
                let index = (msr - number::X2APIC_FIRST) as u16;
                guest.cpu.show_written(guest.vcpu, index);
                if index == local_apic::TASK_PRIORITY {
                    guest.cpu.note_task_priority(guest.vcpu);
                }
            }
        }
        number::TSC => {
            guest.cpu.clock.write_tsc(value, guest.host.tsc());
            guest.cpu.clock_changed(guest.vcpu, guest.host, guest.space);
        }
        number::TSC_ADJUST => {
            guest.cpu.clock.write_adjust(value);
            guest.cpu.clock_changed(guest.vcpu, guest.host, guest.space);
        }
        number::APIC_BASE => {
            guest.cpu.take_apic(guest.vcpu);
            guest.cpu.apic.write_base(value)?;
            guest.cpu.update_apic_view(guest.vcpu);
            guest.cpu.cpuid.set_apic(guest.cpu.apic.mode() != ApicMode::Disabled);
            guest.cpu.attention |= Attention::INTERRUPTS | Attention::TIME;
            guest.wiring().apply(ApicEffect::RoutingChanged);
        }
        number::KVM_FIRST..=number::KVM_LAST => return paravirtual::write(&mut guest.any(), msr, value),
        number::EFER => {
            let state = guest.control_state();
            let value = control::write_efer(&state, value, &guest.cpu.permissions).map_err(|_| Denied)?;
            guest.vcpu.write(SystemRegister::Efer, value);
        }
        _ => match kept_by_backend(msr) {
            Some(register) => return set_kept(guest, register, value),
            None => {
                let written = guest.cpu.msrs.write(msr, value, &guest.cpu.permissions);
                return written.or_else(|Denied| write_speculation(guest.vcpu, msr, value));
            }
        },
    }
    Ok(())
}

/// The registers by which software tells the CPU how to speculate, where the backend has them: it knows which values they take.
#[inline(never)]
fn read_speculation<V: Vcpu>(vcpu: &V, msr: u32) -> Result<u64, Denied> {
    let is_one = matches!(msr, number::SPEC_CTRL | number::ARCH_CAPABILITIES);
    is_one.then(|| vcpu.read_speculation(msr)).flatten().ok_or(Denied)
}

#[inline(never)]
fn write_speculation<V: Vcpu>(vcpu: &mut V, msr: u32, value: u64) -> Result<(), Denied> {
    (msr == number::SPEC_CTRL && vcpu.write_speculation(msr, value)).then_some(()).ok_or(Denied)
}

/// Writes a register that the backend keeps, where the value is one.
fn set_kept<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    register: SystemRegister,
    value: u64,
) -> Result<(), Denied> {
    let valid = match register {
        SystemRegister::Pat => is_pat(value),
        SystemRegister::TscAux => guest.cpu.permissions.tsc_aux && value >> 32 == 0,
        SystemRegister::SysenterCs | SystemRegister::Star | SystemRegister::Sfmask => true,
        _ => is_canonical(value, guest.cpu.permissions.linear_bits),
    };
    if !valid {
        return Err(Denied);
    }
    guest.vcpu.write(register, value);
    Ok(())
}

/// The register of this number, where the backend keeps it. EFER is among them for reads only.
const fn kept_by_backend(msr: u32) -> Option<SystemRegister> {
    Some(match msr {
        number::EFER => SystemRegister::Efer,
        number::PAT => SystemRegister::Pat,
        number::STAR => SystemRegister::Star,
        number::LSTAR => SystemRegister::Lstar,
        number::CSTAR => SystemRegister::Cstar,
        number::SFMASK => SystemRegister::Sfmask,
        number::FS_BASE => SystemRegister::FsBase,
        number::GS_BASE => SystemRegister::GsBase,
        number::KERNEL_GS_BASE => SystemRegister::KernelGsBase,
        number::TSC_AUX => SystemRegister::TscAux,
        number::SYSENTER_CS => SystemRegister::SysenterCs,
        number::SYSENTER_ESP => SystemRegister::SysenterEsp,
        number::SYSENTER_EIP => SystemRegister::SysenterEip,
        _ => return None,
    })
}
