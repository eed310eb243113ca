//! The loop of a CPU: serve timers, take in who woke up, carry out what VMs are asked to do, let the scheduler choose a vCPU
//! and run it for a slice, wait where nobody can run.

use alloc::sync::Arc;

use trace::Kind;
use vcpu::{Backend, Host, Nanos, Vcpu, WithVcpu};

use super::Node;
use super::rota::Rota;
use super::slice::{Slice, SliceEnd};
use crate::guest::Guest;
use crate::processor::{Activity, Processor, VirtualCpu};
use crate::report;
use crate::schedule::{Decision, Ticks, VcpuId};
use crate::stop::StopReason;
use crate::vm::Vm;
use crate::vm::life::{Request, State};
use crate::vm::slot::{Place, Seat, Slot};

/// Moves of vCPUs between CPUs at one decision at most.
const MAX_MOVES: usize = 8;
/// How often a VM is looked at that still speaks when it ends.
const LAST_WORDS: Nanos = Nanos::from_millis(1);
/// vCPUs of VMs that come to a halt, taken from the queue in one turn.
const MAX_HALTED: usize = 64;

/// A vCPU that is in a CPU's registers, taken out of its slot, with shares of its VM and of that's memory.
struct Loaded<'m, B: Backend> {
    id: VcpuId,
    vm: Arc<Vm<'m, B>>,
    processor: Seat<B>,
    space: Arc<Option<B::Space>>,
}

/// What has become of a vCPU whose turn it is.
enum BroughtIn {
    /// It is loaded, and runs.
    Loaded,
    /// Its turn is over: its VM's work was done, or it cannot be had.
    Worked,
    /// It is not to run: its VM comes to a halt.
    PutToRest,
    /// There is no such vCPU.
    Nobody,
}

/// What one CPU needs to run vCPUs.
pub(super) struct Cpu<'n, 'm, 'h, B: Backend, H: Host> {
    pub(super) node: &'n Node<'m, B>,
    pub(super) host: &'h mut H,
    pub(super) rota: Rota<'n, 'm, B>,
    /// The vCPU in this CPU's registers.
    loaded: Option<Loaded<'m, B>>,
    /// When the scheduler is to be asked again where it has nobody to run.
    idle_until: Ticks,
}

impl<'n, 'm, 'h, B: Backend, H: Host> Cpu<'n, 'm, 'h, B, H> {
    /// The calling CPU.
    pub(super) fn new(node: &'n Node<'m, B>, host: &'h mut H) -> Self {
        let rota = Rota::new(node, host.cpu());
        let idle_until = Ticks::NEVER;
        Self { node, host, rota, loaded: None, idle_until }
    }

    /// Which CPU this is; the first is 0.
    pub(super) fn number(&self) -> usize {
        self.host.cpu()
    }

    /// One turn of the loop; false where there was nothing to do.
    pub(super) fn turn(&mut self) -> bool {
        self.host.beat();
        self.rota.serve(self.host);
        self.node.networks.refill();
        let served = self.serve_requests();
        for _ in 0..MAX_HALTED {
            let Decision::Run { vcpu: id, .. } = self.decide() else { return served };
            // Mostly it is the one that is in the registers already, and runs on.
            let runs_on =
                self.loaded.as_ref().is_some_and(|it| it.id == id && it.vm.life.state() == State::Running);
            if runs_on {
                self.forget_guests();
            }
            if !runs_on || self.loaded.is_none() {
                match self.bring_in(id) {
                    BroughtIn::Loaded => {}
                    BroughtIn::Worked => break,
                    BroughtIn::PutToRest => continue,
                    BroughtIn::Nobody => return served,
                }
            }
            self.run_loaded();
            break;
        }
        true
    }

