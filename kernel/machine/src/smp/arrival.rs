//! The way of a started CPU into the kernel, and what it tells the boot CPU on it.

// UNSAFETY: loads this CPU's descriptor tables and page tables.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU8, Ordering};

use spin::{Mutex, Once};

use super::{LeftOut, Roles, tsc};
use crate::apic::{self, ApicError};
use crate::cpu::{self, PerCpu, Traits};
use crate::{fault, machine_check, memory};

/// How far the CPU that is being started has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    /// Not yet in the kernel.
    Awaited,
    /// It has given up; [`refusal`] says why.
    Refused,
    /// It asks for the boot CPU's TSC.
    Comparing,
    /// It is on its way to its work.
    Running,
}

const PHASES: [Phase; 4] = [Phase::Awaited, Phase::Refused, Phase::Comparing, Phase::Running];

static PHASE: AtomicU8 = AtomicU8::new(Phase::Awaited as u8);
static REFUSAL: Mutex<Option<LeftOut>> = Mutex::new(None);
static ROLES: Once<Roles> = Once::new();

/// Says what started CPUs do. The first call counts.
pub(super) fn set_roles(roles: Roles) {
    ROLES.call_once(|| roles);
}

/// Forgets the last CPU.
pub(super) fn expect() {
    *REFUSAL.lock() = None;
    tsc::expect();
    enter(Phase::Awaited);
}

/// How far it is.
pub(super) fn phase() -> Phase {
    let number = usize::from(PHASE.load(Ordering::Acquire));
    PHASES.get(number).copied().unwrap_or(Phase::Awaited)
}

/// Why it has given up, if it has.
pub(super) fn refusal() -> Option<LeftOut> {
    *REFUSAL.lock()
}

fn enter(phase: Phase) {
    PHASE.store(phase as u8, Ordering::Release);
}

/// The first Rust code on a started CPU: on its own stack, on the page tables for starting, without descriptor tables
/// of its own.
pub(super) extern "sysv64" fn entry(cpu: &'static PerCpu) -> ! {
    // SAFETY: the boot CPU gave this block to this CPU (the ticket lets one in), which comes here once after a reset;
    // the start-up code has switched interrupts off.
    unsafe { cpu.load() };
    match arrive(cpu) {
        Ok(roles) => {
            enter(Phase::Running);
            (roles.run)(cpu.number)
        }
        Err(why) => {
            *REFUSAL.lock() = Some(why);
            enter(Phase::Refused);
            cpu::halt_forever()
        }
    }
}

fn arrive(cpu: &PerCpu) -> Result<&'static Roles, LeftOut> {
    if let Some(lack) = Traits::boot_cpu().and_then(|boot| boot.missing_in(&Traits::of_this_cpu())) {
        return Err(LeftOut::Lacks(lack));
    }
    // SAFETY: it has all that the boot CPU has, as was just seen.
    unsafe { memory::enter_on_this_cpu() };
    machine_check::start();
    let expected = cpu.apic_id.load(Ordering::Relaxed);
    match apic::start_on_this_cpu() {
        Ok(found) if found == expected => {}
        Ok(found) => return Err(LeftOut::Impostor { found }),
        Err(ApicError::StuckInX2apic | ApicError::Map(_) | ApicError::NoLocalApic) => {
            return Err(LeftOut::ApicMode);
        }
    }
    enter(Phase::Comparing);
    tsc::compare()?;
    let roles = ROLES.get().ok_or(LeftOut::Lost)?;
    (roles.join)().map_err(LeftOut::Refused)?;
    fault::on_another_cpu();
    Ok(roles)
}
