//! The networks of a machine: a switch for each name that VMs' lines say, with a port for each of their network devices.

mod setup;
mod show;

use alloc::sync::Arc;
use alloc::vec::Vec;

use arrayvec::{ArrayString, ArrayVec};
use virtio::net::Plug;
use vswitch::{MAX_PORTS, PortId, PortSet, Switch};

use crate::config::network::Place;
use crate::config::{MAX_NAME, Nic};
use crate::vm::StartError;
pub(crate) use show::{RuleText, SessionText};

/// Networks at most.
pub(crate) const MAX_NETWORKS: usize = 16;

/// The network device behind a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Device<'m> {
    /// The VM's name.
    pub(crate) vm: &'m str,
    /// Which of the VM's network devices it is, from 0 on.
    pub(crate) number: usize,
}

/// A network.
#[derive(Debug)]
pub(crate) struct Network<'m> {
    pub(crate) name: &'m str,
    pub(crate) switch: Arc<Switch>,
    /// The devices behind its ports, in the order of the ports.
    pub(crate) devices: ArrayVec<Device<'m>, MAX_PORTS>,
}

impl Network<'_> {
    /// The ports of a VM's network devices, or of one of them; none where it has none on this network.
    pub(crate) fn ports_of(&self, place: Place<'_>) -> PortSet {
        let is_of = |device: &Device<'_>| {
            device.vm == place.vm && place.number.is_none_or(|number| number == device.number)
        };
        let ports = self.devices.iter().enumerate().filter(|(_, device)| is_of(device));
        ports.filter_map(|(at, _)| PortId::new(at)).fold(PortSet::NONE, PortSet::with)
    }
}

/// All networks.
#[derive(Debug, Default)]
pub(crate) struct Networks<'m> {
    list: Vec<Network<'m>>,
    seed: u64,
}

impl<'m> Networks<'m> {
    /// None yet. Nobody outside knows `seed`.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { list: Vec::new(), seed }
    }

    /// A new port of the network that a VM's line says, which comes to be with its first port.
    pub(crate) fn plug(&mut self, nic: &Nic<'m>, device: Device<'m>) -> Result<Plug, StartError> {
        let name = ArrayString::<MAX_NAME>::from(nic.network).unwrap_or_default();
        let network = self.named(nic.network).ok_or(StartError::NoNetwork { name })?;
        let full = StartError::NetworkFull { name };
        if network.devices.is_full() {
            return Err(full);
        }
        let id = network.switch.add(nic.settings(nic.address(device.vm, device.number))).ok_or(full)?;
        // There is room: see above.
        let _ = network.devices.try_push(device);
        Ok(Plug::new(Arc::clone(&network.switch), id))
    }

    /// The network of that name, which is made where there is none. `None` where there is no place or memory for it.
    pub(crate) fn named(&mut self, name: &'m str) -> Option<&mut Network<'m>> {
        if let Some(at) = self.list.iter().position(|network| network.name == name) {
            return self.list.get_mut(at);
        }
        if self.list.len() >= MAX_NETWORKS {
            return None;
        }
        self.list.try_reserve(1).ok()?;
        let mut one = Vec::new();
        one.try_reserve_exact(1).ok()?;
        one.push(Switch::new(self.seed.wrapping_add(self.list.len() as u64))?);
        let switch = Arc::new(one.pop()?);
        self.list.push(Network { name, switch, devices: ArrayVec::new() });
        self.list.last_mut()
    }

    /// Makes ready what busy ports need next.
    pub(crate) fn refill(&self) {
        self.list.iter().for_each(|network| network.switch.refill());
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Network<'m>> {
        self.list.iter()
    }

    /// The one of that name.
    pub(crate) fn find(&self, name: &str) -> Option<&Network<'m>> {
        self.list.iter().find(|network| network.name == name)
    }

    /// The port of a VM's network device, with its network.
    pub(crate) fn port_of(&self, vm: &str, number: usize) -> Option<(&Network<'m>, PortId)> {
        self.list.iter().find_map(|network| {
            let at = network.devices.iter().position(|it| it.vm == vm && it.number == number)?;
            Some((network, PortId::new(at)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(network: &str) -> Nic<'_> {
        Nic::on(network)
    }

    #[test]
    fn devices_of_one_name_are_on_one_switch() {
        let mut networks = Networks::default();
        let mut plug = |network, vm, number| networks.plug(&nic(network), Device { vm, number });
        let a = plug("lan", "a", 0).expect("a port");
        let b = plug("lan", "b", 0).expect("a port");
        let other = plug("other", "a", 1).expect("a port");
        assert!(core::ptr::eq(a.switch(), b.switch()) && a.id() != b.id());
        assert!(!core::ptr::eq(a.switch(), other.switch()));
        let (network, id) = networks.port_of("a", 1).expect("it is there");
        assert_eq!((network.name, id), ("other", other.id()));
        assert!(networks.port_of("b", 1).is_none() && networks.find("lan").is_some());
    }

    #[test]
    fn a_network_has_as_many_ports_as_it_has() {
        let mut networks = Networks::default();
        for number in 0..MAX_PORTS {
            networks.plug(&nic("lan"), Device { vm: "a", number }).expect("a port");
        }
        let full = networks.plug(&nic("lan"), Device { vm: "b", number: 0 });
        assert!(matches!(full, Err(StartError::NetworkFull { .. })));
    }
}
