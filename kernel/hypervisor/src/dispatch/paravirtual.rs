//! KVM's MSRs: where the guest's shared areas are. A register of a feature that the VM is not offered is not there.
//!
//! Source: Linux documentation, "KVM-specific MSRs".

use vcpu::{Backend, Host};

use crate::guest::AnyGuest;
use crate::msr::{Denied, number};
use crate::paravirtual::Features;
use crate::processor::Processor;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The feature that a register belongs to.
const fn feature(msr: u32) -> Option<Features> {
    Some(match msr {
        number::KVM_WALL_CLOCK_NEW | number::KVM_SYSTEM_TIME_NEW => Features::CLOCK,
        number::KVM_STEAL_TIME => Features::STEAL_TIME,
        number::KVM_EOI_EN => Features::EOI,
        number::KVM_POLL_CONTROL => Features::POLL_CONTROL,
        _ => return None,
    })
}

fn is_offered(cpu: &Processor, msr: u32) -> Result<(), Denied> {
    feature(msr).filter(|feature| cpu.paravirtual.features.contains(*feature)).map(drop).ok_or(Denied)
}

/// RDMSR.
pub(super) fn read(cpu: &Processor, msr: u32) -> Result<u64, Denied> {
    is_offered(cpu, msr)?;
    let paravirtual = &cpu.paravirtual;
    Ok(match msr {
        number::KVM_SYSTEM_TIME_NEW => paravirtual.clock.system_time(),
        number::KVM_WALL_CLOCK_NEW => paravirtual.clock.wall_clock(),
        number::KVM_STEAL_TIME => paravirtual.steal.msr(),
        number::KVM_EOI_EN => paravirtual.eoi.msr(),
        number::KVM_POLL_CONTROL => paravirtual.poll_control(),
        _ => return Err(Denied),
    })
}

/// WRMSR.
#[cold]
pub(super) fn write<B: Backend, H: Host>(
    guest: &mut AnyGuest<'_, '_, B, H>,
    msr: u32,
    value: u64,
) -> Result<(), Denied> {
    is_offered(guest.cpu, msr)?;
    let (space, started) = (guest.space, guest.cpu.started);
    let tsc_at_zero = guest.cpu.clock.guest_tsc(started);
    let paravirtual = &mut guest.cpu.paravirtual;
    match msr {
        number::KVM_SYSTEM_TIME_NEW => paravirtual.clock.write_system_time(value, tsc_at_zero, space),
        number::KVM_WALL_CLOCK_NEW => {
            let age = guest.host.now() - guest.host.time_of(started);
            let seconds = guest.host.wall_clock_s().saturating_sub(age.0 / NANOS_PER_SECOND);
            paravirtual.clock.write_wall_clock(value, seconds, space)
        }
        number::KVM_STEAL_TIME => paravirtual.steal.write(value, space),
        number::KVM_EOI_EN => paravirtual.eoi.write(value, space),
        number::KVM_POLL_CONTROL => paravirtual.write_poll_control(value),
        _ => Err(Denied),
    }
}