    /// Sees to a vCPU whose turn it is, where that is not to run on.
    #[inline(never)]
    fn bring_in(&mut self, id: VcpuId) -> BroughtIn {
        // The one share of it in this turn.
        let Some(vm) = self.node.places.find(id.vm) else { return BroughtIn::Nobody };
        let Some(slot) = vm.slots.get(usize::from(id.index)) else { return BroughtIn::Nobody };
        match vm.life.state() {
            State::Running if self.load(id, &vm, slot).is_some() => BroughtIn::Loaded,
            State::Running => {
                // Nobody else can have it. Whatever it is, others go first.
                self.rota.end_run(self.host, Some(None));
                BroughtIn::Worked
            }
            State::Working(_) if id.index == 0 => {
                self.work(id, &vm, slot);
                BroughtIn::Worked
            }
            _ => {
                self.put_to_rest(&vm, id, slot);
                self.tell_home(&vm);
                BroughtIn::PutToRest
            }
        }
    }

    /// Who runs next here. vCPUs change the CPU where the scheduler wants it.
    fn decide(&mut self) -> Decision {
        let mut decision = self.rota.next(self.host);
        for _ in 0..MAX_MOVES {
            if let Decision::Run { vcpu, .. } = decision
                && self.loaded.as_ref().is_some_and(|loaded| loaded.id != vcpu)
            {
                self.release();
            }
            let Some(wanted) = self.rota.balance(self.host) else { break };
            if self.loaded.as_ref().is_some_and(|loaded| Some(loaded.id) == wanted.vcpu) {
                self.release();
            }
            if !self.rota.transfer(self.host, wanted) {
                break;
            }
            decision = self.rota.next(self.host);
        }
        self.idle_until = match decision {
            Decision::Run { .. } => Ticks(0),
            Decision::Idle { until } => until,
        };
        decision
    }

    /// Wakes the VM's first vCPU, which is at home here.
    pub(super) fn wake_first(&mut self, vm: &Vm<'m, B>) {
        if vm.slots.first().is_some_and(Slot::wake) {
            self.rota.wake(self.host, vm, 0);
        }
    }

    /// Lets all vCPUs look again: what they waited for may have come.
    pub(super) fn wake_all(&mut self, vm: &Vm<'m, B>) {
        for (vcpu, slot) in vm.slots.iter().enumerate() {
            slot.inbox.nudge();
            vm.poke(vcpu, &self.node.mailboxes, self.host);
        }
    }

    /// Takes a vCPU that was to run, or waits, from those that do.
    fn put_to_rest(&mut self, vm: &Vm<'m, B>, id: VcpuId, slot: &Slot<B>) {
        slot.set_place(Place::Blocked);
        self.rota.sleep(self.host, id, slot);
        // Should the VM run again already, what came in the meantime found it queued.
        if !vm.life.is_closed() && !slot.inbox.is_empty() && slot.wake() {
            self.rota.wake(self.host, vm, id.index.into());
        }
    }

    /// Takes the vCPUs of a VM that is to come to rest out of this CPU's queue and registers.
    pub(super) fn halt(&mut self, vm: &Vm<'m, B>) {
        let here = self.number();
        let mut changed = false;
        for (index, slot) in vm.slots.iter().enumerate() {
            if slot.home() == here && slot.place() == Place::Queued {
                self.put_to_rest(vm, vm.vcpu_id(index), slot);
                changed = true;
            }
        }
        if self.loaded.as_ref().is_some_and(|loaded| loaded.id.vm == vm.id) {
            self.release();
            changed = true;
        }
        if changed {
            self.tell_home(vm);
        }
    }

    /// The VM may be at rest now: who looks after it should look.
    pub(super) fn tell_home(&mut self, vm: &Vm<'m, B>) {
        if vm.home() != self.number() {
            self.host.kick(vm.home());
        }
    }

    /// Drops what this CPU knows of guests' memory, where that is wanted.
    pub(super) fn forget_guests(&mut self) {
        if self.host.must_forget_guests() {
            self.release();
            self.host.forget_guests();
        }
    }

