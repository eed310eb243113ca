//! A machine that does what the scheduler says: CPUs, and vCPUs that want to run and sleep. It also shows how the parts
//! are to be called.

use std::format;
use std::string::String;
use std::vec::Vec;

use super::super::queue::Activity;
use super::super::{
    Cpu, CpuSet, Decision, Parameters, RunQueue, Shared, Ticks, Timing, Transfer, VcpuId, VmId, transfer,
};
use super::random::Random;

pub(super) const HZ: u64 = 1_000_000_000;
pub(super) const MS: u64 = HZ / 1_000;

/// What CPUs share, with room for so many VMs.
pub(super) fn shared(cpus: usize, vms: usize, timing: Timing) -> Shared {
    let mut shared = Shared::new(cpus, timing);
    shared.make_room(vms).expect("memory");
    shared
}

/// A queue with room for so many vCPUs.
pub(super) fn queue(cpu: Cpu, vcpus: usize, now: Ticks) -> RunQueue {
    let mut queue = RunQueue::new(cpu, now);
    queue.make_room(vcpus).expect("memory");
    queue
}

/// How a vCPU behaves.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Load {
    /// Wants to run at all times.
    Hog,
    /// Runs for as long as the first says, sleeps for the second.
    Cycle(u64, u64),
    /// The same, with other spans between half and twice these each time.
    Jitter(u64, u64),
    /// Sleeps until it is changed.
    Sleeper,
}

impl Load {
    fn spans(self, random: &mut Random) -> (u64, u64) {
        match self {
            Self::Hog => (u64::MAX, 0),
            Self::Cycle(run, sleep) => (run, sleep),
            Self::Jitter(run, sleep) => {
                (random.within(run / 2, run * 2).max(1), random.within(sleep / 2, sleep * 2).max(1))
            }
            Self::Sleeper => (0, u64::MAX),
        }
    }
}

/// A vCPU of the model, which keeps its own books.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) id: VcpuId,
    pub(super) load: Load,
    /// What it wants to run before it sleeps.
    left: u64,
    pub(super) wake_at: Option<u64>,
    pub(super) ran: u64,
    /// Since when it is runnable and has not run.
    woke_at: Option<u64>,
    /// The longest time from a wake-up to running.
    pub(super) latency: u64,
    pub(super) latencies: (u64, u64),
    /// Since when it waits while a CPU on which it may run is idle.
    neglected: Option<u64>,
    /// When it last ran.
    pub(super) last_ran: u64,
}

#[derive(Clone, Copy, Debug)]
struct Processor {
    running: Option<usize>,
    until: u64,
    /// Who is in its registers.
    loaded: Option<VcpuId>,
}

pub(super) struct Machine {
    pub(super) shared: Shared,
    pub(super) queues: Vec<RunQueue>,
    processors: Vec<Processor>,
    pub(super) guests: Vec<Guest>,
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) migrations: u64,
    pub(super) switches: u64,
    pub(super) neglect: u64,
}

impl Machine {
    pub(super) fn new(cpus: usize, seed: u64) -> Self {
        let timing = Timing::new(HZ);
        let start = 7 * MS;
        let queues = (0..cpus).map(|cpu| queue(Cpu(cpu as u8), 1024, Ticks(start))).collect();
        Self {
            shared: shared(cpus, 16, timing),
            queues,
            processors: (0..cpus)
                .map(|_| Processor { running: None, until: u64::MAX, loaded: None })
                .collect(),
            guests: Vec::new(),
            now: start,
            random: Random::new(seed),
            migrations: 0,
            switches: 0,
            neglect: 0,
        }
    }

    pub(super) fn time(&self) -> Ticks {
        Ticks(self.now)
    }

    /// Adds a VM whose vCPUs behave like this, on CPUs like these, and starts them.
    pub(super) fn add(&mut self, parameters: Parameters, vcpus: &[(Load, CpuSet)]) -> VmId {
        let vm = self.shared.add_vm(parameters, self.time()).expect("a place for a VM");
        for (index, (load, pin)) in vcpus.iter().enumerate() {
            self.add_vcpu(vm, index as u8, *load, *pin);
        }
        vm
    }

