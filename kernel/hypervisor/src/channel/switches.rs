//! Requests about networks: ports of the switch, rules, mirrors. What changes something comes in the words that the boot line and the prompt have,
//! and is told in these.

use core::fmt::{self, Write as _};

use abi::{Answer, MAX_WORDS, NetworkList, Refusal, Request};
use arrayvec::ArrayString;
use vcpu::{Backend, Host};
use vswitch::counters::Drop;

use super::carry_out::{vm_of, why_not};
use super::{Refused, refused};
use crate::config::{network, nic};
use crate::networks::{Link, Network, RuleText, SessionText, typed_words};
use crate::run::{Node, PortError};

/// Bytes of a text that is told at most. The longest ones that there are have more than a hundred ports in them.
const TEXT_BYTES: usize = 2048;

/// What is told in words. What is longer is cut off.
#[derive(Default)]
struct Text(ArrayString<TEXT_BYTES>);

impl Text {
    fn set(&mut self, text: impl fmt::Display) {
        self.0.clear();
        // What does not fit is left out.
        let _ = write!(self.0, "{text}");
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Why nothing comes of a request: in numbers, or in words that were put into the text.
enum Fault {
    Refused(Refused),
    Misread,
}

impl Fault {
    fn misread(text: &mut Text, why: impl fmt::Display) -> Self {
        text.set(why);
        Self::Misread
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Carries a request about networks out, and writes the answer. How long that is; `None` where it is no such request.
pub(super) fn carry_out<B: Backend, H: Host>(
    node: &Node<'_, B>,
    host: &mut H,
    id: u64,
    request: &Request<'_>,
    to: &mut [u8],
) -> Option<usize> {
    let mut text = Text::default();
    let done = match *request {
        Request::ChangePort { vm, device, words } => change_port(node, host, (vm, device), words, &mut text),
        Request::Port { vm, device } => port(node, vm, device, &mut text),
        Request::Network { number } => told_network(node, number),
        Request::ChangeNetwork { network, words } => change_network(node, &network, words, &mut text),
        Request::AddEntry { network, list, words } => add(node, &network, list, words, &mut text)
            .and_then(|number| entry(find(node, &network)?, list, number, &mut text)),
        Request::DeleteEntry { network, list, number } => {
            find(node, &network).and_then(|network| delete(network, list, number))
        }
        Request::Entry { network, list, number } => {
            find(node, &network).and_then(|network| entry(network, list, number, &mut text))
        }
        _ => return None,
    };
    let answer = match done {
        Ok(answer) => answer,
        Err(Fault::Refused(refused)) => refused.answer(),
        Err(Fault::Misread) => Answer::Misread { bytes: text.bytes() },
    };
    answer.write(id, to)
}

fn find<'n, B: Backend>(node: &'n Node<'_, B>, name: &abi::Name) -> Result<&'n Network, Fault> {
    Ok(node.networks.find(name.as_str()).ok_or(refused(Refusal::NoNetwork, 0, 0))?)
}

/// Words as text, of which there are not too many.
fn text_of<'w>(words: &'w [u8], text: &mut Text) -> Result<&'w str, Fault> {
    if words.len() > MAX_WORDS {
        return Err(refused(Refusal::Range, words.len() as u64, MAX_WORDS as u64).into());
    }
    core::str::from_utf8(words).map_err(|_| Fault::misread(text, "these are no words in UTF-8"))
}

fn change_port<B: Backend, H: Host>(
    node: &Node<'_, B>,
    host: &mut H,
    (vm, device): (u64, u16),
    words: &[u8],
    text: &mut Text,
) -> Result<Answer<'static>, Fault> {
    let vm = vm_of(node, vm)?;
    match node.change_port(host, vm, device.into(), text_of(words, text)?) {
        Ok(_) => Ok(Answer::Done {}),
        Err(error) => Err(no_port(error, device, text)),
    }
}

/// Why there is no port of that device, or why it stays as it is.
fn no_port(error: PortError<'_>, device: u16, text: &mut Text) -> Fault {
    match error {
        PortError::Gone(error) => why_not(error).into(),
        PortError::NoDevice { count } => {
            refused(Refusal::Range, device.into(), count.saturating_sub(1) as u64).into()
        }
        PortError::Word(fault) => Fault::misread(text, fault),
    }
}

fn port<'t, B: Backend>(
    node: &Node<'_, B>,
    vm: u64,
    device: u16,
    words: &'t mut Text,
) -> Result<Answer<'t>, Fault> {
    let id = vm_of(node, vm)?;
    let (network, port_id, mac) = match node.port_of(id, device.into()) {
        Ok(found) => found,
        Err(error) => return Err(no_port(error, device, words)),
    };
    let gone = refused(Refusal::Range, device.into(), 0);
    let port = network.switch.port(port_id).ok_or(gone)?;
    words.set(nic::Words(&port.settings()));
    let [a, b, c, d, e, f] = mac;
    let pair = |(frames, bytes)| [frames, bytes];
    Ok(Answer::Port {
        vm,
        device,
        network: abi::Name::new(&network.name).ok_or(gone)?,
        mac: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
        link: told_link(network.link(port_id)),
        sent: pair(port.counters.sent.read()),
        received: pair(port.counters.received.read()),
        lost: Drop::ALL.map(|reason| port.counters.lost(reason)),
        words: words.bytes(),
    })
}