    /// Loads a vCPU. `None` where it cannot be had.
    fn load(&mut self, id: VcpuId, vm: &Arc<Vm<'m, B>>, slot: &Slot<B>) -> Option<()> {
        self.forget_guests();
        self.release();
        let space = vm.share_space()?;
        let mut processor = slot.take()?;
        self.node.scheduler.shared.set_loaded(id, true);
        slot.set_loaded(Some(self.host.cpu()));
        processor.iter_mut().for_each(VirtualCpu::load);
        self.node.bring_up.call_once(|| self.host.bring_up());
        self.loaded = Some(Loaded { id, vm: Arc::clone(vm), processor, space });
        Some(())
    }

    /// Takes the loaded vCPU, if any, out of this CPU's registers.
    pub(super) fn release(&mut self) {
        let Some(Loaded { id, vm, mut processor, space }) = self.loaded.take() else { return };
        processor.iter_mut().for_each(VirtualCpu::unload);
        drop(space);
        if let Some(slot) = vm.slots.get(usize::from(id.index)) {
            slot.put_back(processor);
            slot.set_loaded(None);
        }
        self.node.scheduler.shared.set_loaded(id, false);
    }

    /// Runs the vCPU that is loaded for a slice.
    #[inline(always)]
    fn run_loaded(&mut self) {
        let Some(mut loaded) = self.loaded.take() else { return };
        let (id, vm) = (loaded.id, &*loaded.vm);
        if let Some(slot) = vm.slots.get(usize::from(id.index)) {
            slot.set_place(Place::Running(self.number()));
            slot.rouse();
            self.host.trace(Kind::TurnBegins, id.subject(), 0, 0);
            let outcome = match (&mut *loaded.processor, &*loaded.space) {
                (Some(VirtualCpu { vcpu, cpu }), Some(space)) => {
                    B::with_vcpu(vcpu, Turn { on: self, id, vm, slot, cpu, space })
                }
                // Who loads it has seen both.
                _ => SliceEnd::Halting,
            };
            self.host.trace(Kind::TurnEnds, id.subject(), outcome.number(), slot.exits());
            self.end_turn(id, vm, slot, outcome);
        }
        self.loaded = Some(loaded);
    }

    fn run_slice<V: Vcpu>(
        &mut self,
        id: VcpuId,
        vm: &Vm<'m, B>,
        slot: &Slot<B>,
        (vcpu, cpu): (&mut V, &mut Processor),
        space: &B::Space,
    ) -> SliceEnd {
        let end = self.rota.end_of_run(self.host);
        let start = self.host.tsc();
        let slept = cpu.begin_turn(vcpu, start, self.kept_from_running(id, start), space);
        if let Some(slept) = slept {
            let slept = self.host.time_of(start) - self.host.time_of(start.saturating_sub(slept));
            cpu.patience.woke_after(slept, self.node.options.poll);
        }
        let in_guest = cpu.counters.ticks.guest;
        let mut guest = Guest { vcpu, cpu, vm, space, mailboxes: &self.node.mailboxes, host: self.host };
        let mut slice = Slice { end, others: Nanos::NEVER, told: Nanos::NEVER, rota: &mut self.rota };
        let mut outcome = slice.run(&mut guest);
        let now = guest.host.tsc();
        // What of the turn was not the guest's was spent for it.
        let ticks = &mut guest.cpu.counters.ticks;
        let in_guest = ticks.guest.wrapping_sub(in_guest);
        ticks.root = ticks.root.wrapping_add(now.wrapping_sub(start).wrapping_sub(in_guest));
        if matches!(guest.cpu.activity, Activity::HaltedMasked | Activity::WaitForStartup) {
            slot.publish(guest.cpu);
            if vm.is_asleep_for_ever() {
                outcome = SliceEnd::Stopped(StopReason::HaltedForever);
            }
        }
        if let SliceEnd::Stopped(reason) = outcome
            && reason.is_crash()
            && !vm.is_ending()
        {
            report::crashed(&mut guest.any(), reason, &mut |host| slice.rota.look(host, "a dump"));
        }
        guest.cpu.end_turn(now, space);
        outcome
    }

