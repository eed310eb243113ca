//! Which packets are one conversation.

use proptest::prelude::*;

use super::*;

fn fragment(packet: Internet, fragment: Fragment) -> Internet {
    let transport = if matches!(fragment, Fragment::Later(_)) { Transport::Plain } else { packet.transport };
    Internet { fragment, transport, ..packet }
}

fn of_fragment(packet: &Internet) -> (Key, Way) {
    Key::of_fragment(packet, VLAN).expect("a key")
}

#[test]
fn conversations_differ_in_all_that_tells_them() {
    let plain = udp(A, 4000, B, 53);
    let others = [
        udp(A, 4001, B, 53),
        udp(A, 4000, B, 54),
        udp(A, 53, B, 4000),
        udp(B, 4000, A, 53),
        udp(A, 4000, v4([10, 0, 0, 3]), 53),
        Internet { protocol: protocol::SCTP, ..plain },
        Internet { v6: true, ..plain },
    ];
    for other in others {
        assert_ne!(key(&plain).0, key(&other).0);
    }
    assert_ne!(Some(key(&plain)), Key::of(&plain, VLAN + 1));
    assert_eq!(Key::of(&Internet { transport: Transport::Hidden, ..plain }, VLAN), None);
}

#[test]
fn an_echo_belongs_to_who_asks_and_other_messages_to_their_sender() {
    let (question, answer) = (key(&icmp(A, B, 8, 7)), key(&icmp(B, A, 0, 7)));
    assert_eq!((question.0, question.1, answer.1), (answer.0, Way::Forward, Way::Back));
    assert_ne!(question.0, key(&icmp(B, A, 8, 7)).0, "the other one asks, too");
    assert_ne!(question.0, key(&icmp(A, B, 8, 8)).0);
    assert_ne!(key(&icmp(A, B, 3, 0)).0, key(&icmp(B, A, 3, 0)).0);
    assert_eq!(key(&icmp(A, B, 3, 0)).0.ends(Way::Forward).destination_port, 0x300);
    let v6 = |kind, (source, destination)| {
        let transport = Transport::Icmp { kind, code: 0, identifier: 7 };
        key(&Internet { v6: true, ..internet(source, destination, protocol::ICMPV6, transport) })
    };
    assert_eq!(v6(128, (A, B)).0, v6(129, (B, A)).0);
    assert_ne!(v6(135, (A, B)).0, v6(135, (B, A)).0);
}

#[test]
fn an_answer_to_no_question_opens_nothing() {
    let mut net = Net::new();
    net.allow = |question| question.from == port(2);
    assert!(net.send(&icmp(B, A, 0, 7), 2, 1).allowed());
    assert!(!net.send(&icmp(A, B, 8, 7), 1, 2).allowed());
    assert!(net.send(&icmp(B, A, 8, 7), 2, 1).allowed());
    assert!(net.send(&icmp(A, B, 0, 7), 1, 2).allowed());
    assert!(net.send(&icmp(B, A, 3, 0), 2, 1).allowed());
    assert!(!net.send(&icmp(A, B, 3, 0), 1, 2).allowed());
}

#[test]
fn fragments_are_told_by_their_identification() {
    let whole = udp(A, 4000, B, 53);
    assert_eq!(Key::of_fragment(&whole, VLAN), None);
    let first = fragment(whole, Fragment::First(9));
    assert_eq!(key(&first), key(&whole));
    let later = fragment(whole, Fragment::Later(9));
    assert_eq!(Key::of(&later, VLAN), None);
    assert_eq!(of_fragment(&first), of_fragment(&later));
    assert_ne!(of_fragment(&first), of_fragment(&fragment(whole, Fragment::Later(10))));
    assert_ne!(of_fragment(&first), of_fragment(&fragment(udp(B, 53, A, 4000), Fragment::Later(9))));
    // Other headers may follow in IPv6.
    let v6 = Internet { v6: true, ..first };
    let later = Internet { protocol: 60, ..fragment(v6, Fragment::Later(9)) };
    assert_eq!(of_fragment(&v6), of_fragment(&later));
    let ends = of_fragment(&v6).0.ends(Way::Forward);
    assert_eq!((ends.fragment, ends.source_port, ends.destination_port), (true, 0, 0));
}

