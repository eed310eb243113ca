//! A switch that does what is written of it, one step after the other, without bounds, locks or short cuts.

use std::collections::HashMap;
use std::vec::Vec;

use super::guard::guard;
use super::reader::{Ip, Part, Seen, Transport};
use super::rules::{question_of, say};
use super::talks::{Line, Said, Speech, Talks};
use super::wire::{Wire, header_bytes, on_the_wire, tagged, untagged};
use crate::Nanos;
use crate::counters::Drop;
use crate::mirror::{Copy, Session, Target};
use crate::port::{Mac, PortId};
use crate::rules::Rule;
use crate::settings::{Settings, Vlans};

const SECOND: Nanos = 1_000_000_000;

/// A port, with what it has lost by reason.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) settings: Settings,
    pub(super) ready: bool,
    pub(super) lost: [u64; Drop::ALL.len()],
    pub(super) sent: (u64, u64),
    /// When each kind of storm has been paid for.
    paid: [Nanos; 3],
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) ports: Vec<Port>,
    pub(super) known: HashMap<(Mac, u16), (usize, Nanos)>,
    pub(super) rules: Vec<Rule>,
    pub(super) default: bool,
    pub(super) counts: Vec<(u64, u64)>,
    pub(super) denied_by_default: u64,
    pub(super) sessions: Vec<Session>,
    pub(super) talks: Talks,
    generation: u32,
    pub(super) now: Nanos,
}

/// A frame that was let in.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    seen: Seen,
    from: usize,
    pub(super) vlan: u16,
    pub(super) priority: u8,
    pub(super) to: Vec<usize>,
    pub(super) packets: u32,
    pub(super) wire_bytes: u64,
    /// It was judged already.
    judged: bool,
}

pub(super) const fn id(number: usize) -> PortId {
    PortId::new(number).expect("a port")
}

impl Model {
    pub(super) fn new() -> Self {
        Self { default: true, ..Self::default() }
    }

    pub(super) fn add(&mut self, settings: Settings) {
        let lost = [0; Drop::ALL.len()];
        self.ports.push(Port { settings, ready: false, lost, sent: (0, 0), paid: [0; 3] });
    }

    pub(super) fn change(&mut self, number: usize, settings: Settings) {
        let port = &mut self.ports[number];
        let before = std::mem::replace(&mut port.settings, settings);
        let after = &port.settings;
        if before != *after && (before.vlans != after.vlans || !after.up) {
            self.known.retain(|_, (at, _)| *at != number);
        }
        let limits = [&before, after].map(|it| [it.storm.broadcast, it.storm.multicast, it.storm.unknown]);
        for (kind, paid) in port.paid.iter_mut().enumerate() {
            if limits[0][kind] != limits[1][kind] {
                // Debts are no longer than a second.
                *paid = (*paid).min(self.now + SECOND);
            }
        }
    }

    pub(super) fn set_ready(&mut self, number: usize, ready: bool) {
        self.ports[number].ready = ready;
        if !ready {
            self.known.retain(|_, (at, _)| *at != number);
        }
    }

    pub(super) fn set_rules(&mut self, rules: Vec<Rule>, default: bool) {
        self.counts = (0..rules.len())
            .map(|at| if self.rules.get(at) == rules.get(at) { self.counts[at] } else { (0, 0) })
            .collect();
        (self.rules, self.default) = (rules, default);
        self.generation += 1;
    }

    /// There are no rules.
    fn is_open(&self) -> bool {
        self.default && self.rules.is_empty()
    }

    pub(super) fn is_member(&self, port: usize, vlan: u16) -> bool {
        match &self.ports[port].settings.vlans {
            Vlans::Access(own) => *own == vlan,
            Vlans::Trunk { tagged, native } => tagged.has(vlan) || *native == Some(vlan),
        }
    }

    pub(super) fn is_watcher(&self, port: usize) -> bool {
        self.sessions.iter().any(|session| session.target == Target::Port(id(port)))
    }

    /// Where an address is now.
    pub(super) fn find(&self, mac: Mac, vlan: u16) -> Option<usize> {
        let (port, seen) = *self.known.get(&(mac, vlan))?;
        (self.now / SECOND - seen / SECOND <= 300).then_some(port)
    }

    /// A port sends a frame.
    pub(super) fn send(&mut self, from: usize, wire: &Wire) -> Result<Sent, Drop> {
        let (packets, wire_bytes) = on_the_wire(wire);
        let port = &mut self.ports[from];
        port.sent = (port.sent.0 + u64::from(packets), port.sent.1 + wire_bytes);
        let sent = self.let_in(from, wire, (packets, wire_bytes));
        if let Err(reason) = sent {
            self.ports[from].lost[reason as usize] += 1;
        }
        sent
    }