    /// How long the vCPU wanted to run and could not, because others ran or it had had what its cap allows. It is `now`.
    fn kept_from_running(&self, id: VcpuId, now: u64) -> Nanos {
        let ticks = self.node.scheduler.shared.times(id).map_or(0, |times| times.steal.0);
        self.host.time_of(now) - self.host.time_of(now.saturating_sub(ticks))
    }

    /// What becomes of the vCPU after its turn.
    fn end_turn(&mut self, id: VcpuId, vm: &Vm<'m, B>, slot: &Slot<B>, outcome: SliceEnd) {
        let waits = match outcome {
            SliceEnd::Over | SliceEnd::GivesWay(_) => false,
            SliceEnd::Waiting | SliceEnd::Halting => true,
            SliceEnd::Reset => {
                vm.ask(vm.own_reset(), self.host);
                true
            }
            SliceEnd::Stopped(reason) => {
                vm.ask(Request::Stop(reason), self.host);
                true
            }
        };
        if !waits {
            slot.set_place(Place::Queued);
            let gives_way = match outcome {
                SliceEnd::GivesWay(to) => Some(to.map(|to| vm.vcpu_id(to))),
                _ => None,
            };
            self.rota.end_run(self.host, gives_way);
            return;
        }
        slot.set_place(Place::Blocked);
        self.rota.sleep(self.host, id, slot);
        // What came in the meantime found it running.
        if !slot.inbox.is_empty() && slot.wake() {
            self.rota.wake(self.host, vm, id.index.into());
        }
    }

    /// Halts until an interrupt comes, a timer is due, or it is `until`; not at all where there is something to do.
    pub(super) fn rest(&mut self, until: Nanos) {
        if self.node.mailboxes.has_news(self.host.cpu()) || self.has_requests() {
            return;
        }
        let chance = match self.idle_until {
            Ticks::NEVER => Nanos::NEVER,
            until => self.host.time_of(until.0),
        };
        let until =
            until.min(self.rota.next_wake()).min(chance).min(self.next_end()).min(self.host.next_watch());
        self.host.set_timer(until);
        self.rota.stretch.ends(self.host.tsc(), "before a rest", self.host);
        self.host.wait_for_interrupt();
        self.rota.stretch.begins(self.host.tsc());
    }

    /// When to look again for VMs whose last words are on their way.
    fn next_end(&self) -> Nanos {
        let now = self.host.now();
        let speaks = |vm: &Vm<'m, B>| {
            matches!(vm.life.state(), State::Halting(Request::Stop(_))) && vm.has_last_words(now)
        };
        if self.node.any_asked(speaks) { now + LAST_WORDS } else { Nanos::NEVER }
    }

    /// Whether a VM that this CPU looks after, or has a vCPU of in its registers, waits for it.
    fn has_requests(&self) -> bool {
        self.node.any_asked(|vm| {
            let holds = self.loaded.as_ref().is_some_and(|loaded| loaded.id.vm == vm.id);
            let asked = matches!(vm.life.state(), State::Halting(_) | State::Working(_));
            let now = self.host.now();
            let ready = || vm.is_at_rest() && vm.waits_until() <= now && !vm.has_last_words(now);
            asked && (holds || vm.home() == self.number() && ready())
        })
    }
}

/// A vCPU's turn, for the vCPU as what it really is.
struct Turn<'a, 'n, 'm, 'h, B: Backend, H: Host> {
    on: &'a mut Cpu<'n, 'm, 'h, B, H>,
    id: VcpuId,
    vm: &'a Vm<'m, B>,
    slot: &'a Slot<B>,
    cpu: &'a mut Processor,
    space: &'a B::Space,
}

impl<B: Backend, H: Host> WithVcpu for Turn<'_, '_, '_, '_, B, H> {
    type Output = SliceEnd;

    fn call<V: Vcpu>(self, vcpu: &mut V) -> SliceEnd {
        let outcome = self.on.run_slice(self.id, self.vm, self.slot, (vcpu, self.cpu), self.space);
        self.slot.publish(self.cpu);
        outcome
    }
}
