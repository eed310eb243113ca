//! Frames of odd lengths and kinds: too short, too long, cut off, of 802.3, and for bridges alone.

use selftest::{Test, TestResult, check, tests};

use crate::honest::datagram;
use crate::network::{
    BOUND, BRIDGE, Network, OWN_MAC, Reason, SMALL, TRUNK, USUAL_VLAN, VICTIM, ip4, ip6, loses, mac,
};
use crate::nic::PLAIN;
use crate::packet::{
    ARP, BROADCAST, Bytes, CUSTOMER, EXPERIMENT, IPV4, IPV6, arp, ethernet, ipv4, ipv4_with, ipv6, protocol,
    udp,
};

pub(crate) const TESTS: &[Test] = tests![
    frames_without_a_header,
    frames_of_headers_alone,
    headers_that_are_cut_off,
    headers_that_lie_about_lengths,
    frames_of_802_3,
    frames_for_bridges,
    frames_beyond_the_mtu,
    frames_of_any_length,
];

/// Who gets what [`OWN_MAC`] sends to all.
const OTHERS: &[usize] = &[BOUND, VICTIM, TRUNK, BRIDGE, SMALL];
/// The longest frame: an IP packet of 64 KiB, with two tags.
const LONGEST: u32 = 65_535 + 14 + 8;

fn frames_without_a_header() -> TestResult {
    let mut network = Network::new()?;
    let frame = datagram(BROADCAST, 0);
    for bytes in 0..14 {
        for from in [BOUND, OWN_MAC, BRIDGE] {
            let what = format_args!("a frame of {bytes} bytes");
            network.drops(from, &frame.cut(bytes), Reason::Malformed, what)?;
        }
    }
    Ok(())
}

fn frames_of_headers_alone() -> TestResult {
    let mut network = Network::new()?;
    for kind in [IPV4, IPV6, ARP] {
        for bytes in [0, 1, 4] {
            let frame = ethernet(BROADCAST, mac(BOUND), kind, &Bytes::NONE.and_zeros(bytes));
            let what = format_args!("{bytes} bytes of kind {kind:#x}");
            network.drops(BOUND, &frame, Reason::Malformed, what)?;
        }
    }
    for kind in [0, EXPERIMENT, CUSTOMER] {
        let frame = ethernet(BROADCAST, mac(BOUND), kind, &Bytes::NONE);
        network.drops(BOUND, &frame, Reason::SpoofedAddress, "no more than a header of another kind")?;
    }
    let frame = ethernet(BROADCAST, mac(OWN_MAC), EXPERIMENT, &Bytes::NONE);
    network.reaches(OWN_MAC, &frame, OTHERS, "no more than a header")?;
    // A tag with nothing behind it cannot be taken away; one that is cut off cannot be changed either.
    for bytes in [0, 1, 2, 3] {
        let frame = ethernet(BROADCAST, mac(OWN_MAC), CUSTOMER, &Bytes::of(&[0; 3]).cut(bytes));
        let what = format_args!("{bytes} bytes of a tag");
        network.send(&PLAIN, OWN_MAC, &frame, what)?;
        if bytes < 2 {
            loses(TRUNK, Reason::Malformed);
        } else {
            check!(
                network.next(TRUNK, what)?.is(&frame.with(15, &[USUAL_VLAN as u8])),
                "{what} on the trunk"
            );
        }
        OTHERS.iter().filter(|nic| **nic != TRUNK).for_each(|nic| loses(*nic, Reason::Malformed));
        network.nothing_more(OWN_MAC, what)?;
    }
    Ok(())
}

