//! The loop of a CPU: serve timers, take in who woke up, carry out what VMs are asked to do, pick a vCPU and let it run for
//! a slice, wait where nobody can run.

use spin::MutexGuard;
use vcpu::{Backend, Host, Nanos, Vcpu};

use super::Node;
use super::queue::{Id, RunQueue, SHORTEST_SLICE, SLICE};
use super::slice::{HostTimer, Slice, SliceEnd};
use crate::guest::Guest;
use crate::processor::{Activity, Processor};
use crate::report;
use crate::stop::StopReason;
use crate::vm::Vm;
use crate::vm::life::{Request, State};
use crate::vm::slot::{Place, Slot};
use crate::wiring::Wiring;

/// What one CPU needs to run vCPUs.
pub(super) struct Cpu<'n, 'm, 'h, B: Backend, H: Host> {
    pub(super) node: &'n Node<'m, B>,
    pub(super) host: &'h mut H,
    queue: RunQueue,
    timer: HostTimer,
    /// The vCPU in this CPU's registers, with its lock.
    loaded: Option<(Id, MutexGuard<'n, Processor<B>>)>,
    /// Up to here all ticks are accounted for.
    last_tsc: u64,
}

impl<'n, 'm, 'h, B: Backend, H: Host> Cpu<'n, 'm, 'h, B, H> {
    /// The calling CPU, with the vCPUs that are at home on it.
    pub(super) fn new(node: &'n Node<'m, B>, host: &'h mut H) -> Self {
        let last_tsc = host.tsc();
        let mut cpu =
            Self { node, host, queue: RunQueue::new(), timer: HostTimer::default(), loaded: None, last_tsc };
        for vm in &node.vms {
            if vm.home() == cpu.number() {
                cpu.enqueue_first(vm);
            }
        }
        cpu
    }

    /// Which CPU this is; the first is 0.
    pub(super) fn number(&self) -> usize {
        self.host.cpu()
    }

    /// One turn of the loop; false where there was nothing to do.
    pub(super) fn turn(&mut self) -> bool {
        let (node, queue) = (self.node, &mut self.queue);
        node.mailboxes.take(self.host.cpu(), |vm, vcpu| queue.push(Id { vm, vcpu }));
        self.serve_timers();
        let served = self.serve_requests();
        while let Some(id) = self.queue.pop() {
            let Some((vm, slot)) = self.find(id) else { continue };
            if vm.life.is_closed() {
                slot.set_place(Place::Blocked);
                self.tell_home(vm);
                continue;
            }
            if let Some(processor) = self.load(id, slot) {
                self.run_slice(id, vm, slot, processor);
            }
            return true;
        }
        served
    }

    fn find(&self, id: Id) -> Option<(&'n Vm<'m, B>, &'n Slot<B>)> {
        let vm = self.node.vms.get(id.vm)?;
        Some((vm, vm.slots.get(id.vcpu)?))
    }

    /// Puts the VM's first vCPU in the queue.
    fn enqueue_first(&mut self, vm: &Vm<'m, B>) {
        if vm.slots.first().is_some_and(Slot::wake) {
            self.queue.push(Id { vm: vm.number, vcpu: 0 });
        }
    }

    /// Lets all vCPUs look again: what they waited for may have come.
    pub(super) fn wake_all(&mut self, vm: &Vm<'m, B>) {
        for (vcpu, slot) in vm.slots.iter().enumerate() {
            slot.inbox.nudge();
            vm.poke(vcpu, &self.node.mailboxes, self.host);
        }
    }

    /// Wakes vCPUs of this CPU whose timers are due, and lets the chipsets that it looks after catch up.
    fn serve_timers(&mut self) {
        let now = self.host.now();
        let here = self.number();
        let node = self.node;
        for vm in node.vms.iter().filter(|vm| !vm.life.is_closed()) {
            if vm.home() == here && vm.chipset_deadline() <= now {
                self.with_chipset(vm, |chipset, wiring| chipset.advance(now, wiring));
            }
            for (vcpu, slot) in vm.slots.iter().enumerate() {
                let due = slot.deadline() <= now && slot.home() == here && slot.place() == Place::Blocked;
                if due && slot.wake() {
                    self.queue.push(Id { vm: vm.number, vcpu });
                }
            }
        }
    }