    fn let_in(&mut self, from: usize, wire: &Wire, (packets, wire_bytes): (u32, u64)) -> Result<Sent, Drop> {
        let seen = Seen::of(&wire.bytes);
        let settings = self.ports[from].settings.clone();
        if !settings.up {
            return Err(Drop::Down);
        }
        if self.is_watcher(from) {
            return Err(Drop::Watcher);
        }
        if seen.from[0] & 1 != 0 {
            return Err(Drop::SpoofedMac);
        }
        let vlan = self.vlan_of(from, &seen).ok_or(Drop::Vlan)?;
        if seen.to[..5] == [1, 0x80, 0xc2, 0, 0] && seen.to[5] < 16 {
            return Err(Drop::Reserved);
        }
        guard(&settings.guard, &seen, &wire.bytes)?;
        if let Some(undone) = wire.offload.checksum
            && !seen.has_place_for_checksum(undone.start.into(), undone.offset.into())
        {
            return Err(Drop::Malformed);
        }
        if !self.sessions.iter().any(|session| session.target == Target::Vlan(vlan)) {
            self.known.insert((seen.from, vlan), (from, self.now));
        }
        let to = self.receivers(from, &seen, vlan)?;
        let mut sent = Sent {
            priority: settings.priority.unwrap_or(seen.tag.map_or(0, |tag| (tag >> 13) as u8)),
            seen,
            from,
            vlan,
            to,
            packets,
            wire_bytes,
            judged: false,
        };
        if sent.to.is_empty() && self.copies_of_sent(&sent).is_empty() {
            return Err(Drop::NoReceiver);
        }
        self.judge(&mut sent)?;
        Ok(sent)
    }

    fn vlan_of(&self, from: usize, seen: &Seen) -> Option<u16> {
        let tagged = seen.tag.map(|tag| tag & 0xfff).filter(|vlan| *vlan != 0);
        match (&self.ports[from].settings.vlans, tagged) {
            (Vlans::Access(own), None) => Some(*own),
            (Vlans::Access(_), Some(_)) => None,
            (Vlans::Trunk { native, .. }, None) => *native,
            (Vlans::Trunk { .. }, Some(vlan)) => self.is_member(from, vlan).then_some(vlan),
        }
    }

    fn receivers(&mut self, from: usize, seen: &Seen, vlan: u16) -> Result<Vec<usize>, Drop> {
        let isolated = |port: usize| self.ports[port].settings.isolated;
        let may = |to: &usize| {
            *to != from
                && self.is_member(*to, vlan)
                && self.ports[*to].settings.up
                && !self.is_watcher(*to)
                && !(isolated(from) && isolated(*to))
        };
        let all: Vec<usize> = (0..self.ports.len()).filter(may).collect();
        let storm = self.ports[from].settings.storm;
        let (kind, limit) = if seen.to == [0xff; 6] {
            (0, storm.broadcast)
        } else if seen.to[0] & 1 != 0 {
            (1, storm.multicast)
        } else if let Some(to) = self.find(seen.to, vlan) {
            return Ok(all.into_iter().filter(|port| *port == to).collect());
        } else {
            (2, storm.unknown)
        };
        if let Some(limit) = limit.map(Nanos::from) {
            // A frame costs its part of a second; a tenth of a second's may be ahead, but one at least.
            let (cost, ahead) = (SECOND / limit, (limit / 10).max(1) * SECOND / limit);
            let paid = &mut self.ports[from].paid[kind];
            if *paid > self.now + ahead {
                return Err(Drop::Storm);
            }
            *paid = (*paid).max(self.now) + cost;
        }
        Ok(all)
    }

    fn say(&self, seen: &Seen, vlan: u16, between: (usize, usize)) -> Said {
        say(&self.rules, self.default, seen, vlan, between)
    }

    fn count(&mut self, sent: &Sent, said: Said) {
        match said {
            (_, Some(rule)) => {
                self.counts[rule].0 += u64::from(sent.packets);
                self.counts[rule].1 += sent.wire_bytes;
            }
            (false, None) => self.denied_by_default += u64::from(sent.packets),
            (true, None) => {}
        }
    }

    fn speech(&self, sent: &Sent, to: Option<usize>) -> Option<(Speech, Ip)> {
        let ip = sent.seen.ip()?;
        let line = Line::of(ip, sent.vlan)?;
        let flags = if let Transport::Tcp { flags, .. } = ip.transport { Some(flags) } else { None };
        let Sent { from, .. } = *sent;
        Some((Speech { line, from, to, flags, rules: self.generation, now: self.now }, ip.clone()))
    }