    pub(super) fn add_vcpu(&mut self, vm: VmId, index: u8, load: Load, pin: CpuSet) {
        let home = self.random.next() as usize % self.queues.len();
        let id = self.queues[home].add(&self.shared, vm, index, pin).expect("a place for a vCPU");
        let wake_at = (load != Load::Sleeper).then_some(self.now);
        self.guests.push(Guest {
            id,
            load,
            left: 0,
            wake_at,
            ran: 0,
            woke_at: None,
            latency: 0,
            latencies: (0, 0),
            neglected: None,
            last_ran: self.now,
        });
    }

    /// Removes a VM and its vCPUs; gives their books.
    pub(super) fn remove(&mut self, vm: VmId) -> Vec<Guest> {
        let gone: Vec<Guest> = self.guests.iter().filter(|guest| guest.id.vm == vm).cloned().collect();
        for guest in &gone {
            self.check_times(guest);
            let home = usize::from(self.shared.home(guest.id).expect("known").0);
            let ran = self.queues[home].running() == Some(guest.id);
            self.queues[home].remove(&self.shared, guest.id, Ticks(self.now)).expect("removable");
            if ran {
                self.processors[home].until = self.now;
                self.processors[home].running = None;
            }
        }
        let running: Vec<_> =
            self.processors.iter().map(|it| it.running.map(|index| self.guests[index].id)).collect();
        self.guests.retain(|guest| guest.id.vm != vm);
        for (processor, id) in self.processors.iter_mut().zip(running) {
            processor.running = id.and_then(|id| self.guests.iter().position(|guest| guest.id == id));
        }
        self.shared.remove_vm(vm).expect("no vCPUs left");
        self.kick_all();
        gone
    }

    /// Something was changed that CPUs should look at.
    pub(super) fn kick_all(&mut self) {
        for cpu in 0..self.queues.len() {
            self.reschedule(cpu);
        }
    }

    pub(super) fn run_for(&mut self, span: u64) {
        let end = self.now + span;
        while self.now < end {
            self.step(end);
        }
        self.kick_all();
    }

    /// Goes to the next event, but not beyond `end`.
    pub(super) fn step(&mut self, end: u64) {
        let mut next = end;
        for processor in &self.processors {
            next = next.min(processor.until);
            if let Some(guest) = processor.running {
                next = next.min(self.now.saturating_add(self.guests[guest].left));
            }
        }
        for guest in &self.guests {
            next = next.min(guest.wake_at.unwrap_or(u64::MAX));
        }
        let span = next.max(self.now) - self.now;
        self.now += span;
        for processor in &self.processors {
            if let Some(index) = processor.running {
                let guest = &mut self.guests[index];
                guest.left -= span;
                guest.ran += span;
                guest.last_ran = self.now;
            }
        }
        for index in 0..self.guests.len() {
            if self.guests[index].wake_at.is_some_and(|at| at <= self.now) {
                self.wake(index);
            }
        }
        for cpu in 0..self.processors.len() {
            let Processor { running, until, .. } = self.processors[cpu];
            if let Some(index) = running
                && self.guests[index].left == 0
            {
                self.sleep(cpu, index);
            } else if until <= self.now {
                self.reschedule(cpu);
            }
        }
    }

    fn wake(&mut self, index: usize) {
        let (run, _) = self.guests[index].load.spans(&mut self.random);
        let guest = &mut self.guests[index];
        guest.wake_at = None;
        guest.left = run;
        guest.woke_at = Some(self.now);
        let id = guest.id;
        let home = self.shared.home(id).expect("known");
        let now = self.time();
        let woken = self.queues[usize::from(home.0)].wake(&self.shared, id, now).expect("asleep");
        if woken.move_to.is_some() {
            self.unload(usize::from(home.0), |loaded| loaded == id);
        }
        let moved =
            woken.move_to.is_some_and(|to| self.transfer(Transfer { vcpu: Some(id), from: home, to }));
        if !moved {
            self.end_run(home, woken.until);
        }
    }

