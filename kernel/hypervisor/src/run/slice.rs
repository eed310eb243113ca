//! One vCPU's turn: the hot loop, and the work that waits before an entry.

use vcpu::{ApicAssists, Backend, Event, GuestMemory, Host, Nanos, Vcpu};
use virtio::Progress;

use super::rota::Rota;
use crate::dispatch::{Outcome, dispatch};
use crate::guest::Guest;
use crate::processor::{Activity, Attention, Processor};
use crate::report;
use crate::stop::StopReason;
use crate::vm::Vm;

/// Why a turn ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum SliceEnd {
    /// The time is up; it could go on.
    Over,
    /// It spins, or waits for a vCPU of its VM: that one, or others, may use the time better.
    GivesWay(Option<usize>),
    /// It waits for an interrupt.
    Waiting,
    /// Its VM comes to a halt.
    Halting,
    /// The guest has reset its first processor: the whole VM starts over.
    Reset,
    /// The VM ends.
    Stopped(StopReason),
}

/// A turn.
pub(super) struct Slice<'a, 'n, 'm, B: Backend> {
    pub(super) end: Nanos,
    /// When this CPU has something else to do for a moment.
    pub(super) others: Nanos,
    /// What the vCPU has been told of when its run ends at the latest; [`Nanos::NEVER`] where that is nothing.
    pub(super) told: Nanos,
    /// What else this CPU has to look after.
    pub(super) rota: &'a mut Rota<'n, 'm, B>,
}

impl<'m, B: Backend> Slice<'_, '_, 'm, B> {
    /// Runs the guest until its turn is over. This is the hot loop: nothing here or in a hot exit's handler allocates,
    /// logs or formats, and no lock is taken but the chipset's for an access to it. Outcomes are applied here and nowhere
    /// else.
    pub(super) fn run<V: Vcpu, H: Host>(&mut self, guest: &mut Guest<'_, 'm, B, V, H>) -> SliceEnd {
        guest.cpu.attention = Attention::all();
        if let Some(at) = guest.cpu.comes.take()
            && let Some(end) = self.bring_back(guest, at)
        {
            return end;
        }
        loop {
            let work = guest.cpu.attention;
            if !work.is_empty()
                && (work != Attention::INTERRUPTS || !deliver_own_interrupts(guest))
                && let Some(end) = self.attend(guest)
            {
                // Who has been told of something for its devices while the rest was looked at does not sleep yet.
                let is_told = self.has_devices_to_serve(guest);
                if matches!(end, SliceEnd::Waiting) && (is_told || self.waits_awhile(guest)) {
                    guest.cpu.attention = Attention::all();
                    continue;
                }
                return end;
            }
            let entered = guest.host.tsc();
            self.rota.stretch.ends(entered, "between an exit and an entry", guest.host);
            let exit = guest.vcpu.run();
            let left = guest.host.tsc();
            self.rota.stretch.begins_with(left, exit);
            let guest_ticks = &mut guest.cpu.counters.ticks.guest;
            *guest_ticks = guest_ticks.wrapping_add(left.wrapping_sub(entered));
            if guest.cpu.paravirtual.eoi.is_armed() {
                guest.cpu.take_private_end(guest.vcpu, guest.space);
            }
            if let Some(outcome) = dispatch(guest, exit)
                && let Some(end) = self.apply(guest, outcome)
            {
                return end;
            }
        }
    }

