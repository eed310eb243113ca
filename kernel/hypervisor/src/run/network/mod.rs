//! Networks at the prompt: what changes while they carry frames. What is told of them is in [`tables`].

mod flows;
mod tables;

use vcpu::{Backend, Host};
use virtio::net::Mac;
use vswitch::settings::Settings;
use vswitch::{PortId, PortSet};

use super::Node;
use super::cpu::Cpu;
use super::lead::Lead;
use super::orders::ManageError;
use crate::config::network::{NetworkFault, Place};
use crate::config::nic::{self, NicFault};
use crate::console::{Change, Command, Name, NetworkView};
use crate::networks::{Network, RuleText, SessionText, typed_words};
use crate::schedule::VmId;

/// Why there is no port, or why it stays as it is.
pub(crate) enum PortError<'a> {
    /// The VM is gone.
    Gone(ManageError),
    /// The VM has so many network devices, and none of that number.
    NoDevice {
        /// How many.
        count: usize,
    },
    /// A word is wrong.
    Word(NicFault<'a>),
}

impl<B: Backend> Node<'_, B> {
    /// The network of a VM's network device, its port there, and its address.
    ///
    /// # Errors
    /// The VM is gone, or has no such device.
    pub(crate) fn port_of(
        &self,
        id: VmId,
        number: usize,
    ) -> Result<(&Network, PortId, Mac), PortError<'static>> {
        let vm = self.of(id).map_err(PortError::Gone)?;
        let none = PortError::NoDevice { count: vm.config.nics.len() };
        let found = vm.config.nics.get(number).zip(self.networks.port_of(&vm.name, number));
        let (nic, (network, port)) = found.ok_or(none)?;
        Ok((network, port, nic.address(&vm.name, number)))
    }

    /// Changes the settings of such a port: by all of the words, or by none. The network, and what they are now.
    ///
    /// # Errors
    /// See [`Self::port_of`]; or a word is wrong.
    pub(crate) fn change_port<'a, H: Host>(
        &self,
        host: &mut H,
        id: VmId,
        number: usize,
        words: &'a str,
    ) -> Result<(&Network, Settings), PortError<'a>> {
        let (network, port, mac) = self.port_of(id, number)?;
        let none = PortError::NoDevice { count: 0 };
        let mut settings = network.switch.port(port).ok_or(none)?.settings();
        for word in words.split_ascii_whitespace() {
            nic::apply(word, &mut settings, mac).map_err(PortError::Word)?;
        }
        network.switch.change(port, host.now().0, |now| now.clone_from(&settings));
        // Its driver hears of its link, and what waited for another rate goes on.
        let vm = self.of(id).map_err(PortError::Gone)?;
        vm.virtio.go_on();
        self.calls.insert(vm.number);
        Ok((network, settings))
    }
}

