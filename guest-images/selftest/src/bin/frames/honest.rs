//! Frames that nobody may keep from arriving: without them, a switch that drops everything would pass.

use selftest::{Test, TestResult, check, tests};

use crate::network::{
    APART, BOUND, BRIDGE, FOREIGN_TAGS, Network, OTHER_VLAN, OWN_MAC, Reason, SMALL, TRUNK, USUAL_VLAN,
    VICTIM, ip4, ip6, link_local, mac,
};
use crate::nic::PLAIN;
use crate::packet::{
    ARP, BROADCAST, Bytes, CUSTOMER, EXPERIMENT, IPV4, IPV6, Mac, PROVIDER, arp, ethernet, ipv4, ipv4_with,
    ipv6, link_option, neighbour, protocol, tagged, udp,
};

pub(crate) const TESTS: &[Test] = tests![
    own_addresses_arrive,
    own_neighbour_messages_arrive,
    known_addresses_get_their_own,
    tags_are_put_on_and_taken_off,
    vlans_are_apart,
    tags_take_nobody_to_another_vlan,
    bridges_may_send_for_others,
];

const ALL: &[usize] = &[VICTIM, TRUNK, BRIDGE, OWN_MAC, SMALL];

/// A datagram from the one who is bound.
pub(crate) fn datagram(to: Mac, bytes: u32) -> Bytes {
    let rest = udp(1000, 2000, &Bytes::of(b"what is said").and_zeros(bytes));
    ethernet(to, mac(BOUND), IPV4, &ipv4(ip4(BOUND), ip4(VICTIM), protocol::UDP, &rest))
}

fn own_addresses_arrive() -> TestResult {
    let mut network = Network::new()?;
    for bytes in [0, 1, 100, 1400, 1460] {
        network.reaches(BOUND, &datagram(BROADCAST, bytes), ALL, "a datagram")?;
    }
    let rest = udp(1000, 2000, &Bytes::NONE);
    for (options, fragment) in [(&[1; 4][..], 0), (&[1; 40], 0), (&[], 0x2000), (&[], 0x2001), (&[], 1)] {
        let packet = ipv4_with(options, fragment, (ip4(BOUND), ip4(VICTIM), protocol::UDP), &rest);
        let frame = ethernet(BROADCAST, mac(BOUND), IPV4, &packet);
        network.reaches(BOUND, &frame, ALL, "a packet with options, or a fragment")?;
    }
    for source in [ip6(BOUND), link_local(BOUND)] {
        let packet = ipv6(source, ip6(VICTIM), protocol::UDP, &rest);
        network.reaches(BOUND, &ethernet(BROADCAST, mac(BOUND), IPV6, &packet), ALL, "an IPv6 packet")?;
    }
    let discovery = ipv4([0; 4], [255; 4], protocol::UDP, &udp(68, 67, &Bytes::NONE));
    network.reaches(BOUND, &ethernet(BROADCAST, mac(BOUND), IPV4, &discovery), ALL, "a DHCP client")
}

fn own_neighbour_messages_arrive() -> TestResult {
    let mut network = Network::new()?;
    let (own, victim) = ((mac(BOUND), ip4(BOUND)), ([0; 6], ip4(VICTIM)));
    for packet in [
        arp(1, own, victim),
        arp(2, own, (mac(VICTIM), ip4(VICTIM))),
        arp(1, own, ([0; 6], ip4(BOUND))),
        arp(1, (mac(BOUND), [0; 4]), ([0; 6], ip4(BOUND))),
    ] {
        network.reaches(BOUND, &ethernet(BROADCAST, mac(BOUND), ARP, &packet), ALL, "ARP")?;
    }
    let (asks, says) = (link_option(1, mac(BOUND)), link_option(2, mac(BOUND)));
    for (source, message) in [
        (ip6(BOUND), neighbour(135, ip6(VICTIM)).then(&asks)),
        (ip6(BOUND), neighbour(136, ip6(BOUND)).then(&says)),
        (link_local(BOUND), neighbour(136, link_local(BOUND)).then(&says)),
        (link_local(BOUND), Bytes::of(&[133, 0, 0, 0, 0, 0, 0, 0]).then(&asks)),
        ([0; 16], neighbour(135, ip6(BOUND))),
    ] {
        let packet = ipv6(source, ip6(VICTIM), protocol::ICMPV6, &message);
        let frame = ethernet(BROADCAST, mac(BOUND), IPV6, &packet);
        network.reaches(BOUND, &frame, ALL, "neighbour discovery")?;
    }
    Ok(())
}

fn known_addresses_get_their_own() -> TestResult {
    let mut network = Network::new()?;
    let what = "a frame for one";
    network.reaches(BOUND, &datagram(mac(VICTIM), 64), ALL, "a frame for one who is not known")?;
    network.nothing_more(VICTIM, what)?;
    network.nothing_more(APART, what)?;
    network.reaches(BOUND, &datagram(mac(VICTIM), 64), &[VICTIM], what)?;
    // Nobody in this VLAN has that address.
    network.reaches(BOUND, &datagram(mac(APART), 64), ALL, "a frame for another VLAN's address")
}

