//! Some entries under one lock.

use arrayvec::ArrayVec;

use super::accounts::Accounts;
use super::entry::{Entry, Judgement, Worth, stamp};
use super::{EndReason, Flow, Key, Packet, Passed, Question, Record, Verdict, Way};
use crate::Nanos;
use crate::port::PortId;

/// Entries of a bucket.
pub(super) const SLOTS: usize = 8;
/// The lowest bit of each byte, and the highest.
const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = LOW << 7;

/// What is to be found or decided.
pub(super) struct Case<'a> {
    pub(super) key: &'a Key,
    /// What a bucket knows its key by, with the highest bit set.
    pub(super) tag: u8,
    pub(super) way: Way,
    pub(super) packet: &'a Packet,
    pub(super) generation: u32,
    /// What entries that know it have.
    pub(super) stamp: u64,
    /// TCP's flags.
    pub(super) flags: u8,
}

impl<'a> Case<'a> {
    #[inline]
    pub(super) fn new(key: &'a Key, tag: u8, way: Way, packet: &'a Packet, generation: u32) -> Self {
        let stamp = stamp(way, Some(packet.from), packet.to, generation);
        let flags = packet.flags.unwrap_or_default().0;
        Self { key, tag, way, packet, generation, stamp, flags }
    }

    /// What is asked about the packet itself.
    pub(super) const fn question(&self) -> Question {
        Question { reply: false, from: self.packet.from, to: self.packet.to }
    }

    const fn judgement(&self, verdict: Verdict) -> Judgement {
        let Packet { to, cacheable, .. } = *self.packet;
        Judgement { to, verdict, generation: self.generation, cached: cacheable }
    }
}

/// What a change of a bucket needs, and leaves.
pub(super) struct Work<'a> {
    pub(super) accounts: &'a Accounts,
    /// Records, to be kept when the bucket is unlocked: each entry leaves one at most.
    pub(super) ended: ArrayVec<Record, SLOTS>,
    /// Records that had no room.
    pub(super) lost: usize,
}

impl Work<'_> {
    fn keep(&mut self, record: Option<Record>) {
        if let Some(record) = record {
            self.lost += usize::from(self.ended.try_push(record).is_err());
        }
    }
}

/// Entries, of which those are in use whose tag is not 0. Tags are one word, and compared at once.
pub(super) struct Bucket {
    tags: u64,
    entries: [Option<Entry>; SLOTS],
}

/// Places of a bucket: the highest bit of each place's byte.
struct Slots(u64);

impl Slots {
    const fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

impl Iterator for Slots {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let slot = self.0.trailing_zeros() as usize / 8;
        self.0 &= self.0 - 1;
        Some(slot)
    }
}

impl Bucket {
    /// One without entries.
    pub(super) const fn new() -> Self {
        Self { tags: 0, entries: [const { None }; SLOTS] }
    }

    /// Places where there may be an entry of that tag: all where there is one, and perhaps some others, but
    /// none that is vacant (their bytes differ in the highest bit).
    #[inline]
    const fn candidates(&self, tag: u8) -> Slots {
        let other = self.tags ^ (tag as u64 * LOW);
        Slots(other.wrapping_sub(LOW) & !other & HIGH)
    }

    /// What becomes of a packet that just goes on with a flow, which counts it. This is done for every
    /// packet, so it has no loop: where the first place is not the right one, it is settled as packets that
    /// change something are.
    #[inline]
    pub(super) fn go_on(&mut self, case: &Case<'_>) -> Option<Verdict> {
        if !case.packet.cacheable {
            return None;
        }
        let mut slots = self.candidates(case.tag);
        let slot = slots.next()?;
        self.entries.get_mut(slot)?.as_mut()?.go_on(case, || slots.is_empty())
    }

    /// What becomes of a packet, where an entry knows; nothing is counted.
    pub(super) fn known(&mut self, case: &Case<'_>) -> Option<Verdict> {
        self.knowing(case).map(|entry| entry.verdict())
    }

