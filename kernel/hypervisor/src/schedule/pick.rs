//! Who runs next on a CPU, and for how long.

use core::sync::atomic::Ordering;

use super::account::Account;
use super::board::{Class, Offer, Seen};
use super::id::CpuSet;
use super::queue::{Activity, Decision, Entry, Run, RunQueue};
use super::shared::Shared;
use super::time::{Ticks, Timing, Virtual};

/// The order of those that wait: the class, then within it.
type Rank = (Class, i64);

/// What one pass over the queue has found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    best: Option<(Rank, usize)>,
    second: Option<(Rank, usize)>,
    /// The least virtual time of those that run or could.
    level: Option<Virtual>,
    waiting: usize,
    /// When somebody in here has his chance: a cap lets him run, a claim comes up.
    chance: Ticks,
}

/// The class of one that waits, its order in the class, and when it will claim its VM's reservation.
pub(super) fn class_of(
    entry: &Entry,
    account: &Account,
    level: Virtual,
    shared: &Shared,
    now: Ticks,
) -> (Rank, Option<Ticks>) {
    let weighted = entry.time.ahead_of(level);
    let claim = account.claim(&shared.timing);
    let class = if entry.boosted { Class::Woken } else { Class::Weighted };
    match claim {
        _ if entry.gave_way => ((Class::GaveWay, weighted), None),
        Some((from, clock)) if from <= now => ((Class::Claims, clock.0.cast_signed()), None),
        Some((from, _)) => ((class, weighted), Some(from)),
        None => ((class, weighted), None),
    }
}

/// How long a vCPU runs before another has its turn: a slice; but a light one only until it is ahead by a slice of the
/// other, so that it does not get far ahead.
fn turn(entry: &Entry, account: &Account, other: &Entry, shared: &Shared) -> Ticks {
    let Timing { slice, shortest, .. } = shared.timing;
    let Ok((its, _)) = shared.slot(other.id) else { return slice };
    let ahead = other.time.ahead_of(entry.time).saturating_add(its.vcpu_span(slice));
    account.vcpu_service(ahead).clamp(shortest, slice)
}

impl RunQueue {
    /// Charges the run that ends and says what the CPU does next. Looks at each entry once that is awake.
    pub fn next(&mut self, shared: &Shared, now: Ticks) -> Decision {
        self.settle(shared, now);
        self.stop(shared);
        let scan = self.scan(shared, now);
        let started = scan.best.and_then(|(rank, place)| self.start(shared, rank.0, place, &scan, now));
        scan.tell(self, shared);
        match started {
            Some(decision) => decision,
            None => Decision::Idle { until: scan.chance },
        }
    }

    fn start(
        &mut self,
        shared: &Shared,
        class: Class,
        place: usize,
        scan: &Scan,
        now: Ticks,
    ) -> Option<Decision> {
        let second = scan.second.and_then(|(_, place)| self.entries.get(place)).copied();
        for entry in self.awake_mut() {
            entry.gave_way = false;
        }
        let entry = self.entries.get_mut(place)?;
        let (account, _) = shared.slot(entry.id).ok()?;
        entry.waited(shared, now);
        entry.activity = Activity::Running;
        (entry.fresh, entry.boosted) = (false, false);
        let (timing, mut claim) = (&shared.timing, Ticks::default());
        let mut span = second.map_or(timing.balance, |second| turn(entry, account, &second, shared));
        if class == Class::Claims {
            claim = account.start_claim(timing);
            span = span.min(claim);
        }
        if class == Class::Woken {
            span = span.min(timing.bonus);
        }
        if let Some(cap) = account.cap_run(timing) {
            span = span.min(cap);
        }
        let other_work = scan.chance.min(self.balance_at).max(now + timing.shortest);
        let until = (now + span).min(other_work);
        let integral = account.runnable_integral(now);
        self.run = Some(Run { place, started: now, until, class, claim, integral });
        Some(Decision::Run { vcpu: entry.id, until })
    }

