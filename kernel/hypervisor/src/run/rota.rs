//! Who has to run on a CPU, and when: wake-ups, timers, and the CPU's side of the scheduler. `docs/smp.md` tells the protocol.

use trace::Kind;
use vcpu::{Backend, Host, Nanos};

use super::Node;
use super::sleepers::Sleepers;
use super::stretch::Stretch;
use crate::schedule::{Cpu, Decision, Error, Transfer, VcpuId};
use crate::scheduler::ticks;
use crate::virtio_bus::Others;
use crate::vm::Vm;
use crate::vm::slot::{Place, Slot};
use crate::wiring::Wiring;

/// One CPU's part. Only that CPU uses it.
pub(super) struct Rota<'n, 'm, B: Backend> {
    node: &'n Node<'m, B>,
    here: usize,
    sleepers: Sleepers,
    /// How long the CPU goes on without a look.
    pub(super) stretch: Stretch,
}

impl<'n, 'm, B: Backend> Rota<'n, 'm, B> {
    /// The rota of CPU number `here`.
    pub(super) fn new(node: &'n Node<'m, B>, here: usize) -> Self {
        Self { node, here, sleepers: Sleepers::new(node.places.len()), stretch: Stretch::default() }
    }

    fn cpu(&self) -> Cpu {
        Cpu(self.here as u8)
    }

    /// Takes in who was woken by others, wakes whose time has come, and lets the chipsets catch up that this CPU looks after.
    /// The present run may end earlier then.
    pub(super) fn serve<H: Host>(&mut self, host: &mut H) {
        let node = self.node;
        node.mailboxes.take(self.here, |vm, vcpu| {
            node.places.with(vm, |vm| self.wake(host, vm, vcpu));
        });
        self.answer_calls(host);
        if let Some((domain, hardware)) = node.domain
            && hardware.has_interrupts()
        {
            node.places.with(domain.index(), |vm| {
                let mut wiring = Wiring { vm, own: None, mailboxes: &node.mailboxes, host: &mut *host };
                vm.take_machine_interrupts(&mut wiring);
            });
        }
        let now = host.now();
        if node.mailboxes.due(self.here) <= now {
            self.serve_devices(host, now);
        }
        if self.sleepers.next() <= now {
            self.wake_sleepers(host, now);
        }
    }

    /// Lets the devices go on whose time has come, of VMs that this CPU looks after.
    fn serve_devices<H: Host>(&self, host: &mut H, now: Nanos) {
        let (node, here) = (self.node, self.here);
        node.mailboxes.forget_due(here);
        node.places.each(|vm| {
            if vm.home() != here || vm.life.is_closed() {
                return;
            }
            if vm.device_deadline() <= now {
                let mut wiring = Wiring { vm, own: None, mailboxes: &node.mailboxes, host: &mut *host };
                if vm.advance_devices(now, &mut wiring) {
                    self.nudge(host, vm);
                }
            }
            node.mailboxes.be_due(here, vm.device_deadline());
        });
    }

    /// Takes in who was woken for this CPU just now, mostly by itself. True where there was somebody.
    #[inline]
    pub(super) fn serve_woken<H: Host>(&mut self, host: &mut H) -> bool {
        self.answer_calls(host);
        let woken = self.node.mailboxes.has_news(self.here);
        if woken {
            self.serve(host);
        }
        woken
    }

    /// Has VMs look for whose devices something has come from other VMs.
    #[inline]
    pub(super) fn answer_calls<H: Host>(&self, host: &mut H) {
        self.node.calls.take(|vm| {
            // What has come may be for the kernel's own end of a line.
            if self.node.domain.is_some_and(|(domain, _)| domain.index() == vm) {
                self.node.tell_lead(host);
            }
            self.node.places.with(vm, |vm| {
                if !vm.life.is_closed() {
                    vm.virtio.note_answers();
                    self.nudge(host, vm);
                }
            });
        });
    }

    /// Has a VM look for what there is to do for its devices.
    fn nudge<H: Host>(&self, host: &mut H, vm: &Vm<'m, B>) {
        if let Some(slot) = vm.slots.first() {
            slot.inbox.nudge();
            vm.poke(0, &self.node.mailboxes, host);
        }
    }

    /// The VMs, for devices that send to others.
    pub(super) fn others(&self) -> Others<'n, 'm, B> {
        Others { places: &self.node.places, calls: &self.node.calls }
    }

    /// Between two pieces of work that take long together: lets interrupts in, serves what they tell of, and makes ready what networks need for the next.
    pub(super) fn look<H: Host>(&mut self, host: &mut H, what: &str) {
        self.stretch.ends(host.tsc(), what, host);
        host.beat();
        host.poll_interrupts();
        self.stretch.begins(host.tsc());
        self.serve(host);
        self.node.networks.refill();
    }

    fn wake_sleepers<H: Host>(&mut self, host: &mut H, now: Nanos) {
        let (node, here) = (self.node, self.here);
        let mut sleepers = core::mem::replace(&mut self.sleepers, Sleepers::none());
        sleepers.look(now, |vm, vcpu| {
            let looked = node.places.with(vm, |vm| {
                let slot = vm.slots.get(vcpu)?;
                if slot.place() != Place::Blocked || slot.home() != here || vm.life.is_at_rest() {
                    return None;
                }
                let deadline = slot.deadline();
                if deadline > now {
                    return Some(deadline);
                }
                if slot.wake() {
                    self.wake(host, vm, vcpu);
                }
                None
            });
            looked.flatten()
        });
        self.sleepers = sleepers;
    }

