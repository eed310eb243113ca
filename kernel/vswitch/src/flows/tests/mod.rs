mod keys;
mod model;
mod room;

use std::vec::Vec;

use super::timeout::*;
use super::*;
use crate::frame::{Address, Fragment, Internet, Transport, protocol, v4};

const SECOND: Nanos = 1_000_000_000;
const SYN: u8 = Flags::SYN;
const ACK: u8 = Flags::ACK;
const FIN: u8 = Flags::FIN;
const RST: u8 = Flags::RST;
const A: Address = v4([10, 0, 0, 1]);
const B: Address = v4([10, 0, 0, 2]);
const VLAN: u16 = 5;

fn port(number: usize) -> PortId {
    PortId::new(number).expect("a port")
}

/// An IP packet that is whole.
fn internet(source: Address, destination: Address, protocol: u8, transport: Transport) -> Internet {
    let fragment = Fragment::No;
    Internet { v6: false, source, destination, protocol, at: 14, transport_at: 34, fragment, transport }
}

fn udp(source: Address, from: u16, destination: Address, to: u16) -> Internet {
    internet(source, destination, protocol::UDP, Transport::Ports { from, to })
}

fn icmp(source: Address, destination: Address, kind: u8, identifier: u16) -> Internet {
    internet(source, destination, protocol::ICMP, Transport::Icmp { kind, code: 0, identifier })
}

fn key(packet: &Internet) -> (Key, Way) {
    Key::of(packet, VLAN).expect("a key")
}

/// A table, the time, and what rules would say.
struct Net {
    table: Table,
    now: Nanos,
    generation: u32,
    allow: fn(Question) -> bool,
    asked: Vec<Question>,
}

impl Net {
    fn new() -> Self {
        let table = Table::new(1024, 1000).expect("memory");
        Self { table, now: 1000 * SECOND, generation: 1, allow: |_| true, asked: Vec::new() }
    }

    fn packet(&self, from: usize, to: Option<usize>, flags: Option<u8>) -> Packet {
        let (from, to, flags) = (port(from), to.map(port), flags.map(Flags));
        Packet { from, to, bytes: 100, packets: 1, flags, cacheable: true, now: self.now }
    }

    fn pass(&mut self, (key, way): (Key, Way), packet: &Packet) -> Passed {
        self.table.pass(&key, way, packet, self.generation, |question| {
            self.asked.push(question);
            Verdict { allowed: (self.allow)(question), rule: self.asked.len() as u16 }
        })
    }

    /// A datagram from one port to another.
    fn send(&mut self, packet: &Internet, from: usize, to: usize) -> Passed {
        let plain = self.packet(from, Some(to), None);
        self.pass(key(packet), &plain)
    }

    /// A segment of A's, at port 1, to B's, at port 2, or back.
    fn segment(&mut self, back: bool, flags: u8) -> Passed {
        let (from, to) = if back { (80, 4000) } else { (4000, 80) };
        let transport = Transport::Tcp { from, to, flags: Flags(flags) };
        let (source, destination, from, to) = if back { (B, A, 2, 1) } else { (A, B, 1, 2) };
        let packet = self.packet(from, Some(to), Some(flags));
        self.pass(key(&internet(source, destination, protocol::TCP, transport)), &packet)
    }

    fn asked(&mut self) -> usize {
        self.asked.drain(..).len()
    }

    fn flows(&self) -> Vec<Flow> {
        flows(&self.table)
    }

    fn flow(&self) -> Flow {
        let flows = self.flows();
        assert_eq!(flows.len(), 1);
        flows[0]
    }

    fn sweep(&mut self, later: Nanos) -> Vec<Record> {
        self.now += later;
        self.table.sweep(self.now, usize::MAX);
        records(&self.table)
    }
}

fn flows(table: &Table) -> Vec<Flow> {
    let (mut flows, mut next) = (Vec::new(), Some(0));
    while let Some(at) = next {
        next = table.list(at, |flow| flows.push(*flow));
    }
    flows
}

fn records(table: &Table) -> Vec<Record> {
    let mut records = Vec::new();
    table.drain(usize::MAX, |record| records.push(record));
    records
}

