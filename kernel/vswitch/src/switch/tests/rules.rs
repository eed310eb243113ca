//! What rules say, as the model reads them: one field after the other.

use std::vec::Vec;

use super::reader::{Ip, Part, Seen, Transport, What};
use super::talks::Said;
use crate::frame::Address;
use crate::port::PortId;
use crate::rules::{ANY_PORT, Match, Rule};
use crate::settings::Prefix;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fits {
    Yes,
    No,
    Perhaps,
}

pub(super) fn within(prefix: &Prefix, v6: bool, address: &Address) -> bool {
    let bit = |bytes: &Address, at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let first = if prefix.v6 { 0 } else { 96 };
    prefix.v6 == v6
        && (first..first + usize::from(prefix.bits)).all(|at| bit(address, at) == bit(&prefix.address, at))
}

/// What rules say about a frame between two ports.
pub(super) fn say(rules: &[Rule], default: bool, seen: &Seen, vlan: u16, (from, to): (usize, usize)) -> Said {
    for (number, rule) in rules.iter().enumerate() {
        let fits = fits(&rule.fits, seen, vlan, (from, to));
        // What cannot be seen is not allowed by a rule, and is denied by one.
        if fits == Fits::Yes || fits == Fits::Perhaps && !rule.allow {
            return (rule.allow, Some(number));
        }
    }
    (default || is_question_for_addresses(seen), None)
}

fn is_question_for_addresses(seen: &Seen) -> bool {
    match &seen.what {
        What::Arp { .. } => true,
        What::Ip(ip) => {
            ip.number == 58 && matches!(ip.transport, Transport::Icmp { kind: 133..=137 | 143, .. })
        }
        _ => false,
    }
}

fn fits(wanted: &Match, seen: &Seen, vlan: u16, (from, to): (usize, usize)) -> Fits {
    let port = |number| PortId::new(number).expect("a port");
    let frame = [
        wanted.from.has(port(from)),
        wanted.to.has(port(to)),
        wanted.ether_type.is_none() || wanted.ether_type == Some(seen.kind),
        wanted.vlan.is_none() || wanted.vlan == Some(vlan),
        wanted.source_mac.is_none() || wanted.source_mac == Some(seen.from),
        wanted.destination_mac.is_none() || wanted.destination_mac == Some(seen.to),
    ];
    if frame.contains(&false) {
        return Fits::No;
    }
    let mut all = Vec::new();
    let Some(ip) = seen.ip() else {
        let of_ip = wanted.source.is_some()
            || wanted.destination.is_some()
            || wanted.protocol.is_some()
            || wanted.icmp.is_some()
            || wanted.source_ports != ANY_PORT
            || wanted.destination_ports != ANY_PORT;
        return if of_ip { Fits::No } else { Fits::Yes };
    };
    let sure = |is: bool| if is { Fits::Yes } else { Fits::No };
    all.extend(wanted.source.map(|prefix| sure(within(&prefix, ip.v6, &ip.source))));
    all.extend(wanted.destination.map(|prefix| sure(within(&prefix, ip.v6, &ip.destination))));
    let hidden = ip.transport == Transport::Hidden;
    all.extend(wanted.protocol.map(|number| match number == ip.number {
        true => Fits::Yes,
        false if hidden => Fits::Perhaps,
        false => Fits::No,
    }));
    if wanted.source_ports != ANY_PORT || wanted.destination_ports != ANY_PORT || wanted.icmp.is_some() {
        all.push(fits_transport(wanted, ip));
    }
    match all {
        all if all.contains(&Fits::No) => Fits::No,
        all if all.contains(&Fits::Perhaps) => Fits::Perhaps,
        _ => Fits::Yes,
    }
}

fn fits_transport(wanted: &Match, ip: &Ip) -> Fits {
    let is_cut = matches!(ip.part, Part::Later(_)) && ip.transport == Transport::Plain;
    let wants_ports = wanted.source_ports != ANY_PORT || wanted.destination_ports != ANY_PORT;
    let fits = match ip.transport {
        Transport::Hidden => return Fits::Perhaps,
        _ if is_cut => return Fits::Perhaps,
        Transport::Icmp { kind, .. } => !wants_ports && wanted.icmp.is_none_or(|wanted| wanted == kind),
        Transport::Tcp { from, to, .. } | Transport::Ports { from, to } => {
            wanted.icmp.is_none()
                && wanted.source_ports.contains(&from)
                && wanted.destination_ports.contains(&to)
        }
        Transport::Plain => false,
    };
    if fits { Fits::Yes } else { Fits::No }
}

/// The headers of the frame that this one answers.
pub(super) fn question_of(answer: &Seen) -> Seen {
    let mut question = answer.clone();
    (question.from, question.to) = (answer.to, answer.from);
    if let What::Ip(ip) = &mut question.what {
        (ip.source, ip.destination) = (ip.destination, ip.source);
        match &mut ip.transport {
            Transport::Tcp { from, to, .. } | Transport::Ports { from, to } => std::mem::swap(from, to),
            Transport::Icmp { kind, .. } => {
                *kind = match (ip.number, *kind) {
                    (1, 0) => 8,
                    (58, 129) => 128,
                    (_, kind) => kind,
                }
            }
            _ => {}
        }
    }
    question
}
