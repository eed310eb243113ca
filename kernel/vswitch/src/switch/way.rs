//! The way of a frame: what its sender's port says of it, where it goes, and how it looks there.
//!
//! Source: IEEE 802.1Q-2018, "Ingress", "Frame filtering", "Egress", "Reserved addresses".

use super::judge::Judge;
use super::port::{BROADCAST, MULTICAST, Port, UNKNOWN, View};
use super::train::Train;
use super::{SECOND, Switch};
use crate::Nanos;
use crate::counters::Drop;
use crate::frame::{ETHERNET_BYTES, Frame, Layers, TAG_BYTES};
use crate::mirror::{Copies, Target};
use crate::port::{BROADCAST as ALL_DEVICES, Mac, PortId, PortSet, is_group};
use crate::tag::Tag;
use core::sync::atomic::Ordering::SeqCst;

/// A frame that a port has let in, and where it goes.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its headers.
    pub layers: Layers,
    /// The port that it came from.
    pub from: PortId,
    /// The VLAN that it is in.
    pub vlan: u16,
    /// Its priority, 0 to 7.
    pub priority: u8,
    /// The ports that it goes to.
    pub to: PortSet,
    /// Somebody may watch what its sender sends.
    watched: bool,
    /// Who says whether it may go to a port.
    pub(super) judge: Judge,
    /// Rules that were asked.
    pub(super) asked: u32,
    /// When it was sent.
    pub(super) at: Nanos,
    /// Packets and bytes on a wire.
    pub packets: u32,
    /// Bytes on a wire.
    pub wire_bytes: u64,
    /// It goes to where its receiver's address is known to be.
    pub(super) found: bool,
    /// Those behind it.
    pub(super) train: Train,
}

impl Sent {
    /// None: it goes nowhere.
    pub const fn nothing() -> Self {
        Self {
            layers: Layers::nothing(),
            from: PortId::FIRST,
            vlan: 0,
            priority: 0,
            to: PortSet::NONE,
            watched: false,
            judge: Judge::Nobody,
            asked: 0,
            at: 0,
            packets: 0,
            wire_bytes: 0,
            found: false,
            train: Train::none(),
        }
    }
}

impl Switch {
    /// A port's device sends a frame. What becomes of it is written to `sent`.
    ///
    /// # Errors
    /// Why it goes no further; the sender's port has counted that.
    pub fn accept(&self, from: PortId, frame: &Frame, now: Nanos, sent: &mut Sent) -> Result<(), Drop> {
        sent.asked = 0;
        self.end_train(sent);
        let port = self.port(from).ok_or(Drop::Down)?;
        (sent.packets, sent.wire_bytes) = crate::segment::segments_of(frame);
        port.counters.sent.count(sent.packets, sent.wire_bytes);
        port.send.take(sent.wire_bytes, now);
        (sent.from, sent.judge) = (from, Judge::Nobody);
        sent.layers = frame.layers();
        let decided = self.decide(port, frame, now, sent);
        if let Err(reason) = decided {
            port.counters.lose(reason);
        }
        decided
    }

    fn decide(&self, port: &Port, frame: &Frame, now: Nanos, sent: &mut Sent) -> Result<(), Drop> {
        let (view, from) = (port.view(), sent.from);
        let layers = &sent.layers;
        if !view.is_up() {
            return Err(Drop::Down);
        }
        if self.mirrors.watchers().has(from) {
            return Err(Drop::Watcher);
        }
        if is_group(&layers.source) {
            return Err(Drop::SpoofedMac);
        }
        let vlan = vlan_of(from, view, layers, |vlan| self.members(vlan)).ok_or(Drop::Vlan)?;
        if is_reserved(&layers.destination) {
            return Err(Drop::Reserved);
        }
        if view.is_guarded() {
            port.guard(layers, frame.head())?;
        }
        // It is made once all of this was looked at.
        if !frame.offload.spares(layers) {
            return Err(Drop::Malformed);
        }
        let second = (now / SECOND) as u32;
        if !self.mirrors.is_target(vlan) {
            self.addresses.learn(layers.source, vlan, from, second);
        }
        let found = self.receivers(from, view, layers, vlan, second);
        if let Some(storm) = found.storm.and_then(|kind| port.storms.get(kind))
            && !storm.admits(1, now)
        {
            return Err(Drop::Storm);
        }
        let watched = self.mirrors.may_watch(PortSet::one(from));
        if found.to.is_empty() && (!watched || self.mirrors.of_sent(from, vlan).is_empty()) {
            return Err(Drop::NoReceiver);
        }
        sent.priority = view.priority().or(layers.priority()).unwrap_or(0);
        (sent.vlan, sent.to, sent.watched, sent.found) = (vlan, found.to, watched, found.storm.is_none());
        sent.at = now;
        self.sweep(now);
        self.judge(sent, frame.head(), now)
    }

    /// The ports of a VLAN.
    fn members(&self, vlan: u16) -> PortSet {
        PortSet::from_bits(self.members.get(usize::from(vlan)).map_or(0, |members| members.load(SeqCst)))
    }

