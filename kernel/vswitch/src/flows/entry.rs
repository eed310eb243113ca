//! One flow's entry.

use super::bucket::Case;
use super::state::{Fins, State, timeout};
use super::{Count, EndReason, Ends, Key, Packet, Question, Record, Verdict, Way};
use crate::Nanos;
use crate::frame::Flags;
use crate::port::PortId;

/// A flow in the table.
pub(super) struct Entry {
    key: Key,
    /// The way that its first packet went.
    way: Way,
    /// Whose it is: where that came from.
    from: PortId,
    to: Option<PortId>,
    verdict: Verdict,
    /// The rules that said so.
    generation: u32,
    /// The verdict holds for other packets, too.
    cached: bool,
    /// What a packet shows that goes on with the flow, and one that replies to it ([`Case::stamp`]), so that
    /// one comparison says so.
    stamps: [u64; 2],
    state: State,
    fins: Fins,
    flags: Flags,
    last: Nanos,
    timeout: Nanos,
    /// What was counted since the last record, and before.
    counts: [Count; 2],
    before: [Count; 2],
    began: Nanos,
    recorded: Nanos,
}

/// A flow, as it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Between whom, from the one who began.
    pub ends: Ends,
    /// The port it comes from, and whose it is.
    pub from: PortId,
    /// The port it goes to; `None` where it goes to several.
    pub to: Option<PortId>,
    /// What has passed since it began, from the one who began (0) and back (1); what has not, where it is
    /// denied.
    pub counts: [Count; 2],
    /// When it began.
    pub began: Nanos,
    /// When its last packet was seen.
    pub last: Nanos,
    /// When it ends if there are no more. It may have passed: who comes next to that bucket takes the flow
    /// out.
    pub expires: Nanos,
    /// How far it has come.
    pub state: State,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The rules that said so.
    pub generation: u32,
    /// All of TCP's flags that were seen since it began.
    pub flags: Flags,
}

impl Entry {
    /// A flow of which nothing was counted.
    pub(super) fn new(key: Key, way: Way, packet: &Packet, verdict: Verdict, generation: u32) -> Self {
        let state = State::first(&key);
        let mut entry = Self {
            key,
            way,
            from: packet.from,
            to: packet.to,
            verdict,
            generation,
            cached: packet.cacheable,
            state,
            fins: 0,
            flags: Flags(0),
            last: packet.now,
            timeout: state.timeout(&key, verdict.allowed),
            counts: [Count::default(); 2],
            before: [Count::default(); 2],
            began: packet.now,
            recorded: packet.now,
            stamps: [0; 2],
        };
        entry.stamp();
        entry
    }

    /// Counts a packet that just goes on with the flow, as almost all do. Where it does not, another look is
    /// needed, and nothing is counted: so it is also with what is denied where the entry is not alone, as
    /// another one may allow it.
    #[inline]
    pub(super) fn go_on(&mut self, case: &Case<'_>, is_alone: impl FnOnce() -> bool) -> Option<Verdict> {
        let [own, reply] = self.stamps;
        let is_reply = case.stamp != own;
        let goes_on =
            (!is_reply || case.stamp == reply) && self.key == *case.key && !self.is_expired(case.packet.now);
        if !goes_on {
            return None;
        }
        if !self.verdict.allowed {
            return is_alone().then(|| self.count_denied(case.packet));
        }
        if case.flags & Flags::CHANGING != 0 {
            return None;
        }
        self.add(is_reply, case.packet);
        self.flags.0 |= case.flags;
        Some(self.verdict)
    }

    /// Out of the way of those that are allowed.
    #[cold]
    fn count_denied(&mut self, packet: &Packet) -> Verdict {
        self.count(false, packet);
        self.verdict
    }

    /// Whether it knows what becomes of a packet without asking.
    pub(super) fn knows(&self, case: &Case<'_>) -> bool {
        let packet = case.packet;
        let begun = self.is_begun_by(case) && self.to == packet.to && self.cached;
        let replied = self.is_answered_by(case) && packet.to.is_some();
        self.generation == case.generation
            && (begun || replied)
            && !self.is_expired(packet.now)
            && !self.is_over_for(case)
    }

