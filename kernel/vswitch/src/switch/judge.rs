//! Whether a frame may pass: by its conversation where that is known, else by the rules.

use super::{Sent, Switch};
use crate::Nanos;
use crate::counters::Drop;
use crate::flows::{Key, Packet, Question, Verdict as FlowVerdict};
use crate::frame::{Flags, Fragment, Internet, Layers, Network, Transport, protocol};
use crate::port::{PortId, PortSet};
use crate::rules::{Rules, Verdict};

/// The number in flows of what holds without a rule.
const NO_RULE: u16 = u16::MAX;
/// Rules that are looked at for one frame at most to find out whether all who get it may; beyond, each is judged by itself.
const MOST_ASKED: usize = 1024;
/// What looking at a rule counts, in bytes of copying that take as long.
const RULE_BYTES: u32 = 64;

/// Who says whether a frame may go to a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Judge {
    /// Nobody needs to: it may.
    Nobody,
    /// The rules, for each port.
    Rules,
}

const fn to_flow(verdict: Verdict) -> FlowVerdict {
    let rule = match verdict.rule {
        Some(rule) => rule,
        None => NO_RULE,
    };
    FlowVerdict { allowed: verdict.allow, rule }
}

const fn from_flow(verdict: FlowVerdict) -> Verdict {
    let rule = if verdict.rule == NO_RULE { None } else { Some(verdict.rule) };
    Verdict { allow: verdict.allowed, rule }
}

impl Switch {
    /// Judges a frame by its conversation, which counts it.
    ///
    /// # Errors
    /// [`Drop::Denied`].
    pub(super) fn judge(&self, sent: &mut Sent, head: &[u8], now: Nanos) -> Result<(), Drop> {
        let generation = self.rules.generation();
        let open = Rules::is_open(generation);
        sent.judge = if open { Judge::Nobody } else { Judge::Rules };
        let Some(internet) = sent.layers.internet() else { return Ok(()) };
        let Some((key, way)) = Key::of(internet, sent.vlan).or_else(|| Key::of_fragment(internet, sent.vlan))
        else {
            return Ok(());
        };
        let mut to = sent.to;
        let only = to.take_first().filter(|_| to.is_empty());
        if !open && only.is_some_and(|to| self.is_about(sent, internet, head, (to, now))) {
            sent.judge = Judge::Nobody;
            return Ok(());
        }
        let rules = self.rules.count_of_rules();
        if only.is_none() && !open {
            let all = sent.to.count() * rules;
            // Where that is too much, or not all allow it, each port is judged by itself, and no conversation has a verdict for all of them.
            if all > MOST_ASKED {
                return Ok(());
            }
            sent.asked += all as u32;
            if !self.all_allow(sent) {
                return Ok(());
            }
        }
        let packet = Packet {
            from: sent.from,
            to: only,
            bytes: sent.wire_bytes,
            packets: sent.packets,
            flags: flags(internet),
            cacheable: only.is_some(),
            now,
        };
        let mut asked = sent.asked;
        let passed = self.flows.pass(&key, way, &packet, generation, |question| match question.to {
            Some(to) if !open => {
                asked += rules as u32;
                to_flow(self.ask(sent, question, to))
            }
            _ => FlowVerdict { allowed: true, rule: NO_RULE },
        });
        if matches!(internet.fragment, Fragment::First(_))
            && let Some((key, _)) = Key::of_fragment(internet, sent.vlan)
        {
            self.flows.remember_fragment(&key, &packet, generation, passed.verdict());
        }
        sent.asked = asked;
        if only.is_none() {
            return Ok(());
        }
        sent.judge = Judge::Nobody;
        let verdict = from_flow(passed.verdict());
        if !open {
            self.rules.count(verdict, sent.packets, sent.wire_bytes);
        }
        if verdict.allow { Ok(()) } else { Err(Drop::Denied) }
    }