    fn receivers(&self, from: PortId, view: View, layers: &Layers, vlan: u16, second: u32) -> Found {
        let mut may = self.members(vlan).and(PortSet::from_bits(self.up.load(SeqCst))).without(from);
        may = may.minus(self.mirrors.watchers());
        if view.is_isolated() {
            may = may.minus(PortSet::from_bits(self.isolated.load(SeqCst)));
        }
        let to = layers.destination;
        if to == ALL_DEVICES {
            return Found { to: may, storm: Some(BROADCAST) };
        }
        if is_group(&to) {
            return Found { to: may, storm: Some(MULTICAST) };
        }
        match self.addresses.find(to, vlan, second) {
            Some(port) => Found { to: PortSet::one(port).and(may), storm: None },
            None => Found { to: may, storm: Some(UNKNOWN) },
        }
    }

    /// Whether a frame may go to a port, and what is done to its tag there.
    ///
    /// # Errors
    /// Why not; the receiver's port has counted that.
    pub fn admit(&self, sent: &Sent, frame: &Frame, to: PortId) -> Result<Tag, Drop> {
        let port = self.port(to).ok_or(Drop::Down)?;
        let admitted = self.look(sent, frame, to, port);
        if let Err(reason) = admitted {
            port.counters.lose(reason);
        }
        admitted
    }

    fn look(&self, sent: &Sent, frame: &Frame, to: PortId, port: &Port) -> Result<Tag, Drop> {
        if !port.is_ready() {
            return Err(Drop::Down);
        }
        if !self.may_receive(sent, to) {
            return Err(Drop::Denied);
        }
        let view = port.view();
        // Behind a tag that is taken away there may be another one, which a trunk's device would take for its VLAN.
        let hides_tag = view.is_trunk() && sent.layers.tag.is_some() && sent.layers.nested;
        let tag = if view.untagged() == Some(sent.vlan) && !hides_tag {
            if sent.layers.tag.is_some() { Tag::Remove } else { Tag::Keep }
        } else {
            with_tag(sent, sent.vlan)
        };
        if let Some(mtu) = view.mtu()
            && largest_packet(frame, &sent.layers) > u32::from(mtu)
        {
            return Err(Drop::Mtu);
        }
        Ok(tag)
    }

    /// The port that a frame goes to, where it is one and nobody watches.
    #[inline]
    pub fn only_receiver(&self, sent: &Sent) -> Option<PortId> {
        let mut to = sent.to;
        let only = to.take_first()?;
        (to.is_empty() && !sent.watched && !self.mirrors.may_watch(sent.to)).then_some(only)
    }

    /// Copies of a frame for who watches what its sender sends.
    #[inline]
    pub fn copies_of_sent(&self, sent: &Sent) -> Copies {
        if sent.watched { self.mirrors.of_sent(sent.from, sent.vlan) } else { Copies::new() }
    }

    /// Copies of it for who watches what a port receives.
    #[inline]
    pub fn copies_of_received(&self, sent: &Sent, to: PortId) -> Copies {
        if self.mirrors.may_watch(PortSet::one(to)) {
            self.mirrors.of_received((sent.from, sent.vlan), to)
        } else {
            Copies::new()
        }
    }

    /// The ports that a copy goes to, and how it looks there.
    pub fn watchers(&self, sent: &Sent, target: Target) -> (PortSet, Tag) {
        let up = PortSet::from_bits(self.up.load(SeqCst));
        match target {
            Target::Port(port) => (PortSet::one(port).and(up), Tag::Keep),
            Target::Vlan(vlan) => (self.members(vlan).and(up).without(sent.from), with_tag(sent, vlan)),
        }
    }
}

struct Found {
    to: PortSet,
    /// It goes to many: which of the limits counts.
    storm: Option<usize>,
}

/// What gives a frame the tag of a VLAN.
fn with_tag(sent: &Sent, vlan: u16) -> Tag {
    let tag = u16::from(sent.priority) << 13 | vlan;
    match sent.layers.tag {
        Some(now) if now == tag => Tag::Keep,
        Some(_) => Tag::Replace(tag),
        None => Tag::Add(tag),
    }
}

/// The VLAN that a frame from a port is in. `None` where the port is not.
fn vlan_of(from: PortId, view: View, layers: &Layers, members: impl Fn(u16) -> PortSet) -> Option<u16> {
    let Some(vlan) = layers.vlan() else { return view.untagged() };
    (view.is_trunk() && members(vlan).has(from)).then_some(vlan)
}

/// Addresses that concern the bridge itself (IEEE 802.1Q, table 8-1).
const fn is_reserved(mac: &Mac) -> bool {
    matches!(mac, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
}

/// Bytes behind the Ethernet header, and the first tag, of the largest packet that a frame stands for.
pub(super) fn largest_packet(frame: &Frame, layers: &Layers) -> u32 {
    let tag = if layers.tag.is_some() { TAG_BYTES as u32 } else { 0 };
    let bytes = match frame.offload.large {
        None => frame.length(),
        Some(large) => crate::segment::header_bytes_of(frame) + u32::from(large.size),
    };
    bytes.saturating_sub(ETHERNET_BYTES as u32 + tag)
}
