//! Which VMs are joined to which: by a switch where they have the same network, by a line where they have a port of the same name.
//! Used while the VMs are made.

use alloc::sync::Arc;

use arrayvec::{ArrayString, ArrayVec};
use virtio::Calls;
use virtio::console::pipe::{PipeEnd, pipe};

use crate::config::{MAX_PORTS, MAX_VMS};
use crate::networks::Networks;
use crate::vm::StartError;

/// What joins VMs so far.
pub(crate) struct Links<'m> {
    calls: Arc<Calls>,
    pub(crate) networks: Networks<'m>,
    ports: Ends<'m, PipeEnd, { MAX_VMS * MAX_PORTS }>,
}

/// Names so far, each with the end that nobody has yet.
struct Ends<'m, T, const N: usize>(ArrayVec<(&'m str, Option<T>), N>);

impl<'m, T, const N: usize> Ends<'m, T, N> {
    /// An end of what has this name.
    fn take(&mut self, name: &'m str, make: impl FnOnce() -> Option<[T; 2]>) -> Result<T, StartError> {
        let shown = ArrayString::from(name).unwrap_or_default();
        if let Some((_, other)) = self.0.iter_mut().find(|(known, _)| *known == name) {
            return other.take().ok_or(StartError::LineFull { name: shown });
        }
        let none = StartError::NoLine { name: shown };
        let [end, other] = make().ok_or(none)?;
        self.0.try_push((name, Some(other))).map_err(|_| none)?;
        Ok(end)
    }
}

impl<'m> Links<'m> {
    /// None.
    pub(crate) fn new(calls: &Arc<Calls>, seed: u64) -> Self {
        Self { calls: Arc::clone(calls), networks: Networks::new(seed), ports: Ends(ArrayVec::new()) }
    }

    /// An end of the line of that name for a port of this VM.
    pub(crate) fn port(&mut self, name: &'m str, vm: usize) -> Result<PipeEnd, StartError> {
        let end = self.ports.take(name, || pipe(&self.calls))?;
        end.belongs_to(vm);
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_have_a_line_and_a_third_is_told_so() {
        let mut links = Links::new(&Arc::default(), 1);
        assert!(
            links.port("one", 0).is_ok() && links.port("other", 0).is_ok() && links.port("one", 1).is_ok()
        );
        assert!(matches!(links.port("one", 2), Err(StartError::LineFull { name }) if name.as_str() == "one"));
        assert!(links.port("other", 2).is_ok());
    }
}
