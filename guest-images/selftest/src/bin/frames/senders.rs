//! Senders that say they are somebody else: in Ethernet, IPv4, IPv6 and ARP.

use selftest::{Test, TestResult, tests};

use crate::network::{BOUND, BRIDGE, Network, OWN_MAC, Reason, TRUNK, VICTIM, ip4, ip6, link_local, mac};
use crate::packet::{
    ARP, BROADCAST, Bytes, IPV4, IPV6, Ipv4, Ipv6, Mac, arp, ethernet, extension, fragment, ipv4, ipv4_with,
    ipv6, protocol, udp,
};

pub(crate) const TESTS: &[Test] = tests![
    hardware_addresses_of_others,
    ipv4_addresses_of_others,
    ipv4_addresses_of_others_in_odd_packets,
    ipv6_addresses_of_others,
    arp_for_others,
    arp_without_an_address,
];

const NOBODY: Mac = [2, 0, 0, 0, 0, 0x99];
const GROUP: Mac = [1, 0, 0x5e, 0, 0, 1];

/// Whom frames are for: one, and all.
const RECEIVERS: [Mac; 2] = [mac(VICTIM), BROADCAST];

fn hardware_addresses_of_others() -> TestResult {
    let mut network = Network::new()?;
    network.nothing_more(VICTIM, "a frame before")?;
    let mut own_group = mac(BOUND);
    own_group[0] |= 1;
    for from in [mac(VICTIM), mac(TRUNK), NOBODY, [0; 6], BROADCAST, GROUP, own_group] {
        let packet = ipv4(ip4(BOUND), ip4(VICTIM), protocol::UDP, &udp(1, 2, &Bytes::NONE));
        for to in RECEIVERS {
            let frame = ethernet(to, from, IPV4, &packet);
            let what = format_args!("a frame from {from:x?}");
            network.drops_all(BOUND, &frame, Reason::SpoofedMac, what)?;
            network.drops_all(OWN_MAC, &frame, Reason::SpoofedMac, what)?;
            // Nobody may be a group.
            if from[0] & 1 != 0 {
                network.drops_all(BRIDGE, &frame, Reason::SpoofedMac, what)?;
            }
        }
    }
    // What was tried has not moved the address.
    let packet = ipv4(ip4(BOUND), ip4(VICTIM), protocol::UDP, &udp(1, 2, &Bytes::NONE));
    network.reaches(BOUND, &ethernet(mac(VICTIM), mac(BOUND), IPV4, &packet), &[VICTIM], "a frame behind")
}

const FOREIGN_IPV4: [Ipv4; 6] =
    [ip4(VICTIM), [10, 9, 0, 77], [0; 4], [255; 4], [127, 0, 0, 1], [224, 0, 0, 1]];

fn ipv4_addresses_of_others() -> TestResult {
    let mut network = Network::new()?;
    let payload = udp(1, 2, &Bytes::NONE);
    for from in FOREIGN_IPV4 {
        for number in [protocol::UDP, protocol::TCP, 1, 47] {
            let rest = payload.and(&[0; 12]);
            let packet = ipv4(from, ip4(VICTIM), number, &rest);
            let what = format_args!("protocol {number} from {from:?}");
            let frame = ethernet(mac(VICTIM), mac(BOUND), IPV4, &packet);
            network.drops(BOUND, &frame, Reason::SpoofedAddress, what)?;
        }
        let packet = ipv4(from, [255; 4], protocol::UDP, &payload);
        let frame = ethernet(BROADCAST, mac(BOUND), IPV4, &packet);
        network.drops_all(BOUND, &frame, Reason::SpoofedAddress, format_args!("a packet from {from:?}"))?;
    }
    // A client asks without an address; a server does not answer so, and nobody asks for anything else.
    for (from, to) in [(67, 68), (68, 68), (67, 67), (68, 53)] {
        let packet = ipv4([0; 4], [255; 4], protocol::UDP, &udp(from, to, &Bytes::NONE));
        let frame = ethernet(BROADCAST, mac(BOUND), IPV4, &packet);
        let what = format_args!("a datagram from nobody's port {from} to {to}");
        network.drops(BOUND, &frame, Reason::SpoofedAddress, what)?;
    }
    Ok(())
}

fn ipv4_addresses_of_others_in_odd_packets() -> TestResult {
    let mut network = Network::new()?;
    let payload = udp(1, 2, &Bytes::of(&[0x45; 16]));
    let ends = (ip4(VICTIM), ip4(VICTIM), protocol::UDP);
    // No operation; a source route by an address that is its own.
    let mut route = [1; 8];
    route[..3].copy_from_slice(&[131, 7, 4]);
    route[3..7].copy_from_slice(&ip4(BOUND));
    for options in [&[1; 4][..], &[1; 40], &route] {
        let packet = ipv4_with(options, 0, ends, &payload);
        let frame = ethernet(BROADCAST, mac(BOUND), IPV4, &packet);
        network.drops_all(BOUND, &frame, Reason::SpoofedAddress, "a packet with options")?;
    }
    // The first part with all of the transport's header, or eight bytes, or nothing; parts that overlap it; the last one.
    for (place, bytes) in [(0x2000, 24), (0x2000, 8), (0x2000, 0), (0x2001, 16), (0x0001, 8), (0x1fff, 8)] {
        let packet = ipv4_with(&[], place, ends, &payload.cut(bytes));
        let frame = ethernet(BROADCAST, mac(BOUND), IPV4, &packet);
        network.drops_all(BOUND, &frame, Reason::SpoofedAddress, format_args!("fragment {place:#x}"))?;
    }
    // Who asks for an address does so in whole packets.
    let packet = ipv4_with(&[], 0x0001, ([0; 4], [255; 4], protocol::UDP), &udp(68, 67, &Bytes::NONE));
    let frame = ethernet(BROADCAST, mac(BOUND), IPV4, &packet);
    network.drops(BOUND, &frame, Reason::SpoofedAddress, "a later fragment from nobody")
}

