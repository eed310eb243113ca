//! Single frames, of which each was treated wrongly once.

use std::vec::Vec;

use crate::counters::Drop;
use crate::frame::tests::{ethernet, frame, ipv4, tcp, udp};
use crate::frame::{Flags, protocol};
use crate::mirror::{Session, Target};
use crate::port::{Mac, PortId, PortSet};
use crate::rules::{Match, Rule};
use crate::settings::{Settings, VlanSet, Vlans};
use crate::switch::{Sent, Switch};
use crate::tag::Tag;
use crate::{Frame, Nanos};

const ALL: Mac = [0xff; 6];
const SECOND: Nanos = 1_000_000_000;

pub(super) const fn port(number: usize) -> PortId {
    PortId::new(number).expect("a port")
}

pub(super) const fn mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0, number]
}

/// A switch with ports of these settings, whose devices are ready.
pub(super) fn switch(ports: &[Settings]) -> Switch {
    let switch = Switch::new(1).expect("memory");
    for settings in ports {
        let id = switch.add(settings.clone()).expect("a port");
        switch.set_ready(id, true);
    }
    switch
}

/// An IPv4 packet from one station to another, each behind the port of its number.
pub(super) fn packet(from: u8, to: u8, number: u8, rest: &[u8]) -> Vec<u8> {
    let packet = ipv4([10, 0, 0, from], [10, 0, 0, to], number, (1, 0), rest);
    ethernet(mac(to), mac(from), &[], 0x0800, &packet)
}

/// A port sends: who gets it, or why nobody.
pub(super) fn send(switch: &Switch, from: usize, bytes: &[u8], now: Nanos) -> Result<Vec<usize>, Drop> {
    let (sent, frame) = accept(switch, from, bytes, now)?;
    let admitted = sent.to.filter(|to| switch.admit(&sent, &frame, *to).is_ok());
    Ok(admitted.map(PortId::index).collect())
}

pub(super) fn accept(switch: &Switch, from: usize, bytes: &[u8], now: Nanos) -> Result<(Sent, Frame), Drop> {
    let (frame, mut sent) = (frame(bytes), Sent::nothing());
    switch.accept(port(from), &frame, now, &mut sent)?;
    Ok((sent, frame))
}

/// Rules that allow these, and nothing else.
pub(super) fn allow_only(switch: &Switch, fits: &[Match]) {
    let rules: Vec<Rule> = fits.iter().map(|fits| Rule { allow: true, fits: fits.clone() }).collect();
    assert!(switch.rules.replace(&rules, false));
}

#[test]
fn a_port_that_is_down_gets_no_copies() {
    let switch = switch(&[Settings::default(), Settings::default(), Settings::default()]);
    let (sent, received) = (PortSet::one(port(0)), PortSet::NONE);
    let session =
        Session { sent, received, vlans: Default::default(), target: Target::Port(port(2)), snap: None };
    switch.mirrors.change(|sessions| sessions.push(session));
    let (sent, _) = accept(&switch, 0, &ethernet(ALL, mac(0), &[], 0x88b5, &[0; 50]), 0).expect("a frame");
    let copy = switch.copies_of_sent(&sent)[0];
    assert_eq!(switch.watchers(&sent, copy.target).0, PortSet::one(port(2)));
    switch.change(port(2), 0, |settings| settings.up = false);
    assert_eq!(switch.watchers(&sent, copy.target).0, PortSet::NONE);
}

#[test]
fn a_frame_for_nobody_counts_as_lost_where_only_others_are_watched() {
    let switch = switch(&[Settings::default(), Settings { up: false, ..Settings::default() }]);
    let vlans = [7].into_iter().collect();
    let (none, target) = (PortSet::NONE, Target::Port(port(1)));
    let session = Session { sent: none, received: none, vlans, target, snap: None };
    switch.mirrors.change(|sessions| sessions.push(session));
    let lost = send(&switch, 0, &ethernet(ALL, mac(0), &[], 0x88b5, &[0; 50]), 0);
    assert_eq!(lost, Err(Drop::NoReceiver));
}

/// "Double tagging": a tag without a VLAN around one of another VLAN. Where the first is taken away, a trunk's device would see the second.
#[test]
fn a_tag_behind_a_tag_takes_a_frame_to_no_other_vlan() {
    let mut tagged = VlanSet::NONE;
    tagged.add(20);
    let trunk = Settings { vlans: Vlans::Trunk { tagged, native: Some(1) }, ..Settings::default() };
    let switch = switch(&[Settings::default(), trunk]);
    let hidden = ethernet(ALL, mac(0), &[0, 20], 0x88b5, &[0; 50]);
    let (sent, frame) = accept(&switch, 0, &hidden, 0).expect("a frame");
    let tag = switch.admit(&sent, &frame, port(1)).expect("it is a member");
    let seen = tag.apply(&frame).expect("a frame").layers();
    assert_eq!((sent.vlan, seen.vlan()), (1, Some(1)));
    let plain = accept(&switch, 0, &ethernet(ALL, mac(0), &[0], 0x88b5, &[0; 50]), 0).expect("a frame");
    let tag = switch.admit(&plain.0, &plain.1, port(1)).expect("it is a member");
    assert_eq!(tag.apply(&plain.1).expect("a frame").layers().tag, None);
}