impl Lead {
    /// Carries out a command about networks.
    pub(super) fn network<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>, command: Command) {
        match command {
            Command::Networks => self.list_networks(cpu),
            Command::Port(vm, device, words) => self.change_port(cpu, (vm, device), &words),
            Command::Network(name, view) => {
                let Some(network) = self.named(cpu.node, &name) else { return };
                match view {
                    NetworkView::Ports => self.list_ports(cpu, network),
                    NetworkView::Addresses => self.list_addresses(cpu, network),
                    NetworkView::Rules => self.list_rules(cpu, network),
                    NetworkView::Mirrors => self.list_mirrors(cpu, network),
                    NetworkView::Flows => self.list_flows(cpu, network),
                    NetworkView::Records => self.take_records(cpu, network),
                }
            }
            Command::Rule(name, change) => {
                let Some(network) = self.named(cpu.node, &name) else { return };
                self.change_rules(cpu.node, network, change);
            }
            Command::Mirror(name, change) => {
                let Some(network) = self.named(cpu.node, &name) else { return };
                self.change_mirrors(cpu.node, network, change);
            }
            // Those are others'.
            _ => {}
        }
    }

    /// The network of that name; where there is none, that is told.
    fn named<'n, B: Backend>(&mut self, node: &'n Node<'_, B>, name: &Name) -> Option<&'n Network> {
        let network = node.networks.find(name);
        if network.is_none() {
            self.answer(format_args!("there is no network '{name}'; networks lists them"));
        }
        network
    }

    /// Changes the settings of a port: by all of the words, or by none.
    fn change_port<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        (vm, device): (usize, Option<u8>),
        words: &str,
    ) {
        let node = cpu.node;
        let Some(vm) = node.places.get(vm) else { return };
        let (name, count) = (vm.name, vm.config.nics.len());
        let number = match (device, count) {
            (_, 0) => {
                self.answer(format_args!(
                    "vm {name} has no network device: net=NETWORK in its line gives it one"
                ));
                return;
            }
            (Some(number), _) => usize::from(number),
            (None, 1) => 0,
            (None, _) => {
                self.answer(format_args!(
                    "vm {name} has {count} network devices; write which one, {name}.0 to {name}.{}",
                    count - 1
                ));
                return;
            }
        };
        match node.change_port(cpu.host, vm.id, number, words) {
            Ok((network, settings)) => {
                let name = vm.name;
                self.answer(format_args!(
                    "{name}.{number} on network {}: {}",
                    network.name,
                    nic::Words(&settings)
                ));
            }
            Err(PortError::NoDevice { .. }) => self.answer(format_args!(
                "vm {name} has no network device {number}: its last one is {name}.{}",
                count - 1
            )),
            Err(PortError::Word(fault)) => self.answer(format_args!("nothing has changed: {fault}")),
            // It is there: it was found.
            Err(PortError::Gone(_)) => {}
        }
    }

    fn change_rules<B: Backend>(&mut self, node: &Node<'_, B>, network: &Network, change: Change) {
        let (name, rules) = (network.name, &network.switch.rules);
        match change {
            Change::Add(text) => {
                let added = network.add_rule(typed_words(&text), &|place| ports_of(node, network, place));
                match added.map(|number| (number + 1, rules.get(number))) {
                    Ok((number, Some((rule, ..)))) => {
                        self.answer(format_args!(
                            "network {name}: rule {number}: {}",
                            RuleText(&rule, network)
                        ));
                    }
                    Ok((number, None)) => self.answer(format_args!("network {name}: rule {number}")),
                    Err(fault) => self.refuse(fault),
                }
            }
            Change::Delete(number) => {
                if index(number).is_some_and(|at| rules.remove(at)) {
                    let left = rules.count_of_rules();
                    self.answer(format_args!("network {name}: rule {number} is deleted, {left} are left"));
                } else {
                    self.answer(format_args!("network {name} has no rule {number}; rules {name} lists them"));
                }
            }
            Change::Default(allow) => {
                rules.set_default(allow);
                self.answer(format_args!("network {name}: {}", tables::by_default(allow)));
            }
        }
    }

    fn change_mirrors<B: Backend>(&mut self, node: &Node<'_, B>, network: &Network, change: Change) {
        let name = network.name;
        match change {
            Change::Add(text) => {
                let added = network.add_mirror(typed_words(&text), &|place| ports_of(node, network, place));
                let sessions = network.switch.mirrors.list();
                match added.map(|number| (number + 1, sessions.get(number))) {
                    Ok((number, Some(session))) => self.answer(format_args!(
                        "network {name}: mirror {number}: {}",
                        SessionText(session, network)
                    )),
                    Ok((number, None)) => self.answer(format_args!("network {name}: mirror {number}")),
                    Err(fault) => self.refuse(fault),
                }
            }
            Change::Delete(number) => {
                if index(number).is_some_and(|at| network.remove_mirror(at)) {
                    let left = network.switch.mirrors.list().len();
                    self.answer(format_args!("network {name}: mirror {number} is deleted, {left} are left"));
                } else {
                    self.answer(format_args!(
                        "network {name} has no mirror {number}; mirrors {name} lists them"
                    ));
                }
            }
            // Mirrors have none: no such command is read.
            Change::Default(_) => {}
        }
    }

    fn refuse(&mut self, fault: NetworkFault<'_>) {
        self.answer(format_args!("nothing has changed: {fault}"));
    }
}

/// Where in a list is what people call by this number.
const fn index(number: u32) -> Option<usize> {
    (number as usize).checked_sub(1)
}

/// The ports of a place; at the prompt, a VM may also be its number in the list.
fn ports_of<B: Backend>(node: &Node<'_, B>, network: &Network, place: Place<'_>) -> PortSet {
    let is_name = node.places.any(|vm| vm.name.as_str() == place.vm);
    let number = place.vm.parse().ok().and_then(|number: usize| number.checked_sub(1));
    match number.and_then(|number| node.places.get(number)).filter(|_| !is_name) {
        Some(vm) => network.ports_of(Place { vm: &vm.name, ..place }),
        None => network.ports_of(place),
    }
}