#[test]
fn what_is_known_is_not_asked_about_and_replies_pass() {
    let mut net = Net::new();
    net.allow = |question| question.from == port(1);
    let (there, back) = (udp(A, 4000, B, 53), udp(B, 53, A, 4000));
    assert!(matches!(net.send(&there, 1, 2), Passed::Decided(Verdict { allowed: true, rule: 1 })));
    assert_eq!(net.asked, [Question { reply: false, from: port(1), to: Some(port(2)) }]);
    for packet in [(&there, 1, 2), (&back, 2, 1), (&back, 2, 1)] {
        let passed = net.send(packet.0, packet.1, packet.2);
        assert_eq!(passed, Passed::Known(Verdict { allowed: true, rule: 1 }));
    }
    let flow = net.flow();
    let counts = [Count { packets: 2, bytes: 200 }; 2];
    assert_eq!(
        (flow.counts, flow.state, flow.from, flow.to),
        (counts, State::Replied, port(1), Some(port(2)))
    );
    assert_eq!((flow.ends.source, flow.ends.source_port, flow.ends.destination_port), (A, 4000, 53));
    assert_eq!(net.asked(), 1);
    // Who is not the other end, or does not speak to this one, has nothing to reply.
    assert!(!net.send(&back, 3, 1).allowed());
    assert!(!net.send(&back, 2, 3).allowed());
    assert_eq!((net.asked(), net.table.port_totals(port(3)).denied), (2, 1));
}

#[test]
fn what_was_denied_is_known_and_allows_no_reply() {
    let mut net = Net::new();
    net.allow = |_| false;
    let (there, back) = (udp(A, 4000, B, 53), udp(B, 53, A, 4000));
    for _ in 0..3 {
        assert!(!net.send(&there, 1, 2).allowed());
    }
    assert_eq!((net.asked(), net.flow().counts[0].packets), (1, 3));
    assert!(!net.send(&back, 2, 1).allowed());
    assert_eq!((net.asked(), net.flows().len()), (1, 2), "judged as what it is");
    // Where that is allowed, the end that was denied may reply.
    net.allow = |question| question.from == port(2);
    net.generation += 1;
    assert!(net.send(&back, 2, 1).allowed());
    assert!(net.send(&there, 1, 2).allowed());
    assert_eq!(net.asked(), 1);
    let totals = net.table.totals().ports;
    assert_eq!((totals.denied, totals.created, totals.owned, totals.untracked), (4, 2, 2, 0));
    let records = net.sweep(DENIED);
    assert_eq!(records.iter().filter(|record| record.denied).count(), 2);
    assert_eq!(net.flow().counts, [Count { packets: 1, bytes: 100 }; 2]);
}

#[test]
fn new_rules_are_asked_about_the_direction_that_began() {
    let mut net = Net::new();
    let (there, back) = (udp(A, 4000, B, 53), udp(B, 53, A, 4000));
    assert!(net.send(&there, 1, 2).allowed());
    (net.generation, net.asked) = (2, Vec::new());
    assert!(net.send(&back, 2, 1).allowed());
    let original = Question { reply: true, from: port(1), to: Some(port(2)) };
    assert_eq!(net.asked, [original]);
    assert!(net.send(&there, 1, 2).allowed());
    assert_eq!(net.asked(), 1);
    // Denied now: what passed is recorded, and the reply is judged as what it is.
    (net.generation, net.allow) = (3, |_| false);
    assert!(!net.send(&back, 2, 1).allowed());
    assert_eq!(net.asked, [original, Question { reply: false, from: port(2), to: Some(port(1)) }]);
    let records = records(&net.table);
    let [Record { counts, reason: EndReason::Forced, denied: false, .. }] = records[..] else {
        panic!("{records:?}")
    };
    assert_eq!(counts, [Count { packets: 2, bytes: 200 }, Count { packets: 1, bytes: 100 }]);
    net.asked.clear();
    assert!(!net.send(&there, 1, 2).allowed());
    assert_eq!(net.asked(), 0);
    (net.generation, net.allow) = (4, |_| true);
    assert!(net.send(&there, 1, 2).allowed());
    assert!(net.send(&back, 2, 1).allowed());
    assert_eq!(net.asked(), 1);
}