#[test]
fn rules_that_deny_what_went_to_many_deny_its_answers() {
    let switch = switch(&[Settings::default(), Settings::default(), Settings::default()]);
    assert_eq!(send(&switch, 0, &packet(0, 1, 17, &udp(9, 53)), 0), Ok(std::vec![1, 2]), "1 is not known");
    let answer = packet(1, 0, 17, &udp(53, 9));
    assert_eq!(send(&switch, 1, &answer, 0), Ok(std::vec![0]));
    let from = PortSet::one(port(0));
    allow_only(&switch, &[Match { from, to: PortSet::one(port(2)), ..Match::default() }]);
    assert_eq!(send(&switch, 1, &answer, 0), Err(Drop::Denied), "nothing may go between them");
}

#[test]
fn an_answer_to_what_went_to_many_is_judged_by_the_way_to_who_answers() {
    let switch = switch(&[Settings::default(), Settings::default(), Settings::default()]);
    assert_eq!(send(&switch, 0, &packet(0, 1, 17, &udp(9, 53)), 0), Ok(std::vec![1, 2]));
    let (from, to) = (PortSet::one(port(0)), PortSet::one(port(1)));
    allow_only(&switch, &[Match { from, to, ..Match::default() }]);
    let answer = packet(1, 0, 17, &udp(53, 9));
    assert_eq!(send(&switch, 1, &answer, 0), Ok(std::vec![0]));
    assert_eq!(send(&switch, 2, &answer, 0), Err(Drop::Denied), "another one has nothing to answer");
}

#[test]
fn a_connection_is_not_opened_the_other_way_by_a_frame_for_many() {
    let switch = switch(&[Settings::default(), Settings::default(), Settings::default()]);
    let segment = |from, to, ports: (u16, u16), flags| packet(from, to, 6, &tcp(ports.0, ports.1, flags));
    let there = |flags| segment(0, 1, (9, 80), flags);
    let back = |flags| segment(1, 0, (80, 9), flags);
    // So both are known.
    assert!(send(&switch, 1, &ethernet(ALL, mac(1), &[], 0x88b5, &[0; 50]), 0).is_ok());
    allow_only(&switch, &[Match { from: PortSet::one(port(0)), ..Match::default() }]);
    assert_eq!(send(&switch, 0, &there(Flags::SYN), 0), Ok(std::vec![1]));
    assert_eq!(send(&switch, 1, &back(Flags::SYN | Flags::ACK), 0), Ok(std::vec![0]));
    assert_eq!(send(&switch, 1, &back(Flags::SYN), 0), Err(Drop::Denied));
    // The addresses are forgotten, the connection is not.
    let later = 400 * SECOND;
    assert_eq!(send(&switch, 1, &back(Flags::SYN), later), Ok(std::vec![]));
    assert_eq!(send(&switch, 1, &back(Flags::ACK), later), Ok(std::vec![0]));
}

#[test]
fn an_echo_goes_on_where_other_rules_allow_its_question() {
    let switch = switch(&[Settings::default(), Settings::default()]);
    assert!(send(&switch, 1, &ethernet(ALL, mac(1), &[], 0x88b5, &[0; 50]), 0).is_ok());
    let ping = Match { protocol: Some(1), icmp: Some(8), from: PortSet::one(port(0)), ..Match::default() };
    let question = packet(0, 1, 1, &[8, 0, 0, 0, 0, 7, 0, 1]);
    let answer = packet(1, 0, 1, &[0, 0, 0, 0, 0, 7, 0, 1]);
    for _ in 0..2 {
        // Each is another list, though it says the same.
        allow_only(&switch, std::slice::from_ref(&ping));
        assert_eq!(send(&switch, 1, &answer, 0).is_ok(), switch.rules.generation() > 2);
        assert_eq!(send(&switch, 0, &question, 0), Ok(std::vec![1]));
        assert_eq!(send(&switch, 1, &answer, 0), Ok(std::vec![0]));
    }
}

/// Sends a frame; whether another one right behind it is of its train.
fn is_train(switch: &Switch, first: &[u8], next: &[u8]) -> bool {
    let (mut sent, first) = accept(switch, 0, first, 0).expect("a frame");
    let to = switch.only_receiver(&sent).expect("one receiver");
    let tag = switch.admit(&sent, &first, to).expect("it is received");
    switch.begin_train(&mut sent, &first, (to, tag));
    let gone_on = switch.go_on(&frame(next), 0, &mut sent);
    assert!(gone_on.is_none_or(|way| way == (to, tag)));
    switch.end_train(&mut sent);
    gone_on.is_some()
}

