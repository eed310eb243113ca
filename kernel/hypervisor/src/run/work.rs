//! What VMs are asked to do, carried out by the CPUs that look after them: starts, restarts, ends.

use vcpu::{Backend, Host};

use super::cpu::Cpu;
use crate::report;
use crate::schedule::VcpuId;
use crate::stop::StopReason;
use crate::vm::life::{Request, State, Task};
use crate::vm::slot::{Place, Slot};
use crate::vm::task::Progress;
use crate::vm::{StartError, Vm};

impl<'m, B: Backend, H: Host> Cpu<'_, 'm, '_, B, H> {
    /// Begins what the VMs that this CPU looks after are asked to do, once they are at rest. True where there was
    /// something.
    pub(super) fn serve_requests(&mut self) -> bool {
        let mut served = false;
        self.node.any_asked(|vm| {
            served |= vm.life.is_closed() && self.serve_request(vm);
            false
        });
        served
    }

    fn serve_request(&mut self, vm: &Vm<'m, B>) -> bool {
        let state = vm.life.state();
        if !matches!(state, State::Working(_)) {
            self.halt(vm);
        }
        if vm.home() != self.number() || !vm.is_at_rest() || vm.waits_until() > self.host.now() {
            return false;
        }
        match state {
            State::Halting(Request::Stop(_)) if vm.has_last_words(self.host.now()) => return false,
            State::Halting(Request::Stop(reason)) => self.ended(vm, reason),
            State::Halting(Request::Pause) => {
                log::info!("vm {}: paused", vm.name);
                vm.pass(state, State::Paused, self.host);
                return false;
            }
            State::Halting(_) => {
                log::info!("vm {}: restarting", vm.name);
                vm.pass(state, State::Working(Task::Reset), self.host);
            }
            State::Working(_) => {}
            State::Running | State::Paused | State::Held | State::Stopped(_) => return false,
        }
        // The task is done in its turns.
        self.wake_first(vm);
        self.rota.look(self.host, "what a VM is asked");
        true
    }

    /// The VM has ended; what it did is told. What it has is given back next.
    fn ended(&mut self, vm: &Vm<'m, B>, reason: StopReason) {
        if !reason.is_crash() {
            log::info!("vm {}: stopped: {reason}", vm.name);
        }
        report::counters(vm, &self.node.scheduler.shared, || self.rota.look(self.host, "a report"));
        vm.pass(State::Halting(Request::Stop(reason)), State::Working(Task::End(reason)), self.host);
    }

    /// Does what there is to do for a VM, in steps, until the turn of its first vCPU is over.
    pub(super) fn work(&mut self, id: VcpuId, vm: &Vm<'m, B>, slot: &Slot<B>) {
        // Some steps load vCPUs of the VM.
        self.release();
        slot.set_place(Place::Running(self.number()));
        let progress = loop {
            self.forget_guests();
            let State::Working(task) = vm.life.state() else { break Progress::Done };
            let stage = vm.stage_name();
            let (start, taken) = (self.host.tsc(), self.host.taken());
            let step = vm.step(task, &self.node.backend, self.host, &self.node.promised);
            vm.count_work(self.host.tsc().wrapping_sub(start));
            vm.count_own(self.host.taken().wrapping_sub(taken));
            match step {
                Ok(Progress::Done) => {
                    self.finish(vm, task);
                    break Progress::Done;
                }
                Ok(Progress::Held) => {
                    self.hold(vm, task);
                    break Progress::Done;
                }
                Ok(Progress::Waiting) => break Progress::Waiting,
                Ok(Progress::More) => {}
                Err(error) => self.give_up(vm, task, error),
            }
            self.rota.look(self.host, stage);
            if self.host.now() >= self.rota.end_of_run(self.host) {
                break Progress::More;
            }
        };
        if progress != Progress::Done {
            slot.set_place(Place::Queued);
            self.rota.end_run(self.host, (progress == Progress::Waiting).then_some(None));
            return;
        }
        slot.set_place(Place::Blocked);
        slot.set_deadline(vm.waits_until());
        self.rota.sleep(self.host, id, slot);
        if vm.life.state() == State::Running {
            self.wake_first(vm);
        } else {
            self.tell_home(vm);
        }
    }

    /// A VM's task is done.
    fn finish(&mut self, vm: &Vm<'m, B>, task: Task) {
        let (name, work) = (vm.name, vm.take_work());
        let next = match task {
            Task::Start => {
                log::info!("vm {name}: started, {work} ticks of work");
                let (own, tables) = (vm.own_bytes().div_ceil(1024), vm.table_bytes() / 1024);
                log::info!("vm {name}: {own} KiB of its own, {tables} KiB nested tables");
                State::Running
            }
            Task::Enter => {
                log::info!("vm {name}: begins");
                State::Running
            }
            Task::Reset => {
                log::info!("vm {name}: restarted");
                vm.count_reset();
                State::Running
            }
            Task::End(reason) if vm.starts_anew(reason, self.host.now()) => {
                log::info!("vm {name}: starting anew");
                vm.count_end(reason);
                State::Working(Task::Start)
            }
            Task::End(reason) => {
                log::info!("vm {name}: all is given back, {work} ticks of work");
                vm.count_end(reason);
                State::Stopped(reason)
            }
        };
        vm.pass(State::Working(task), next, self.host);
        self.node.mailboxes.be_due(vm.home(), vm.device_deadline());
        if !self.node.announce(vm, self.host) && vm.life.is_condemned() {
            self.node.tell_lead(self.host);
        }
    }

    /// A VM's task is done up to where something from outside is wanted.
    fn hold(&mut self, vm: &Vm<'m, B>, task: Task) {
        log::info!("vm {}: held, {} ticks of work", vm.name, vm.take_work());
        if task == Task::Reset {
            vm.count_reset();
        }
        vm.pass(State::Working(task), State::Held, self.host);
        self.node.announce(vm, self.host);
    }

    /// A VM's task has failed: what the VM has is given back.
    fn give_up(&mut self, vm: &Vm<'m, B>, task: Task, error: StartError) {
        let name = vm.name;
        let reason = match task {
            Task::Start | Task::Enter => {
                log::error!("vm {name}: not started: {error}");
                StopReason::NotStarted
            }
            Task::Reset => {
                log::error!("vm {name}: not restarted: {error}");
                StopReason::ReloadFailed
            }
            Task::End(reason) => {
                log::error!("vm {name}: cannot give back what it has: {error}");
                vm.count_end(reason);
                vm.pass(State::Working(task), State::Stopped(reason), self.host);
                self.node.announce(vm, self.host);
                return;
            }
        };
        vm.pass(State::Working(task), State::Working(Task::End(reason)), self.host);
    }
}
