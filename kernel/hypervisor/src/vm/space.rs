//! A VM's memory in the hands of others than its tasks.

use alloc::sync::Arc;

use vcpu::Backend;

use super::Vm;

impl<B: Backend> Vm<'_, B> {
    /// A share of its memory, for who runs a vCPU. `None` where there is none, or not yet, or not any more.
    pub(crate) fn share_space(&self) -> Option<Arc<Option<B::Space>>> {
        let space = self.space.try_read()?;
        space.is_some().then(|| Arc::clone(&space))
    }

    /// Does something with its memory. `None` where there is none: it is being taken down, or is not there yet.
    #[inline]
    pub(crate) fn with_space<R>(&self, with: impl FnOnce(&B::Space) -> R) -> Option<R> {
        self.space.try_read()?.as_ref().as_ref().map(with)
    }

    /// Whether it has ended, and all that its start took is back.
    pub(crate) fn has_nothing(&self) -> bool {
        !self.life.is_alive() && self.space.try_read().is_some_and(|space| space.is_none())
    }

    /// It has this memory from here on. Gives that back where somebody is at what was before: nobody has a share of nothing, so only for a moment.
    pub(super) fn set_space(&self, space: B::Space) -> Result<(), B::Space> {
        let mut place = self.space.write();
        let Some(place) = Arc::get_mut(&mut place) else { return Err(space) };
        *place = Some(space);
        Ok(())
    }
}