fn ipv6_addresses_of_others() -> TestResult {
    let mut network = Network::new()?;
    let mut mapped: Ipv6 = [0; 16];
    mapped[10..12].copy_from_slice(&[0xff; 2]);
    mapped[12..].copy_from_slice(&ip4(BOUND));
    let mut own_group = ip6(BOUND);
    own_group[0] = 0xff;
    let (mut loopback, mut last) = ([0; 16], ip6(BOUND));
    (loopback[15], last[15]) = (1, 0x99);
    let foreign = [ip6(VICTIM), link_local(VICTIM), mapped, own_group, loopback, last, [0; 16]];
    for from in foreign {
        let datagram = udp(1, 2, &Bytes::NONE);
        let packet = ipv6(from, ip6(VICTIM), protocol::UDP, &datagram);
        let what = format_args!("a packet from {from:x?}");
        let frame = ethernet(mac(VICTIM), mac(BOUND), IPV6, &packet);
        network.drops_all(BOUND, &frame, Reason::SpoofedAddress, what)?;
        let parts = [
            fragment(protocol::UDP, 0, true, &datagram),
            fragment(protocol::UDP, 1, false, &datagram),
            extension(protocol::UDP, &datagram),
        ];
        for (next, rest) in
            [protocol::FRAGMENT, protocol::FRAGMENT, protocol::HOP_BY_HOP].into_iter().zip(parts)
        {
            let frame = ethernet(BROADCAST, mac(BOUND), IPV6, &ipv6(from, ip6(VICTIM), next, &rest));
            network.drops(BOUND, &frame, Reason::SpoofedAddress, what)?;
        }
    }
    Ok(())
}

fn arp_for_others() -> TestResult {
    let mut network = Network::new()?;
    let (own, theirs) = (mac(BOUND), mac(VICTIM));
    for (what, packet) in [
        ("a question from another's address", arp(1, (own, ip4(VICTIM)), ([0; 6], ip4(TRUNK)))),
        ("an answer for another", arp(2, (own, ip4(VICTIM)), (mac(TRUNK), ip4(TRUNK)))),
        ("an announcement of another's address", arp(1, (own, ip4(VICTIM)), ([0; 6], ip4(VICTIM)))),
        ("an announcement of it as an answer", arp(2, (own, ip4(VICTIM)), (own, ip4(VICTIM)))),
        ("an answer that names another device", arp(2, (theirs, ip4(BOUND)), (mac(TRUNK), ip4(TRUNK)))),
        ("an answer that names all devices", arp(2, (BROADCAST, ip4(BOUND)), (mac(TRUNK), ip4(TRUNK)))),
        ("another's answer", arp(2, (theirs, ip4(VICTIM)), (mac(TRUNK), ip4(TRUNK)))),
    ] {
        for to in RECEIVERS {
            network.drops_all(BOUND, &ethernet(to, own, ARP, &packet), Reason::SpoofedAddress, what)?;
        }
        // Linux takes the number of IEEE 802's networks for Ethernet's.
        let other = ethernet(BROADCAST, own, ARP, &packet.with(1, &[6]));
        network.drops_all(BOUND, &other, Reason::SpoofedAddress, format_args!("{what}, of hardware 6"))?;
    }
    // Who is bound to no IP address still has but one device.
    let lie = arp(2, (theirs, ip4(OWN_MAC)), (mac(TRUNK), ip4(TRUNK)));
    for hardware in [1, 6] {
        let frame = ethernet(BROADCAST, mac(OWN_MAC), ARP, &lie.with(1, &[hardware]));
        let what = format_args!("another device in ARP of hardware {hardware}");
        network.drops_all(OWN_MAC, &frame, Reason::SpoofedMac, what)?;
    }
    Ok(())
}

/// A question without a sender's address tells others that somebody is about to have the one that it is about.
fn arp_without_an_address() -> TestResult {
    let mut network = Network::new()?;
    for operation in [1, 2] {
        let packet = arp(operation, (mac(BOUND), [0; 4]), ([0; 6], ip4(VICTIM)));
        let frame = ethernet(BROADCAST, mac(BOUND), ARP, &packet);
        network.drops_all(BOUND, &frame, Reason::SpoofedAddress, "a probe of another's address")?;
    }
    Ok(())
}
