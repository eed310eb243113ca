//! What the management domain is told of VMs unasked: that they have ended, or were reset.
//!
//! Nothing waits in a queue, which might be full: a VM counts what becomes of it, and who tells of it compares that with what was told. Here is only
//! which VMs are worth a look.

use vcpu::{Backend, Host};

use super::Node;
use crate::schedule::VmId;
use crate::vm::Vm;
use crate::vm::past::Past;

impl<'m, B: Backend> Node<'m, B> {
    /// Something may have become of a VM, and has been counted. False where nobody is to be told.
    pub(super) fn announce<H: Host>(&self, vm: &Vm<'m, B>, host: &mut H) -> bool {
        if self.domain_id() == Some(vm.id) {
            return false;
        }
        self.news.insert(vm.number);
        let is_told = self.domain.is_some();
        if is_told {
            self.tell_lead(host);
        }
        is_told
    }

    /// Has the VMs looked at of which there may be news, until there is something to tell of one.
    pub(crate) fn find_news<R>(&self, mut look: impl FnMut(VmId, Past) -> Option<R>) -> Option<R> {
        if self.news.is_empty() {
            return None;
        }
        let mut found = None;
        self.news.any(|place| {
            // What comes to be meanwhile is announced anew.
            self.news.remove(place);
            found = self.places.with(place, |vm| look(vm.id, vm.past())).flatten();
            if found.is_some() {
                // There may be more to tell.
                self.news.insert(place);
            }
            found.is_some()
        });
        found
    }

    /// What has become of each VM so far.
    pub(crate) fn each_past(&self, mut with: impl FnMut(VmId, Past)) {
        self.places.each(|vm| with(vm.id, vm.past()));
    }

    /// What has become of a VM so far. `None` where it is gone.
    pub(crate) fn past(&self, id: VmId) -> Option<Past> {
        self.places.find(id).map(|vm| vm.past())
    }
}