#[test]
fn another_way_to_the_receiver_is_another_question() {
    let mut net = Net::new();
    let (there, back) = (udp(A, 4000, B, 53), udp(B, 53, A, 4000));
    net.send(&there, 1, 2);
    assert!(net.send(&there, 1, 3).allowed());
    assert_eq!((net.asked(), net.flow().to), (2, Some(port(3))));
    net.allow = |_| false;
    assert!(net.send(&back, 3, 1).allowed());
    assert!(!net.send(&back, 2, 1).allowed());
}

#[test]
fn who_sends_in_anothers_name_has_a_flow_of_its_own() {
    let mut net = Net::new();
    for (back, flags) in [(false, SYN), (true, SYN | ACK), (false, ACK)] {
        assert!(net.segment(back, flags).allowed());
    }
    let transport = Transport::Tcp { from: 4000, to: 80, flags: Flags(RST) };
    let (key, _) = key(&internet(A, B, protocol::TCP, transport));
    for (to, way) in [(1, Way::Forward), (1, Way::Back), (2, Way::Forward), (2, Way::Back)] {
        let packet = net.packet(3, Some(to), Some(RST));
        net.pass((key, way), &packet);
    }
    let flows = net.flows();
    assert_eq!(
        flows.iter().find(|flow| flow.from == port(1)).map(|flow| flow.state),
        Some(State::Established)
    );
    assert!(flows.iter().all(|flow| flow.from == port(1) || flow.from == port(3)));
    assert!(matches!(net.segment(true, ACK), Passed::Known(_)));
}

#[test]
fn tcp_goes_through_its_states() {
    let mut net = Net::new();
    let steps = [
        (false, SYN, State::SynSent, TCP_UNREPLIED),
        (false, SYN, State::SynSent, TCP_UNREPLIED),
        (true, SYN | ACK, State::Established, TCP_ESTABLISHED),
        (false, ACK, State::Established, TCP_ESTABLISHED),
        (true, FIN | ACK, State::Closing, TCP_CLOSING),
        (true, FIN | ACK, State::Closing, TCP_CLOSING),
        (false, ACK, State::Closing, TCP_CLOSING),
        (false, FIN | ACK, State::Closed, TCP_CLOSED),
        (true, ACK, State::Closed, TCP_CLOSED),
    ];
    for (back, flags, state, timeout) in steps {
        net.now += SECOND;
        assert!(net.segment(back, flags).allowed());
        let flow = net.flow();
        assert_eq!((flow.state, flow.expires), (state, net.now + timeout));
    }
    assert_eq!((net.asked(), net.flow().flags), (1, Flags(SYN | ACK | FIN)));
    // The same ports again.
    net.segment(false, SYN);
    assert_eq!((net.asked(), net.flow().state, net.flow().began), (1, State::SynSent, net.now));
    let records = records(&net.table);
    assert_eq!(records.iter().map(|record| record.reason).collect::<Vec<_>>(), [EndReason::EndOfFlow]);
    assert_eq!(records[0].counts.map(|count| count.packets), [5, 4]);
    // RST from either end.
    net.segment(true, RST | ACK);
    assert_eq!(net.flow().state, State::Closed);
    let records = net.sweep(TCP_CLOSED);
    assert_eq!(records.iter().map(|record| record.reason).collect::<Vec<_>>(), [EndReason::EndOfFlow]);
    assert!(net.flows().is_empty());
}

#[test]
fn a_connection_one_way_opens_none_the_other_way() {
    let mut net = Net::new();
    net.allow = |question| question.from == port(1);
    net.segment(false, SYN);
    assert!(net.segment(true, SYN).allowed(), "both may begin at once");
    assert_eq!((net.flow().state, net.asked()), (State::Established, 1));
    assert!(!net.segment(true, SYN).allowed());
    assert!(!net.segment(true, SYN).allowed());
    assert_eq!(net.asked(), 1);
    assert!(matches!(net.segment(true, ACK), Passed::Known(Verdict { allowed: true, .. })));
    // Where rules allow it, it is another connection.
    (net.generation, net.allow) = (2, |_| true);
    assert!(net.segment(true, SYN).allowed());
    let flow = net.flow();
    assert_eq!((flow.from, flow.state), (port(2), State::SynSent));
    assert!(net.segment(false, SYN | ACK).allowed());
    assert_eq!((net.flow().state, net.asked()), (State::Established, 1));
}

