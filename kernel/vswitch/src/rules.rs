//! What may go from whom to whom: a list of rules, of which the first that fits decides, and what holds where none does.
//!
//! Answers to what was allowed are allowed: [`crate::flows`] knows conversations, and asks here for the first frame of each. Every change
//! of the list has a number, so that nobody goes by what an older list said.
//!
//! Where a frame's ports cannot be seen (a later fragment of something unknown, headers that are too long), a rule that denies some ports fits, and
//! one that allows some does not.

mod edit;

use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use alloc::boxed::Box;
use alloc::vec::Vec;

use spin::RwLock;

use crate::counters::Traffic;
use crate::frame::{Fragment, Layers, Network, Transport, protocol};
use crate::port::{Mac, PortId, PortSet};
use crate::settings::Prefix;

/// Rules of a switch at most.
pub const MOST_RULES: usize = 256;
/// All ports of a transport.
pub const ANY_PORT: RangeInclusive<u16> = 0..=u16::MAX;

/// What a frame must be, so that a rule fits. What is `None` does not matter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    /// Where it comes from.
    pub from: PortSet,
    /// Where it goes.
    pub to: PortSet,
    /// What is behind its tags.
    pub ether_type: Option<u16>,
    /// The VLAN that it is in.
    pub vlan: Option<u16>,
    /// The hardware address that it comes from.
    pub source_mac: Option<Mac>,
    /// The one that it is for.
    pub destination_mac: Option<Mac>,
    /// IP addresses that it comes from.
    pub source: Option<Prefix>,
    /// Those that it is for.
    pub destination: Option<Prefix>,
    /// The transport's number.
    pub protocol: Option<u8>,
    /// The sender's ports; [`ANY_PORT`] also fits what has none.
    pub source_ports: RangeInclusive<u16>,
    /// The receiver's.
    pub destination_ports: RangeInclusive<u16>,
    /// ICMP's type.
    pub icmp: Option<u8>,
}

impl Default for Match {
    fn default() -> Self {
        Self {
            from: PortSet::ALL,
            to: PortSet::ALL,
            ether_type: None,
            vlan: None,
            source_mac: None,
            destination_mac: None,
            source: None,
            destination: None,
            protocol: None,
            source_ports: ANY_PORT,
            destination_ports: ANY_PORT,
            icmp: None,
        }
    }
}

/// Whether what is asked can be said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fits {
    Yes,
    No,
    Unknown,
}

impl Match {
    fn fits(&self, layers: &Layers, vlan: u16, from: PortId, to: PortId) -> Fits {
        let same = |wanted: Option<u16>, is: u16| wanted.is_none_or(|wanted| wanted == is);
        let is_mac = |wanted: Option<Mac>, is: Mac| wanted.is_none_or(|wanted| wanted == is);
        if !self.from.has(from)
            || !self.to.has(to)
            || !same(self.ether_type, layers.ether_type)
            || !same(self.vlan, vlan)
            || !is_mac(self.source_mac, layers.source)
            || !is_mac(self.destination_mac, layers.destination)
        {
            return Fits::No;
        }
        self.fits_packet(layers)
    }

    fn wants_ports(&self) -> bool {
        self.source_ports != ANY_PORT || self.destination_ports != ANY_PORT
    }

    fn fits_packet(&self, layers: &Layers) -> Fits {
        let of_packet = self.source.is_some()
            || self.destination.is_some()
            || self.protocol.is_some()
            || self.icmp.is_some()
            || self.wants_ports();
        if !of_packet {
            return Fits::Yes;
        }
        let Some(packet) = layers.internet() else { return Fits::No };
        let within =
            |prefix: &Option<Prefix>, address| prefix.is_none_or(|prefix| prefix.has(packet.v6, address));
        if !within(&self.source, &packet.source) || !within(&self.destination, &packet.destination) {
            return Fits::No;
        }
        let hidden = packet.transport == Transport::Hidden;
        if self.protocol.is_some_and(|wanted| wanted != packet.protocol) {
            // Behind headers that nobody has passed, the number is theirs.
            return if hidden { Fits::Unknown } else { Fits::No };
        }
        if !self.wants_ports() && self.icmp.is_none() {
            return Fits::Yes;
        }
        match packet.transport {
            Transport::Hidden => Fits::Unknown,
            Transport::Plain if matches!(packet.fragment, Fragment::Later(_)) => Fits::Unknown,
            Transport::Icmp { kind, .. } => {
                let fits = !self.wants_ports() && self.icmp.is_none_or(|wanted| wanted == kind);
                if fits { Fits::Yes } else { Fits::No }
            }
            Transport::Tcp { from, to, .. } | Transport::Ports { from, to } => {
                let fits = self.icmp.is_none()
                    && self.source_ports.contains(&from)
                    && self.destination_ports.contains(&to);
                if fits { Fits::Yes } else { Fits::No }
            }
            Transport::Plain => Fits::No,
        }
    }
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Whether what it fits may pass.
    pub allow: bool,
    /// What it fits.
    pub fits: Match,
}

