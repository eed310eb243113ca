//! The networks of a machine: a switch for each name that VMs' lines say, with a port for each of their network devices.

mod setup;
mod show;

use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::{Mutex, Once};
use virtio::net::Plug;
use vswitch::switch::Port;
use vswitch::{MAX_PORTS, PortId, PortSet, Switch};

use crate::config::network::{self, Place};
use crate::config::{Name, Nic};
use crate::heap;
use crate::vm::StartError;
pub(crate) use show::{RuleText, SessionText};

/// Networks at most.
pub(crate) const MAX_NETWORKS: usize = 16;

/// The network device behind a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Device {
    /// The VM's name.
    pub(crate) vm: Name,
    /// Which of the VM's network devices it is, from 0 on.
    pub(crate) number: usize,
}

/// What a port's link is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// Frames pass.
    Up,
    /// It was set down.
    Down,
    /// Nobody drives its device.
    NoDriver,
    /// It gets copies only.
    Watches,
}

impl Link {
    /// Its name in lists.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::NoDriver => "no driver",
            Self::Watches => "watches",
        }
    }
}

/// Words as they are typed: what stands between them does not matter.
pub(crate) fn typed_words(text: &str) -> impl Iterator<Item = &str> {
    network::words(text).filter(|word| !word.is_empty())
}

/// A network.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: Name,
    pub(crate) switch: Arc<Switch>,
    /// The devices behind its ports, by port. What stands there of a port that is not there any more means nothing.
    devices: Mutex<Vec<Option<Device>>>,
}

impl Network {
    /// `None` where there is no memory for it.
    fn new(name: Name, seed: u64) -> Option<Self> {
        let mut devices = Vec::new();
        devices.try_reserve_exact(MAX_PORTS).ok()?;
        devices.resize(MAX_PORTS, None);
        let switch = heap::arc(Switch::new(seed)?)?;
        Some(Self { name, switch, devices: Mutex::new(devices) })
    }

    /// The device behind a port that is there.
    pub(crate) fn device(&self, port: PortId) -> Option<Device> {
        let devices = self.devices.lock();
        devices.get(port.index()).copied().flatten().filter(|_| self.switch.has(port))
    }

    /// What a port's link is like.
    pub(crate) fn link(&self, port: PortId) -> Link {
        if !self.switch.has_link(port) {
            Link::Down
        } else if !self.switch.port(port).is_some_and(Port::is_ready) {
            Link::NoDriver
        } else if self.switch.mirrors.watchers().has(port) {
            Link::Watches
        } else {
            Link::Up
        }
    }

    /// The ports that are there, with their devices.
    pub(crate) fn devices(&self) -> impl Iterator<Item = (PortId, Device)> {
        self.switch.ports().filter_map(|(id, _)| Some((id, self.device(id)?)))
    }

    /// The ports of a VM's network devices, or of one of them; none where it has none on this network.
    pub(crate) fn ports_of(&self, place: Place<'_>) -> PortSet {
        let is_of = |device: &Device| {
            device.vm.as_str() == place.vm && place.number.is_none_or(|number| number == device.number)
        };
        let ports = self.devices().filter(|(_, device)| is_of(device));
        ports.map(|(id, _)| id).fold(PortSet::NONE, PortSet::with)
    }
}

/// All networks: as many as there can be, of which each comes to be with its first port and stays.
#[derive(Debug)]
pub(crate) struct Networks {
    list: [Once<Network>; MAX_NETWORKS],
    seed: u64,
}

