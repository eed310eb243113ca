//! Which vCPUs should be in another CPU's queue, and how they get there.

use core::sync::atomic::Ordering;

use super::account::Account;
use super::board::Class;
use super::id::{Cpu, CpuSet, VcpuId};
use super::parameters::Error;
use super::pick::class_of;
use super::queue::{Activity, Entry, RunQueue};
use super::shared::Shared;
use super::time::Ticks;

/// The most vCPUs that a queue gives away in one comparison with the others.
const MAX_PUSHES: u8 = 4;
/// The most vCPUs that it looks at for that.
const MAX_LOOKS: usize = 64;

/// A vCPU should change its queue: lock both (in the order of their CPUs) and call [`transfer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Whom; `None` for the first in `from` that may run on `to`.
    pub vcpu: Option<VcpuId>,
    /// The CPU in whose queue it is.
    pub from: Cpu,
    /// The CPU that is to have it.
    pub to: Cpu,
}

/// A vCPU has changed its queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Who.
    pub vcpu: VcpuId,
    /// When its new CPU is to end its present run or its idling, like [`Woken::until`](super::Woken::until).
    pub until: Option<Ticks>,
}

/// Moves a vCPU that does not run. What it is owed or owes goes with it, within bounds.
///
/// An error means that things have changed since the transfer was suggested: forget it.
pub fn transfer(
    from: &mut RunQueue,
    to: &mut RunQueue,
    shared: &Shared,
    vcpu: Option<VcpuId>,
    now: Ticks,
) -> Result<Moved, Error> {
    from.settle(shared, now);
    to.settle(shared, now);
    if to.is_full() {
        return Err(Error::Full);
    }
    let place = match vcpu {
        Some(vcpu) => from.place(shared, vcpu)?,
        None => from.first_for(shared, to.cpu, now).ok_or(Error::Full)?,
    };
    let Some(entry) = from.entries.get(place) else { return Err(Error::Full) };
    let (account, slot) = shared.slot(entry.id)?;
    let starting = from.run.is_some_and(|run| run.started == now && vcpu.is_some());
    if entry.activity == Activity::Running && !starting {
        return Err(Error::WrongState(entry.id));
    }
    if slot.loaded.load(Ordering::Acquire) {
        return Err(Error::WrongState(entry.id));
    }
    if !shared.allowed_in(account, slot).contains(to.cpu) {
        return Err(Error::NowhereToRun(entry.id));
    }
    if entry.activity == Activity::Running {
        from.stop(shared);
    }
    let Some(mut entry) = from.take(place) else { return Err(Error::Full) };
    if entry.activity == Activity::Waiting {
        entry.measure(account, from.seen.level);
        to.settle_in(shared, account, &mut entry);
    }
    slot.home.store(to.cpu.0, Ordering::Relaxed);
    to.insert(entry);
    from.scan(shared, now).tell(from, shared);
    to.scan(shared, now).tell(to, shared);
    let until = if entry.activity == Activity::Waiting { to.preempt(shared, &entry, now) } else { None };
    Ok(Moved { vcpu: entry.id, until })
}

/// How far a vCPU that waits must be behind another CPU to be worth a move there: a slice of its own. But where the one
/// that runs before it here is heavier, it would lose slices to one that should be elsewhere, and may lack the time to make
/// up for them: then a slice of that one; unless the other CPU runs such a one, too. All as virtual time.
fn worth_moving(own: i64, here: i64, there: i64) -> i64 {
    let slice = if there >= own { own.min(here) } else { own };
    slice.max(1)
}

