//! Disks that the management domain serves, as its channel finds them.

use alloc::sync::Arc;

use vcpu::Backend;

use super::Node;
use super::orders::ManageError;
use crate::disks::Depot;
use crate::schedule::VmId;
use crate::virtio_bus::Owner;

impl<B: Backend> Node<'_, B> {
    /// What is under way of a VM's disks. `None` where the domain serves none of them.
    ///
    /// # Errors
    /// The VM is gone.
    pub(crate) fn depot(&self, id: VmId) -> Result<Option<Arc<Depot>>, ManageError> {
        Ok(self.of(id)?.depot.clone())
    }

    /// The same of all VMs that have such disks.
    pub(crate) fn each_depot(&self, mut with: impl FnMut(VmId, &Depot)) {
        self.places.each(|vm| vm.depot.iter().for_each(|depot| with(vm.id, depot)));
    }

    /// Has VMs looked at that have orders, until there is something to tell of one.
    pub(crate) fn find_orders<R>(&self, mut look: impl FnMut(VmId, &Depot) -> Option<R>) -> Option<R> {
        let mut found = None;
        self.orders.any(|place| {
            // What comes meanwhile is announced anew.
            self.orders.remove(place);
            found = self.places.with(place, |vm| look(vm.id, vm.depot.as_deref()?)).flatten();
            found.is_some()
        });
        found
    }

    /// A VM that waits for room on a disk, of which that was not told yet.
    pub(crate) fn take_full(&self) -> Option<VmId> {
        let mut found = None;
        self.full.any(|place| {
            self.full.remove(place);
            found = self.places.with(place, |vm| vm.id);
            found.is_some()
        });
        found
    }

    /// By which device the memory of the domain is reached.
    pub(crate) const fn owner_of(&self, domain: VmId) -> usize {
        // Its first one: the console, over which it talks.
        Owner::number(domain, 0)
    }
}
