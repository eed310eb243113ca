//! What becomes of requests that neither make, start nor end a VM.

use abi::{Answer, Refusal, Request};
use vcpu::{Backend, Host};

use super::carry_out::{vm_of, why_not};
use super::{Refused, refused};
use crate::ManageError;
use crate::run::Node;
use crate::schedule::VmId;

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