    /// One pass over those that wait: who is first, and what others are to be told.
    pub(super) fn scan(&mut self, shared: &Shared, now: Ticks) -> Scan {
        let mut scan = Scan { best: None, second: None, level: None, waiting: 0, chance: Ticks::NEVER };
        let (here, level, mut misplaced) = (self.cpu, self.seen.level, None);
        for (place, entry) in self.awake_mut().iter_mut().enumerate() {
            let Ok((account, slot)) = shared.slot(entry.id) else { continue };
            entry.measure(account, level);
            if entry.activity == Activity::Running {
                scan.count_level(entry.time);
                continue;
            }
            if !shared.allowed_in(account, slot).contains(here) {
                misplaced = Some(entry.id);
                continue;
            }
            if let Some(until) = account.throttled_until(now) {
                scan.chance = scan.chance.min(until);
                entry.throttled.get_or_insert(now);
                continue;
            }
            if let Some(since) = entry.throttled.take() {
                slot.throttled.fetch_add((now - since).0, Ordering::Relaxed);
                let least = level.moved(-account.span(shared.timing.bonus));
                entry.time = entry.time.max(least);
            }
            scan.count_level(entry.time);
            let (rank, claim) = class_of(entry, account, level, shared, now);
            scan.chance = scan.chance.min(claim.unwrap_or(Ticks::NEVER));
            scan.count(rank, place);
        }
        (self.misplaced, self.waiting) = (misplaced, scan.waiting);
        scan
    }

    /// Whether one that waits is to run instead of the one that runs.
    pub(super) fn beats(&self, shared: &Shared, entry: &Entry, account: &Account, now: Ticks) -> bool {
        let Some(run) = self.run else { return true };
        let Some(running) = self.entries.get(run.place) else { return true };
        let ((class, _), _) = class_of(entry, account, self.seen.level, shared, now);
        let behind = running.time.ahead_of(entry.time);
        class < run.class || class == Class::Weighted && behind > account.span(shared.timing.granularity)
    }

    /// Has the present run end where `entry`, which waits here, should run instead; then that is when.
    pub(super) fn preempt(&mut self, shared: &Shared, entry: &Entry, now: Ticks) -> Option<Ticks> {
        let (account, _) = shared.slot(entry.id).ok()?;
        if self.run.is_none() {
            return Some(now);
        }
        if account.throttled_until(now).is_some() || !self.beats(shared, entry, account, now) {
            return None;
        }
        let run = self.run.as_mut()?;
        let until = now.max(run.started + shared.timing.shortest);
        if until >= run.until {
            return None;
        }
        run.until = until;
        Some(until)
    }
}

impl Scan {
    fn count_level(&mut self, time: Virtual) {
        self.level = Some(self.level.map_or(time, |level| level.min(time)));
    }

    fn count(&mut self, rank: Rank, place: usize) {
        self.waiting += 1;
        let found = Some((rank, place));
        let before = |other: Option<(Rank, usize)>| other.is_none_or(|(other, _)| rank < other);
        if before(self.best) {
            self.second = self.best;
            self.best = found;
        } else if before(self.second) {
            self.second = found;
        }
    }

    /// Tells the other CPUs.
    pub(super) fn tell(mut self, queue: &mut RunQueue, shared: &Shared) {
        if let (Some(run), Some((_, best))) = (queue.run, self.best)
            && run.place == best
        {
            // The best has just started.
            self.best = self.second;
            self.waiting -= 1;
        }
        queue.waiting = self.waiting;
        let first = self.best.and_then(|((class, _), place)| queue.entries.get(place).map(|it| (class, it)));
        let (class, running) = match (queue.run, first) {
            (Some(run), _) => (run.class, queue.entries.get(run.place)),
            // About to run: who looks for an idle CPU shall not look here.
            (None, Some((class, entry))) => (class, Some(entry)),
            (None, None) => (Class::Idle, None),
        };
        let level = self.level.unwrap_or(queue.seen.level);
        let account = running.and_then(|entry| shared.slot(entry.id).ok());
        let slice = account.map_or(0, |(account, _)| account.vcpu_span(shared.timing.slice));
        let running = running.map_or(level, |entry| entry.time);
        queue.seen = Seen { class, contended: self.waiting > 0, level, running, slice };
        let offer = first.and_then(|(class, entry)| {
            let (account, slot) = shared.slot(entry.id).ok()?;
            let cpus = shared.allowed_in(account, slot).without(CpuSet::of(queue.cpu));
            let slice = account.vcpu_span(shared.timing.slice);
            (!cpus.is_empty()).then_some(Offer { class, time: entry.time, slice, cpus })
        });
        shared.tell(queue.cpu, queue.seen, offer);
    }
}