    /// Uses a chipset on this CPU's own account.
    pub(super) fn with_chipset<R>(
        &mut self,
        vm: &Vm<'m, B>,
        run: impl FnOnce(&mut devices::Chipset<'m>, &mut Wiring<'_, 'm, B, H>) -> R,
    ) -> R {
        let mut wiring = Wiring { vm, own: None, mailboxes: &self.node.mailboxes, host: self.host };
        vm.with_chipset(&mut wiring, run)
    }

    /// Carries out what the VMs that this CPU looks after are asked to do, once they are at rest. True where there was
    /// something.
    fn serve_requests(&mut self) -> bool {
        let node = self.node;
        let mut served = false;
        for vm in node.vms.iter().filter(|vm| vm.life.is_closed()) {
            if self.loaded.as_ref().is_some_and(|(id, _)| id.vm == vm.number) {
                self.release();
                self.tell_home(vm);
            }
            if vm.home() != self.number() || !vm.is_at_rest() {
                continue;
            }
            served |= !matches!(vm.life.state(), State::Running | State::Stopped(_));
            match vm.life.state() {
                State::Halting(Request::Reset) => {
                    log::info!("vm {}: restarting", vm.config.name);
                    vm.life.set(State::Resetting(Default::default()));
                    self.go_on_resetting(vm, Default::default());
                }
                State::Resetting(scrub) => self.go_on_resetting(vm, scrub),
                State::Halting(Request::Stop(reason)) => self.stopped(vm, reason),
                State::Running | State::Stopped(_) => {}
            }
        }
        served
    }

    /// The VM may be at rest now: who looks after it should look.
    fn tell_home(&mut self, vm: &Vm<'m, B>) {
        if vm.home() != self.number() {
            self.host.kick(vm.home());
        }
    }

    /// Clears memory in small steps for a slice's time at most, then loads the kernel.
    fn go_on_resetting(&mut self, vm: &Vm<'m, B>, mut scrub: crate::vm::boot::Scrub) {
        let end = self.host.now() + SLICE;
        loop {
            match vm.reset_step(&mut scrub, self.host) {
                Ok(true) => {
                    log::info!("vm {}: restarted", vm.config.name);
                    vm.life.set(State::Running);
                    self.enqueue_first(vm);
                    return;
                }
                Ok(false) if self.host.now() < end => {}
                Ok(false) => {
                    vm.life.set(State::Resetting(scrub));
                    return;
                }
                Err(error) => {
                    log::error!("vm {}: not restarted: {error}", vm.config.name);
                    self.stopped(vm, StopReason::ReloadFailed);
                    return;
                }
            }
        }
    }

    /// The VM has ended; what it did is told.
    fn stopped(&mut self, vm: &Vm<'m, B>, reason: StopReason) {
        if !reason.is_crash() {
            log::info!("vm {}: stopped: {reason}", vm.config.name);
        }
        report::counters(vm);
        vm.life.set(State::Stopped(reason));
    }

    /// Loads a vCPU and marks it as running here.
    fn load(&mut self, id: Id, slot: &'n Slot<B>) -> Option<MutexGuard<'n, Processor<B>>> {
        if self.loaded.as_ref().is_some_and(|(loaded, _)| *loaded == id) {
            slot.set_place(Place::Running(self.number()));
            slot.rouse();
            return self.loaded.take().map(|(_, processor)| processor);
        }
        self.release();
        let mut processor = slot.processor()?;
        slot.set_loaded(Some(self.number()));
        slot.set_place(Place::Running(self.number()));
        slot.rouse();
        processor.vcpu.load();
        Some(processor)
    }

    /// Takes the loaded vCPU, if any, out of this CPU's registers.
    pub(super) fn release(&mut self) {
        if let Some((id, mut processor)) = self.loaded.take() {
            processor.vcpu.unload();
            drop(processor);
            if let Some((_, slot)) = self.find(id) {
                slot.set_loaded(None);
            }
        }
    }

    fn run_slice(
        &mut self,
        id: Id,
        vm: &'n Vm<'m, B>,
        slot: &'n Slot<B>,
        mut processor: MutexGuard<'n, Processor<B>>,
    ) {
        let start = self.host.now();
        let end = (start + SLICE).min(self.next_wake(Some(id)).max(start + SHORTEST_SLICE));
        processor.begin_turn(self.host.tsc());
        let here = self.number();
        let mut guest = Guest { cpu: &mut processor, vm, mailboxes: &self.node.mailboxes, host: self.host };
        let mut slice =
            Slice { end, timer: &mut self.timer, last_tsc: &mut self.last_tsc, is_home: vm.home() == here };
        let mut outcome = slice.run(&mut guest);
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
            report::crashed(&guest, reason);
        }
        self.end_turn(id, vm, slot, processor, outcome);
    }

    /// What becomes of the vCPU after its turn.
    fn end_turn(
        &mut self,
        id: Id,
        vm: &'n Vm<'m, B>,
        slot: &'n Slot<B>,
        mut processor: MutexGuard<'n, Processor<B>>,
        outcome: SliceEnd,
    ) {
        processor.end_turn(self.host.tsc());
        slot.publish(&processor);
        let waits = match outcome {
            SliceEnd::Over => false,
            SliceEnd::Waiting | SliceEnd::Halting => true,
            SliceEnd::Reset => {
                vm.ask(Request::Reset, self.host);
                true
            }
            SliceEnd::Stopped(reason) => {
                vm.ask(Request::Stop(reason), self.host);
                true
            }
        };
        self.loaded = Some((id, processor));
        if !waits {
            slot.set_place(Place::Queued);
            self.queue.push(id);
            return;
        }
        slot.set_place(Place::Blocked);
        // What came in the meantime found it running.
        if !slot.inbox.is_empty() && slot.wake() {
            self.queue.push(id);
        }
    }

    /// When a timer next wakes a vCPU that is at home here, or needs this CPU for a chipset; `but` is running.
    fn next_wake(&self, but: Option<Id>) -> Nanos {
        let here = self.host.cpu();
        let mut next = Nanos::NEVER;
        for vm in self.node.vms.iter().filter(|vm| !vm.life.is_closed()) {
            let runs_here = but.is_some_and(|id| id.vm == vm.number);
            if vm.home() == here && !runs_here {
                next = next.min(vm.chipset_deadline());
            }
            for (vcpu, slot) in vm.slots.iter().enumerate() {
                let waits = slot.home() == here && slot.place() == Place::Blocked;
                if waits && but != Some(Id { vm: vm.number, vcpu }) {
                    next = next.min(slot.deadline());
                }
            }
        }
        next
    }

    /// Halts until an interrupt comes, a timer is due, or it is `until`; not at all where there is something to do.
    pub(super) fn rest(&mut self, until: Nanos) {
        if !self.queue.is_empty() || self.node.mailboxes.has_news(self.host.cpu()) || self.has_requests() {
            return;
        }
        self.account_root();
        self.timer.arm(self.host, self.next_wake(None).min(until));
        self.host.wait_for_interrupt();
        self.last_tsc = self.host.tsc();
        self.timer.forget();
    }

    /// Whether a VM that this CPU looks after, or has a vCPU of in its registers, waits for it.
    fn has_requests(&self) -> bool {
        self.node.vms.iter().any(|vm| {
            let holds = self.loaded.as_ref().is_some_and(|(id, _)| id.vm == vm.number);
            let asked = matches!(vm.life.state(), State::Halting(_) | State::Resetting(_));
            asked && (holds || vm.home() == self.number() && vm.is_at_rest())
        })
    }

    /// The time since the last accounting was spent for the vCPU that ran last.
    fn account_root(&mut self) {
        let now = self.host.tsc();
        if let Some((_, processor)) = &mut self.loaded {
            processor.counters.ticks.root += now.wrapping_sub(self.last_tsc);
        }
        self.last_tsc = now;
    }
}

impl<B: Backend> Processor<B> {
    /// It begins to run at this TSC value.
    fn begin_turn(&mut self, tsc: u64) {
        let waited = tsc.wrapping_sub(self.waiting_since);
        if self.activity == Activity::Running {
            self.counters.ticks.steal += waited;
        } else {
            self.counters.ticks.idle += waited;
        }
    }

    /// It stops running at this TSC value.
    fn end_turn(&mut self, tsc: u64) {
        self.waiting_since = tsc;
    }
}
