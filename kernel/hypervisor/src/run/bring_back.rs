//! Memory that a guest had given back and touches.

use vcpu::{Backend, Gpa, GuestMemory, Host, Vcpu};

use super::slice::{Slice, SliceEnd};
use crate::guest::{AnyGuest, Guest};
use crate::processor::Attention;
use crate::ratelimit::Site;

impl<'m, B: Backend> Slice<'_, '_, 'm, B> {
    /// It comes again in bounded steps, with looks between them, so that one fault is enough for all of it. The vCPU's next turn goes on with
    /// what is left when this one ends.
    #[cold]
    pub(super) fn bring_back<V: Vcpu, H: Host>(
        &mut self,
        guest: &mut Guest<'_, 'm, B, V, H>,
        gpa: Gpa,
    ) -> Option<SliceEnd> {
        let mut at = gpa;
        while let Some(next) = step(&mut guest.any(), at, gpa) {
            at = next;
            // The looks are at the timer, too.
            guest.cpu.attention = Attention::all();
            if let Some(end) = self.look(guest, "memory that comes again") {
                guest.cpu.comes = Some(at);
                return Some(end);
            }
        }
        None
    }
}

/// Where to go on. Where the machine has none for what was touched, the vCPU comes again, at its own cost.
fn step<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>, at: Gpa, touched: Gpa) -> Option<Gpa> {
    match guest.space.bring_back(at) {
        Ok(next) => next,
        Err(error) => {
            if at == touched
                && let Some(left_out) = guest.may_log(Site::NoMemory)
            {
                log::warn!(
                    target: "virtio",
                    "vm {}: it waits for memory that it had given back: {error} ({left_out} lines left out)",
                    guest.name()
                );
            }
            None
        }
    }
}
