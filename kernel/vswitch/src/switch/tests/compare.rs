//! A switch and its model, side by side.

use proptest::prelude::*;
use std::vec::Vec;

use super::acts::{Act, VLANS, World};
use super::frames::{Recipe, STATIONS, mac};
use super::model::{self, Model, id};
use super::wire::Wire;
use crate::counters::Drop;
use crate::flows::EndReason;
use crate::mirror::{Copy, Session};
use crate::port::PortSet;
use crate::tag::Tag;
use crate::{Frame, Nanos, Switch, switch::Sent};

type Checked<T = ()> = Result<T, TestCaseError>;

pub(super) struct Pair {
    switch: Switch,
    model: Model,
    now: Nanos,
    /// What was sent.
    sent: Vec<Recipe>,
    /// What the last one has left to those behind it.
    last: Sent,
}

fn numbers(ports: PortSet) -> Vec<usize> {
    ports.map(crate::PortId::index).collect()
}

/// How a frame looks after its tag was changed and it was cut.
fn seen(frame: &Frame, wire: &Wire, tag: Tag, snap: Option<u16>) -> Option<(Vec<u8>, crate::Offload)> {
    let mut frame = tag.apply(frame)?;
    if let Some(snap) = snap {
        frame = frame.cut(snap);
    }
    let rest = frame.rest_at() as usize..(frame.rest_at() + frame.rest_bytes()) as usize;
    let bytes = [frame.head(), &wire.bytes[rest]].concat();
    assert_eq!(bytes.len(), frame.length() as usize);
    Some((bytes, frame.offload))
}

impl Pair {
    pub(super) fn new(world: &World) -> Self {
        let (switch, mut model) = (Switch::new(7).expect("memory"), Model::new());
        for (number, settings) in world.ports.iter().enumerate() {
            let added = switch.add(settings.clone()).expect("a port");
            assert_eq!(added.index(), number);
            model.add(settings.clone());
            switch.set_ready(added, true);
            model.set_ready(number, true);
        }
        let mut pair = Self { switch, model, now: 0, sent: Vec::new(), last: Sent::nothing() };
        let (rules, default) = world.rules.clone();
        pair.set_rules(rules, default);
        pair.set_sessions(&world.sessions);
        pair
    }

    fn set_rules(&mut self, rules: Vec<crate::rules::Rule>, default: bool) {
        assert!(self.switch.rules.replace(&rules, default));
        self.model.set_rules(rules, default);
    }

    fn set_sessions(&mut self, sessions: &[Session]) {
        self.switch.mirrors.change(|list| *list = sessions.iter().cloned().collect());
        self.model.sessions = sessions.to_vec();
    }

    /// Does something. False where the switch's tables are full, so that it may differ.
    pub(super) fn act(&mut self, act: &Act) -> Checked<bool> {
        let ports = self.model.ports.len();
        if !matches!(act, Act::Send(..) | Act::Follow(..)) {
            // Nothing happens in the middle of a train.
            self.switch.end_train(&mut self.last);
        }
        match act {
            Act::Send(port, recipe) => {
                self.sent.push(recipe.clone());
                if !self.send(port % ports, &recipe.wire())? {
                    return Ok(false);
                }
            }
            Act::Follow(which, by) => {
                let Some(before) = self.sent.iter().rev().nth(*which) else { return Ok(true) };
                let (port, recipe) = before.followed(*by);
                self.sent.push(recipe.clone());
                if !self.send(port % ports, &recipe.wire())? {
                    return Ok(false);
                }
            }
            Act::Change(port, settings) => {
                let port = port % ports;
                self.switch.change(id(port), self.now, |its| its.clone_from(settings));
                self.model.change(port, (**settings).clone());
            }
            Act::Ready(port, ready) => {
                self.switch.set_ready(id(port % ports), *ready);
                self.model.set_ready(port % ports, *ready);
            }
            Act::Rules(rules, default) => self.set_rules(rules.clone(), *default),
            Act::Sessions(sessions) => self.set_sessions(sessions),
            Act::Wait(time) => {
                self.now += time;
                self.model.now = self.now;
            }
        }
        self.compare_tables()?;
        Ok(true)
    }

    fn is_within_bounds(&self) -> bool {
        let mut full = false;
        self.switch.flows.drain(usize::MAX, |record| full |= record.reason == EndReason::NoResources);
        let untracked = |port: usize| self.model.talks.untracked.get(&port).copied().unwrap_or(0);
        let expected = (0..self.model.ports.len())
            .all(|port| self.switch.flows.port_totals(id(port)).untracked <= untracked(port));
        !full && expected
    }

