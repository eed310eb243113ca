//! Neighbour discovery that lies, and what it can hide behind.

use selftest::{Test, TestResult, tests};

use crate::network::{BOUND, Network, Reason, VICTIM, ip6, link_local, mac};
use crate::packet::{
    BROADCAST, Bytes, IPV6, Ipv6, ethernet, extension, fragment, ipv6, link_option, neighbour, protocol,
};

pub(crate) const TESTS: &[Test] = tests![
    neighbours_who_are_others,
    neighbours_behind_extension_headers,
    neighbours_in_fragments,
    neighbours_in_fragments_of_fragments,
    routers,
    solicitations_without_an_address,
];

/// Messages (RFC 4861).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Options with a link-layer address.
const SOURCE: u8 = 1;
const TARGET: u8 = 2;

fn packet(next: u8, rest: &Bytes) -> Bytes {
    packet_from(ip6(BOUND), next, rest)
}

fn packet_from(source: Ipv6, next: u8, rest: &Bytes) -> Bytes {
    // All nodes, ff02::1.
    let mut all = [0; 16];
    (all[0], all[1], all[15]) = (0xff, 2, 1);
    ethernet(BROADCAST, mac(BOUND), IPV6, &ipv6(source, all, next, rest))
}

fn lies() -> [(&'static str, Bytes); 8] {
    let (own, theirs) = (mac(BOUND), mac(VICTIM));
    let advertisement = neighbour(ADVERTISEMENT, ip6(BOUND));
    let solicitation = Bytes::of(&[ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
    [
        ("another's address", neighbour(ADVERTISEMENT, ip6(VICTIM)).then(&link_option(TARGET, own))),
        (
            "another's local address",
            neighbour(ADVERTISEMENT, link_local(VICTIM)).then(&link_option(TARGET, own)),
        ),
        ("another's address without a device", neighbour(ADVERTISEMENT, ip6(VICTIM))),
        ("another's device", advertisement.then(&link_option(TARGET, theirs))),
        (
            "another's device behind its own",
            advertisement.then(&link_option(TARGET, own)).then(&link_option(TARGET, theirs)),
        ),
        (
            "a question from another's device",
            neighbour(SOLICITATION, ip6(VICTIM)).then(&link_option(SOURCE, theirs)),
        ),
        ("an option without a length", advertisement.and(&[TARGET, 0]).and(&theirs)),
        ("a router's question from another's device", solicitation.then(&link_option(SOURCE, theirs))),
    ]
}

fn neighbours_who_are_others() -> TestResult {
    let mut network = Network::new()?;
    for (what, message) in lies() {
        network.drops_all(BOUND, &packet(protocol::ICMPV6, &message), Reason::SpoofedAddress, what)?;
    }
    Ok(())
}

fn neighbours_behind_extension_headers() -> TestResult {
    let mut network = Network::new()?;
    for (what, message) in lies() {
        let one = extension(protocol::ICMPV6, &message);
        let two = extension(protocol::DESTINATION, &one);
        // One with a header for fragments that is whole.
        let whole = fragment(protocol::ICMPV6, 0, false, &message);
        let mut many = one;
        for _ in 0..7 {
            many = extension(protocol::DESTINATION, &many);
        }
        // One header, longer than the switch looks.
        let mut long = Bytes::of(&[protocol::ICMPV6, 19, 1, 156]).and(&[0; 156]).then(&message);
        for (next, rest) in [
            (protocol::HOP_BY_HOP, &one),
            (protocol::DESTINATION, &one),
            (protocol::HOP_BY_HOP, &two),
            (protocol::FRAGMENT, &whole),
            (protocol::DESTINATION, &many),
            (protocol::DESTINATION, &long),
        ] {
            let what = format_args!("{what} behind {} bytes of headers", rest.length() - message.length());
            network.drops_all(BOUND, &packet(next, rest), Reason::SpoofedAddress, what)?;
        }
        // Headers that are said to be longer than the packet.
        long = extension(protocol::ICMPV6, &message).with(1, &[200]);
        network.drops_all(BOUND, &packet(protocol::DESTINATION, &long), Reason::SpoofedAddress, what)?;
    }
    Ok(())
}

/// Not even what is right may come in pieces: nobody sees all of it (RFC 6980).
fn neighbours_in_fragments() -> TestResult {
    let mut network = Network::new()?;
    let right = neighbour(ADVERTISEMENT, ip6(BOUND));
    let option = link_option(TARGET, mac(BOUND));
    for (what, message) in [("what is right", right.then(&option)), ("what is not seen", right)] {
        let first = fragment(protocol::ICMPV6, 0, true, &message);
        let frame = packet(protocol::FRAGMENT, &first);
        network.drops_all(
            BOUND,
            &frame,
            Reason::SpoofedAddress,
            format_args!("{what} in a first fragment"),
        )?;
    }
    // First fragments that have not all of the headers: nothing of ICMP's, a part of it, a header before it alone.
    let ahead = fragment(protocol::DESTINATION, 0, true, &extension(protocol::ICMPV6, &Bytes::NONE));
    for (what, rest) in [
        ("an empty first fragment", fragment(protocol::ICMPV6, 0, true, &Bytes::NONE)),
        ("a first fragment of four bytes", fragment(protocol::ICMPV6, 0, true, &right.cut(4))),
        ("a first fragment that ends before ICMP", ahead),
    ] {
        let frame = packet(protocol::FRAGMENT, &rest);
        network.drops_all(BOUND, &frame, Reason::SpoofedAddress, what)?;
        // What goes on behind the packet is no part of it.
        let padded = frame.then(&right);
        network.drops_all(BOUND, &padded, Reason::SpoofedAddress, format_args!("{what}, and padding"))?;
    }
    Ok(())
}

/// A fragment's header behind another one does not make a whole packet of it.
fn neighbours_in_fragments_of_fragments() -> TestResult {
    let mut network = Network::new()?;
    let right = neighbour(ADVERTISEMENT, ip6(BOUND));
    for more in [false, true] {
        let inner = fragment(protocol::ICMPV6, 0, more, &right);
        let outer = fragment(protocol::FRAGMENT, 0, true, &inner);
        let between = fragment(protocol::DESTINATION, 0, true, &extension(protocol::FRAGMENT, &inner));
        for rest in [outer, between] {
            let frame = packet(protocol::FRAGMENT, &rest);
            network.drops_all(BOUND, &frame, Reason::SpoofedAddress, "a fragment in a fragment")?;
        }
    }
    Ok(())
}

fn routers() -> TestResult {
    let mut network = Network::new()?;
    for source in [ip6(BOUND), link_local(BOUND)] {
        for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
            let message = neighbour(kind, ip6(BOUND)).and(&ip6(BOUND)).then(&link_option(SOURCE, mac(BOUND)));
            let what = format_args!("a router's message {kind}");
            let frame = packet_from(source, protocol::ICMPV6, &message);
            network.drops_all(BOUND, &frame, Reason::SpoofedAddress, what)?;
            let behind = packet_from(source, protocol::HOP_BY_HOP, &extension(protocol::ICMPV6, &message));
            network.drops_all(BOUND, &behind, Reason::SpoofedAddress, what)?;
            // All of its first bytes are there.
            let part = fragment(protocol::ICMPV6, 0, true, &message.cut(8));
            let first = packet_from(source, protocol::FRAGMENT, &part);
            network.drops_all(BOUND, &first, Reason::SpoofedAddress, what)?;
        }
    }
    Ok(())
}

/// A question without a sender's address tells others that somebody is about to have the one that it is about (RFC 4862).
fn solicitations_without_an_address() -> TestResult {
    let mut network = Network::new()?;
    for target in [ip6(VICTIM), link_local(VICTIM)] {
        let frame = packet_from([0; 16], protocol::ICMPV6, &neighbour(SOLICITATION, target));
        network.drops_all(BOUND, &frame, Reason::SpoofedAddress, "a probe of another's address")?;
    }
    for (what, message) in [
        ("an echo request from nobody", Bytes::of(&[128, 0, 0, 0, 0, 0, 0, 1])),
        (
            "an advertisement from nobody",
            neighbour(ADVERTISEMENT, ip6(BOUND)).then(&link_option(TARGET, mac(BOUND))),
        ),
    ] {
        let frame = packet_from([0; 16], protocol::ICMPV6, &message);
        network.drops_all(BOUND, &frame, Reason::SpoofedAddress, what)?;
    }
    Ok(())
}