fn tags_are_put_on_and_taken_off() -> TestResult {
    let mut network = Network::new()?;
    let frame = datagram(BROADCAST, 60);
    // A priority is told where there are tags.
    let what = "a frame with a priority";
    network.send(&PLAIN, BOUND, &tagged(&frame, &[(CUSTOMER, 5 << 13)]), what)?;
    let arrived = network.next(TRUNK, what)?;
    check!(arrived.is(&tagged(&frame, &[(CUSTOMER, 5 << 13 | USUAL_VLAN)])), "{what} has lost it");
    for nic in [VICTIM, BRIDGE, OWN_MAC, SMALL] {
        check!(network.next(nic, what)?.is(&frame), "{what}: device {nic} has got another");
    }
    network.nothing_more(BOUND, what)?;
    // One behind another is nothing to the switch.
    let what = "a provider's tag";
    network.reaches(BOUND, &tagged(&frame, &[(PROVIDER, OTHER_VLAN)]), ALL, what)?;
    let what = "a frame with two tags";
    network.send(&PLAIN, BOUND, &tagged(&frame, &[(CUSTOMER, 0), (CUSTOMER, OTHER_VLAN)]), what)?;
    let inner = tagged(&frame, &[(CUSTOMER, OTHER_VLAN)]);
    for nic in [VICTIM, BRIDGE, OWN_MAC, SMALL] {
        check!(network.next(nic, what)?.is(&inner), "{what}: device {nic} has got another");
    }
    let both = tagged(&frame, &[(CUSTOMER, USUAL_VLAN), (CUSTOMER, OTHER_VLAN)]);
    check!(network.next(TRUNK, what)?.is(&both), "{what} looks wrong on the trunk");
    network.nothing_more(BOUND, what)
}

fn vlans_are_apart() -> TestResult {
    let mut network = Network::new()?;
    let frame = ethernet(BROADCAST, mac(TRUNK), EXPERIMENT, &Bytes::of(b"to the other VLAN"));
    let what = "a frame for one VLAN";
    network.send(&PLAIN, TRUNK, &tagged(&frame, &[(CUSTOMER, OTHER_VLAN)]), what)?;
    check!(network.next(APART, what)?.is(&frame), "{what} has changed");
    for nic in [BOUND, VICTIM, BRIDGE, OWN_MAC, SMALL] {
        check!(network.take(nic).is_none(), "{what} has come to device {nic}");
    }
    // Without a tag it is in none of the trunk's VLANs.
    network.send(&PLAIN, TRUNK, &frame, what)?;
    crate::network::loses(TRUNK, Reason::Vlan);
    let back = ethernet(mac(TRUNK), mac(APART), EXPERIMENT, &Bytes::of(b"from there"));
    network.send(&PLAIN, APART, &back, what)?;
    let arrived = network.next(TRUNK, what)?;
    check!(arrived.is(&tagged(&back, &[(CUSTOMER, OTHER_VLAN)])), "{what} has no tag of it");
    network.nothing_more(BOUND, what)
}

/// What is in these frames is right.
fn tags_take_nobody_to_another_vlan() -> TestResult {
    let mut network = Network::new()?;
    network.nothing_more(APART, "a frame before")?;
    for tags in FOREIGN_TAGS {
        let what = format_args!("a frame of its own behind tags {tags:x?}");
        for to in [BROADCAST, mac(VICTIM), mac(APART)] {
            network.drops(BOUND, &tagged(&datagram(to, 60), tags), Reason::Vlan, what)?;
            for from in [BRIDGE, OWN_MAC, APART] {
                let frame = ethernet(to, mac(from), EXPERIMENT, &Bytes::of(b"to another VLAN"));
                network.drops(from, &tagged(&frame, tags), Reason::Vlan, what)?;
            }
        }
    }
    Ok(())
}

fn bridges_may_send_for_others() -> TestResult {
    let mut network = Network::new()?;
    let rest = udp(1000, 2000, &Bytes::of(b"behind a bridge"));
    let packet = ipv4([192, 168, 7, 7], ip4(VICTIM), protocol::UDP, &rest);
    let frame = ethernet(BROADCAST, [2, 7, 7, 7, 7, 7], IPV4, &packet);
    let to = &[BOUND, VICTIM, TRUNK, OWN_MAC, SMALL];
    network.reaches(BRIDGE, &frame, to, "a frame from behind a bridge")?;
    let answer = ethernet([2, 7, 7, 7, 7, 7], mac(VICTIM), EXPERIMENT, &Bytes::of(b"to behind a bridge"));
    // The device that it is for is bound to addresses, and may send nothing but IP.
    let packet = ipv4(ip4(VICTIM), [192, 168, 7, 7], protocol::UDP, &rest);
    network.drops(VICTIM, &answer, Reason::SpoofedAddress, "no IP from one who is bound")?;
    let answer = ethernet([2, 7, 7, 7, 7, 7], mac(VICTIM), IPV4, &packet);
    network.reaches(VICTIM, &answer, &[BRIDGE], "an answer to behind a bridge")
}
