//! The run queue of a CPU: the vCPUs whose home it is, asleep or runnable, and the one that runs.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::account::Account;
use super::board::{Class, Seen};
use super::id::{Cpu, CpuSet, VcpuId, VmId};
use super::parameters::Error;
use super::shared::Shared;
use super::time::{Ticks, Virtual};

/// A vCPU may come to another CPU so many times [`Timing::carried`](super::Timing::carried) behind, if others there are so
/// light that a slice takes them that far ahead.
const MOST_BEHIND: i64 = 10;

/// What a vCPU does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Activity {
    Asleep,
    Waiting,
    Running,
}

/// A vCPU in the queue of its home.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) id: VcpuId,
    pub(super) activity: Activity,
    /// Its service by weight.
    pub(super) time: Virtual,
    /// The weight by which it was measured.
    pub(super) weight: u64,
    /// Since when it waits.
    pub(super) since: Ticks,
    /// Since when its VM's cap is what it waits for.
    pub(super) throttled: Option<Ticks>,
    /// It has just given way: another goes first, once.
    pub(super) gave_way: bool,
    /// It has not run since it woke.
    pub(super) fresh: bool,
    /// When it woke, its VM was not ahead of the others here.
    pub(super) boosted: bool,
}

/// The run of the vCPU that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The place of its entry.
    pub(super) place: usize,
    pub(super) started: Ticks,
    pub(super) until: Ticks,
    pub(super) class: Class,
    /// The run for which it claims its VM's reservation, 0 for none.
    pub(super) claim: Ticks,
    /// The VM's runnable integral up to which it is charged.
    pub(super) integral: u64,
}

/// What a CPU is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Run this vCPU, at the latest until then.
    Run {
        /// Whom.
        vcpu: VcpuId,
        /// When to ask again; a wake-up may make that earlier.
        until: Ticks,
    },
    /// Nobody can run; ask again then, or when a vCPU has come.
    Idle {
        /// When a cap lets somebody run, or [`Ticks::NEVER`].
        until: Ticks,
    },
}

/// A vCPU has become runnable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Woken {
    /// The CPU's present run, or its idling, is to end then; `None` leaves it as it is.
    pub until: Option<Ticks>,
    /// The vCPU would better run there: [`transfer`](super::transfer) it.
    pub move_to: Option<Cpu>,
}

/// The run queue of one CPU.
#[derive(Debug)]
pub struct RunQueue {
    pub(super) cpu: Cpu,
    /// Those that are awake come first, so that nobody looks at the others.
    pub(super) entries: Vec<Entry>,
    /// How many are awake.
    awake: usize,
    pub(super) run: Option<Run>,
    /// Up to here all time is accounted for.
    pub(super) accounted: Ticks,
    idle: Ticks,
    /// What the others have last been told.
    pub(super) seen: Seen,
    /// How many could run and wait.
    pub(super) waiting: usize,
    /// One that waits and may not run here.
    pub(super) misplaced: Option<VcpuId>,
    /// When the queue is next compared with the others.
    pub(super) balance_at: Ticks,
    /// Vcpus moved in this comparison.
    pub(super) pushed: u8,
    /// From which entry on the next comparison looks.
    pub(super) looked: usize,
}

impl RunQueue {
    /// Without room for vCPUs yet.
    pub fn new(cpu: Cpu, now: Ticks) -> Self {
        let nothing = Virtual::default();
        Self {
            cpu,
            entries: Vec::new(),
            awake: 0,
            run: None,
            accounted: now,
            idle: Ticks::default(),
            seen: Seen { class: Class::Idle, contended: false, level: nothing, running: nothing, slice: 0 },
            waiting: 0,
            misplaced: None,
            balance_at: now,
            pushed: 0,
            looked: 0,
        }
    }

    /// Makes room for so many vCPUs, those asleep included: all memory that it will need.
    pub fn make_room(&mut self, vcpus: usize) -> Result<(), TryReserveError> {
        self.entries.try_reserve_exact(vcpus)
    }