#[test]
fn flows_that_are_silent_end_and_those_that_go_on_are_recorded() {
    let mut net = Net::new();
    let (there, back) = (udp(A, 4000, B, 53), udp(B, 53, A, 4000));
    net.send(&there, 1, 2);
    assert!(net.sweep(UDP_UNREPLIED - 1).is_empty());
    let [Record { reason: EndReason::IdleTimeout, began, last, .. }] = net.sweep(1)[..] else { panic!() };
    assert_eq!((began, last), (1000 * SECOND, 1000 * SECOND));
    net.send(&there, 1, 2);
    net.send(&back, 2, 1);
    let [Record { reason: EndReason::ActiveTimeout, counts, .. }] = net.sweep(ACTIVE)[..] else { panic!() };
    assert_eq!(counts, [Count { packets: 1, bytes: 100 }; 2]);
    assert!(net.sweep(ACTIVE).is_empty(), "there was nothing new");
    net.send(&back, 2, 1);
    let [Record { reason: EndReason::ActiveTimeout, counts, .. }] = net.sweep(1)[..] else { panic!() };
    assert_eq!(counts.map(|count| count.packets), [0, 1]);
    assert_eq!(net.flow().counts.map(|count| count.bytes), [100, 200]);
    let [Record { reason: EndReason::IdleTimeout, counts, .. }] = net.sweep(UDP_REPLIED)[..] else {
        panic!()
    };
    assert_eq!(counts, [Count::default(); 2]);
    // What has expired is known to nobody, also where nobody has swept.
    net.send(&there, 1, 2);
    net.now += UDP_UNREPLIED;
    net.allow = |_| false;
    assert!(!net.send(&back, 2, 1).allowed());
}

#[test]
fn a_sweep_takes_turns() {
    let mut net = Net::new();
    for from in 0..100 {
        net.send(&udp(A, from, B, 53), 1, 2);
    }
    net.now += UDP_UNREPLIED;
    let buckets = net.table.totals().capacity / 8;
    let ended: usize = (0..buckets / 2).map(|_| net.table.sweep(net.now, 2)).sum();
    assert_eq!((ended, net.flows().len(), net.table.totals().ports.owned), (100, 0, 0));
}

#[test]
fn what_is_not_cacheable_is_always_asked_about() {
    let mut net = Net::new();
    let flood = Packet { cacheable: false, ..net.packet(1, None, None) };
    let there = key(&udp(A, 4000, B, 53));
    let back = udp(B, 53, A, 4000);
    for asked in 1..4 {
        assert!(matches!(net.pass(there, &flood), Passed::Decided(_)));
        assert_eq!(net.asked.len(), asked);
    }
    net.allow = |_| false;
    assert!(net.send(&back, 2, 1).allowed() && net.send(&back, 3, 1).allowed(), "any of them may reply");
    assert_eq!((net.asked(), net.flow().to), (3, None));
    // The receiver is known now; then it is forgotten, and others are denied it.
    net.allow = |_| true;
    net.send(&udp(A, 4000, B, 53), 1, 2);
    assert_eq!((net.asked(), net.flow().to), (1, Some(port(2))));
    net.allow = |_| false;
    assert!(matches!(net.pass(there, &flood), Passed::Untracked(Verdict { allowed: false, .. })));
    assert!(net.send(&udp(A, 4000, B, 53), 1, 2).allowed(), "the verdict that was cached stays");
    // A flooded reply: rules say no, and the one port learns that it waits for it.
    let reply = Packet { cacheable: false, ..net.packet(2, None, None) };
    assert!(!net.pass(key(&back), &reply).allowed());
    let (key, way) = key(&back);
    let known = |to, from| {
        let packet = Packet { from: port(from), to: Some(port(to)), ..reply };
        net.table.known(&key, way, &packet, 1).map(|verdict| verdict.allowed)
    };
    assert_eq!([known(1, 2), known(3, 2), known(1, 3)], [Some(true), None, None]);
    assert_eq!(net.flow().counts.map(|count| count.packets), [5, 2]);
    assert_eq!(net.table.totals().ports.untracked, 2);
}
