//! Which VMs are joined to which: by a cable where they have the same network, by a line where they have a port of the same name.
//! Used while the VMs are made.

use alloc::sync::Arc;

use arrayvec::{ArrayString, ArrayVec};
use virtio::Calls;
use virtio::console::pipe::{PipeEnd, pipe};
use virtio::net::wire::{Plug, cable};

use crate::config::{MAX_NICS, MAX_PORTS, MAX_VMS};
use crate::vm::StartError;

/// What joins VMs so far.
pub(crate) struct Links<'m> {
    calls: Arc<Calls>,
    networks: Ends<'m, Plug, { MAX_VMS * MAX_NICS }>,
    ports: Ends<'m, PipeEnd, { MAX_VMS * MAX_PORTS }>,
}

/// Names so far, each with the end that nobody has yet.
struct Ends<'m, T, const N: usize>(ArrayVec<(&'m str, Option<T>), N>);

impl<'m, T, const N: usize> Ends<'m, T, N> {
    /// An end of what has this name. `word` is what lines say before it.
    fn take(
        &mut self,
        (word, name): (&'static str, &'m str),
        make: impl FnOnce() -> Option<[T; 2]>,
    ) -> Result<T, StartError> {
        let shown = ArrayString::from(name).unwrap_or_default();
        if let Some((_, other)) = self.0.iter_mut().find(|(known, _)| *known == name) {
            return other.take().ok_or(StartError::CableFull { word, name: shown });
        }
        let none = StartError::NoCable { word, name: shown };
        let [end, other] = make().ok_or(none)?;
        self.0.try_push((name, Some(other))).map_err(|_| none)?;
        Ok(end)
    }
}

impl<'m> Links<'m> {
    /// None.
    pub(crate) fn new(calls: &Arc<Calls>) -> Self {
        Self { calls: Arc::clone(calls), networks: Ends(ArrayVec::new()), ports: Ends(ArrayVec::new()) }
    }

    /// A plug of the network for a device of this VM.
    pub(crate) fn plug(&mut self, network: &'m str, vm: usize) -> Result<Plug, StartError> {
        let plug = self.networks.take(("net", network), || cable(&self.calls))?;
        plug.belongs_to(vm);
        Ok(plug)
    }

    /// An end of the line of that name for a port of this VM.
    pub(crate) fn port(&mut self, name: &'m str, vm: usize) -> Result<PipeEnd, StartError> {
        let end = self.ports.take(("port", name), || pipe(&self.calls))?;
        end.belongs_to(vm);
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_on_a_network_and_a_third_is_told_so() {
        let mut links = Links::new(&Arc::default());
        assert!(
            links.plug("lan", 0).is_ok() && links.plug("other", 0).is_ok() && links.plug("lan", 1).is_ok()
        );
        assert!(
            matches!(links.plug("lan", 2), Err(StartError::CableFull { word: "net", name }) if name.as_str() == "lan")
        );
        assert!(links.plug("other", 2).is_ok());
        assert!(
            links.port("lan", 0).is_ok() && links.port("lan", 1).is_ok(),
            "ports have names of their own"
        );
        assert!(matches!(links.port("lan", 2), Err(StartError::CableFull { word: "port", .. })));
    }
}