    /// Its CPU.
    pub fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// The time for which nobody ran, up to the last call that had a time.
    pub fn idle_time(&self) -> Ticks {
        self.idle
    }

    /// Who runs.
    pub fn running(&self) -> Option<VcpuId> {
        self.run.and_then(|run| self.entries.get(run.place)).map(|entry| entry.id)
    }

    /// Whether others waited for the CPU when it last decided.
    pub fn is_contended(&self) -> bool {
        self.waiting > 0
    }

    /// When the present run is to end.
    pub fn until(&self) -> Option<Ticks> {
        self.run.map(|run| run.until)
    }

    /// Charges the present run and ends it; its vCPU waits. What the CPU does until [`next`](Self::next) is charged to
    /// nobody.
    pub fn end_run(&mut self, shared: &Shared, now: Ticks) {
        self.settle(shared, now);
        self.stop(shared);
    }

    /// Adds a new vCPU, asleep. `Full` where the VM has it already or there is no room.
    pub fn add(&mut self, shared: &Shared, vm: VmId, index: u8, pin: CpuSet) -> Result<VcpuId, Error> {
        if self.is_full() {
            return Err(Error::Full);
        }
        let id = shared.take_slot(vm, index, pin, self.cpu)?;
        self.insert(Entry {
            id,
            activity: Activity::Asleep,
            time: shared.middle(shared.pool_of(self.cpu)),
            weight: shared.account(vm)?.weight(),
            since: Ticks::default(),
            throttled: None,
            gave_way: false,
            fresh: false,
            boosted: false,
        });
        Ok(id)
    }

    /// Removes a vCPU, whatever it does; where it runs, the CPU asks for the [`next`](Self::next).
    pub fn remove(&mut self, shared: &Shared, vcpu: VcpuId, now: Ticks) -> Result<(), Error> {
        match self.sleep(shared, vcpu, now) {
            Ok(()) | Err(Error::WrongState(_)) => {}
            Err(error) => return Err(error),
        }
        let place = self.place(shared, vcpu)?;
        shared.slot(vcpu)?.1.present.store(false, Ordering::Release);
        self.take(place);
        self.scan(shared, now).tell(self, shared);
        Ok(())
    }

