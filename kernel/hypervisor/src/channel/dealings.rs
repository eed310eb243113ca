//! What becomes of requests that neither make, start nor end a VM.

use core::ops::RangeInclusive;

use abi::{ALL_VCPUS, Answer, Refusal, Request};
use vcpu::{Backend, Host};

use super::carry_out::{vm_of, why_not};
use super::{Refused, refused};
use crate::ManageError;
use crate::run::{Node, PinError};
use crate::schedule::{CpuSet, VmId};

/// Seconds since 1970 that a clock on the wall can show: from 2000 to 2242.
const WALL_CLOCK: RangeInclusive<u64> = 946_684_800..=(1 << 33) - 1;

/// Carries one out.
pub(super) fn deal<B: Backend, H: Host>(
    node: &Node<'_, B>,
    host: &mut H,
    request: &Request<'_>,
) -> Result<Answer<'static>, Refused> {
    match *request {
        Request::ExitCounters { vm } => {
            let counts = node.exits(vm_of(node, vm)?).map_err(why_not)?;
            Ok(Answer::Exits { counts })
        }
        Request::Machine {} => Ok(Answer::Machine { cpus: host.cpus() as u16, free: node.free_memory() }),
        Request::ConsoleInput { vm, bytes } => {
            let taken = node.type_at(host, vm_of(node, vm)?, bytes).map_err(why_not)?;
            Ok(Answer::Taken { count: taken as u32 })
        }
        Request::PressPowerButton { vm } => {
            node.press_power_button(host, vm_of(node, vm)?).map_err(why_not)?;
            Ok(Answer::Done {})
        }
        Request::SetShare { vm, weight, cap, reservation } => {
            set_share(node, host, vm_of(node, vm)?, (weight.into(), cap, reservation))
        }
        Request::Pin { vm, vcpu, cpus } => {
            let vcpu = (vcpu != ALL_VCPUS).then_some(usize::from(vcpu));
            pin(node, host, vm_of(node, vm)?, (vcpu, CpuSet::from_bits(cpus)))
        }
        Request::SetWallClock { seconds } if WALL_CLOCK.contains(&seconds) => {
            host.set_wall_clock_s(seconds);
            Ok(Answer::Done {})
        }
        Request::SetWallClock { seconds } => Err(refused(Refusal::Range, seconds, *WALL_CLOCK.end())),
        _ => Err(refused(Refusal::Unsupported, request.kind().into(), 0)),
    }
}

fn set_share<B: Backend, H: Host>(
    node: &Node<'_, B>,
    host: &mut H,
    vm: VmId,
    share: (u32, u32, u32),
) -> Result<Answer<'static>, Refused> {
    match node.set_share(host, vm, share) {
        Ok(()) => Ok(Answer::Done {}),
        Err(ManageError::Share(error)) => {
            let (asked, most) = node.share_limit(vm, error, share);
            Err(refused(Refusal::Range, asked.into(), most.into()))
        }
        Err(error) => Err(why_not(error)),
    }
}

fn pin<B: Backend, H: Host>(
    node: &Node<'_, B>,
    host: &mut H,
    vm: VmId,
    (vcpu, cpus): (Option<usize>, CpuSet),
) -> Result<Answer<'static>, Refused> {
    match node.pin(host, vm, vcpu, cpus) {
        Ok(()) => Ok(Answer::Done {}),
        Err(PinError::Gone(error)) => Err(why_not(error)),
        Err(PinError::NoVcpu { asked, most }) => Err(refused(Refusal::Range, asked as u64, most as u64)),
        Err(PinError::NoCpu { asked, pool }) => Err(refused(Refusal::Range, asked.bits(), pool.bits())),
    }
}