    /// The entry that knows what becomes of a packet. A flow that is allowed goes before one that is denied,
    /// which may have begun the other way.
    fn knowing(&mut self, case: &Case<'_>) -> Option<&mut Entry> {
        let mut best = None;
        for slot in self.candidates(case.tag) {
            let Some(Some(entry)) = self.entries.get(slot) else { continue };
            if entry.knows(case) {
                best = Some(slot);
                if entry.verdict().allowed {
                    break;
                }
            }
        }
        self.entries.get_mut(best?)?.as_mut()
    }

    /// Does what there is to do for a packet that no entry knew, or says what must be asked before. Others
    /// may have had the bucket since it was asked, so every call begins anew.
    pub(super) fn settle(
        &mut self,
        case: &Case<'_>,
        answer: Option<(Question, Verdict)>,
        work: &mut Work<'_>,
    ) -> Result<Passed, Question> {
        let packet = case.packet;
        if packet.cacheable
            && let Some(entry) = self.knowing(case)
        {
            entry.count(entry.way() != case.way, packet);
            return Ok(Passed::Known(entry.verdict()));
        }
        self.end_where(work, |entry| entry.is_expired(packet.now).then(|| entry.end_reason()));
        let told = |question| answer.filter(|(asked, _)| *asked == question).map(|(_, verdict)| verdict);
        if let Some(entry) = self.find(case.tag, |entry| entry.is_stale_for(case)) {
            let question = entry.question_of_reply(packet.from);
            let verdict = told(question).ok_or(question)?;
            let (to, generation, cached) = (question.to, case.generation, entry.is_cached());
            work.keep(entry.judge(&Judgement { to, verdict, generation, cached }, packet.now));
            if verdict.allowed {
                entry.count(true, packet);
                return Ok(Passed::Decided(verdict));
            }
        }
        let verdict = told(case.question()).ok_or(case.question())?;
        if packet.is_bare_syn() {
            self.end_where(work, |entry| {
                let ends = (verdict.allowed || entry.way() == case.way) && entry.is_ended_by(case);
                ends.then_some(EndReason::EndOfFlow)
            });
        }
        // One that goes to several ports is more than a reply, so it may not pass as one, nor begin another
        // flow.
        let once = !packet.cacheable || self.find(case.tag, |entry| entry.is_flooded_reply(case)).is_some();
        let judgement = case.judgement(verdict);
        let done =
            if once { self.decide_once(case, judgement, work) } else { self.decide(case, judgement, work) };
        Ok(if done { Passed::Decided(verdict) } else { Passed::Untracked(verdict) })
    }

    /// Has a packet's entry say what was said about it, and counts the packet. Whether there is such an entry
    /// now.
    fn decide(&mut self, case: &Case<'_>, by: Judgement, work: &mut Work<'_>) -> bool {
        if let Some(entry) = self.find(case.tag, |entry| entry.is_begun_by(case)) {
            work.keep(entry.judge(&by, case.packet.now));
            entry.count(false, case.packet);
            return true;
        }
        self.insert(case, by.verdict, work)
    }

    /// Counts a packet whose verdict is for itself alone, where its flow has the same verdict, or at least
    /// none for others. Whether it is counted.
    fn decide_once(&mut self, case: &Case<'_>, by: Judgement, work: &mut Work<'_>) -> bool {
        let replies = self.find(case.tag, |entry| entry.is_answered_by(case)).is_some();
        let same = self
            .entries
            .iter_mut()
            .flatten()
            .filter(|entry| entry.is_of(case) && entry.verdict().allowed == by.verdict.allowed);
        // Its own goes first. It may be a reply to flows of several ports, of which any would do, but always
        // the same.
        if let Some(entry) = same.min_by_key(|entry| (entry.way() != case.way, entry.from())) {
            let reply = entry.way() != case.way;
            // Not where it is a reply as well: two flows that are allowed would be each other's replies.
            if !reply && !entry.is_cached() && !replies {
                work.keep(entry.judge(&by, case.packet.now));
            }
            entry.count(reply, case.packet);
            return true;
        }
        let may_turn = self.find(case.tag, |entry| entry.is_begun_by(case) && !entry.is_cached()).is_some();
        (may_turn || self.find(case.tag, |entry| entry.is_of(case)).is_none()) && self.decide(case, by, work)
    }

