//! Headers of virtio that lie: about checksums that are not there yet, and about large frames.

use selftest::{Test, TestResult, check, check_eq, tests};

use crate::network::{BOUND, BRIDGE, Network, OWN_MAC, Reason, SMALL, TRUNK, VICTIM, ip4, ip6, loses, mac};
use crate::nic::Header;
use crate::packet::{
    ARP, BROADCAST, Bytes, EXPERIMENT, IPV4, IPV6, Mac, PROVIDER, arp, ethernet, ipv4, ipv6, link_option,
    neighbour, protocol, tagged, udp,
};

pub(crate) const TESTS: &[Test] = tests![
    checksums_are_made,
    checksums_outside_of_the_frame,
    checksums_over_what_was_looked_at,
    large_frames_are_divided,
    large_frames_that_are_none,
    features_that_were_not_agreed_on,
    what_does_not_matter,
];

/// Flags, and kinds of large frames.
const NEEDS_CHECKSUM: u8 = 1;
const TCPV4: u8 = 1;
const TCPV6: u8 = 4;
const UDP_L4: u8 = 5;
const ECN: u8 = 0x80;
/// Where the transport's header begins behind IPv4's, and where UDP's and TCP's checksums are in theirs.
const TRANSPORT_AT: u16 = 34;
const UDP_CHECKSUM: u16 = 6;
const TCP_CHECKSUM: u16 = 16;
/// Bytes of a TCP segment's headers, and what each has of payload.
const HEADERS: u32 = 54;
const SIZE: u16 = 1000;

fn header(flags: u8, kind: u8, [bytes, size, start, offset]: [u16; 4]) -> Header {
    let mut header = [0; 12];
    (header[0], header[1]) = (flags, kind);
    for (at, word) in (1..).zip([bytes, size, start, offset]) {
        header[2 * at..2 * at + 2].copy_from_slice(&word.to_le_bytes());
    }
    header
}

/// A checksum is to be made.
fn undone(start: u16, offset: u16) -> Header {
    header(NEEDS_CHECKSUM, 0, [0, 0, start, offset])
}

fn datagram(from: usize, to: Mac) -> Bytes {
    // The sum of the pseudo header is in the checksum's place.
    let rest = udp(1000, 2000, &Bytes::of(b"a sum")).with(6, &[0x12, 0x34]);
    ethernet(to, mac(from), IPV4, &ipv4(ip4(from), ip4(VICTIM), protocol::UDP, &rest))
}