    /// Makes its stamps, after anything in them has changed. Replies have none before the first one, which
    /// changes the state, nor where they may come from several ports.
    fn stamp(&mut self) {
        const NEVER: u64 = u64::MAX;
        let own = stamp(self.way, Some(self.from), self.to, self.generation);
        let reply = stamp(self.way.turned(), self.to, Some(self.from), self.generation);
        let replied = self.verdict.allowed && self.to.is_some() && !self.state.is_unreplied();
        self.stamps = [if self.cached { own } else { NEVER }, if replied { reply } else { NEVER }];
    }

    /// Whether it is the flow that such a packet from its port begins or goes on with.
    pub(super) fn is_begun_by(&self, case: &Case<'_>) -> bool {
        self.way == case.way && self.from == case.packet.from && self.key == *case.key
    }

    /// Whether it is allowed, and the packet replies to it, perhaps among others.
    pub(super) fn is_answered_by(&self, case: &Case<'_>) -> bool {
        self.way != case.way
            && case.packet.to.is_none_or(|to| to == self.from)
            && self.key == *case.key
            && self.is_answered_from(case.packet.from)
    }

    /// Whether the packet goes to several ports, of which one waits for it.
    pub(super) fn is_flooded_reply(&self, case: &Case<'_>) -> bool {
        case.packet.to.is_none() && self.is_answered_by(case)
    }

    /// Whether the packet is one of this flow.
    pub(super) fn is_of(&self, case: &Case<'_>) -> bool {
        self.is_begun_by(case) || self.is_answered_by(case)
    }

    /// Whether the packet begins a connection where this one was.
    pub(super) fn is_ended_by(&self, case: &Case<'_>) -> bool {
        self.is_of(case) && self.is_over_for(case)
    }

    /// Whether the packet is a reply that rules of another generation have allowed.
    pub(super) fn is_stale_for(&self, case: &Case<'_>) -> bool {
        case.packet.cacheable
            && case.packet.to.is_some()
            && self.generation != case.generation
            && self.is_answered_by(case)
            && !self.is_over_for(case)
    }

    /// Whether it is allowed, and replies may come from that port.
    fn is_answered_from(&self, port: PortId) -> bool {
        self.verdict.allowed && self.key.has_replies(self.way) && self.to.is_none_or(|to| to == port)
    }

    /// A packet of it begins a new connection: one from the end that began, when the last one is closed; one
    /// from the other end always, as a connection that was allowed one way is none that may be opened the
    /// other way. But where both have begun at once, it is an answer (RFC 9293, section 3.5, "simultaneous").
    fn is_over_for(&self, case: &Case<'_>) -> bool {
        case.packet.is_bare_syn()
            && match self.state {
                State::Closed => true,
                State::Established | State::Closing => self.way != case.way,
                _ => false,
            }
    }

    #[inline]
    pub(super) const fn is_expired(&self, now: Nanos) -> bool {
        now.saturating_sub(self.last) >= self.timeout
    }

    #[inline]
    fn add(&mut self, reply: bool, packet: &Packet) {
        // Not simply the packet's time: CPUs may bring packets a little out of order.
        self.last += packet.now.saturating_sub(self.last);
        if let Some(count) = self.counts.get_mut(usize::from(reply)) {
            count.add(Count { packets: packet.packets.into(), bytes: packet.bytes });
        }
    }

    /// Counts a packet of its own, or a reply.
    pub(super) fn count(&mut self, reply: bool, packet: &Packet) {
        self.add(reply, packet);
        let flags = packet.flags.unwrap_or_default();
        self.flags.0 |= flags.0;
        // What was denied has not come to the other end.
        if self.verdict.allowed {
            self.state = self.state.after(reply, flags, &mut self.fins);
            self.timeout = self.state.timeout(&self.key, true);
            self.stamp();
        }
    }

    /// Rules have said something new about it. Where that turns it, what was is recorded, and another flow
    /// begins.
    pub(super) fn judge(&mut self, by: &Judgement, now: Nanos) -> Option<Record> {
        let turned = self.verdict.allowed != by.verdict.allowed;
        let record = if turned { self.record(EndReason::Forced) } else { None };
        (self.to, self.verdict, self.generation, self.cached) = (by.to, by.verdict, by.generation, by.cached);
        if turned {
            (self.state, self.fins, self.flags) = (State::first(&self.key), 0, Flags(0));
            (self.before, self.began, self.recorded) = ([Count::default(); 2], now, now);
            (self.last, self.timeout) = (now, self.state.timeout(&self.key, by.verdict.allowed));
        }
        self.stamp();
        record
    }