    /// What of a frame is decided at once: all, where it is for one port.
    fn judge(&mut self, sent: &mut Sent) -> Result<(), Drop> {
        let open = self.is_open();
        sent.judged = open;
        let only = if let [to] = sent.to[..] { Some(to) } else { None };
        let Some((speech, ip)) = self.speech(sent, only) else { return Ok(()) };
        let all = |to: &usize| self.say(&sent.seen, sent.vlan, (sent.from, *to)).0;
        if only.is_none() && !open && !sent.to.iter().all(all) {
            return Ok(());
        }
        let mut talks = std::mem::take(&mut self.talks);
        let said = match only {
            None => {
                talks.pass_to_many(&speech);
                (true, None)
            }
            Some(to) => talks.pass(&speech, &mut |question| match question {
                _ if open => (true, None),
                None => self.say(&sent.seen, sent.vlan, (sent.from, to)),
                Some(between) => self.say(&question_of(&sent.seen), sent.vlan, between),
            }),
        };
        if matches!(ip.part, Part::First(_))
            && let Some(line) = Line::fragments(&ip, sent.vlan)
        {
            talks.remember(&Speech { line, flags: None, ..speech }, said);
        }
        self.talks = talks;
        if only.is_none() {
            return Ok(());
        }
        sent.judged = true;
        if !open {
            self.count(sent, said);
        }
        if said.0 { Ok(()) } else { Err(Drop::Denied) }
    }

    /// A port is to have a frame: how it looks there. `None` where it cannot look so.
    pub(super) fn admit(&mut self, sent: &Sent, wire: &Wire, to: usize) -> Result<Option<Wire>, Drop> {
        let admitted = self.look(sent, wire, to);
        if let Err(reason) = admitted {
            self.ports[to].lost[reason as usize] += 1;
        }
        admitted
    }

    fn look(&mut self, sent: &Sent, wire: &Wire, to: usize) -> Result<Option<Wire>, Drop> {
        if !self.ports[to].ready {
            return Err(Drop::Down);
        }
        if !sent.judged {
            let known = self.speech(sent, Some(to)).and_then(|(speech, _)| self.talks.known(&speech));
            let said = known.unwrap_or_else(|| self.say(&sent.seen, sent.vlan, (sent.from, to)));
            self.count(sent, said);
            if !said.0 {
                return Err(Drop::Denied);
            }
        }
        let settings = &self.ports[to].settings;
        let around = if sent.seen.tag.is_some() { 18 } else { 14 };
        let largest = match wire.offload.large {
            Some(large) => header_bytes(wire, large) + usize::from(large.size),
            None => wire.bytes.len(),
        };
        if settings.mtu.is_some_and(|mtu| largest.saturating_sub(around) > usize::from(mtu)) {
            return Err(Drop::Mtu);
        }
        Ok(match &settings.vlans {
            Vlans::Access(_) => untagged(wire),
            // What is behind the tag would be taken for it.
            Vlans::Trunk { native, .. } if *native == Some(sent.vlan) && !sent.seen.nested => untagged(wire),
            Vlans::Trunk { .. } => tagged(wire, sent.priority, sent.vlan),
        })
    }

    pub(super) fn copies_of_sent(&self, sent: &Sent) -> Vec<Copy> {
        self.copies(|session| session.sent.has(id(sent.from)) || session.vlans.contains(&sent.vlan))
    }

    pub(super) fn copies_of_received(&self, sent: &Sent, to: usize) -> Vec<Copy> {
        self.copies(|session| {
            let is_sent = session.sent.has(id(sent.from)) || session.vlans.contains(&sent.vlan);
            session.received.has(id(to)) && !is_sent
        })
    }

    fn copies(&self, wants: impl Fn(&Session) -> bool) -> Vec<Copy> {
        let wanted = self.sessions.iter().filter(|session| wants(session));
        wanted.map(|session| Copy { target: session.target, snap: session.snap }).collect()
    }

    /// Who gets a copy, and how it looks there.
    pub(super) fn watchers(&self, sent: &Sent, wire: &Wire, copy: Copy) -> (Vec<usize>, Option<Wire>) {
        let up = (0..self.ports.len()).filter(|port| self.ports[*port].settings.up);
        let (to, seen) = match copy.target {
            Target::Port(port) => {
                (up.filter(|number| id(*number) == port).collect::<Vec<_>>(), Some(wire.clone()))
            }
            Target::Vlan(vlan) => (
                up.filter(|port| self.is_member(*port, vlan) && *port != sent.from).collect(),
                tagged(wire, sent.priority, vlan),
            ),
        };
        let cut = seen.map(|seen| match copy.snap {
            Some(snap) if usize::from(snap.max(14)) < seen.bytes.len() => {
                let bytes = seen.bytes[..usize::from(snap.max(14))].to_vec();
                Wire { bytes, offload: crate::Offload::default() }
            }
            _ => seen,
        });
        (to, cut)
    }
}
