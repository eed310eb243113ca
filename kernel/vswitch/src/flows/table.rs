//! The table, as those see it who use it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use spin::Mutex;

use super::accounts::Accounts;
use super::bucket::{Bucket, Case, SLOTS, Work};
use super::record::Ring;
use super::{Flow, Key, Packet, Passed, PortTotals, Question, Record, Verdict, Way};
use crate::Nanos;
use crate::port::PortId;

/// A port owns at most this part of the entries.
const QUOTA_PART: usize = 4;
/// Buckets that [`Table::list`] and [`Table::forget_port`] look at in one call.
pub const STEP_BUCKETS: usize = 32;
/// How often rules are asked about a packet, if others change its entry each time.
const MOST_QUESTIONS: usize = 3;
/// What hashes begin with where the caller has no random number: digits of pi.
const SEED: u64 = 0x243f_6a88_85a3_08d3;

/// Conversations.
pub struct Table {
    /// A power of two of them.
    buckets: Vec<Mutex<Bucket>>,
    seeds: [u64; 5],
    accounts: Accounts,
    ring: Ring,
    /// Which bucket is swept next.
    cursor: AtomicUsize,
}

/// What is in a table, and has been.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// Entries that it has room for.
    pub capacity: usize,
    /// All ports' together.
    pub ports: PortTotals,
    /// Records that wait.
    pub waiting_records: usize,
    /// Records for which there was no room.
    pub lost_records: u64,
}

impl Table {
    /// A table of at least `entries` entries, with room for `records` records. `None` without memory.
    pub fn new(entries: usize, records: usize) -> Option<Self> {
        Self::seeded(entries, records, SEED)
    }

    /// One whose places nobody can guess who does not know the seed. Where it is known, a VM can choose
    /// addresses and ports such that its own entries take whole buckets, and flows of others go untracked
    /// there.
    pub fn seeded(entries: usize, records: usize, seed: u64) -> Option<Self> {
        let count = entries.div_ceil(SLOTS).max(1).checked_next_power_of_two()?;
        let quota = u32::try_from(count.checked_mul(SLOTS)? / QUOTA_PART).unwrap_or(u32::MAX);
        let mut buckets = Vec::new();
        buckets.try_reserve_exact(count).ok()?;
        buckets.resize_with(count, || Mutex::new(Bucket::new()));
        let (accounts, ring) = (Accounts::new(quota)?, Ring::new(records)?);
        Some(Self { buckets, seeds: seeds(seed), accounts, ring, cursor: AtomicUsize::new(0) })
    }

    /// What becomes of a packet of that key and way under the rules of that generation. It is counted.
    ///
    /// Nobody is asked about a packet that goes on with a flow: it comes from the same port and goes to the
    /// same port, and the flow's verdict is of this generation. Nor about a reply to an allowed flow: it
    /// comes from where the flow goes (from anywhere, where that is several ports) and goes to where the flow
    /// comes from. Where the generation is another one, rules are asked about the flow's own direction in
    /// both cases. All other packets, and those that are not cacheable, are judged as what they are, and so
    /// is what comes back from a flow that was denied.
    ///
    /// `decide` runs without a lock, once as a rule; a second time when it denies the flow to which the
    /// packet replies; and up to four times where other CPUs change the entry at the same time.
    #[inline]
    pub fn pass(
        &self,
        key: &Key,
        way: Way,
        packet: &Packet,
        generation: u32,
        mut decide: impl FnMut(Question) -> Verdict,
    ) -> Passed {
        let (bucket, tag) = self.place(key);
        let known =
            bucket.and_then(|bucket| bucket.lock().go_on(&Case::new(key, tag, way, packet, generation)));
        let passed = match known {
            Some(verdict) => Passed::Known(verdict),
            None => self.settle(key, way, packet, generation, &mut decide),
        };
        if !passed.allowed() {
            self.accounts.add_denied(packet.from, packet.packets);
        }
        passed
    }

    #[cold]
    #[inline(never)]
    fn settle(
        &self,
        key: &Key,
        way: Way,
        packet: &Packet,
        generation: u32,
        decide: &mut dyn FnMut(Question) -> Verdict,
    ) -> Passed {
        let (bucket, tag) = self.place(key);
        let case = &Case::new(key, tag, way, packet, generation);
        let (mut answer, mut left) = (None, MOST_QUESTIONS);
        let passed = loop {
            let settled =
                bucket.map(|bucket| self.work(bucket, |bucket, work| bucket.settle(case, answer, work)));
            match settled {
                Some(Ok(passed)) => break passed,
                Some(Err(question)) if left != 0 => answer = Some((question, decide(question))),
                _ => break Passed::Untracked(decide(case.question())),
            }
            left -= 1;
        };
        if matches!(passed, Passed::Untracked(_)) {
            self.accounts.add_untracked(case.packet.from, case.packet.packets);
        }
        passed
    }