    /// Does the work that waits before the next entry.
    #[inline(never)]
    fn attend<V: Vcpu, H: Host>(&mut self, guest: &mut Guest<'_, 'm, B, V, H>) -> Option<SliceEnd> {
        guest.vcpu.note_other_work();
        let mut work = core::mem::replace(&mut guest.cpu.attention, Attention::empty());
        if work.contains(Attention::HOST) {
            if guest.vm.life.is_closed() {
                return Some(SliceEnd::Halting);
            }
            if guest.host.must_forget_guests() {
                return Some(SliceEnd::Over);
            }
            self.rota.serve(guest.host);
            // Where a balloon was reset in the middle of a request, nobody else goes on with that.
            guest.space.settle();
            self.end = self.rota.end_of_run(guest.host);
            if let Some(slot) = guest.vm.slots.get(guest.cpu.index) {
                guest.cpu.take_in(guest.vcpu, &slot.inbox);
                if slot.takes_dump() {
                    report::asked_for(&mut guest.any(), &mut |host| self.rota.look(host, "a dump"));
                }
            }
        }
        if work.contains(Attention::INBOX)
            && let Some(slot) = guest.vm.slots.get(guest.cpu.index)
        {
            guest.cpu.take_in(guest.vcpu, &slot.inbox);
        }
        if let Some(end) = self.attend_devices(guest, &mut work) {
            return Some(end);
        }
        // Devices and timers have been at work since the inbox was looked at.
        if guest.cpu.attention.contains(Attention::INBOX)
            && let Some(slot) = guest.vm.slots.get(guest.cpu.index)
        {
            guest.cpu.attention.remove(Attention::INBOX);
            guest.cpu.take_in(guest.vcpu, &slot.inbox);
        }
        if is_settled(guest.cpu, work) {
            return None;
        }
        if guest.cpu.apic.init_or_startup_pending() && attend_start(guest) {
            return Some(SliceEnd::Reset);
        }
        let mut waiting = false;
        if guest.cpu.activity != Activity::WaitForStartup {
            waiting = deliver_interrupts(guest);
            guest.cpu.end_halt_if_told();
        }
        if guest.cpu.activity != Activity::Running {
            return Some(SliceEnd::Waiting);
        }
        guest.cpu.offer_private_end(guest.space);
        guest.cpu.give_apic(guest.vcpu, waiting);
        None
    }

    /// Devices do what there is to do, and timers that are due fire; until no device's time has come in the meantime. Else a guest that sleeps would not wake
    /// for that.
    #[inline]
    fn attend_devices<V: Vcpu, H: Host>(
        &mut self,
        guest: &mut Guest<'_, 'm, B, V, H>,
        work: &mut Attention,
    ) -> Option<SliceEnd> {
        loop {
            if work.intersects(Attention::DEVICES | Attention::HOST) {
                if guest.vm.is_busy()
                    && let Some(end) = self.let_devices_work(guest)
                {
                    return Some(end);
                }
                if guest.vm.virtio.is_rung() {
                    if let Some(end) = self.serve_queues(guest) {
                        return Some(end);
                    }
                    // The looks in between were at the timer, too.
                    *work |= Attention::HOST;
                }
            }
            if work.intersects(Attention::TIME | Attention::DEVICES | Attention::HOST) {
                let now = guest.host.now();
                self.attend_time(guest, *work, now);
                if work.contains(Attention::HOST) && now >= self.end {
                    return Some(SliceEnd::Over);
                }
            }
            if !self.has_devices_to_serve(guest) {
                return None;
            }
            guest.cpu.attention.remove(Attention::DEVICES);
            *work |= Attention::DEVICES;
            if let Some(end) = self.look(guest, "a device's time") {
                return Some(end);
            }
        }
    }

    /// Whether the guest was told of something for its devices since the last look.
    #[inline]
    fn has_devices_to_serve<V: Vcpu, H: Host>(&self, guest: &Guest<'_, 'm, B, V, H>) -> bool {
        guest.cpu.attention.contains(Attention::DEVICES) && guest.vm.virtio.is_rung()
    }

    /// Waits for a vCPU that has just halted and used to be woken soon. True where there is something for it.
    fn waits_awhile<V: Vcpu, H: Host>(&mut self, guest: &mut Guest<'_, 'm, B, V, H>) -> bool {
        let cpu = &guest.cpu;
        let halted = matches!(cpu.activity, Activity::Halted | Activity::HaltedMasked);
        if !halted || !cpu.paravirtual.polls || cpu.patience.span() == Nanos::ZERO || self.rota.is_wanted() {
            return false;
        }
        let Some(slot) = guest.vm.slots.get(guest.cpu.index) else { return false };
        let until = (guest.host.now() + guest.cpu.patience.span()).min(self.end);
        loop {
            guest.host.poll_interrupts();
            let now = guest.host.now();
            let due = guest.cpu.deadline().min(guest.vm.device_deadline());
            if !slot.inbox.is_empty() || guest.vm.life.is_closed() || due <= now {
                return true;
            }
            if now >= until || self.rota.is_wanted() {
                return false;
            }
        }
    }

