//! Accesses that the nested page tables do not allow: device memory, or nothing (SDM vol. 3, "EPT Violations"; APM vol. 2,
//! "Nested versus Guest Page Faults, Fault Ordering").

use vcpu::{Access, Backend, GuestMemory, Host, NestedFault, Vcpu};

use super::{Handled, Outcome, doorbell, emulate, simple_move};
use crate::guest::Guest;
use crate::stop::StopReason;

pub(super) fn handle<B: Backend, H: Host>(guest: &mut Guest<'_, '_, B, H>, fault: NestedFault) -> Handled {
    let gpa = fault.gpa;
    let stop = |reason| Ok(Outcome::Stop(reason));
    if guest.space.is_ram(gpa) {
        return stop(StopReason::RamRefused { gpa });
    }
    if fault.table_walk {
        return stop(StopReason::TableOutsideRam { gpa });
    }
    if fault.access == Access::Fetch {
        return stop(StopReason::FetchOutsideRam { gpa });
    }
    if let Some(event) = guest.cpu.vcpu.interrupted_event() {
        return stop(StopReason::DeliveryOutsideRam { gpa, event });
    }
    if let Some(outcome) = doorbell::ring(guest, &fault) {
        return Ok(outcome);
    }
    let code = guest.code();
    match simple_move::execute(guest, &fault, &code) {
        Some(outcome) => Ok(outcome),
        None => Ok(emulate::execute(guest, &code)),
    }
}