const fn told_link(link: Link) -> abi::Link {
    match link {
        Link::Up => abi::Link::Up,
        Link::Down => abi::Link::Down,
        Link::NoDriver => abi::Link::NoDriver,
        Link::Watches => abi::Link::Watches,
    }
}

fn told_network<B: Backend>(node: &Node<'_, B>, number: u16) -> Result<Answer<'static>, Fault> {
    let count = node.networks.iter().count() as u64;
    let none = refused(Refusal::Range, number.into(), count.saturating_sub(1));
    let network = node.networks.iter().nth(number.into()).ok_or(none)?;
    let (rules, mirrors) = (&network.switch.rules, network.switch.mirrors.list());
    Ok(Answer::Network {
        network: abi::Name::new(&network.name).ok_or(none)?,
        ports: network.switch.ports().count() as u16,
        rules: rules.count_of_rules() as u16,
        mirrors: mirrors.len() as u16,
        allows: rules.allows_by_default(),
        denied: rules.denied_by_default(),
    })
}

fn change_network<B: Backend>(
    node: &Node<'_, B>,
    name: &abi::Name,
    words: &[u8],
    text: &mut Text,
) -> Result<Answer<'static>, Fault> {
    let network = find(node, name)?;
    let read = network::network(typed_words(text_of(words, text)?));
    let read = read.map_err(|fault| Fault::misread(text, fault))?;
    network.change(read);
    Ok(Answer::Done {})
}

fn add<B: Backend>(
    node: &Node<'_, B>,
    name: &abi::Name,
    list: NetworkList,
    words: &[u8],
    text: &mut Text,
) -> Result<u16, Fault> {
    let (network, words) = (find(node, name)?, typed_words(text_of(words, text)?));
    let find = |place: network::Place<'_>| network.ports_of(place);
    let number = match list {
        NetworkList::Rules => network.add_rule(words, &find),
        NetworkList::Mirrors => network.add_mirror(words, &find),
    };
    number.map(|number| number as u16).map_err(|fault| Fault::misread(text, fault))
}

/// How many entries a list has.
fn length(network: &Network, list: NetworkList) -> usize {
    match list {
        NetworkList::Rules => network.switch.rules.count_of_rules(),
        NetworkList::Mirrors => network.switch.mirrors.list().len(),
    }
}

fn no_entry(network: &Network, list: NetworkList, number: u16) -> Fault {
    refused(Refusal::Range, number.into(), length(network, list).saturating_sub(1) as u64).into()
}

fn delete(network: &Network, list: NetworkList, number: u16) -> Result<Answer<'static>, Fault> {
    let is_deleted = match list {
        NetworkList::Rules => network.switch.rules.remove(number.into()),
        NetworkList::Mirrors => network.remove_mirror(number.into()),
    };
    if is_deleted { Ok(Answer::Done {}) } else { Err(no_entry(network, list, number)) }
}

fn entry<'t>(
    network: &Network,
    list: NetworkList,
    number: u16,
    words: &'t mut Text,
) -> Result<Answer<'t>, Fault> {
    let none = || no_entry(network, list, number);
    let counts = match list {
        NetworkList::Rules => {
            let (rule, packets, bytes) = network.switch.rules.get(number.into()).ok_or_else(none)?;
            words.set(RuleText(&rule, network));
            [packets, bytes]
        }
        NetworkList::Mirrors => {
            let mirrors = network.switch.mirrors.list();
            words.set(SessionText(mirrors.get(usize::from(number)).ok_or_else(none)?, network));
            [0; 2]
        }
    };
    Ok(Answer::Entry { number, counts, words: words.bytes() })
}