    /// Carries out the work for which a device lets the guest wait, in bounded steps, until the turn is over or the console
    /// has no room.
    #[cold]
    fn let_devices_work<V: Vcpu, H: Host>(&mut self, guest: &mut Guest<'_, 'm, B, V, H>) -> Option<SliceEnd> {
        let vm = guest.vm;
        while vm.is_busy() {
            if guest.host.now() >= self.end {
                return Some(SliceEnd::Over);
            }
            vm.device_work(guest.space, &mut guest.wiring());
            if vm.console_stalls() {
                return Some(SliceEnd::Waiting);
            }
        }
        None
    }

    /// Serves the queues of virtio devices, in bounded steps, until they are empty or the turn is over. What is left then is for
    /// the VM's next turn. Of a queue that another CPU is at, that CPU takes care: devices that have nothing else to do are passed over.
    #[cold]
    fn serve_queues<V: Vcpu, H: Host>(&mut self, guest: &mut Guest<'_, 'm, B, V, H>) -> Option<SliceEnd> {
        let vm = guest.vm;
        let others = self.rota.others();
        let mut passed_over = 0;
        while let Some(progress) = vm.queue_work(guest.space, &mut guest.wiring(), &others) {
            passed_over = if progress == Progress::More { 0 } else { passed_over + 1 };
            if passed_over == vm.virtio.len() || !vm.virtio.is_rung() {
                break;
            }
            if let Some(end) = self.look(guest, "a step of a queue") {
                return Some(end);
            }
        }
        // Whom the last step has woken here runs in its turn, which may be before this one's end.
        if self.rota.serve_woken(guest.host) {
            self.end = self.rota.end_of_run(guest.host);
        }
        None
    }

    /// Does what an exit leaves to do. What ends the turn then.
    #[inline(never)]
    fn apply<V: Vcpu, H: Host>(
        &mut self,
        guest: &mut Guest<'_, 'm, B, V, H>,
        outcome: Outcome,
    ) -> Option<SliceEnd> {
        match outcome {
            Outcome::Advance(next) => guest.vcpu.advance(next),
            Outcome::Resume => {}
            Outcome::Inject(event) => guest.cpu.inject(guest.vcpu, event),
            Outcome::GiveWay { next, to } => {
                guest.vcpu.advance(next);
                return Some(SliceEnd::GivesWay(to));
            }
            Outcome::BringBack(gpa) => return self.bring_back(guest, gpa),
            Outcome::Stop(reason) => return Some(SliceEnd::Stopped(reason)),
        }
        None
    }

    /// Looks for other work between two pieces of what devices do. What ends the turn then.
    pub(super) fn look<V: Vcpu, H: Host>(
        &mut self,
        guest: &mut Guest<'_, 'm, B, V, H>,
        what: &str,
    ) -> Option<SliceEnd> {
        self.rota.look(guest.host, what);
        if guest.vm.life.is_closed() {
            return Some(SliceEnd::Halting);
        }
        let is_over = guest.host.now() >= self.end || guest.host.must_forget_guests();
        is_over.then_some(SliceEnd::Over)
    }

    /// Timers that are due fire; the host's timer is armed for the next one, or the end of the slice.
    #[inline]
    fn attend_time<V: Vcpu, H: Host>(
        &mut self,
        guest: &mut Guest<'_, 'm, B, V, H>,
        work: Attention,
        now: Nanos,
    ) {
        if guest.cpu.deadline() <= now {
            guest.cpu.fire_timer(guest.vcpu, now);
        }
        if work.contains(Attention::HOST) {
            self.told = Nanos::NEVER;
            self.others = self.rota.next_wake();
        }
        let mut next = guest.cpu.deadline().min(self.end).min(self.others);
        if guest.vm.home() == guest.host.cpu() {
            let vm = guest.vm;
            if vm.device_deadline() <= now && vm.advance_devices(now, &mut guest.wiring()) {
                guest.cpu.attention |= Attention::DEVICES;
            }
            next = next.min(vm.device_deadline());
        }
        guest.host.set_timer(next);
        if self.told != next {
            self.told = next;
            guest.vcpu.set_run_deadline(guest.host.tsc_of(next));
        }
    }
}

/// Whether the CPU has the state of the vCPU's interrupts still, and nothing has come up that it does not know of.
#[inline]
fn is_settled(cpu: &Processor, work: Attention) -> bool {
    let news = (work | cpu.attention).contains(Attention::INTERRUPTS);
    cpu.apic_given && !news && cpu.activity == Activity::Running
}