    fn sleep(&mut self, cpu: usize, index: usize) {
        let (_, sleep) = self.guests[index].load.spans(&mut self.random);
        let id = self.guests[index].id;
        self.queues[cpu].sleep(&self.shared, id, Ticks(self.now)).expect("running");
        if self.guests[index].load != Load::Sleeper {
            self.guests[index].wake_at = Some(self.now + sleep.max(1));
        }
        self.reschedule(cpu);
    }

    /// Changes what a vCPU does. One that sleeps wakes.
    pub(super) fn set_load(&mut self, index: usize, load: Load) {
        let guest = &mut self.guests[index];
        guest.load = load;
        match load {
            Load::Sleeper if guest.wake_at.is_some() => guest.wake_at = None,
            Load::Sleeper => guest.left = guest.left.min(1),
            Load::Hog if guest.left > 0 => guest.left = u64::MAX,
            _ => {
                let asleep = self.activity(index) == Activity::Asleep;
                let guest = &mut self.guests[index];
                if asleep {
                    guest.wake_at = Some(self.now);
                }
            }
        }
    }

    pub(super) fn activity(&self, index: usize) -> Activity {
        let id = self.guests[index].id;
        let entries = self.queues.iter().flat_map(|queue| queue.entries.iter());
        entries.into_iter().find(|entry| entry.id == id).map(|entry| entry.activity).expect("in a queue")
    }

    fn end_run(&mut self, cpu: Cpu, until: Option<Ticks>) {
        if let Some(until) = until {
            let processor = &mut self.processors[usize::from(cpu.0)];
            processor.until = processor.until.min(until.0);
        }
    }

    fn transfer(&mut self, transfer_: Transfer) -> bool {
        let Transfer { vcpu, from, to } = transfer_;
        let now = self.time();
        let both = self.queues.get_disjoint_mut([usize::from(from.0), usize::from(to.0)]);
        let [from, target] = both.expect("two queues");
        match transfer(from, target, &self.shared, vcpu, now) {
            Ok(moved) => {
                self.migrations += 1;
                self.end_run(to, moved.until);
                true
            }
            Err(_) => false,
        }
    }

    pub(super) fn yielded(&mut self, cpu: usize, to: Option<VcpuId>) {
        self.queues[cpu].yielded(&self.shared, to, Ticks(self.now));
        self.reschedule(cpu);
    }

    /// What a CPU does when its run has ended.
    pub(super) fn reschedule(&mut self, cpu: usize) {
        let now = self.time();
        let mut decision = self.queues[cpu].next(&self.shared, now);
        for _ in 0..8 {
            if let Decision::Run { vcpu, .. } = decision {
                self.unload(cpu, |loaded| loaded != vcpu);
            }
            let Some(wanted) = self.queues[cpu].balance(&self.shared, now) else { break };
            self.unload(cpu, |loaded| Some(loaded) == wanted.vcpu);
            if !self.transfer(wanted) {
                break;
            }
            decision = self.queues[cpu].next(&self.shared, now);
        }
        self.switches += 1;
        let (running, until) = match decision {
            Decision::Run { vcpu, until } => (self.guests.iter().position(|guest| guest.id == vcpu), until),
            Decision::Idle { until } => (None, until),
        };
        if let Some(index) = running {
            let guest = &mut self.guests[index];
            guest.last_ran = self.now;
            if let Some(woke_at) = guest.woke_at.take() {
                let latency = self.now - woke_at;
                guest.latency = guest.latency.max(latency);
                guest.latencies = (guest.latencies.0 + latency, guest.latencies.1 + 1);
            }
        }
        assert!(until > now, "a run has a length");
        (self.processors[cpu].running, self.processors[cpu].until) = (running, until.0);
        if let Decision::Run { vcpu, .. } = decision {
            self.processors[cpu].loaded = Some(vcpu);
            self.shared.set_loaded(vcpu, true);
        }
    }