fn headers_that_are_cut_off() -> TestResult {
    let mut network = Network::new()?;
    let rest = udp(1, 2, &Bytes::NONE);
    let v4 = ethernet(BROADCAST, mac(BOUND), IPV4, &ipv4(ip4(BOUND), ip4(VICTIM), protocol::UDP, &rest));
    let v6 = ethernet(BROADCAST, mac(BOUND), IPV6, &ipv6(ip6(BOUND), ip6(VICTIM), protocol::UDP, &rest));
    let question = arp(1, (mac(BOUND), ip4(BOUND)), ([0; 6], ip4(VICTIM)));
    let question = ethernet(BROADCAST, mac(BOUND), ARP, &question);
    for frame in [v4, v6, question] {
        for bytes in (14..frame.said().len()).step_by(3) {
            let what = format_args!("{bytes} bytes of {}", frame.said().len());
            network.drops(BOUND, &frame.cut(bytes), Reason::Malformed, what)?;
        }
    }
    Ok(())
}

fn headers_that_lie_about_lengths() -> TestResult {
    let mut network = Network::new()?;
    let rest = udp(1, 2, &Bytes::NONE);
    let v4 = ethernet(BROADCAST, mac(BOUND), IPV4, &ipv4(ip4(BOUND), ip4(VICTIM), protocol::UDP, &rest));
    let v6 = ethernet(BROADCAST, mac(BOUND), IPV6, &ipv6(ip6(BOUND), ip6(VICTIM), protocol::UDP, &rest));
    // Where the version and the header's words are, and the length.
    let first = 14;
    for (what, frame) in [
        ("IPv4 of version 5", v4.with(first, &[0x55])),
        ("IPv4 that says it is IPv6", v4.with(first, &[0x65])),
        ("IPv4 with four words of header", v4.with(first, &[0x44])),
        ("IPv4 with no header", v4.with(first, &[0x40])),
        ("IPv4 with more header than packet", v4.with(first, &[0x4f])),
        ("IPv4 with more bytes than the frame", v4.with(first + 2, &[0, 29])),
        ("IPv4 with 64 KiB", v4.with(first + 2, &[0xff; 2])),
        ("IPv4 with less bytes than its header", v4.with(first + 2, &[0, 19])),
        ("IPv6 of version 4", v6.with(first, &[0x45])),
        ("IPv6 with more bytes than the frame", v6.with(first + 4, &[0, 9])),
        ("IPv6 with 64 KiB", v6.with(first + 4, &[0xff; 2])),
    ] {
        network.drops(BOUND, &frame, Reason::Malformed, what)?;
    }
    for (what, from) in [("hardware", 0), ("protocol", 2), ("lengths", 4)] {
        let packet = arp(1, (mac(BOUND), ip4(BOUND)), ([0; 6], ip4(VICTIM))).with(from, &[9]);
        let frame = ethernet(BROADCAST, mac(BOUND), ARP, &packet);
        network.drops(BOUND, &frame, Reason::Malformed, format_args!("ARP of another {what}"))?;
    }
    // What is behind a packet is padding.
    let padded = v4.then(&Bytes::of(&[0x77; 18]));
    network.reaches(BOUND, &padded, &[VICTIM, TRUNK, BRIDGE, OWN_MAC, SMALL], "a packet with padding")
}

/// A length, and LLC with or without a name of what follows: IP and ARP behind it are not looked at, so who is bound may not send any.
fn frames_of_802_3() -> TestResult {
    let mut network = Network::new()?;
    let packet = ipv4(ip4(BOUND), ip4(VICTIM), protocol::UDP, &udp(1, 2, &Bytes::NONE));
    let question = arp(2, (mac(VICTIM), ip4(VICTIM)), ([0; 6], ip4(TRUNK)));
    for (kind, rest) in [(IPV4, &packet), (ARP, &question)] {
        let named = Bytes::of(&[0xaa, 0xaa, 3, 0, 0, 0]).and(&kind.to_be_bytes()).then(rest);
        let right = named.length() as u16;
        for length in [right, 0, 1, 0x5dc, 0x5ff] {
            let what = format_args!("802.3 of length {length:#x}");
            let frame = ethernet(BROADCAST, mac(BOUND), length, &named);
            network.drops_all(BOUND, &frame, Reason::SpoofedAddress, what)?;
            let frame = ethernet(BROADCAST, mac(OWN_MAC), length, &named);
            network.reaches(OWN_MAC, &frame, OTHERS, what)?;
        }
    }
    // Protocols that a VM has no need of: RARP, IPX, PPP, MPLS, a VLAN's old tag, MACsec.
    for kind in [0x8035, 0x8137, 0x8864, 0x8847, 0x9100, 0x88e5] {
        let frame = ethernet(BROADCAST, mac(BOUND), kind, &packet);
        network.drops_all(BOUND, &frame, Reason::SpoofedAddress, format_args!("kind {kind:#x}"))?;
    }
    Ok(())
}

