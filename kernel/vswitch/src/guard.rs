//! Whose addresses a port may use: what it sends must be from its own.
//!
//! Where a port is bound to IP addresses, what is neither IP nor ARP does not pass, nor do a router's advertisements and redirects.
//!
//! Sources: RFC 826; RFC 4861, "Neighbor Discovery"; RFC 5227 and 4862 (probes); RFC 3590 (reports without an address); RFC 2131 and 8415 (a client without an address); RFC 4291, "Modified EUI-64";
//! RFC 6105 (router advertisements); RFC 6980 (fragments of neighbour discovery).

use crate::counters::Drop;
use crate::frame::{Address, Fragment, Internet, Layers, Network, Transport, protocol};
use crate::port::{Mac, is_group};
use crate::settings::Guard;

/// Messages of ICMPv6.
mod message {
    pub(super) const LISTENER_REPORT: u8 = 131;
    pub(super) const LISTENER_DONE: u8 = 132;
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const NEIGHBOR_SOLICITATION: u8 = 135;
    pub(super) const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
    pub(super) const LISTENER_REPORT_2: u8 = 143;
}
/// Bytes of a neighbour message before its options, and where its target is.
const NEIGHBOR_BYTES: usize = 24;
const TARGET_AT: usize = 8;
/// Options with a link-layer address: the source's, the target's.
const LINK_LAYER: [u8; 2] = [1, 2];
/// Options of one message that are looked at; one with more is none of a client's.
const MOST_OPTIONS: usize = 8;

const CLIENT: u16 = 68;
const SERVER: u16 = 67;

impl Guard {
    /// Whether a port may send this.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, layers: &Layers, head: &[u8]) -> Result<(), Drop> {
        if self.mac.is_some_and(|mac| mac != layers.source) || is_group(&layers.source) {
            return Err(Drop::SpoofedMac);
        }
        if self.addresses.is_empty() {
            return match layers.network {
                // Who owns its hardware address says no other.
                Network::Arp(arp) if self.mac.is_some_and(|mac| mac != arp.sender_mac) => {
                    Err(Drop::SpoofedMac)
                }
                _ => Ok(()),
            };
        }
        let fine = match &layers.network {
            Network::Arp(arp) => {
                // Without an address, it is about the one that it is to have: others would give theirs up.
                let about = if arp.sender == [0; 4] { arp.target } else { arp.sender };
                arp.sender_mac == layers.source && self.owns(false, &crate::frame::v4(about))
            }
            Network::Internet(packet) if packet.v6 => self.allows_v6(layers.source, packet, head),
            Network::Internet(packet) => self.owns(false, &packet.source) || is_discovery(packet),
            Network::Malformed => return Err(Drop::Malformed),
            Network::Other => false,
        };
        if fine { Ok(()) } else { Err(Drop::SpoofedAddress) }
    }

    fn owns(&self, v6: bool, address: &Address) -> bool {
        self.addresses.iter().any(|own| own.has(v6, address))
    }

    fn owns_v6(&self, mac: Mac, address: &Address) -> bool {
        self.owns(true, address) || *address == link_local(mac)
    }

    fn allows_v6(&self, mac: Mac, packet: &Internet, head: &[u8]) -> bool {
        // Without an address yet: only to find out whether it may have one.
        let nameless = packet.source == [0; 16];
        if !nameless && !self.owns_v6(mac, &packet.source) {
            return false;
        }
        match (packet.protocol, packet.transport) {
            // What it is nobody can see.
            (_, Transport::Hidden) => false,
            (protocol::ICMPV6, Transport::Icmp { kind, .. }) => self.allows_message(mac, packet, kind, head),
            _ => !nameless,
        }
    }

    fn allows_message(&self, mac: Mac, packet: &Internet, kind: u8, head: &[u8]) -> bool {
        let is_neighbor = (message::ROUTER_SOLICITATION..=message::REDIRECT).contains(&kind);
        if is_neighbor && packet.fragment != Fragment::No {
            return false;
        }
        let Some(message) = head.get(usize::from(packet.transport_at)..) else { return false };
        let target = message.get(TARGET_AT..).and_then(|rest| rest.first_chunk());
        let is_own = target.is_some_and(|target| self.owns_v6(mac, target));
        let nameless = packet.source == [0; 16];
        match kind {
            message::ROUTER_ADVERTISEMENT | message::REDIRECT => false,
            message::NEIGHBOR_ADVERTISEMENT => {
                is_own && !nameless && options_say(message, NEIGHBOR_BYTES, mac)
            }
            message::NEIGHBOR_SOLICITATION => {
                (is_own || !nameless) && options_say(message, NEIGHBOR_BYTES, mac)
            }
            message::ROUTER_SOLICITATION => options_say(message, TARGET_AT, mac),
            message::LISTENER_REPORT | message::LISTENER_DONE | message::LISTENER_REPORT_2 => true,
            _ => !nameless,
        }
    }
}

