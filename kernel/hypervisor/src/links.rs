//! Which VMs are on which network: a cable between two of them, by the network's name. Used while the VMs are made.

use alloc::sync::Arc;

use arrayvec::{ArrayString, ArrayVec};
use virtio::net::wire::{Calls, Plug, cable};

use crate::config::{MAX_NAME, MAX_NICS, MAX_VMS};
use crate::vm::StartError;

/// Network devices of all VMs at most.
const MOST: usize = MAX_VMS * MAX_NICS;

/// The networks so far.
pub(crate) struct Links<'m> {
    calls: Arc<Calls>,
    /// Each with the end that nobody has yet.
    networks: ArrayVec<(&'m str, Option<Plug>), MOST>,
}

impl<'m> Links<'m> {
    /// None.
    pub(crate) fn new(calls: &Arc<Calls>) -> Self {
        Self { calls: Arc::clone(calls), networks: ArrayVec::new() }
    }

    /// A plug of the network for a device of this VM.
    pub(crate) fn plug(&mut self, network: &'m str, vm: usize) -> Result<Plug, StartError> {
        let known = self.networks.iter_mut().find(|(name, _)| *name == network);
        let plug = match known {
            Some((_, other)) => other.take().ok_or(StartError::NetworkFull { network: shown(network) })?,
            None => {
                let none = StartError::NoCable { network: shown(network) };
                let [plug, other] = cable(&self.calls).ok_or(none)?;
                self.networks.try_push((network, Some(other))).map_err(|_| none)?;
                plug
            }
        };
        plug.belongs_to(vm);
        Ok(plug)
    }
}

/// A network's name, which is no longer than one may be.
fn shown(network: &str) -> ArrayString<MAX_NAME> {
    ArrayString::from(network).unwrap_or_default()
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
            matches!(links.plug("lan", 2), Err(StartError::NetworkFull { network }) if network.as_str() == "lan")
        );
        assert!(links.plug("other", 2).is_ok());
    }
}