/// INIT and start-up messages. True where the VM's first processor got an INIT: the machine starts over.
#[cold]
fn attend_start<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>) -> bool {
    let (vcpu, cpu) = (&mut *guest.vcpu, &mut *guest.cpu);
    cpu.take_apic(vcpu);
    if cpu.apic.take_init() {
        if cpu.is_bootstrap() {
            return true;
        }
        cpu.init(vcpu);
        if let Some(slot) = guest.vm.slots.get(cpu.index) {
            slot.inbox.publish(&cpu.apic);
        }
    }
    // To a processor that runs already, a start-up message means nothing.
    if let Some(page) = cpu.apic.take_startup()
        && cpu.activity == Activity::WaitForStartup
    {
        cpu.start_at(vcpu, page);
    }
    false
}

/// What [`Slice::attend`] does where there is nothing to see to but the local APIC's vectors, which is most often so. False where there is more.
#[inline(never)]
fn deliver_own_interrupts<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>) -> bool {
    let (vcpu, cpu) = (&mut *guest.vcpu, &mut *guest.cpu);
    if cpu.activity != Activity::Running || cpu.has_other_events() || guest.vm.pic_interrupt() {
        return false;
    }
    cpu.take_apic(vcpu);
    let mut vector = cpu.apic.pending_vector();
    if let Some(found) = vector
        && !cpu.apic_assists.contains(ApicAssists::DELIVERY)
        && vcpu.interruptible()
    {
        cpu.apic.acknowledge(found);
        cpu.inject(vcpu, Event::Interrupt { vector: found });
        vector = cpu.apic.pending_vector();
    }
    cpu.attention = Attention::empty();
    let by_cpu = cpu.apic_assists.intersects(ApicAssists::DELIVERY | ApicAssists::OFFER);
    cpu.set_interrupt_window(vcpu, vector.is_some() && !by_cpu);
    cpu.offer_private_end(guest.space);
    cpu.give_apic(vcpu, vector.is_some());
    true
}

/// Injects what is pending, highest first: NMI, the local APIC's vector, the 8259s'. What cannot be injected now gets a
/// window. Where the CPU delivers what the local APIC has, that is left to it. Returns whether the local APIC has something
/// that could not be injected.
fn deliver_interrupts<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>) -> bool {
    let (vcpu, cpu) = (&mut *guest.vcpu, &mut *guest.cpu);
    cpu.take_apic(vcpu);
    if cpu.apic.nmi_pending() {
        cpu.activity = Activity::Running;
        if vcpu.nmi_ready() {
            cpu.apic.take_nmi();
            cpu.inject(vcpu, Event::Nmi);
        }
    }
    cpu.set_nmi_window(vcpu, cpu.apic.nmi_pending());

    // The 8259s' output is wired to the first processor.
    let wired = cpu.is_bootstrap();
    let from_pic = |cpu: &Processor, vm: &Vm<'_, B>| vm.pic_interrupt() && wired && cpu.apic.accepts_pic();
    let (mut own, mut pic) = (cpu.apic.pending_vector(), from_pic(cpu, guest.vm));
    if own.is_some() || pic {
        if cpu.activity == Activity::Halted {
            cpu.activity = Activity::Running;
        }
        let injected = if cpu.apic_assists.contains(ApicAssists::DELIVERY) { None } else { own };
        if (injected.is_some() || pic) && vcpu.interruptible() {
            let vector = match injected {
                Some(vector) => {
                    cpu.apic.acknowledge(vector);
                    vector
                }
                None => guest.with_chipset(|chipset, _| chipset.pic_acknowledge()),
            };
            let (vcpu, cpu) = (&mut *guest.vcpu, &mut *guest.cpu);
            cpu.inject(vcpu, Event::Interrupt { vector });
            (own, pic) = (cpu.apic.pending_vector(), from_pic(cpu, guest.vm));
        }
    }
    // What all this has changed was looked at here.
    let (vcpu, cpu) = (&mut *guest.vcpu, &mut *guest.cpu);
    cpu.attention.remove(Attention::INTERRUPTS);
    let by_cpu = cpu.apic_assists.intersects(ApicAssists::DELIVERY | ApicAssists::OFFER);
    cpu.set_interrupt_window(vcpu, pic || own.is_some() && !by_cpu);
    own.is_some()
}