/// Whether all options from `at` on with a link-layer address say this one.
fn options_say(message: &[u8], mut at: usize, mac: Mac) -> bool {
    for _ in 0..=MOST_OPTIONS {
        let Some([kind, length]) = message.get(at..).and_then(|rest| rest.first_chunk()) else { return true };
        // In units of 8 bytes; 0 makes no sense.
        let bytes = usize::from(*length) * 8;
        let Some(option) = message.get(at..at + bytes).filter(|option| !option.is_empty()) else {
            return false;
        };
        if LINK_LAYER.contains(kind) && option.get(2..8) != Some(&mac) {
            return false;
        }
        at += bytes;
    }
    false
}

/// A DHCP client that has no address yet.
fn is_discovery(packet: &Internet) -> bool {
    packet.source == crate::frame::v4([0; 4])
        && packet.transport == Transport::Ports { from: CLIENT, to: SERVER }
        && packet.protocol == protocol::UDP
}

/// The link-local address that a hardware address gives.
pub fn link_local([a, b, c, d, e, f]: Mac) -> Address {
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::{ethernet, frame, ipv4, ipv6, udp};
    use crate::frame::{ether_type, v4};
    use crate::settings::Prefix;
    use std::vec::Vec;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    fn guard() -> Guard {
        let mut guard = Guard { mac: Some(A), ..Guard::default() };
        guard.addresses.push(Prefix { v6: false, address: v4([10, 0, 0, 1]), bits: 32 });
        guard.addresses.push(Prefix { v6: true, address: [0xfd; 16], bits: 128 });
        guard
    }

    fn check(bytes: &[u8]) -> Result<(), Drop> {
        let frame = frame(bytes);
        guard().check(&frame.layers(), frame.head())
    }

    fn v6(from: Address, number: u8, rest: &[u8]) -> Result<(), Drop> {
        check(&ethernet(B, A, &[], ether_type::IPV6, &ipv6(from, [0xff; 16], number, rest)))
    }

    #[test]
    fn only_its_own_addresses_pass() {
        let from = |ip, ports: (u16, u16)| {
            let packet = ipv4(ip, [10, 0, 0, 9], protocol::UDP, (1, 0), &udp(ports.0, ports.1));
            check(&ethernet(B, A, &[], ether_type::IPV4, &packet))
        };
        assert_eq!(from([10, 0, 0, 1], (1, 2)), Ok(()));
        assert_eq!(from([10, 0, 0, 2], (1, 2)), Err(Drop::SpoofedAddress));
        assert_eq!(from([0; 4], (68, 67)), Ok(()), "it asks for an address");
        assert_eq!(from([0; 4], (68, 53)), Err(Drop::SpoofedAddress));
        assert_eq!(check(&ethernet(B, B, &[], 0x88b5, &[0; 50])), Err(Drop::SpoofedMac));
        assert_eq!(check(&ethernet(B, A, &[], 0x88b5, &[0; 50])), Err(Drop::SpoofedAddress));
        assert_eq!(check(&ethernet(B, A, &[], ether_type::IPV4, &[0; 50])), Err(Drop::Malformed));
    }

    #[test]
    fn arp_says_what_is_so() {
        let of_hardware = |hardware, mac: Mac, ip: [u8; 4]| {
            let mut packet = Vec::from([0, hardware, 8, 0, 6, 4, 0, 2]);
            packet.extend(mac.into_iter().chain(ip).chain(B).chain([10, 0, 0, 2]));
            ethernet(B, A, &[], ether_type::ARP, &packet)
        };
        let arp = |mac, ip| of_hardware(1, mac, ip);
        assert_eq!(check(&arp(A, [10, 0, 0, 1])), Ok(()));
        assert_eq!(check(&arp(A, [0; 4])), Err(Drop::SpoofedAddress), "somebody else would give it up");
        let mut probe = arp(A, [0; 4]);
        probe[41] = 1;
        assert_eq!(check(&probe), Ok(()));
        assert_eq!(check(&arp(A, [10, 0, 0, 3])), Err(Drop::SpoofedAddress));
        assert_eq!(check(&arp(B, [10, 0, 0, 1])), Err(Drop::SpoofedAddress));
        let only_mac = Guard { mac: Some(A), ..Guard::default() };
        // Receivers take the number of IEEE 802's networks for Ethernet's.
        for hardware in [1, 6] {
            let lie = frame(&of_hardware(hardware, B, [10, 0, 0, 1]));
            assert_eq!(only_mac.check(&lie.layers(), lie.head()), Err(Drop::SpoofedMac));
        }
    }

    #[test]
    fn neighbour_discovery_says_what_is_so() {
        let advertisement = |target: Address, mac: Mac| {
            let mut message = Vec::from([message::NEIGHBOR_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0]);
            message.extend(target.into_iter().chain([2, 1]).chain(mac));
            message
        };
        let icmp = |from, rest: &[u8]| v6(from, protocol::ICMPV6, rest);
        assert_eq!(icmp([0xfd; 16], &advertisement([0xfd; 16], A)), Ok(()));
        assert_eq!(icmp(link_local(A), &advertisement(link_local(A), A)), Ok(()));
        assert_eq!(icmp([0xfd; 16], &advertisement([0xfc; 16], A)), Err(Drop::SpoofedAddress));
        assert_eq!(icmp([0xfd; 16], &advertisement([0xfd; 16], B)), Err(Drop::SpoofedAddress));
        assert_eq!(
            icmp([0xfd; 16], &[message::ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0]),
            Err(Drop::SpoofedAddress)
        );
        let about =
            |target: [u8; 16]| [&[message::NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0][..], &target].concat();
        assert_eq!(icmp([0; 16], &about([0xfd; 16])), Ok(()));
        assert_eq!(icmp([0; 16], &about([0xfc; 16])), Err(Drop::SpoofedAddress), "it would be given up");
        assert_eq!(icmp([0xfd; 16], &about([0xfc; 16])), Ok(()), "who asks is no owner");
        assert_eq!(icmp([0; 16], &[message::LISTENER_REPORT_2, 0, 0, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(icmp([0; 16], &[128, 0, 0, 0, 0, 0, 0, 0]), Err(Drop::SpoofedAddress));
        assert_eq!(v6([0; 16], protocol::UDP, &udp(1, 2)), Err(Drop::SpoofedAddress));
        let endless = [&advertisement([0xfd; 16], A)[..], &[14, 0]].concat();
        assert_eq!(icmp([0xfd; 16], &endless), Err(Drop::SpoofedAddress), "an option without a length");
        // A message behind an extension header is the same message.
        let behind = [&[protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0][..], &advertisement([0xfd; 16], B)].concat();
        assert_eq!(v6([0xfd; 16], 0, &behind), Err(Drop::SpoofedAddress));
    }
}