/// What was decided, and by which rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// It may pass.
    pub allow: bool,
    /// The rule's number in the list; `None` for what holds without one.
    pub rule: Option<u16>,
}

#[derive(Debug)]
struct List {
    rules: Vec<Rule>,
    allow: bool,
}

/// The rules of a switch, with what holds where none fits.
#[derive(Debug)]
pub struct Rules {
    list: RwLock<List>,
    /// The number of the last change. Odd where there is nothing to ask: all may pass.
    generation: AtomicU32,
    counts: Box<[Traffic]>,
    denied_by_default: AtomicU64,
}

impl Rules {
    /// None: all may pass. `None` where there is no memory for any.
    pub fn new() -> Option<Self> {
        let (mut rules, mut counts) = (Vec::new(), Vec::new());
        rules.try_reserve_exact(MOST_RULES).ok()?;
        counts.try_reserve_exact(MOST_RULES).ok()?;
        counts.resize_with(MOST_RULES, Traffic::default);
        Some(Self {
            list: RwLock::new(List { rules, allow: true }),
            generation: AtomicU32::new(1),
            counts: counts.into_boxed_slice(),
            denied_by_default: AtomicU64::new(0),
        })
    }

    /// The number of the list as it is now.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation.load(SeqCst)
    }

    /// Whether all may pass in a list of this number, and nothing is counted: there are no rules.
    #[inline]
    pub const fn is_open(generation: u32) -> bool {
        generation & 1 != 0
    }

    /// Whether a frame may go from a port to another.
    pub fn judge(&self, layers: &Layers, vlan: u16, from: PortId, to: PortId) -> Verdict {
        let list = self.list.read();
        for (number, rule) in list.rules.iter().enumerate() {
            let decides = match rule.fits.fits(layers, vlan, from, to) {
                Fits::Yes => true,
                Fits::Unknown => !rule.allow,
                Fits::No => false,
            };
            if decides {
                return Verdict { allow: rule.allow, rule: Some(number as u16) };
            }
        }
        Verdict { allow: list.allow || is_of_addresses(layers), rule: None }
    }

    /// A frame was let through, or not, by this verdict.
    #[inline]
    pub fn count(&self, verdict: Verdict, packets: u32, bytes: u64) {
        match verdict.rule {
            Some(rule) => {
                if let Some(count) = self.counts.get(usize::from(rule)) {
                    count.count(packets, bytes);
                }
            }
            None if !verdict.allow => {
                self.denied_by_default.fetch_add(packets.into(), SeqCst);
            }
            None => {}
        }
    }

    /// Packets that the default has denied.
    pub fn denied_by_default(&self) -> u64 {
        self.denied_by_default.load(SeqCst)
    }

    /// Another list of rules: at most [`MOST_RULES`], else nothing is changed and false comes back. Their counters begin at 0; those of rules that stay where they
    /// are go on.
    pub fn replace(&self, rules: &[Rule], allow: bool) -> bool {
        if rules.len() > MOST_RULES {
            return false;
        }
        let mut list = self.list.write();
        for (number, count) in self.counts.iter().enumerate() {
            let same = list.rules.get(number).is_some_and(|before| rules.get(number) == Some(before));
            if !same {
                count.reset();
            }
        }
        list.rules.clear();
        // There is room: see `new`.
        list.rules.extend_from_slice(rules);
        list.allow = allow;
        self.publish(&list);
        true
    }

    /// `with(rule, packets, bytes)` for all; returns what holds where none fits.
    pub fn list(&self, mut with: impl FnMut(&Rule, u64, u64)) -> bool {
        let list = self.list.read();
        for (rule, count) in list.rules.iter().zip(&self.counts) {
            let (packets, bytes) = count.read();
            with(rule, packets, bytes);
        }
        list.allow
    }
}