    /// Keeps a verdict about packets that are still to come, as none was counted.
    pub(super) fn remember(&mut self, case: &Case<'_>, verdict: Verdict, work: &mut Work<'_>) -> bool {
        let now = case.packet.now;
        self.end_where(work, |entry| entry.is_expired(now).then(|| entry.end_reason()));
        self.decide(case, case.judgement(verdict), work)
    }

    /// A flow that begins with this packet. Whether there is room for it.
    fn insert(&mut self, case: &Case<'_>, verdict: Verdict, work: &mut Work<'_>) -> bool {
        let mut entry = Entry::new(*case.key, case.way, case.packet, verdict, case.generation);
        entry.count(false, case.packet);
        let port = entry.from();
        let vacant = self.entries.iter().position(Option::is_none);
        let slot = match vacant.filter(|_| work.accounts.claim(port)) {
            Some(slot) => slot,
            // The port's count stays as it is.
            None => match self.victim(port, entry.worth()) {
                Some(slot) => {
                    let mut victim = self.entries.get_mut(slot).and_then(Option::take);
                    work.keep(victim.as_mut().and_then(|victim| victim.record(EndReason::NoResources)));
                    slot
                }
                None => return false,
            },
        };
        if let Some(place) = self.entries.get_mut(slot) {
            *place = Some(entry);
        }
        self.set_tag(slot, case.tag);
        work.accounts.add_created(port);
        true
    }

    /// Which of its own entries a port may give up for another one: of those that are worth least, the one
    /// that was silent for longest. What is worth least itself displaces nothing better.
    fn victim(&self, port: PortId, newcomer: Worth) -> Option<usize> {
        let own = self.entries.iter().enumerate().filter_map(|(slot, entry)| {
            let entry = entry.as_ref().filter(|entry| entry.from() == port)?;
            Some((slot, entry.worth(), entry.last()))
        });
        let (slot, worth, _) = own.min_by_key(|(_, worth, last)| (*worth, *last))?;
        (newcomer > Worth::Least || worth == Worth::Least).then_some(slot)
    }

    /// The first entry of that tag that is the right one.
    fn find(&mut self, tag: u8, is_it: impl Fn(&Entry) -> bool) -> Option<&mut Entry> {
        let is_there = |slot: &usize| self.entries.get(*slot).and_then(Option::as_ref).is_some_and(&is_it);
        let slot = self.candidates(tag).find(is_there)?;
        self.entries.get_mut(slot)?.as_mut()
    }

    /// Ends the entries for which there is a reason. Returns how many.
    pub(super) fn end_where(
        &mut self,
        work: &mut Work<'_>,
        why: impl Fn(&Entry) -> Option<EndReason>,
    ) -> usize {
        let mut ended = 0;
        for slot in 0..SLOTS {
            let Some(place) = self.entries.get_mut(slot) else { continue };
            let Some(reason) = place.as_ref().and_then(&why) else { continue };
            if let Some(mut entry) = place.take() {
                work.keep(entry.record(reason));
                work.accounts.release(entry.from());
                ended += 1;
            }
            self.set_tag(slot, 0);
        }
        ended
    }

    /// Ends what has been silent for too long, and records what goes on. Returns how many have ended.
    pub(super) fn sweep(&mut self, now: Nanos, work: &mut Work<'_>) -> usize {
        let ended = self.end_where(work, |entry| entry.is_expired(now).then(|| entry.end_reason()));
        for entry in self.entries.iter_mut().flatten() {
            work.keep(entry.record_active(now));
        }
        ended
    }

    /// Ends what goes to or comes from a port.
    pub(super) fn forget(&mut self, port: PortId, work: &mut Work<'_>) {
        self.end_where(work, |entry| entry.concerns(port).then_some(EndReason::Forced));
    }

    /// What is in it.
    pub(super) fn flows(&self) -> ArrayVec<Flow, SLOTS> {
        self.entries.iter().flatten().map(Entry::flow).collect()
    }

    const fn set_tag(&mut self, slot: usize, tag: u8) {
        let shift = slot * 8;
        self.tags = self.tags & !(0xff << shift) | (tag as u64) << shift;
    }
}