#[test]
fn later_fragments_share_the_verdict_of_the_first() {
    let mut net = Net::new();
    let first = fragment(udp(A, 4000, B, 53), Fragment::First(9));
    let later = of_fragment(&fragment(first, Fragment::Later(9)));
    let packet = net.packet(1, Some(2), None);
    // One that comes before the first is denied here.
    net.allow = |_| false;
    assert!(!net.pass(later, &packet).allowed());
    net.allow = |_| true;
    let verdict = net.send(&first, 1, 2).verdict();
    let flooded = Packet { cacheable: false, ..packet };
    assert!(net.table.remember_fragment(&of_fragment(&first).0, &flooded, 1, verdict));
    net.allow = |_| false;
    assert_eq!(net.pass(later, &packet), Passed::Known(verdict));
    assert_eq!(net.pass(later, &packet), Passed::Known(verdict));
    let other = Packet { from: port(3), ..packet };
    assert!(!net.pass(later, &other).allowed(), "another one's fragment");
    let flows = net.flows();
    let flow = flows.iter().find(|flow| flow.ends.fragment && flow.from == port(1)).expect("a flow");
    assert_eq!((flow.counts[0].packets, flow.expires), (2, net.now + FRAGMENT));
    // Of fragments that never came there is no record.
    let silent = of_fragment(&fragment(first, Fragment::First(10))).0;
    net.table.remember_fragment(&silent, &packet, 1, verdict);
    let records = net.sweep(FRAGMENT);
    assert_eq!(records.iter().filter(|record| record.ends.fragment && !record.denied).count(), 1);
    assert_eq!(records.iter().map(|record| record.counts[0].packets).sum::<u64>(), 5);
}

fn any_packet() -> impl Strategy<Value = Internet> {
    let address = prop_oneof![Just(A), Just(B), any::<Address>()];
    let transport = prop_oneof![
        any::<(u16, u16)>().prop_map(|(from, to)| Transport::Ports { from, to }),
        Just(Transport::Plain),
        any::<u16>().prop_map(|identifier| Transport::Icmp { kind: 8, code: 0, identifier }),
    ];
    (any::<bool>(), address.clone(), address, transport).prop_map(|(v6, source, destination, transport)| {
        let number = match transport {
            Transport::Icmp { .. } => protocol::ICMP,
            Transport::Plain => 47,
            _ => protocol::UDP,
        };
        Internet { v6, ..internet(source, destination, number, transport) }
    })
}

proptest! {
    #[test]
    fn both_ways_have_one_key_and_it_says_what_the_packet_said(packet in any_packet(), vlan in 1_u16..4095) {
        let (key, way) = Key::of(&packet, vlan).expect("a key");
        let Internet { source: destination, destination: source, .. } = packet;
        let transport = match packet.transport {
            Transport::Ports { from, to } => Transport::Ports { from: to, to: from },
            Transport::Icmp { identifier, .. } => Transport::Icmp { kind: 0, code: 0, identifier },
            other => other,
        };
        let reply = Internet { source, destination, transport, ..packet };
        let (other, back) = Key::of(&reply, vlan).expect("a key");
        prop_assert_eq!(key, other);
        prop_assert!(way != back || source == destination);
        let ends = key.ends(way);
        prop_assert_eq!((ends.source, ends.destination), (packet.source, packet.destination));
        prop_assert_eq!((ends.v6, ends.protocol, ends.vlan), (packet.v6, packet.protocol, vlan));
        if let Transport::Ports { from, to } = packet.transport {
            prop_assert_eq!((ends.source_port, ends.destination_port), (from, to));
        }
        let first = Internet { fragment: Fragment::First(packet.ports().0.into()), ..packet };
        prop_assert_ne!(of_fragment(&first).0, key);
    }
}