/// The Internet checksum of all bytes from `at` on (RFC 1071).
fn checksum(frame: &Bytes, at: u32) -> u16 {
    let mut sum = 0_u32;
    for index in (at..frame.length()).step_by(2) {
        sum += u32::from(u16::from_be_bytes([frame.at(index), frame.at(index + 1)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn checksums_are_made() -> TestResult {
    let mut network = Network::new()?;
    for from in [BOUND, OWN_MAC] {
        let frame = datagram(from, BROADCAST);
        let what = "a checksum that is not there yet";
        network.send(&undone(TRANSPORT_AT, UDP_CHECKSUM), from, &frame, what)?;
        let made = checksum(&frame, TRANSPORT_AT.into()).to_be_bytes();
        let whole = frame.with(usize::from(TRANSPORT_AT + UDP_CHECKSUM), &made);
        for nic in [BOUND, VICTIM, BRIDGE, OWN_MAC, SMALL].into_iter().filter(|nic| *nic != from) {
            check!(network.next(nic, what)?.is(&whole), "{what}: device {nic} has got another");
        }
        // One who takes it so is told where it is, behind the tag.
        let arrived = network.next(TRUNK, what)?;
        check!(arrived.is(&tagged(&frame, &[(0x8100, 1)])), "{what}: the trunk has got another");
        check!(
            arrived.header[..10] == undone(TRANSPORT_AT + 4, UDP_CHECKSUM)[..10],
            "{what} is told otherwise"
        );
        network.nothing_more(from, what)?;
    }
    Ok(())
}

fn checksums_outside_of_the_frame() -> TestResult {
    let mut network = Network::new()?;
    for from in [BOUND, OWN_MAC] {
        let frame = datagram(from, BROADCAST);
        let length = frame.length() as u16;
        for (start, offset) in [
            (length, 0),
            (length - 1, 0),
            (length - 2, 1),
            (TRANSPORT_AT, length - TRANSPORT_AT - 1),
            (TRANSPORT_AT, 0xffff),
            (0xffff, 0),
            (0xffff, 0xffff),
            (1, 0xffff),
        ] {
            let what = format_args!("a checksum at {start} and {offset}");
            network.drops_with(&undone(start, offset), from, &frame, Reason::Malformed, what)?;
        }
        let tiny = frame.cut(14);
        for (start, offset) in [(14, 0), (0, 13), (13, 0), (TRANSPORT_AT, UDP_CHECKSUM)] {
            let what = format_args!("a checksum at {start} and {offset} of 14 bytes");
            network.drops_with(&undone(start, offset), from, &tiny, Reason::Malformed, what)?;
        }
    }
    Ok(())
}

/// A checksum is written once the frame was looked at: it must not make another address, port or message of it.
fn checksums_over_what_was_looked_at() -> TestResult {
    let mut network = Network::new()?;
    let frame = datagram(BOUND, BROADCAST);
    // Both addresses, what it is, IP's header, and the datagram's ports.
    for place in [0, 4, 6, 10, 12, 14, 16, 22, 23, 26, 28, 30, 33] {
        for start in [0, place] {
            let what = format_args!("a checksum at byte {place}, from byte {start} on");
            let header = undone(start, place - start);
            network.drops_with(&header, BOUND, &frame, Reason::Malformed, what)?;
        }
    }
    for place in [TRANSPORT_AT, TRANSPORT_AT + 2, TRANSPORT_AT + 4, TRANSPORT_AT + 5] {
        let header = undone(TRANSPORT_AT, place - TRANSPORT_AT);
        let what = format_args!("a checksum at byte {place}");
        network.drops_with(&header, BOUND, &frame, Reason::Malformed, what)?;
    }
    // A message about neighbours: its type, whom it is about, and that one's device.
    let message = neighbour(136, ip6(BOUND)).then(&link_option(2, mac(BOUND)));
    let advertisement = ipv6(ip6(BOUND), ip6(VICTIM), protocol::ICMPV6, &message);
    let advertisement = ethernet(BROADCAST, mac(BOUND), IPV6, &advertisement);
    for (start, place) in [(54, 54), (54, 62), (54, 76), (54, 80), (60, 76), (22, 36), (14, 22)] {
        let header = undone(start, place - start);
        let what = format_args!("a checksum at byte {place} of an advertisement");
        network.drops_with(&header, BOUND, &advertisement, Reason::Malformed, what)?;
    }
    let answer = arp(2, (mac(BOUND), ip4(BOUND)), (mac(VICTIM), ip4(VICTIM)));
    let answer = ethernet(BROADCAST, mac(BOUND), ARP, &answer);
    for place in [14, 20, 22, 28, 38] {
        let what = format_args!("a checksum at byte {place} of ARP");
        network.drops_with(&undone(14, place - 14), BOUND, &answer, Reason::Malformed, what)?;
    }
    // What a provider's tag says is behind it.
    let other = ethernet(BROADCAST, mac(OWN_MAC), EXPERIMENT, &Bytes::of(&[0x45; 40]));
    let other = tagged(&other, &[(PROVIDER, 7)]);
    for place in [12, 14, 16] {
        let what = format_args!("a checksum at byte {place} of another frame");
        network.drops_with(&undone(place, 0), OWN_MAC, &other, Reason::Malformed, what)?;
    }
    Ok(())
}

/// TCP over IPv4, `payload` bytes of it.
fn segment(from: usize, to: Mac, payload: u32) -> Bytes {
    let tcp = Bytes::of(&[0x30, 0x39, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    let packet = ipv4(ip4(from), ip4(VICTIM), protocol::TCP, &tcp.and(b"payload").and_zeros(payload - 7));
    ethernet(to, mac(from), IPV4, &packet)
}

fn large(bytes: u16) -> Header {
    header(NEEDS_CHECKSUM, TCPV4, [bytes, SIZE, TRANSPORT_AT, TCP_CHECKSUM])
}

/// What the sender says of the headers' length may be wrong: Linux says something else as well.
fn large_frames_are_divided() -> TestResult {
    let mut network = Network::new()?;
    let frame = segment(OWN_MAC, BROADCAST, 2500);
    for bytes in [HEADERS as u16, 0, 1, 14, 53, 55, 1000, 0xffff] {
        let what = format_args!("a large frame with headers of {bytes} bytes");
        network.send(&large(bytes), OWN_MAC, &frame, what)?;
        let arrived = network.next(TRUNK, what)?;
        check!(arrived.is(&tagged(&frame, &[(0x8100, 1)])), "{what}: the trunk has got another");
        check_eq!(arrived.header[1], TCPV4, "{what}: its kind on the trunk");
        for nic in [BOUND, VICTIM, BRIDGE, SMALL] {
            for (payload, sequence) in [(1000, 1), (1000, 1001), (500, 2001)] {
                let arrived = network.next(nic, what)?;
                check_eq!(arrived.length, HEADERS + payload, "{what}: bytes at device {nic}");
                check!(arrived.starts_with(&frame.said()[..14]), "{what}: from and to whom at device {nic}");
                check_eq!(u32::from(arrived.word(16)), HEADERS - 14 + payload, "{what}: IP's length");
                check_eq!(arrived.word(28), 0x0005, "{what}: the end of the sender's address");
                check_eq!(arrived.word(40), sequence, "{what}: a sequence number at device {nic}");
            }
        }
        network.nothing_more(OWN_MAC, what)?;
    }
    Ok(())
}

fn large_frames_that_are_none() -> TestResult {
    let mut network = Network::new()?;
    let frame = segment(OWN_MAC, BROADCAST, 2500);
    let sum = [TRANSPORT_AT, TCP_CHECKSUM];
    let with = |flags, kind, size| header(flags, kind, [HEADERS as u16, size, sum[0], sum[1]]);
    for (what, header) in [
        ("a large frame of pieces without bytes", with(NEEDS_CHECKSUM, TCPV4, 0)),
        ("a large frame with its checksum", with(0, TCPV4, SIZE)),
        ("a kind that there is not", with(NEEDS_CHECKSUM, 2, SIZE)),
        ("the old kind of UDP", with(NEEDS_CHECKSUM, 3, SIZE)),
        ("the last kind", with(NEEDS_CHECKSUM, 0x7f, SIZE)),
        ("no kind, with congestion", with(NEEDS_CHECKSUM, ECN, SIZE)),
        ("all flags and kinds", with(0xff, 0xff, 0xffff)),
        ("a large frame with a checksum outside", header(NEEDS_CHECKSUM, TCPV4, [54, SIZE, 0xffff, 16])),
        ("a large frame with its checksum in IP", header(NEEDS_CHECKSUM, TCPV4, [54, SIZE, 14, 12])),
    ] {
        network.drops_with(&header, OWN_MAC, &frame, Reason::Malformed, what)?;
    }
    // It says to be TCP and is not, or its pieces would be too small: who takes such frames gets it; for others nobody divides it.
    let datagram = datagram(OWN_MAC, BROADCAST);
    for (what, size, frame, checksum_at) in [
        ("a large frame of another kind", SIZE, datagram, UDP_CHECKSUM),
        ("a large frame of tiny pieces", 1, frame, TCP_CHECKSUM),
    ] {
        let header = header(NEEDS_CHECKSUM, TCPV4, [HEADERS as u16, size, TRANSPORT_AT, checksum_at]);
        network.reaches_with(&header, OWN_MAC, &frame, &[TRUNK], what)?;
    }
    Ok(())
}

fn features_that_were_not_agreed_on() -> TestResult {
    let mut network = Network::new()?;
    let frame = datagram(VICTIM, BROADCAST);
    let header_of = |kind| header(NEEDS_CHECKSUM, kind, [42, SIZE, TRANSPORT_AT, UDP_CHECKSUM]);
    network.drops_with(
        &header_of(0),
        VICTIM,
        &frame,
        Reason::Malformed,
        "a checksum of one who makes them",
    )?;
    let frame = segment(BOUND, BROADCAST, 2500);
    for kind in [TCPV4, TCPV6, UDP_L4] {
        let what = format_args!("kind {kind} of one who may send none");
        network.drops_with(&header_of(kind), BOUND, &frame, Reason::Malformed, what)?;
    }
    let frame = segment(OWN_MAC, BROADCAST, 2500);
    for kind in [TCPV6, UDP_L4, TCPV4 | ECN] {
        let what = format_args!("kind {kind:#x} of one who may send another");
        network.drops_with(&header_of(kind), OWN_MAC, &frame, Reason::Malformed, what)?;
    }
    Ok(())
}

/// Words that say something to receivers only, or where a flag is set.
fn what_does_not_matter() -> TestResult {
    let mut network = Network::new()?;
    let (frame, all) = (datagram(BOUND, BROADCAST), [VICTIM, TRUNK, BRIDGE, OWN_MAC, SMALL]);
    let mut buffers = [0; 12];
    buffers[10..].copy_from_slice(&[0xff; 2]);
    for (what, header) in [
        ("a number of buffers", buffers),
        ("a checksum that is right", header(2, 0, [0; 4])),
        ("unknown flags", header(0xfe, 0, [0; 4])),
        ("places without a flag", header(0, 0, [0xffff; 4])),
    ] {
        network.reaches_with(&header, BOUND, &frame, &all, what)?;
    }
    loses(SMALL, Reason::Malformed);
    let header = undone(TRANSPORT_AT, UDP_CHECKSUM);
    network.send(&header, SMALL, &datagram(SMALL, BROADCAST), "a checksum of one who makes them")?;
    network.nothing_more(SMALL, "a checksum of one who makes them")
}