    /// What [`Self::pass`] would say about a packet without asking; nothing is counted. For packets that go
    /// to several ports, to learn for each of those whether it is a reply that the port waits for.
    pub fn known(&self, key: &Key, way: Way, packet: &Packet, generation: u32) -> Option<Verdict> {
        let (bucket, tag) = self.place(key);
        bucket?.lock().known(&Case::new(key, tag, way, packet, generation))
    }

    /// Has the other fragments of a packet share the verdict that the first one got, which has passed as a
    /// packet of its flow. `key` is that of the fragments ([`Key::of_fragment`]). It is kept for whoever
    /// comes from and goes to the same ports, also where the first one was not cacheable. Returns whether
    /// there is room.
    ///
    /// The others pass by the same key, and are counted as a flow without ports.
    pub fn remember_fragment(&self, key: &Key, first: &Packet, generation: u32, verdict: Verdict) -> bool {
        let (bucket, tag) = self.place(key);
        let packet = Packet { bytes: 0, packets: 0, flags: None, cacheable: true, ..*first };
        let case = Case::new(key, tag, Way::Forward, &packet, generation);
        bucket.is_some_and(|bucket| self.work(bucket, |bucket, work| bucket.remember(&case, verdict, work)))
    }

    /// Looks at the next buckets, which take turns: ends flows that were silent for too long, and records
    /// those that go on. Returns how many have ended.
    pub fn sweep(&self, now: Nanos, most_buckets: usize) -> usize {
        let mut ended = 0;
        for _ in 0..most_buckets.min(self.buckets.len()) {
            let at = self.cursor.fetch_add(1, Ordering::Relaxed) % self.buckets.len();
            let Some(bucket) = self.buckets.get(at) else { break };
            ended += self.work(bucket, |bucket, work| bucket.sweep(now, work));
        }
        ended
    }

    /// Ends the flows that go to or come from a port, which has been taken away, in [`STEP_BUCKETS`] buckets
    /// from that one on. Returns where to go on, or `None` at the end. The port must send no more, or it has
    /// flows again.
    pub fn forget_port(&self, port: PortId, from_bucket: usize) -> Option<usize> {
        for bucket in self.buckets.iter().skip(from_bucket).take(STEP_BUCKETS) {
            self.work(bucket, |bucket, work| bucket.forget(port, work));
        }
        self.next_step(from_bucket)
    }

    /// Shows the flows in [`STEP_BUCKETS`] buckets from that one on. Returns where to go on, or `None` at the
    /// end.
    pub fn list(&self, from_bucket: usize, mut with: impl FnMut(&Flow)) -> Option<usize> {
        for bucket in self.buckets.iter().skip(from_bucket).take(STEP_BUCKETS) {
            let flows = bucket.lock().flows();
            flows.iter().for_each(&mut with);
        }
        self.next_step(from_bucket)
    }

    /// Takes some of the records that wait, oldest first. Returns how many there were.
    pub fn drain(&self, most: usize, with: impl FnMut(Record)) -> usize {
        core::iter::from_fn(|| self.ring.pop()).take(most).map(with).count()
    }

    /// What is in it, and has been.
    pub fn totals(&self) -> Totals {
        Totals {
            capacity: self.buckets.len() * SLOTS,
            ports: self.accounts.all(),
            waiting_records: self.ring.waiting(),
            lost_records: self.ring.lost(),
        }
    }

    /// What a port has, and has had.
    pub fn port_totals(&self, port: PortId) -> PortTotals {
        self.accounts.of(port)
    }

    /// Where a key's entries are, and what they are known by there.
    #[inline]
    fn place(&self, key: &Key) -> (Option<&Mutex<Bucket>>, u8) {
        let hash = key.hash(&self.seeds);
        // Other bits for the place than for the tag.
        let at = hash as usize & self.buckets.len().wrapping_sub(1);
        (self.buckets.get(at), (hash >> 56) as u8 | 0x80)
    }

    /// Works in a bucket, and keeps the records that this leaves when it is unlocked.
    fn work<T>(&self, bucket: &Mutex<Bucket>, with: impl FnOnce(&mut Bucket, &mut Work<'_>) -> T) -> T {
        let mut work = Work { accounts: &self.accounts, ended: ArrayVec::new(), lost: 0 };
        let done = with(&mut bucket.lock(), &mut work);
        self.ring.push(&work.ended);
        self.ring.lose(work.lost);
        done
    }

    fn next_step(&self, from_bucket: usize) -> Option<usize> {
        Some(from_bucket.saturating_add(STEP_BUCKETS)).filter(|next| *next < self.buckets.len())
    }
}

/// Numbers made of one, none of them 0 or even (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom
/// number generators", 2014).
fn seeds(mut state: u64) -> [u64; 5] {
    [(); 5].map(|()| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) | 1
    })
}