impl Networks {
    /// None yet. Nobody outside knows `seed`.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { list: [const { Once::new() }; MAX_NETWORKS], seed }
    }

    /// A new port of the network that a VM's line says, which comes to be with its first port. One at a time.
    pub(crate) fn plug(&self, nic: &Nic, device: Device) -> Result<Plug, StartError> {
        let name = nic.network;
        let network = self.named(name).ok_or(StartError::NoNetwork { name })?;
        let full = StartError::NetworkFull { name };
        // Where there is no port left, nothing is written.
        let mut devices = network.devices.lock();
        let id = network.switch.add(nic.settings(nic.address(&device.vm, device.number))).ok_or(full)?;
        if let Some(place) = devices.get_mut(id.index()) {
            *place = Some(device);
        }
        Ok(Plug::new(Arc::clone(&network.switch), id))
    }

    /// The network of that name, which is made where there is none: one at a time. `None` where there is no place or memory for it.
    pub(crate) fn named(&self, name: Name) -> Option<&Network> {
        if let Some(network) = self.find(&name) {
            return Some(network);
        }
        let (number, place) = self.list.iter().enumerate().find(|(_, place)| !place.is_completed())?;
        let network = Network::new(name, self.seed.wrapping_add(number as u64))?;
        Some(place.call_once(|| network))
    }

    /// Makes ready what busy ports need next. Each turn asks for it.
    #[inline]
    pub(crate) fn refill(&self) {
        for place in &self.list {
            let Some(network) = place.get() else { return };
            network.switch.refill();
        }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Network> {
        self.list.iter().map_while(Once::get)
    }

    /// The one of that name.
    pub(crate) fn find(&self, name: &str) -> Option<&Network> {
        self.iter().find(|network| network.name.as_str() == name)
    }

    /// The port of a VM's network device, with its network.
    pub(crate) fn port_of(&self, vm: &str, number: usize) -> Option<(&Network, PortId)> {
        let is = |device: &Device| device.vm.as_str() == vm && device.number == number;
        self.iter().find_map(|network| {
            let (id, _) = network.devices().find(|(_, device)| is(device))?;
            Some((network, id))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(network: &str) -> Nic {
        Nic::on(network)
    }

    fn device(vm: &str, number: usize) -> Device {
        Device { vm: crate::config::name(vm), number }
    }

    #[test]
    fn devices_of_one_name_are_on_one_switch() {
        let networks = Networks::new(0);
        let plug = |network, vm, number| networks.plug(&nic(network), device(vm, number));
        let a = plug("lan", "a", 0).expect("a port");
        let b = plug("lan", "b", 0).expect("a port");
        let other = plug("other", "a", 1).expect("a port");
        assert!(core::ptr::eq(a.switch(), b.switch()) && a.id() != b.id());
        assert!(!core::ptr::eq(a.switch(), other.switch()));
        let (network, id) = networks.port_of("a", 1).expect("it is there");
        assert_eq!((network.name.as_str(), id), ("other", other.id()));
        assert!(networks.port_of("b", 1).is_none() && networks.find("lan").is_some());
    }

    #[test]
    fn a_network_has_as_many_ports_as_it_has() {
        let networks = Networks::new(0);
        let mut plugs: Vec<Plug> = (0..MAX_PORTS)
            .map(|number| networks.plug(&nic("lan"), device("a", number)).expect("a port"))
            .collect();
        let full = networks.plug(&nic("lan"), device("b", 0));
        assert!(matches!(full, Err(StartError::NetworkFull { .. })));
        let id = plugs.swap_remove(7).id();
        assert!(networks.port_of("a", 7).is_none() && networks.port_of("a", 8).is_some());
        let plug = networks.plug(&nic("lan"), device("b", 0)).expect("the port of a device that is gone");
        let (network, found) = networks.port_of("b", 0).expect("it is there");
        assert_eq!((found, plug.id(), network.device(id)), (id, id, Some(device("b", 0))));
    }

    #[test]
    fn there_are_as_many_networks_as_there_can_be() {
        let networks = Networks::new(0);
        let names: Vec<_> = (0..MAX_NETWORKS).map(|number| std::format!("lan-{number}")).collect();
        assert!(names.iter().all(|name| networks.plug(&nic(name), device("a", 0)).is_ok()));
        let more = networks.plug(&nic("more"), device("a", 0));
        assert!(matches!(more, Err(StartError::NoNetwork { name }) if name.as_str() == "more"));
        assert!(networks.plug(&nic("lan-3"), device("a", 0)).is_ok());
        assert_eq!(networks.iter().count(), MAX_NETWORKS);
    }
}