    /// Uses a chipset on this CPU's own account.
    pub(super) fn with_chipset<H: Host, R>(
        &self,
        host: &mut H,
        vm: &Vm<'m, B>,
        run: impl FnOnce(&mut devices::Chipset<'m>, &mut Wiring<'_, 'm, B, H>) -> R,
    ) -> R {
        let mut wiring = Wiring { vm, own: None, mailboxes: &self.node.mailboxes, host };
        vm.with_chipset(&mut wiring, run)
    }

    /// A vCPU has been woken ([`Slot::wake`]), and this CPU was told, because the vCPU was in its queue.
    pub(super) fn wake<H: Host>(&mut self, host: &mut H, vm: &Vm<'m, B>, vcpu: usize) {
        let Some(slot) = vm.slots.get(vcpu) else { return };
        if slot.place() != Place::Queued {
            // Its VM has come to a halt meanwhile.
            return;
        }
        let id = vm.vcpu_id(vcpu);
        let scheduler = &self.node.scheduler;
        let Some(mut queue) = scheduler.queue(self.here) else { return };
        let woken = queue.wake(&scheduler.shared, id, ticks(host));
        drop(queue);
        match woken {
            Ok(woken) => {
                if let Some(to) = woken.move_to {
                    self.transfer(host, Transfer { vcpu: Some(id), from: self.cpu(), to });
                }
            }
            Err(Error::NotHere(home)) => {
                let home = usize::from(home.0);
                self.node.mailboxes.wake(home, vm.number, vcpu);
                host.kick(home);
            }
            // It is awake already.
            Err(_) => {}
        }
    }

    /// Moves a vCPU, and has the CPU look that now has it. False where it stays where it is.
    pub(super) fn transfer<H: Host>(&self, host: &mut H, wanted: Transfer) -> bool {
        let node = self.node;
        let to = usize::from(wanted.to.0);
        let moved = node.scheduler.transfer(wanted, ticks(host), |moved| {
            let vcpu = moved.vcpu;
            node.places.with(vcpu.vm.index(), |vm| {
                if vm.id == vcpu.vm
                    && let Some(slot) = vm.slots.get(usize::from(vcpu.index))
                {
                    slot.set_home(to);
                    if vcpu.index == 0 {
                        node.mailboxes.be_due(to, vm.device_deadline());
                    }
                }
            });
        });
        let Ok(moved) = moved else { return false };
        host.trace(Kind::Moved, moved.vcpu.subject(), wanted.from.0.into(), wanted.to.0.into());
        // Who has the first vCPU looks after the VM's timers.
        if to != self.here && (moved.until.is_some() || moved.vcpu.index == 0) {
            host.kick(to);
        }
        true
    }

    /// Charges what ran, and says who runs next.
    pub(super) fn next<H: Host>(&self, host: &H) -> Decision {
        let scheduler = &self.node.scheduler;
        match scheduler.queue(self.here) {
            Some(mut queue) => queue.next(&scheduler.shared, ticks(host)),
            None => Decision::Idle { until: crate::schedule::Ticks::NEVER },
        }
    }

    /// Whether others wait for this CPU, or somebody has just been woken for it.
    pub(super) fn is_wanted(&self) -> bool {
        let queue = self.node.scheduler.queue(self.here);
        self.node.mailboxes.has_news(self.here) || queue.is_some_and(|queue| queue.is_contended())
    }

    /// Who should change the CPU.
    pub(super) fn balance<H: Host>(&self, host: &H) -> Option<Transfer> {
        let scheduler = &self.node.scheduler;
        scheduler.queue(self.here)?.balance(&scheduler.shared, ticks(host))
    }

    /// When the present run is to end.
    pub(super) fn end_of_run<H: Host>(&self, host: &H) -> Nanos {
        let until = self.node.scheduler.queue(self.here).and_then(|queue| queue.until());
        until.map_or(Nanos(0), |until| host.time_of(until.0))
    }

    /// The run has ended; its vCPU could go on, but `gives_way` where it has no use for its time: to that vCPU, or to any.
    pub(super) fn end_run<H: Host>(&self, host: &H, gives_way: Option<Option<VcpuId>>) {
        let (scheduler, now) = (&self.node.scheduler, ticks(host));
        let Some(mut queue) = scheduler.queue(self.here) else { return };
        if let Some(to) = gives_way {
            queue.yielded(&scheduler.shared, to, now);
        }
        queue.end_run(&scheduler.shared, now);
    }

    /// A vCPU of this CPU has nothing to do until it is woken or its timer is due. False where it was asleep already.
    pub(super) fn sleep<H: Host>(&mut self, host: &H, id: VcpuId, slot: &Slot<B>) -> bool {
        let scheduler = &self.node.scheduler;
        let Some(mut queue) = scheduler.queue(self.here) else { return false };
        let asleep = queue.sleep(&scheduler.shared, id, ticks(host)).is_ok();
        self.sleepers.add(id.vm.index(), id.index.into(), slot.deadline());
        asleep
    }

    /// When a timer next needs this CPU: one of a vCPU that sleeps here, or of a chipset that it looks after.
    pub(super) fn next_wake(&self) -> Nanos {
        self.sleepers.next().min(self.node.mailboxes.due(self.here))
    }
}