    fn unload(&mut self, cpu: usize, whether: impl Fn(VcpuId) -> bool) {
        if let Some(loaded) = self.processors[cpu].loaded.take_if(|loaded| whether(*loaded)) {
            self.shared.set_loaded(loaded, false);
        }
    }

    /// The queues, for the message of a test that fails.
    pub(super) fn table(&self) -> String {
        let mut table = String::new();
        for queue in self.queues.iter().filter(|queue| !queue.entries.is_empty()) {
            table += &format!("CPU {} at {:?}, {:?}\n", queue.cpu.0, queue.seen.level, queue.run);
            for entry in &queue.entries {
                let (vm, index, activity) = (entry.id.vm.index, entry.id.index, entry.activity);
                let ahead = entry.time.ahead_of(queue.seen.level) / 1024 / 1000;
                let allowed = self.shared.allowed(entry.id).expect("known").bits();
                table += &format!("    {vm}.{index} {activity:?} ahead {ahead} on {allowed:x}\n");
            }
        }
        table
    }

    /// The time that a VM ran, by the model's own books.
    pub(super) fn ran(&self, vm: VmId) -> u64 {
        self.guests.iter().filter(|guest| guest.id.vm == vm).map(|guest| guest.ran).sum()
    }

    /// What must hold at any time.
    pub(super) fn check(&mut self) {
        let mut places = 0;
        for (cpu, queue) in self.queues.iter().enumerate() {
            let running: Vec<_> =
                queue.entries.iter().filter(|entry| entry.activity == Activity::Running).collect();
            assert!(running.len() <= 1, "one at a time");
            assert_eq!(running.first().map(|entry| entry.id), queue.running());
            let model = self.processors[cpu].running.map(|index| self.guests[index].id);
            assert_eq!(queue.running(), model, "what was decided is done, CPU {cpu}");
            for entry in &queue.entries {
                assert_eq!(self.shared.home(entry.id), Ok(Cpu(cpu as u8)));
            }
            places += queue.entries.len();
            let (awake, asleep) = queue.entries.split_at(queue.awake().len());
            assert!(awake.iter().all(|entry| entry.activity != Activity::Asleep));
            assert!(asleep.iter().all(|entry| entry.activity == Activity::Asleep));
        }
        assert_eq!(places, self.guests.len(), "none lost, none twice");
        self.check_neglect();
    }

    /// No runnable vCPU waits long while a CPU that it may use is idle.
    fn check_neglect(&mut self) {
        let idle = self.processors.iter().enumerate().filter(|(_, it)| it.running.is_none());
        let idle = CpuSet::from_bits(idle.fold(0, |bits, (cpu, _)| bits | 1 << cpu));
        for index in 0..self.guests.len() {
            let id = self.guests[index].id;
            let waits = self.queues.iter().flat_map(|queue| &queue.entries).any(|entry| {
                entry.id == id && entry.activity == Activity::Waiting && entry.throttled.is_none()
            });
            let wronged = waits && !self.shared.allowed(id).expect("known").and(idle).is_empty();
            let guest = &mut self.guests[index];
            guest.neglected = if wronged { guest.neglected.or(Some(self.now)) } else { None };
            let neglected = guest.neglected.map_or(0, |since| self.now - since);
            self.neglect = self.neglect.max(neglected);
            assert!(neglected <= 12 * MS, "{id:?} waits beside idle CPUs {idle:?} for {neglected}");
        }
    }

    /// The scheduler's books are ours.
    pub(super) fn check_times(&self, guest: &Guest) {
        let charged = self.shared.times(guest.id).expect("known").charged.0;
        let home = &self.queues[usize::from(self.shared.home(guest.id).expect("known").0)];
        let open = if home.running() == Some(guest.id) { self.now - home.accounted.0 } else { 0 };
        assert_eq!(charged + open, guest.ran, "{:?} is charged what it ran", guest.id);
    }
}