#[test]
fn only_what_is_like_the_first_one_is_of_its_train() {
    let switch = switch(&[Settings::default(), Settings::default()]);
    let datagram = |number, fragment, ports: (u16, u16)| {
        let rest = [udp(ports.0, ports.1), std::vec![7; 40]].concat();
        let packet = ipv4([10, 0, 0, 0], [10, 0, 0, 1], number, (1, fragment), &rest);
        ethernet(mac(1), mac(0), &[], 0x0800, &packet)
    };
    let plain = datagram(protocol::UDP, 0, (1, 2));
    assert!(!is_train(&switch, &plain, &plain), "nobody knows where its receiver is, and storms are limited");
    let hello = packet(1, 0, protocol::UDP, &udp(2, 1));
    assert_eq!(send(&switch, 1, &hello, 0), Ok(std::vec![0]));
    assert!(is_train(&switch, &plain, &plain));
    assert!(!is_train(&switch, &plain, &datagram(protocol::SCTP, 0, (1, 2))));
    assert!(!is_train(&switch, &plain, &datagram(protocol::UDP, 0x2000, (1, 2))));
    assert!(!is_train(&switch, &plain, &datagram(protocol::UDP, 0, (1, 3))));
    assert!(!is_train(&switch, &datagram(47, 0, (1, 2)), &datagram(47, 0, (1, 2))));
    assert!(!is_train(&switch, &plain, &plain[..60]), "less than its header says");
    let [segment, last] =
        [Flags::ACK, Flags::ACK | Flags::FIN].map(|flags| packet(0, 1, protocol::TCP, &tcp(1, 2, flags)));
    assert!(is_train(&switch, &segment, &segment));
    assert!(!is_train(&switch, &segment, &last) && !is_train(&switch, &last, &last));
}

#[test]
fn a_train_is_counted_as_its_frames_are() {
    let switch = switch(&[Settings::default(), Settings::default()]);
    let segment = |flags| packet(0, 1, protocol::TCP, &tcp(1, 2, flags));
    assert_eq!(send(&switch, 1, &packet(1, 0, protocol::TCP, &tcp(2, 1, Flags::ACK)), 0), Ok(std::vec![0]));
    let (mut sent, first) = accept(&switch, 0, &segment(Flags::ACK), 0).expect("a frame");
    switch.begin_train(&mut sent, &first, (port(1), Tag::Keep));
    for flags in [Flags::ACK, Flags::ACK | Flags::PSH, Flags::ACK] {
        assert!(switch.go_on(&frame(&segment(flags)), 5, &mut sent).is_some());
    }
    switch.end_train(&mut sent);
    let bytes = 4 * u64::from(first.length());
    assert_eq!(switch.port(port(0)).expect("a port").counters.sent.read(), (4, bytes));
    let mut flows = Vec::new();
    let mut at = Some(0);
    while let Some(from) = at {
        at = switch.flows.list(from, |flow| flows.push(*flow));
    }
    let [flow] = &flows[..] else { panic!("{flows:?}") };
    let [_, back] = flow.counts;
    assert_eq!((back.packets, back.bytes), (4, bytes));
    assert!(flow.flags.any(Flags::PSH));
}

#[test]
fn an_icmp_error_about_what_is_allowed_comes_back_from_where_that_went() {
    let switch = switch(&[Settings::default(), Settings::default(), Settings::default()]);
    allow_only(&switch, &[Match { from: PortSet::one(port(0)), ..Match::default() }]);
    for station in [0, 1, 2] {
        let _ = send(&switch, station, &packet(station as u8, 9, 47, &[0; 8]), 0);
    }
    // What comes from station 0 gets no answer but the error of who has got it.
    let datagram = packet(0, 1, protocol::UDP, &[udp(1, 2), std::vec![5; 30]].concat());
    assert_eq!(send(&switch, 0, &datagram, 0), Ok(std::vec![1]));
    let error = |from, kind, quoted: &[u8]| {
        let rest = [&[kind, 3, 0, 0, 0, 0, 0, 0][..], &quoted[14..14 + 28]].concat();
        send(&switch, usize::from(from), &packet(from, 0, protocol::ICMP, &rest), SECOND)
    };
    assert_eq!(error(1, 3, &datagram), Ok(std::vec![0]));
    assert_eq!(error(1, 11, &datagram), Ok(std::vec![0]));
    assert_eq!(error(2, 3, &datagram), Err(Drop::Denied), "it has not got that");
    assert_eq!(error(1, 5, &datagram), Err(Drop::Denied), "a redirect is no error");
    let other = packet(0, 1, protocol::UDP, &[udp(1, 3), std::vec![5; 30]].concat());
    assert_eq!(error(1, 3, &other), Err(Drop::Denied), "nobody has sent that");
    let back = packet(1, 0, protocol::UDP, &[udp(2, 1), std::vec![5; 30]].concat());
    assert_eq!(error(1, 3, &back), Err(Drop::Denied), "its receiver has not sent that");
    let rest = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &datagram[14..42]].concat();
    let elsewhere = ipv4([10, 0, 0, 1], [10, 0, 0, 7], protocol::ICMP, (1, 0), &rest);
    let elsewhere = ethernet(mac(0), mac(1), &[], 0x0800, &elsewhere);
    assert_eq!(send(&switch, 1, &elsewhere, SECOND), Err(Drop::Denied), "it is for another host there");
    assert!(switch.rules.replace(&[], false));
    assert_eq!(error(1, 3, &datagram), Err(Drop::Denied), "the conversation is no longer allowed");
}
