//! What the domain is told of VMs unasked: that they have ended, or were reset.
//!
//! VMs count that ([`Past`]); here is how much of it was told of the VM in each place. So nothing is lost however slowly the domain reads, and nothing
//! is told twice. What has become of a VM while nobody listened is told as one end and one reset.

use abi::{Event, Reason};
use alloc::vec::Vec;
use vcpu::Backend;

use super::carry_out::number;
use crate::StopReason;
use crate::heap;
use crate::run::Node;
use crate::schedule::VmId;
use crate::vm::past::Past;

/// What was told of the VM in a place.
#[derive(Clone, Copy, Default)]
struct Told {
    vm: Option<VmId>,
    ends: u64,
    resets: u64,
}

/// By places.
pub(super) struct Events(Vec<Told>);

impl Events {
    /// For so many places. `None` where there is no memory for it.
    pub(super) fn new(places: usize) -> Option<Self> {
        heap::row(places, Told::default()).map(Self)
    }

    /// Somebody listens from now on, who hears of what was before in short.
    pub(super) fn begin<B: Backend>(&mut self, node: &Node<'_, B>) {
        node.each_past(|vm, past| {
            if let Some(told) = self.0.get_mut(vm.index()) {
                told.be_of(vm);
                told.ends = told.ends.max(past.ends.saturating_sub(1));
                told.resets = told.resets.max(past.resets.saturating_sub(1));
            }
        });
    }

    /// The next one, which is told with that.
    pub(super) fn next<B: Backend>(&mut self, node: &Node<'_, B>) -> Option<Event<'static>> {
        node.find_news(|vm, past| self.0.get_mut(vm.index())?.next(vm, past))
    }

    /// Whether all was told that has become of a VM.
    pub(super) fn has_told<B: Backend>(&self, node: &Node<'_, B>, vm: VmId) -> bool {
        let Some(Past { ends, resets, .. }) = node.past(vm) else { return true };
        let told = self.0.get(vm.index()).filter(|told| told.vm == Some(vm));
        told.map_or((0, 0), |told| (told.ends, told.resets)) == (ends, resets)
    }
}

impl Told {
    /// This VM is in the place: of another one nothing is known any more.
    fn be_of(&mut self, vm: VmId) {
        if self.vm != Some(vm) {
            *self = Self { vm: Some(vm), ..Self::default() };
        }
    }

    fn next(&mut self, vm: VmId, past: Past) -> Option<Event<'static>> {
        self.be_of(vm);
        if self.resets < past.resets {
            self.resets += 1;
            return Some(Event::Reset { vm: number(vm) });
        }
        if self.ends < past.ends {
            self.ends += 1;
            return Some(Event::Ended { vm: number(vm), reason: reason(past.last) });
        }
        None
    }
}

const fn reason(reason: StopReason) -> Reason {
    match reason {
        StopReason::PowerOff | StopReason::Restart | StopReason::DebugExit(_) => Reason::PowerOff,
        StopReason::Ended => Reason::Stopped,
        StopReason::HaltedForever => Reason::Halted,
        StopReason::NotStarted | StopReason::ReloadFailed => Reason::NotStarted,
        _ => Reason::Crashed,
    }
}