fn frames_for_bridges() -> TestResult {
    let mut network = Network::new()?;
    let packet = ipv4(ip4(BOUND), ip4(VICTIM), protocol::UDP, &udp(1, 2, &Bytes::NONE));
    for last in 0..16 {
        let to = [1, 0x80, 0xc2, 0, 0, last];
        let what = format_args!("a frame for {to:x?}");
        network.drops_all(BOUND, &ethernet(to, mac(BOUND), IPV4, &packet), Reason::Reserved, what)?;
        // A bridge protocol's unit, or a pause.
        let unit = Bytes::of(&[0x42, 0x42, 3]).and_zeros(35);
        let frame = ethernet(to, mac(BRIDGE), if last == 1 { 0x8808 } else { 38 }, &unit);
        network.drops(BRIDGE, &frame, Reason::Reserved, what)?;
    }
    let next = ethernet([1, 0x80, 0xc2, 0, 0, 16], mac(OWN_MAC), EXPERIMENT, &Bytes::NONE);
    network.reaches(OWN_MAC, &next, OTHERS, "a frame for the next address behind")
}

fn frames_beyond_the_mtu() -> TestResult {
    let mut network = Network::new()?;
    let with = |bytes: u32| ethernet(BROADCAST, mac(SMALL), EXPERIMENT, &Bytes::NONE.and_zeros(bytes));
    let to = &[BOUND, VICTIM, TRUNK, BRIDGE, OWN_MAC];
    // The device lets in what has room for a tag.
    network.reaches(SMALL, &with(1500), to, "a frame of the MTU")?;
    for bytes in [1505, 1600, 9000, 65_535] {
        network.drops(SMALL, &with(bytes), Reason::Malformed, "a frame beyond the MTU")?;
    }
    let header = 20 + 8 + 12;
    let all = [VICTIM, TRUNK, BRIDGE, OWN_MAC, SMALL];
    network.reaches(BOUND, &datagram(BROADCAST, 1500 - header), &all, "a packet of the MTU")?;
    for bytes in [1501, 1504, 3000] {
        let frame = datagram(BROADCAST, bytes - header);
        network.reaches(BOUND, &frame, &[VICTIM, TRUNK, BRIDGE, OWN_MAC], "a packet beyond the MTU")?;
    }
    Ok(())
}

/// Only [`TRUNK`] has room for the longest.
fn frames_of_any_length() -> TestResult {
    let mut network = Network::new()?;
    let with = |bytes: u32| ethernet(BROADCAST, mac(OWN_MAC), EXPERIMENT, &Bytes::NONE.and_zeros(bytes - 14));
    for bytes in (15..64).chain([159, 160, 161, 164, 1500, 1514]) {
        network.reaches(OWN_MAC, &with(bytes), OTHERS, format_args!("a frame of {bytes} bytes"))?;
    }
    network.reaches(OWN_MAC, &with(LONGEST - 8), &[TRUNK], "a frame of 64 KiB")?;
    for bytes in [LONGEST + 1, LONGEST + 100, 70_000] {
        network.drops(OWN_MAC, &with(bytes), Reason::Malformed, "a frame that is too long")?;
    }
    let packet = ipv4_with(&[], 0, (ip4(VICTIM), ip4(VICTIM), protocol::UDP), &Bytes::NONE.and_zeros(65_000));
    let frame = ethernet(BROADCAST, mac(BOUND), IPV4, &packet);
    network.drops(BOUND, &frame, Reason::SpoofedAddress, "a long packet from another")
}