    /// Counts from 0 on, and leaves a record of what was counted. There is none of what never had a packet,
    /// as the entry of fragments that did not come.
    pub(super) fn record(&mut self, reason: EndReason) -> Option<Record> {
        let counts = core::mem::take(&mut self.counts);
        self.before.iter_mut().zip(counts).for_each(|(before, count)| before.add(count));
        if self.before.iter().all(|count| count.packets == 0) {
            return None;
        }
        let record = Record::new(self.key.ends(self.way), self.from, self.verdict, reason);
        let (to, began, last, flags) = (self.to, self.began, self.last, self.flags);
        Some(Record { to, counts, began, last, flags, ..record })
    }

    /// A record, where the flow goes on and it is time for one.
    pub(super) fn record_active(&mut self, now: Nanos) -> Option<Record> {
        let due = now.saturating_sub(self.recorded) >= timeout::ACTIVE;
        if !due || self.counts.iter().all(|count| count.packets == 0) {
            return None;
        }
        self.recorded = now;
        self.record(EndReason::ActiveTimeout)
    }

    /// Why it ends, where its time is over.
    pub(super) fn end_reason(&self) -> EndReason {
        if self.state == State::Closed { EndReason::EndOfFlow } else { EndReason::IdleTimeout }
    }

    /// What it is worth to its port when there is no room: least what was denied, what is over and fragments,
    /// most what has been answered. So what a VM sends in vain does not cost it its connections.
    pub(super) const fn worth(&self) -> Worth {
        match self.state {
            _ if !self.verdict.allowed || self.key.is_fragment() => Worth::Least,
            State::Closed => Worth::Least,
            State::SynSent | State::Unreplied => Worth::Little,
            State::Established | State::Closing | State::Replied => Worth::Most,
        }
    }

    /// What is asked about its first packet when a reply comes from that port. Where the flow went to several,
    /// it is one with this one from then on, as nobody can say what rules have for all of them.
    pub(super) const fn question_of_reply(&self, port: PortId) -> Question {
        let to = if self.to.is_some() { self.to } else { Some(port) };
        Question { reply: true, from: self.from, to }
    }

    pub(super) const fn from(&self) -> PortId {
        self.from
    }

    pub(super) const fn last(&self) -> Nanos {
        self.last
    }

    pub(super) const fn way(&self) -> Way {
        self.way
    }

    pub(super) const fn verdict(&self) -> Verdict {
        self.verdict
    }

    pub(super) const fn is_cached(&self) -> bool {
        self.cached
    }

    /// Whether packets of it go to or come from that port.
    pub(super) fn concerns(&self, port: PortId) -> bool {
        self.from == port || self.to == Some(port)
    }

    pub(super) fn flow(&self) -> Flow {
        let mut counts = self.before;
        counts.iter_mut().zip(self.counts).for_each(|(count, more)| count.add(more));
        let Self { from, to, began, last, state, verdict, generation, flags, .. } = *self;
        let expires = last.saturating_add(self.timeout);
        let ends = self.key.ends(self.way);
        Flow { ends, from, to, counts, began, last, expires, state, verdict, generation, flags }
    }
}

/// What a packet shows of itself, and rules, in one word.
#[inline]
pub(super) fn stamp(way: Way, from: Option<PortId>, to: Option<PortId>, generation: u32) -> u64 {
    let port = |port: Option<PortId>| port.map_or(0xff, |port| port.index() as u64);
    u64::from(generation) | port(from) << 32 | port(to) << 40 | (way as u64) << 48
}

/// How much an entry is worth to its port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Worth {
    Least,
    Little,
    Most,
}

/// What rules have said about a flow.
pub(super) struct Judgement {
    pub(super) to: Option<PortId>,
    pub(super) verdict: Verdict,
    pub(super) generation: u32,
    pub(super) cached: bool,
}