    fn send(&mut self, from: usize, wire: &Wire) -> Checked<bool> {
        let frame = wire.frame();
        let mut sent = core::mem::replace(&mut self.last, Sent::nothing());
        let gone_on =
            (sent.from == id(from)).then(|| self.switch.go_on(&frame, self.now, &mut sent)).flatten();
        let accepted = if gone_on.is_some() {
            self.switch.settle(&mut sent);
            Ok(())
        } else {
            self.switch.accept(id(from), &frame, self.now, &mut sent)
        };
        let expected = self.model.send(from, wire);
        if !self.is_within_bounds() {
            return Ok(false);
        }
        prop_assert_eq!(accepted, expected.as_ref().map(|_| ()).map_err(|reason| *reason));
        let Ok(expected) = expected else { return Ok(true) };
        prop_assert_eq!(
            (sent.vlan, sent.priority, sent.packets, sent.wire_bytes, numbers(sent.to)),
            (expected.vlan, expected.priority, expected.packets, expected.wire_bytes, expected.to.clone())
        );
        self.look_at_ports(from, &sent)?;
        let copies = self.model.copies_of_sent(&expected);
        prop_assert_eq!(&self.switch.copies_of_sent(&sent)[..], &copies[..]);
        self.compare_only(&sent, &expected)?;
        for copy in copies {
            self.compare_copy((&sent, &frame), (&expected, wire), copy)?;
        }
        if let Some((to, tag)) = gone_on {
            let looks = self.model.admit(&expected, wire, to.index());
            let looks = looks.map(|it| it.map(|it| (it.bytes, it.offload)));
            prop_assert_eq!(Ok(seen(&frame, wire, tag, None)), looks);
            self.last = sent;
            return Ok(true);
        }
        for to in sent.to {
            let tag = self.compare_receiver((&sent, &frame), (&expected, wire), to)?;
            if let (Some(only), Some(tag)) = (self.switch.only_receiver(&sent), tag) {
                self.switch.begin_train(&mut sent, &frame, (only, tag));
            }
        }
        self.last = sent;
        Ok(true)
    }

    /// What must be, whatever the model says.
    fn look_at_ports(&self, from: usize, sent: &Sent) -> Checked {
        let settings = |port: usize| &self.model.ports[port].settings;
        for to in numbers(sent.to) {
            prop_assert!(to != from, "a frame comes back");
            prop_assert!(self.model.is_member(to, sent.vlan), "VLANs are separate");
            prop_assert!(self.model.is_member(from, sent.vlan));
            prop_assert!(!(settings(from).isolated && settings(to).isolated));
            prop_assert!(!self.model.is_watcher(to), "who watches gets copies only");
        }
        Ok(())
    }

    fn compare_only(&self, sent: &Sent, expected: &model::Sent) -> Checked {
        let only = self.switch.only_receiver(sent).map(crate::PortId::index);
        let is_copied = || {
            let received = |to: &usize| !self.model.copies_of_received(expected, *to).is_empty();
            !self.model.copies_of_sent(expected).is_empty() || expected.to.iter().any(received)
        };
        match (only, &expected.to[..]) {
            (Some(only), [to]) => prop_assert!(only == *to && !is_copied()),
            (Some(_), _) => prop_assert!(false, "it goes to several, or to none"),
            (None, to) => prop_assert!(to.len() != 1 || !self.model.sessions.is_empty()),
        }
        Ok(())
    }

    fn compare_copy(
        &self,
        (sent, frame): (&Sent, &Frame),
        (expected, wire): (&model::Sent, &Wire),
        copy: Copy,
    ) -> Checked {
        let (ports, tag) = self.switch.watchers(sent, copy.target);
        let (to, copied) = self.model.watchers(expected, wire, copy);
        prop_assert_eq!(numbers(ports), to);
        let copied = copied.map(|copied| (copied.bytes, copied.offload));
        prop_assert_eq!(seen(frame, wire, tag, copy.snap), copied);
        Ok(())
    }

    fn compare_receiver(
        &mut self,
        (sent, frame): (&Sent, &Frame),
        (expected, wire): (&model::Sent, &Wire),
        to: crate::PortId,
    ) -> Checked<Option<Tag>> {
        let admitted = self.switch.admit(sent, frame, to);
        let tag = admitted.ok();
        let admitted = admitted.map(|tag| seen(frame, wire, tag, None));
        let looks = self.model.admit(expected, wire, to.index());
        prop_assert_eq!(admitted, looks.map(|it| it.map(|it| (it.bytes, it.offload))));
        let copies = self.model.copies_of_received(expected, to.index());
        prop_assert_eq!(&self.switch.copies_of_received(sent, to)[..], &copies[..]);
        for copy in copies {
            self.compare_copy((sent, frame), (expected, wire), copy)?;
        }
        Ok(tag)
    }

    /// What is counted, and where addresses are.
    fn compare_tables(&self) -> Checked {
        for (number, expected) in self.model.ports.iter().enumerate() {
            let counters = &self.switch.port(id(number)).expect("a port").counters;
            prop_assert_eq!(Drop::ALL.map(|reason| counters.lost(reason)), expected.lost, "port {}", number);
            prop_assert_eq!(counters.sent.read(), expected.sent);
        }
        let second = (self.now / 1_000_000_000) as u32;
        for (station, vlan) in (0..STATIONS).flat_map(|it| VLANS.map(|vlan| (it, vlan))) {
            let found = self.switch.addresses.find(mac(station), vlan, second);
            prop_assert_eq!(found.map(crate::PortId::index), self.model.find(mac(station), vlan));
        }
        let mut counts = Vec::new();
        let default = self.switch.rules.list(|_, packets, bytes| counts.push((packets, bytes)));
        prop_assert_eq!((default, &counts), (self.model.default, &self.model.counts));
        prop_assert_eq!(self.switch.rules.denied_by_default(), self.model.denied_by_default);
        Ok(())
    }
}