/// By what is asked for addresses: without it, nothing that is allowed would find its receiver. A rule can deny it.
fn is_of_addresses(layers: &Layers) -> bool {
    match &layers.network {
        Network::Arp(_) => true,
        Network::Internet(packet) => {
            packet.protocol == protocol::ICMPV6
                && matches!(packet.transport, Transport::Icmp { kind: 133..=137 | 143, .. })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::{ethernet, frame, ipv4, tcp, udp};
    use crate::frame::{Flags, ether_type, v4};

    fn port(number: usize) -> PortId {
        PortId::new(number).expect("a port")
    }

    fn layers(number: u8, fragment: u16, rest: &[u8]) -> Layers {
        let packet = ipv4([10, 0, 0, 1], [10, 0, 1, 2], number, (5, fragment), rest);
        frame(&ethernet([2; 6], [4; 6], &[], ether_type::IPV4, &packet)).layers()
    }

    fn ssh(allow: bool) -> Rule {
        let fits = Match {
            protocol: Some(protocol::TCP),
            destination_ports: 22..=22,
            destination: Some(Prefix { v6: false, address: v4([10, 0, 1, 0]), bits: 24 }),
            ..Match::default()
        };
        Rule { allow, fits }
    }

    #[test]
    fn the_first_that_fits_decides_and_the_default_where_none_does() {
        let rules = Rules::new().expect("memory");
        let syn = layers(protocol::TCP, 0, &tcp(9, 22, Flags::SYN));
        let other = layers(protocol::TCP, 0, &tcp(9, 23, Flags::SYN));
        let judge = |layers: &Layers| {
            let found = rules.judge(layers, 1, port(0), port(1));
            (found.allow, found.rule)
        };
        assert!(Rules::is_open(rules.generation()) && judge(&syn) == (true, None));
        assert!(rules.replace(&[ssh(true)], false) && !Rules::is_open(rules.generation()));
        assert_eq!((judge(&syn), judge(&other)), ((true, Some(0)), (false, None)));
        assert!(rules.replace(&[ssh(false), ssh(true)], true) && !Rules::is_open(rules.generation()));
        assert_eq!((judge(&syn), judge(&other)), ((false, Some(0)), (true, None)));
        assert!(rules.replace(&[ssh(true)], true) && !Rules::is_open(rules.generation()), "it is to count");
        assert!(!rules.replace(&std::vec![ssh(true); MOST_RULES + 1], false));
        assert!(judge(&other).0, "nothing was changed");
    }

    #[test]
    fn every_change_has_a_number_of_its_own() {
        let rules = Rules::new().expect("memory");
        let mut seen = std::collections::HashSet::from([rules.generation()]);
        for (list, allow) in [(true, true), (false, true), (false, false), (true, false), (true, true)] {
            rules.replace(&[ssh(list)], allow);
            assert!(seen.insert(rules.generation()));
        }
    }

    #[test]
    fn what_cannot_be_seen_is_not_allowed_and_may_be_denied() {
        let rules = Rules::new().expect("memory");
        for hidden in [layers(protocol::TCP, 0x2000, &[0, 9]), layers(protocol::TCP, 9, &tcp(9, 22, 0))] {
            rules.replace(&[ssh(true)], false);
            assert!(!rules.judge(&hidden, 1, port(0), port(1)).allow);
            rules.replace(&[ssh(false)], true);
            assert!(!rules.judge(&hidden, 1, port(0), port(1)).allow);
        }
        let udp = layers(protocol::UDP, 0, &udp(9, 22));
        assert!(rules.judge(&udp, 1, port(0), port(1)).allow);
    }

    #[test]
    fn rules_are_for_ports_and_vlans() {
        let rules = Rules::new().expect("memory");
        let fits = Match { from: PortSet::one(port(3)), vlan: Some(7), ..Match::default() };
        rules.replace(&[Rule { allow: false, fits }], true);
        let frame = layers(protocol::UDP, 0, &udp(1, 2));
        let denied = |vlan, from| !rules.judge(&frame, vlan, port(from), port(1)).allow;
        assert_eq!((denied(7, 3), denied(7, 4), denied(8, 3)), (true, false, false));
    }

    #[test]
    fn counters_go_on_where_the_rule_stays() {
        let rules = Rules::new().expect("memory");
        rules.replace(&[ssh(true), ssh(false)], true);
        rules.count(Verdict { allow: true, rule: Some(0) }, 1, 60);
        rules.count(Verdict { allow: false, rule: Some(1) }, 1, 60);
        rules.replace(&[ssh(true), ssh(true)], true);
        let mut counts = std::vec::Vec::new();
        rules.list(|_, packets, bytes| counts.push((packets, bytes)));
        assert_eq!(counts, [(1, 60), (0, 0)]);
    }
}