impl RunQueue {
    /// Which vCPU should change its queue, as far as this CPU has to do with it. To be asked after each
    /// [`next`](Self::next) (and acted on) until there is none or an action fails; then what `next` said is still
    /// right, but for an idle CPU that was given somebody.
    ///
    /// A vCPU that may not run here any more goes first. An idle CPU takes the most lagging that waits elsewhere. Those
    /// that wait here are given to idle CPUs, and, every [`Timing::balance`](super::Timing::balance), to a CPU where all have
    /// had more of their share than they.
    pub fn balance(&mut self, shared: &Shared, now: Ticks) -> Option<Transfer> {
        if let Some(vcpu) = self.misplaced {
            let (account, slot) = shared.slot(vcpu).ok()?;
            let entry = self.awake().iter().find(|entry| entry.id == vcpu)?;
            let to = self.better_place(shared, account, shared.allowed_in(account, slot), entry, now)?;
            return Some(Transfer { vcpu: Some(vcpu), from: self.cpu, to });
        }
        if let Some(transfer) = self.pull(shared) {
            return Some(transfer);
        }
        if self.waiting > 0
            && let Some(transfer) = self.give(shared, now)
        {
            return Some(transfer);
        }
        if now < self.balance_at {
            return None;
        }
        if self.pushed == 0 {
            self.draw_near(shared);
            shared.close_gaps(shared.pool_of(self.cpu), now);
        }
        let push = if self.waiting > 0 && self.pushed < MAX_PUSHES { self.push(shared) } else { None };
        match push {
            Some(_) => self.pushed += 1,
            None => {
                self.pushed = 0;
                self.balance_at = now + shared.timing.balance;
            }
        }
        push
    }

    /// The first of those that wait here and may run on `cpu`.
    fn first_for(&self, shared: &Shared, cpu: Cpu, now: Ticks) -> Option<usize> {
        let ranked = self.awake().iter().enumerate().filter_map(|(place, entry)| {
            let (account, allowed) = self.could_run(shared, entry)?;
            let (rank, _) = class_of(entry, account, self.seen.level, shared, now);
            allowed.contains(cpu).then_some((rank, place))
        });
        ranked.min().map(|(_, place)| place)
    }

