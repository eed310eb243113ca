//! Ports that are taken away, and whose numbers others have then.

use super::cases::{accept, allow_only, packet, port, send, switch};
use crate::counters::Drop;
use crate::flows::Table;
use crate::frame::tests::udp;
use crate::mirror::{Session, Target};
use crate::offload::Offload;
use crate::output::{Next, Waiting};
use crate::port::{MAX_PORTS, PortSet};
use crate::rules::{Match, Rule};
use crate::settings::{Settings, Vlans};
use crate::switch::Switch;

fn flows(table: &Table) -> usize {
    let (mut next, mut count) = (Some(0), 0);
    while let Some(bucket) = next {
        next = table.list(bucket, |_| count += 1);
    }
    count
}

fn waiting(from: usize, length: u32) -> Waiting {
    Waiting {
        from: port(from),
        priority: 0,
        length,
        offload: Offload::default(),
        packets: 1,
        wire_bytes: length.into(),
        cut: false,
    }
}

/// A frame is on its way to a port.
fn queue(switch: &Switch, from: usize, to: usize) {
    let output = &switch.port(port(to)).expect("a port").output;
    let room = switch.room(switch.port(port(to)).expect("a port"), port(from), 60).expect("room");
    output.push(&room, waiting(from, 60));
}

#[test]
fn nothing_of_a_port_that_was_taken_away_is_left_to_the_next() {
    let own = Settings { isolated: true, vlans: Vlans::Access(1), ..Settings::default() };
    let switch = switch(&[Settings::default(), own, Settings::default()]);
    allow_only(&switch, &[Match { vlan: Some(1), ..Match::default() }]);
    let hello = packet(1, 0, 17, &udp(1, 2));
    assert_eq!(send(&switch, 1, &hello, 0), Ok(std::vec![0, 2]));
    assert_eq!(send(&switch, 0, &packet(0, 1, 17, &udp(2, 1)), 0), Ok(std::vec![1]));
    queue(&switch, 0, 1);
    switch.port(port(1)).expect("a port").set_owner(7);
    assert!(switch.addresses.count_of(port(1)) == 1 && flows(&switch.flows) > 0);

    switch.remove(port(1));
    assert_eq!(switch.ports().map(|(id, _)| id.index()).collect::<std::vec::Vec<_>>(), [0, 2]);
    assert!(
        switch.addresses.count_of(port(1)) == 0 && flows(&switch.flows) == 0 && !switch.has_link(port(1))
    );
    assert_eq!(send(&switch, 1, &hello, 0), Err(Drop::Down), "it sends no more");
    let answer = packet(0, 1, 17, &udp(2, 1));
    assert_eq!(
        send(&switch, 0, &answer, 0),
        Ok(std::vec![2]),
        "to all others, as nobody is known to have it"
    );

    let id = switch.add(Settings::default()).expect("its number");
    let next = switch.port(id).expect("a port");
    assert_eq!((id, next.owner(), next.settings()), (port(1), None, Settings::default()));
    assert!(next.output.is_empty() && !next.is_ready());
    assert_eq!((next.counters.sent.read(), next.counters.lost_in_all()), ((0, 0), 0));
    assert_eq!(send(&switch, 0, &answer, 0), Ok(std::vec![2]), "its driver is not ready");
    switch.set_ready(id, true);
    assert_eq!(send(&switch, 0, &answer, 0), Ok(std::vec![1, 2]));
}

/// Who has begun to copy a frame for a port finishes that, whosever the port is then.
#[test]
fn a_frame_that_is_being_copied_does_not_reach_the_next() {
    let switch = switch(&[Settings::default(), Settings::default()]);
    let to = switch.port(port(1)).expect("a port");
    let room = switch.room(to, port(0), 60).expect("room");
    switch.remove(port(1));
    assert_eq!(switch.add(Settings::default()), Some(port(1)));
    switch.set_ready(port(1), true);
    to.output.push(&room, waiting(0, 60));
    assert_eq!((to.output.next(PortSet::NONE, 0), to.output.is_empty()), (Next::Nothing, true));
    // Its blocks are free again.
    for _ in 0..100 {
        let room = switch.room(to, port(0), 10_000).expect("room");
        to.output.cancel(&room);
    }
}

#[test]
fn rules_and_mirrors_are_not_about_the_next() {
    let switch = switch(&[Settings::default(), Settings::default(), Settings::default()]);
    let fits = [
        Match { from: PortSet::one(port(1)), ..Match::default() },
        Match { to: PortSet::one(port(1)).with(port(2)), ..Match::default() },
    ];
    let rules = fits.map(|fits| Rule { allow: false, fits });
    assert!(switch.rules.replace(&rules, true));
    let session = |target| Session {
        sent: PortSet::one(port(0)).with(port(1)),
        received: PortSet::one(port(1)),
        vlans: arrayvec::ArrayVec::new(),
        target,
        snap: None,
    };
    switch.mirrors.change(|sessions| {
        sessions.push(session(Target::Port(port(1))));
        sessions.push(session(Target::Vlan(9)));
    });
    let generation = switch.rules.generation();
    switch.remove(port(1));
    assert_ne!(switch.rules.generation(), generation, "what was decided is decided anew");
    let fits = |number| switch.rules.get(number).expect("a rule").0.fits;
    assert_eq!((fits(0).from, fits(0).to), (PortSet::NONE, PortSet::ALL));
    assert_eq!(fits(1).to, PortSet::one(port(2)));
    let left = switch.mirrors.list();
    let [session] = left.as_slice() else { panic!("one whose target is there") };
    assert_eq!((session.sent, session.received), (PortSet::one(port(0)), PortSet::NONE));
    assert!(switch.mirrors.watchers().is_empty());
}

#[test]
fn numbers_are_used_again_without_end() {
    let switch = switch(&[]);
    for round in 0..200_u32 {
        let count = if round.is_multiple_of(50) { MAX_PORTS } else { 3 };
        let ids: std::vec::Vec<_> =
            (0..count).map(|_| switch.add(Settings::default()).expect("a port")).collect();
        assert_eq!(switch.add(Settings::default()).is_none(), count == MAX_PORTS);
        assert!(accept(&switch, 0, &packet(0, 9, 17, &udp(1, 2)), 0).is_ok());
        switch.ports().for_each(|(id, _)| switch.remove(id));
        assert!(switch.ports().next().is_none() && ids.len() == count);
        // What is not there is not taken away.
        switch.remove(port(5));
    }
}
