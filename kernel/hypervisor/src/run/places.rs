//! Where VMs are: a place for each that there can be, made at first, with a VM in it or none.
//!
//! Who works with a VM for a turn has a share of it ([`Places::find`]); who only asks it something looks at it in its place. A VM leaves its place
//! when nobody else has a share and nobody looks, and is unmade then and there: so whoever has one can rely on it, and what it has is back
//! once its place is empty. Nobody waits: who finds a place in use comes again.
//!
//! Locks: a place's is taken before all others, and by those who look for as long as they do.

use alloc::collections::TryReserveError;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::RwLock;
use vcpu::Backend;

use crate::schedule::VmId;
use crate::vm::Vm;

/// The places of a node's VMs. The number of one is that of its VM's account with the scheduler.
pub(crate) struct Places<'m, B: Backend>(Vec<RwLock<Option<Arc<Vm<'m, B>>>>>);

impl<'m, B: Backend> Places<'m, B> {
    /// None.
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }

    /// Makes room for so many VMs.
    pub(crate) fn make_room(&mut self, count: usize) -> Result<(), TryReserveError> {
        self.0.try_reserve_exact(count)?;
        self.0.resize_with(count, || RwLock::new(None));
        Ok(())
    }

    /// How many places there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A share of the VM in a place.
    pub(crate) fn get(&self, place: usize) -> Option<Arc<Vm<'m, B>>> {
        self.0.get(place)?.read().clone()
    }

    /// A share of a VM: not of another one that is in its place now.
    #[inline]
    pub(crate) fn find(&self, id: VmId) -> Option<Arc<Vm<'m, B>>> {
        self.get(id.index()).filter(|vm| vm.id == id)
    }

    /// Looks at the VM in a place.
    #[inline]
    pub(crate) fn with<R>(&self, place: usize, look: impl FnOnce(&Vm<'m, B>) -> R) -> Option<R> {
        Some(look(self.0.get(place)?.read().as_deref()?))
    }

    /// Looks at each VM, in the order of the places.
    pub(crate) fn each(&self, mut look: impl FnMut(&Vm<'m, B>)) {
        for place in 0..self.0.len() {
            self.with(place, &mut look);
        }
    }

    /// Whether this holds for one of the VMs.
    pub(crate) fn any(&self, mut is: impl FnMut(&Vm<'m, B>) -> bool) -> bool {
        (0..self.0.len()).any(|place| self.with(place, &mut is) == Some(true))
    }

    /// The sum over all VMs.
    pub(crate) fn sum(&self, mut of: impl FnMut(&Vm<'m, B>) -> u64) -> u64 {
        (0..self.0.len()).filter_map(|place| self.with(place, &mut of)).sum()
    }

    /// Takes a VM out of its place. `None` where it is not there any more, somebody has a share of it, or looks at it just now.
    pub(crate) fn take(&self, id: VmId) -> Option<Arc<Vm<'m, B>>> {
        let mut place = self.0.get(id.index())?.try_write()?;
        place.take_if(|vm| vm.id == id && Arc::strong_count(vm) == 1)
    }

    /// Puts a VM into its place, which is empty.
    pub(crate) fn fill(&self, vm: Arc<Vm<'m, B>>) {
        if let Some(place) = self.0.get(vm.number) {
            *place.write() = Some(vm);
        }
    }
}