    /// One that waits, and neither for its VM's cap nor for its removal from here; with the CPUs on which it may run.
    fn could_run<'s>(&self, shared: &'s Shared, entry: &Entry) -> Option<(&'s Account, CpuSet)> {
        if entry.activity != Activity::Waiting || entry.throttled.is_some() {
            return None;
        }
        let (account, slot) = shared.slot(entry.id).ok()?;
        if slot.loaded.load(Ordering::Acquire) {
            return None;
        }
        Some((account, shared.allowed_in(account, slot)))
    }

    /// Where the most lagging vCPU waits that may run here: for an idle CPU; or where the one that has just started here has
    /// had more of its share, by a slice of either.
    fn pull(&self, shared: &Shared) -> Option<Transfer> {
        if self.run.is_none() && self.waiting > 0 {
            return None;
        }
        let own = self.seen;
        let others = shared.pool(shared.pool_of(self.cpu)).without(CpuSet::of(self.cpu));
        let offering = shared.offering_of(others).iter();
        let offers = offering.filter_map(|cpu| Some((cpu, shared.offer(cpu)?, shared.see(cpu)?)));
        let lagging =
            offers.filter(|(_, offer, _)| offer.cpus.contains(self.cpu)).filter_map(|(cpu, offer, seen)| {
                let behind = own.running.ahead_of(offer.time);
                // What has woken there and is not ahead there may be ahead here.
                let first = offer.class < own.class
                    && (offer.class != Class::Woken || offer.time.ahead_of(own.level) <= 0);
                let worth = first
                    || own.class == Class::Idle
                    || offer.class == own.class && behind > worth_moving(offer.slice, seen.slice, own.slice);
                worth.then_some((offer.class, -behind, cpu))
            });
        let (_, _, from) = lagging.min()?;
        Some(Transfer { vcpu: None, from, to: self.cpu })
    }

    /// One that waits here for an idle CPU; or, where it has a claim, for one that runs somebody without.
    fn give(&self, shared: &Shared, now: Ticks) -> Option<Transfer> {
        let others = shared.pool(shared.pool_of(self.cpu)).without(CpuSet::of(self.cpu));
        let idle = shared.idle_of(others);
        self.awake().iter().find_map(|entry| {
            let (account, allowed) = self.could_run(shared, entry)?;
            let mut to = allowed.and(idle).next_from(self.cpu);
            if to.is_none() && account.claim(&shared.timing).is_some_and(|(from, _)| from <= now) {
                let seen = allowed.and(others).iter().filter_map(|cpu| Some((cpu, shared.see(cpu)?)));
                let without = seen.filter(|(_, seen)| seen.class > Class::Claims);
                to = without.max_by_key(|(_, seen)| seen.running.ahead_of(entry.time)).map(|(cpu, _)| cpu);
            }
            Some(Transfer { vcpu: Some(entry.id), from: self.cpu, to: to? })
        })
    }

    /// The one that waits here and is most behind what all have had on another CPU. Where that one may not go there, the one
    /// that is just to be started makes room for it.
    fn push(&mut self, shared: &Shared) -> Option<Transfer> {
        let count = self.awake().len().max(1);
        let first = self.looked % count;
        self.looked = first + MAX_LOOKS.min(count);
        let running = self.run.and_then(|run| self.entries.get(run.place));
        let running = running.and_then(|entry| Some((entry, shared.allowed(entry.id).ok()?)));
        let others = shared.pool(shared.pool_of(self.cpu)).without(CpuSet::of(self.cpu));
        let mut most = (1, None);
        for entry in self.awake().iter().cycle().skip(first).take(MAX_LOOKS.min(count)) {
            let Some((account, allowed)) = self.could_run(shared, entry) else { continue };
            let slice = account.vcpu_span(shared.timing.slice);
            for cpu in others.iter() {
                let goes = if allowed.contains(cpu) { Some((entry, allowed)) } else { running };
                let Some((who, _)) = goes.filter(|(_, allowed)| allowed.contains(cpu)) else { continue };
                // A CPU that serves a claim or one that woke does not stop for a vCPU that is behind.
                let Some(seen) = shared.see(cpu).filter(|seen| seen.class == Class::Weighted) else {
                    continue;
                };
                let worth = worth_moving(slice, self.seen.slice, seen.slice);
                let times = seen.level.ahead_of(entry.time.max(who.time)) / worth;
                if times >= most.0 {
                    most = (times.saturating_add(1), Some((who.id, cpu)));
                }
            }
        }
        let (vcpu, to) = most.1?;
        Some(Transfer { vcpu: Some(vcpu), from: self.cpu, to })
    }

    /// Where nobody waits in the pool, nothing is owed to anybody: the queues' virtual times are made one. Otherwise, the
    /// virtual time of a queue where nobody waits is kept near those of queues where somebody does: it is behind for a
    /// weight so large that one CPU is too little for it, and ahead where pinning keeps the others away.
    fn draw_near(&mut self, shared: &Shared) {
        let Some(running) = self.run.and_then(|run| self.entries.get(run.place)) else { return };
        let Ok((account, _)) = shared.slot(running.id) else { return };
        let pool = shared.pool_of(self.cpu);
        let spread = shared.spread(pool, self.seen.level);
        let far = account.vcpu_span(shared.timing.drift);
        let (from, to) =
            (spread.least.saturating_sub(far), spread.most.saturating_add(far.max(shared.gap(pool))));
        let by = match (spread.contended, self.waiting > 0) {
            (false, _) => spread.middle(),
            (true, true) => 0,
            (true, false) => 0.clamp(from, to),
        };
        self.shift(by);
    }

    /// Moves the queue's virtual time.
    pub(super) fn shift(&mut self, by: i64) {
        for entry in self.awake_mut() {
            entry.time = entry.time.moved(by);
        }
        self.seen.level = self.seen.level.moved(by);
        self.seen.running = self.seen.running.moved(by);
    }

    /// Where one that wakes here, or may not stay, would rather run than here: an idle CPU; a CPU whose running vCPU it
    /// would preempt where it would not here.
    pub(super) fn better_place(
        &self,
        shared: &Shared,
        account: &Account,
        allowed: CpuSet,
        entry: &Entry,
        now: Ticks,
    ) -> Option<Cpu> {
        let here = allowed.contains(self.cpu);
        if here && (self.run.is_none() && self.waiting == 0 || account.throttled_until(now).is_some()) {
            return None;
        }
        if let Some(idle) = shared.idle_of(allowed.without(CpuSet::of(self.cpu))).next_from(self.cpu) {
            return Some(idle);
        }
        if here && self.beats(shared, entry, account, now) {
            return None;
        }
        let others = allowed.without(CpuSet::of(self.cpu)).iter();
        let seen = others.filter_map(|cpu| Some((cpu, shared.see(cpu)?)));
        let ahead = seen.map(|(cpu, seen)| (seen.class, seen.running.ahead_of(entry.time), cpu));
        let (class, behind, cpu) = ahead.max()?;
        let ((own, _), _) = class_of(entry, account, self.seen.level, shared, now);
        let beats = own < class || own == Class::Weighted && behind > account.span(shared.timing.granularity);
        (!here || beats).then_some(cpu)
    }
}