    /// Whether a packet says what has become of one of a conversation that is allowed, and comes from where that has gone to.
    fn is_about(&self, sent: &Sent, internet: &Internet, head: &[u8], (to, now): (PortId, Nanos)) -> bool {
        // It goes to who has sent that.
        let about = internet.quoted(head).filter(|about| about.source == internet.destination);
        let Some(about) = about else { return false };
        let Some((key, way)) = Key::of(&about, sent.vlan) else { return false };
        let packet = Packet {
            from: to,
            to: Some(sent.from),
            bytes: 0,
            packets: 0,
            flags: None,
            cacheable: false,
            now,
        };
        let known = self.flows.known(&key, way, &packet, self.rules.generation());
        known.is_some_and(|verdict| verdict.allowed)
    }

    /// Counts frames of a train: its conversation does, and the rule that has let it pass.
    pub(super) fn count_train(&self, sent: &mut Sent, (packets, bytes): (u32, u64), all: Flags) {
        (sent.packets, sent.wire_bytes) = (packets, bytes);
        if let Network::Internet(Internet { transport: Transport::Tcp { flags, .. }, .. }) =
            &mut sent.layers.network
        {
            *flags = all;
        }
        // They have passed, whatever is said of it now.
        let _ = self.judge(sent, &[], sent.at);
    }

    /// What asking the rules has taken when a frame was accepted, in bytes of copying that take as long.
    pub const fn cost_of_accepting(sent: &Sent) -> u32 {
        RULE_BYTES * sent.asked
    }

    /// What asking the rules takes for each port that it may go to, in the same measure.
    pub fn cost_of_admitting(&self, sent: &Sent) -> u32 {
        match sent.judge {
            Judge::Nobody => 0,
            Judge::Rules => RULE_BYTES * self.rules.count_of_rules() as u32,
        }
    }

    /// What the rules say of a frame, or of what it answers.
    fn ask(&self, sent: &Sent, question: Question, to: PortId) -> Verdict {
        if question.reply {
            self.rules.judge(&reversed(&sent.layers), sent.vlan, question.from, to)
        } else {
            self.rules.judge(&sent.layers, sent.vlan, question.from, to)
        }
    }

    fn all_allow(&self, sent: &Sent) -> bool {
        PortSet::from_bits(sent.to.bits())
            .all(|to| self.rules.judge(&sent.layers, sent.vlan, sent.from, to).allow)
    }

    /// Whether a frame that goes to many may go to this port.
    pub(super) fn may_receive(&self, sent: &Sent, to: PortId) -> bool {
        if sent.judge == Judge::Nobody {
            return true;
        }
        let known = sent.layers.internet().and_then(|internet| self.known(sent, internet, to));
        let verdict = known.unwrap_or_else(|| self.rules.judge(&sent.layers, sent.vlan, sent.from, to));
        self.rules.count(verdict, sent.packets, sent.wire_bytes);
        verdict.allow
    }

    /// What the conversation says that it belongs to.
    fn known(&self, sent: &Sent, internet: &Internet, to: PortId) -> Option<Verdict> {
        let (key, way) = Key::of(internet, sent.vlan).or_else(|| Key::of_fragment(internet, sent.vlan))?;
        let packet = Packet {
            from: sent.from,
            to: Some(to),
            bytes: sent.wire_bytes,
            packets: sent.packets,
            // One that begins a connection is no reply, for whomever else it is.
            flags: flags(internet),
            cacheable: false,
            now: sent.at,
        };
        self.flows.known(&key, way, &packet, self.rules.generation()).map(from_flow)
    }
}

const fn flags(internet: &Internet) -> Option<Flags> {
    if let Transport::Tcp { flags, .. } = internet.transport { Some(flags) } else { None }
}

/// The headers of what a frame answers.
fn reversed(layers: &Layers) -> Layers {
    let mut reversed = *layers;
    (reversed.source, reversed.destination) = (layers.destination, layers.source);
    if let Network::Internet(packet) = &mut reversed.network {
        (packet.source, packet.destination) = (packet.destination, packet.source);
        match &mut packet.transport {
            Transport::Tcp { from, to, .. } | Transport::Ports { from, to } => core::mem::swap(from, to),
            // An echo answers a question of another type.
            Transport::Icmp { kind, .. } => match (packet.protocol, *kind) {
                (protocol::ICMP, 0) => *kind = 8,
                (protocol::ICMPV6, 129) => *kind = 128,
                _ => {}
            },
            _ => {}
        }
    }
    reversed
}