    /// How many vCPUs it has, those asleep included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() == self.entries.capacity()
    }

    /// The entries of those that are awake.
    #[inline]
    pub(super) fn awake(&self) -> &[Entry] {
        self.entries.get(..self.awake).unwrap_or_default()
    }

    #[inline]
    pub(super) fn awake_mut(&mut self) -> &mut [Entry] {
        self.entries.get_mut(..self.awake).unwrap_or_default()
    }

    /// Takes an entry in; there is room.
    pub(super) fn insert(&mut self, entry: Entry) {
        let place = self.entries.len();
        self.entries.push(entry);
        if entry.activity != Activity::Asleep {
            self.put_awake(place);
        }
    }

    /// Takes an entry out.
    pub(super) fn take(&mut self, place: usize) -> Option<Entry> {
        let place = if place < self.awake { self.put_asleep(place) } else { place };
        (place < self.entries.len()).then(|| self.entries.swap_remove(place))
    }

    /// The entry there becomes the last one of those that are awake.
    fn put_awake(&mut self, place: usize) {
        if place != self.awake {
            self.entries.swap(place, self.awake);
        }
        self.awake += 1;
    }

    /// The entry there, of one that is awake, becomes the first one of the others; where it is then. The rest stays in the order in
    /// which they woke, which decides between equals.
    fn put_asleep(&mut self, place: usize) -> usize {
        self.awake -= 1;
        (place..self.awake).for_each(|at| self.entries.swap(at, at + 1));
        if let Some(run) = self.run.as_mut().filter(|run| run.place > place) {
            run.place -= 1;
        }
        self.awake
    }

    /// Where the vCPU's entry is.
    pub(super) fn place(&self, shared: &Shared, vcpu: VcpuId) -> Result<usize, Error> {
        let home = shared.home(vcpu)?;
        if home != self.cpu {
            return Err(Error::NotHere(home));
        }
        self.entries.iter().position(|entry| entry.id == vcpu).ok_or(Error::NoSuchVcpu(vcpu))
    }

    /// Accounts for all time up to now.
    pub(super) fn settle(&mut self, shared: &Shared, now: Ticks) {
        let shift = shared.take_shift(self.cpu);
        if shift != 0 {
            self.shift(shift);
        }
        let ran = now - self.accounted;
        self.accounted = self.accounted.max(now);
        let Some(run) = &mut self.run else {
            self.idle = self.idle + ran;
            return;
        };
        let Some(entry) = self.entries.get_mut(run.place) else { return };
        let Ok((account, slot)) = shared.slot(entry.id) else { return };
        if ran.0 == 0 {
            return;
        }
        slot.charged.fetch_add(ran.0, Ordering::Relaxed);
        let progress = account.charge(run.integral, ran, now, &shared.timing);
        run.integral = account.runnable_integral(now);
        let (before, after) = (entry.time, entry.time.moved(progress));
        entry.time = after;
        if run.class == Class::Claims {
            // What a reservation lets it have beyond its weight is no debt for ever.
            let most = self.seen.level.moved(account.vcpu_span(shared.timing.carried));
            entry.time = after.min(most.max(before));
        }
    }

    /// The vCPU has come to this queue, or woken here: its virtual time is brought near those of the others.
    pub(super) fn settle_in(&self, shared: &Shared, account: &Account, entry: &mut Entry) {
        let level = self.level(shared);
        let carried = account.vcpu_span(shared.timing.carried);
        if entry.fresh {
            // It starts where its VM is, so that many vCPUs of a VM, one after the other, get no more than one would.
            let least = shared.least(shared.pool_of(self.cpu));
            let own = account.virtual_near(level, least, &shared.timing);
            entry.time = own.within(level, account.span(shared.timing.bonus), carried);
            entry.boosted = entry.time.ahead_of(level) <= 0;
        } else {
            // As much behind as lighter ones make it; but it shall not hold the CPU for long.
            let most = carried.saturating_mul(MOST_BEHIND);
            let far = shared.gap(shared.pool_of(self.cpu)).clamp(carried, most);
            entry.time = entry.time.within(level, far, carried);
        }
        entry.weight = account.weight();
    }

    /// The virtual time here, or in the pool where nobody is runnable.
    fn level(&self, shared: &Shared) -> Virtual {
        match self.seen.class {
            Class::Idle => shared.middle(shared.pool_of(self.cpu)),
            _ => self.seen.level,
        }
    }

    /// A vCPU that slept has something to do.
    pub fn wake(&mut self, shared: &Shared, vcpu: VcpuId, now: Ticks) -> Result<Woken, Error> {
        let place = self.place(shared, vcpu)?;
        let (account, slot) = shared.slot(vcpu)?;
        let Some(mut entry) = self.entries.get(place).copied() else { return Err(Error::NoSuchVcpu(vcpu)) };
        if entry.activity != Activity::Asleep {
            return Err(Error::WrongState(vcpu));
        }
        self.settle(shared, now);
        account.wake(now, &shared.timing);
        entry = Entry { activity: Activity::Waiting, since: now, throttled: None, fresh: true, ..entry };
        self.settle_in(shared, account, &mut entry);
        if let Some(place) = self.entries.get_mut(place) {
            *place = entry;
        }
        self.put_awake(place);
        let move_to = self.better_place(shared, account, shared.allowed_in(account, slot), &entry, now);
        self.scan(shared, now).tell(self, shared);
        let until = if move_to.is_none() { self.preempt(shared, &entry, now) } else { None };
        Ok(Woken { until, move_to })
    }

    /// The vCPU has nothing to do, or is paused. Where it ran, the CPU asks for the [`next`](Self::next).
    pub fn sleep(&mut self, shared: &Shared, vcpu: VcpuId, now: Ticks) -> Result<(), Error> {
        let place = self.place(shared, vcpu)?;
        let (account, _) = shared.slot(vcpu)?;
        self.settle(shared, now);
        let Some(entry) = self.entries.get_mut(place) else { return Err(Error::NoSuchVcpu(vcpu)) };
        match entry.activity {
            Activity::Asleep => return Err(Error::WrongState(vcpu)),
            Activity::Waiting => entry.waited(shared, now),
            Activity::Running => {}
        }
        if entry.activity == Activity::Running {
            self.stop(shared);
        }
        let Some(entry) = self.entries.get_mut(place) else { return Err(Error::NoSuchVcpu(vcpu)) };
        (entry.activity, entry.gave_way) = (Activity::Asleep, false);
        self.put_asleep(place);
        account.block(now);
        self.scan(shared, now).tell(self, shared);
        Ok(())
    }

    /// Ends the run, which is charged; its vCPU waits.
    pub(super) fn stop(&mut self, shared: &Shared) {
        let Some(run) = self.run.take() else { return };
        let Some(entry) = self.entries.get_mut(run.place) else { return };
        entry.activity = Activity::Waiting;
        entry.since = self.accounted;
        if run.class == Class::Claims
            && let Ok((account, _)) = shared.slot(entry.id)
        {
            account.claimed(run.claim);
        }
    }

    /// The running vCPU spins or otherwise has no use for its time now (PAUSE-loop exit): another goes first, once; where
    /// a sibling waits here, `to` or else the one that is most behind, it takes over this one's place in the order. The
    /// CPU asks for the [`next`](Self::next) then. The VM as a whole loses and wins nothing.
    pub fn yielded(&mut self, shared: &Shared, to: Option<VcpuId>, now: Ticks) {
        self.settle(shared, now);
        let Some(place) = self.run.map(|run| run.place) else { return };
        let Some(spinner) = self.entries.get(place).copied() else { return };
        let sibling = self.awake_mut().iter_mut().filter(|entry| {
            entry.id.vm == spinner.id.vm && entry.activity == Activity::Waiting && !entry.gave_way
        });
        let behind = |entry: &&mut Entry| (to != Some(entry.id), entry.time.ahead_of(spinner.time));
        let mut time = spinner.time;
        if let Some(sibling) = sibling.min_by_key(behind) {
            // Before those with the same time.
            (time, sibling.time) = (sibling.time.max(time), sibling.time.min(time).moved(-1));
        }
        if let Some(entry) = self.entries.get_mut(place) {
            entry.time = time;
            entry.gave_way = true;
        }
    }
}

impl Entry {
    /// Where its VM's weight has grown: what it is ahead or behind stays the same service. (Where the weight has become
    /// less, it stays the same virtual time, which is less service: nobody waits longer for that.)
    #[inline]
    pub(super) fn measure(&mut self, account: &Account, level: Virtual) {
        let weight = account.weight();
        if weight > self.weight {
            let ahead = i128::from(self.time.ahead_of(level)) * i128::from(self.weight) / i128::from(weight);
            self.time = level.moved(i64::try_from(ahead).unwrap_or(0));
        }
        self.weight = weight;
    }

    /// Its wait has ended.
    pub(super) fn waited(&mut self, shared: &Shared, now: Ticks) {
        let Ok((_, slot)) = shared.slot(self.id) else { return };
        slot.steal.fetch_add((now - self.since).0, Ordering::Relaxed);
        if let Some(since) = self.throttled.take() {
            slot.throttled.fetch_add((now - since).0, Ordering::Relaxed);
        }
        self.since = now;
    }
}
