//! Accesses that the nested page tables do not allow: device memory, or nothing (SDM vol. 3, "EPT Violations"; APM vol. 2,
//! "Nested versus Guest Page Faults, Fault Ordering").

use vcpu::{Access, AddressSpace, Backend, Gpa, GuestMemory, Host, NestedFault, Vcpu};

use super::{Handled, Outcome, doorbell, emulate, familiar, simple_move};
use crate::guest::{AnyGuest, Guest};
use crate::memory_map::DEVICE_MEMORY;
use crate::stop::StopReason;

/// A touch of memory that the guest had given back.
#[cold]
fn bring_back<B: Backend, H: Host>(guest: &AnyGuest<'_, '_, B, H>, gpa: Gpa) -> Outcome {
    match guest.vm.virtio.balloon() {
        Some(balloon) if balloon.taken() != 0 => Outcome::BringBack(gpa),
        _ => Outcome::Stop(StopReason::RamRefused { gpa }),
    }
}

#[inline(always)]
pub(super) fn handle<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    fault: NestedFault,
) -> Handled {
    let gpa = fault.gpa;
    // No RAM is there, so it need not be asked after.
    if (DEVICE_MEMORY.first..=DEVICE_MEMORY.last).contains(&gpa.0) && is_plain(guest, &fault) {
        return match doorbell::ring(guest, &fault) {
            Some(next) => Ok(Outcome::Advance(next)),
            None => access(guest, &fault),
        };
    }
    other(guest, fault)
}

/// A data access by an instruction.
#[inline(always)]
fn is_plain<B: Backend, V: Vcpu, H: Host>(guest: &Guest<'_, '_, B, V, H>, fault: &NestedFault) -> bool {
    !fault.table_walk && fault.access != Access::Fetch && guest.vcpu.interrupted_event().is_none()
}

#[inline(never)]
fn other<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>, fault: NestedFault) -> Handled {
    let gpa = fault.gpa;
    let stop = |reason| Ok(Outcome::Stop(reason));
    if guest.space.is_ram(gpa) {
        return Ok(bring_back(&guest.any(), gpa));
    }
    if fault.table_walk {
        return stop(StopReason::TableOutsideRam { gpa });
    }
    if fault.access == Access::Fetch {
        return stop(StopReason::FetchOutsideRam { gpa });
    }
    if let Some(event) = guest.vcpu.interrupted_event() {
        return stop(StopReason::DeliveryOutsideRam { gpa, event });
    }
    match doorbell::ring(guest, &fault) {
        Some(next) => Ok(Outcome::Advance(next)),
        None => access(guest, &fault),
    }
}

/// A device of the machine's, in a VM that has these: it goes on without an exit.
#[cold]
fn pass_on<B: Backend, V: Vcpu, H: Host>(guest: &Guest<'_, '_, B, V, H>, gpa: Gpa) -> bool {
    let map = |clear| guest.space.map_device(gpa, clear).unwrap_or(false);
    guest
        .vm
        .hardware
        .as_ref()
        .is_some_and(|hardware| hardware.map(gpa, |range| guest.vm.virtio.overlaps(range), map))
}

/// An access to a device's registers.
#[inline(never)]
fn access<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>, fault: &NestedFault) -> Handled {
    if guest.vm.hardware.is_some() && pass_on(guest, fault.gpa) {
        return Ok(Outcome::Resume);
    }
    if !guest.vcpu.is_in_64_bit_mode() {
        return Ok(emulate::instruction(&mut guest.any()));
    }
    match familiar::find(guest) {
        Ok(found) => match simple_move::execute(guest, fault, &found) {
            Some(next) => Ok(Outcome::Advance(next)),
            None => Ok(emulate::instruction(&mut guest.any())),
        },
        Err(code) => Ok(emulate::execute(&mut guest.any(), &code)),
    }
}
