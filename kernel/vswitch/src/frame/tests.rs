use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::port::Mac;

/// A frame of these bytes.
pub(crate) fn frame(bytes: &[u8]) -> Frame {
    let mut head = [0; HEAD_BYTES];
    head.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    Frame::new(&head, bytes.len() as u32, Offload::default()).expect("a frame")
}

/// An Ethernet header with these tags before `rest`.
pub(crate) fn ethernet(to: Mac, from: Mac, tags: &[u16], kind: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = [to, from].concat();
    for tag in tags {
        bytes.extend(ether_type::VLAN.to_be_bytes().into_iter().chain(tag.to_be_bytes()));
    }
    bytes.extend(kind.to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// An IPv4 packet.
pub(crate) fn ipv4(
    from: [u8; 4],
    to: [u8; 4],
    number: u8,
    (id, fragment): (u16, u16),
    rest: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::from([0x45, 0]);
    bytes.extend(((20 + rest.len()) as u16).to_be_bytes());
    bytes.extend(id.to_be_bytes().into_iter().chain(fragment.to_be_bytes()));
    bytes.extend([64, number, 0, 0]);
    bytes.extend(from.into_iter().chain(to));
    bytes.extend(rest);
    bytes
}

/// An IPv6 packet.
pub(crate) fn ipv6(from: Address, to: Address, number: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from([0x60, 0, 0, 0]);
    bytes.extend((rest.len() as u16).to_be_bytes());
    bytes.extend([number, 64]);
    bytes.extend(from.into_iter().chain(to));
    bytes.extend(rest);
    bytes
}

/// A UDP datagram without a payload.
pub(crate) fn udp(from: u16, to: u16) -> Vec<u8> {
    [from, to, 8, 0].into_iter().flat_map(u16::to_be_bytes).collect()
}

/// A TCP segment without a payload.
pub(crate) fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = [from, to].into_iter().flat_map(u16::to_be_bytes).collect();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    bytes
}

const A: Mac = [2, 0, 0, 0, 0, 1];
const B: Mac = [2, 0, 0, 0, 0, 2];

fn internet(bytes: &[u8]) -> Internet {
    *frame(bytes).layers().internet().expect("an IP packet")
}

#[test]
fn a_tagged_udp_datagram_is_read() {
    let packet = ipv4([10, 0, 0, 1], [10, 0, 0, 2], protocol::UDP, (7, 0), &udp(1000, 53));
    let layers = frame(&ethernet(B, A, &[0x6005], ether_type::IPV4, &packet)).layers();
    assert_eq!((layers.destination, layers.source), (B, A));
    assert_eq!((layers.vlan(), layers.priority(), layers.nested), (Some(5), Some(3), false));
    let found = layers.internet().expect("IPv4");
    assert_eq!((found.source, found.ports()), (v4([10, 0, 0, 1]), (1000, 53)));
    assert_eq!((found.at, found.transport_at), (18, 38));
}

#[test]
fn nested_tags_are_looked_through_up_to_the_third() {
    let packet = ipv4([10, 0, 0, 1], [10, 0, 0, 2], protocol::TCP, (7, 0), &tcp(1, 2, Flags::SYN));
    for tags in 1..=4 {
        let layers = frame(&ethernet(B, A, &[9; 4][..tags], ether_type::IPV4, &packet)).layers();
        assert_eq!((layers.vlan(), layers.nested), (Some(9), tags > 1));
        assert_eq!(layers.internet().is_some(), tags <= 3, "{tags} tags");
    }
}

#[test]
fn later_fragments_have_no_ports_and_short_first_ones_hide_them() {
    let of = |fragment, rest: &[u8]| {
        internet(&ethernet(
            B,
            A,
            &[],
            ether_type::IPV4,
            &ipv4([1; 4], [2; 4], protocol::UDP, (77, fragment), rest),
        ))
    };
    let whole = of(0, &udp(5, 6));
    assert_eq!((whole.fragment, whole.ports()), (Fragment::No, (5, 6)));
    let first = of(0x2000, &udp(5, 6));
    assert_eq!((first.fragment, first.ports()), (Fragment::First(77), (5, 6)));
    let later = of(1, &udp(5, 6));
    assert_eq!((later.fragment, later.transport), (Fragment::Later(77), Transport::Plain));
    assert_eq!(of(0x2000, &[0, 5, 0]).transport, Transport::Hidden);
}

#[test]
fn ipv6_extension_headers_are_passed() {
    let hop = [protocol::DESTINATION, 0, 1, 4, 0, 0, 0, 0];
    let options = [protocol::FRAGMENT, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let fragment = [protocol::UDP, 0, 0, 1, 0, 0, 0, 9];
    let rest = [&hop[..], &options, &fragment, &udp(5, 6)].concat();
    let found = internet(&ethernet(B, A, &[], ether_type::IPV6, &ipv6([1; 16], [2; 16], 0, &rest)));
    assert_eq!((found.fragment, found.ports(), found.protocol), (Fragment::First(9), (5, 6), protocol::UDP));
    assert_eq!(found.transport_at, 14 + 40 + 32);
    let long = [protocol::UDP, 20].into_iter().chain([0; 166]).chain(udp(5, 6)).collect::<Vec<_>>();
    let found = internet(&ethernet(B, A, &[], ether_type::IPV6, &ipv6([1; 16], [2; 16], 0, &long)));
    assert_eq!(found.transport, Transport::Hidden, "ports that nobody has seen");
    // A first fragment in which there is another header, as if the packet were whole.
    let first = [protocol::FRAGMENT, 0, 0, 1, 0, 0, 0, 9];
    let rest = [&first[..], &[protocol::UDP, 0, 0, 0, 0, 0, 0, 8], &udp(5, 6)].concat();
    let found = internet(&ethernet(B, A, &[], ether_type::IPV6, &ipv6([1; 16], [2; 16], 44, &rest)));
    assert_eq!((found.fragment, found.transport), (Fragment::First(9), Transport::Hidden));
}

#[test]
fn arp_and_what_only_says_so() {
    let mut packet = Vec::from([0, 1, 8, 0, 6, 4, 0, 1]);
    packet.extend(A.into_iter().chain([10, 0, 0, 1]).chain(B).chain([10, 0, 0, 2]));
    let of = |packet: &[u8]| frame(&ethernet(B, A, &[], ether_type::ARP, packet)).layers().network;
    assert_eq!(
        of(&packet),
        Network::Arp(Arp { sender_mac: A, sender: [10, 0, 0, 1], target: [10, 0, 0, 2] })
    );
    packet.pop();
    assert_eq!(of(&packet), Network::Malformed);
    assert_eq!(
        frame(&ethernet(B, A, &[], ether_type::IPV4, &[0x45; 12])).layers().network,
        Network::Malformed
    );
}

proptest! {
    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 14..300), kind in 0_usize..6) {
        let mut bytes = bytes;
        let kinds = [ether_type::IPV4, ether_type::IPV6, ether_type::VLAN, ether_type::PROVIDER, ether_type::ARP];
        if let (Some(place), Some(kind)) = (bytes.get_mut(12..14), kinds.get(kind)) {
            place.copy_from_slice(&kind.to_be_bytes());
        }
        let layers = frame(&bytes).layers();
        if let Some(found) = layers.internet() {
            prop_assert!(usize::from(found.transport_at) <= bytes.len());
        }
    }
}
