//! One vCPU's turn: the hot loop, and the work that waits before an entry.

use devices::PowerEvent;
use vcpu::{Backend, Event, Host, Nanos, Vcpu};

use crate::dispatch::{Outcome, dispatch};
use crate::guest::Guest;
use crate::processor::{Activity, Attention};
use crate::stop::StopReason;
use crate::vm::advance_timers;

/// The host's one-shot timer, and what it is armed for.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostTimer {
    armed: Nanos,
}

impl Default for HostTimer {
    fn default() -> Self {
        Self { armed: Nanos::NEVER }
    }
}

impl HostTimer {
    /// Arms the timer where it is not armed for this already, and tells whether it was not.
    #[inline]
    pub(super) fn arm<H: Host>(&mut self, host: &mut H, deadline: Nanos) -> bool {
        let changed = self.armed != deadline;
        if changed {
            self.armed = deadline;
            host.set_timer(deadline);
        }
        changed
    }

    /// The host had an interrupt, perhaps the timer's: nobody knows whether it is still armed. (Not to be told from the
    /// time: a timer may fire a tick early.)
    #[inline]
    pub(super) fn forget(&mut self) {
        self.armed = Nanos::NEVER;
    }
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum SliceEnd {
    /// The time is up, or the vCPU waits for an interrupt.
    Over,
    /// The guest asked for a reset.
    Reset,
    /// The VM ended.
    Stopped(StopReason),
}

/// A turn.
pub(super) struct Slice<'a> {
    pub(super) end: Nanos,
    pub(super) timer: &'a mut HostTimer,
    /// Up to here all ticks are accounted for.
    pub(super) last_tsc: &'a mut u64,
}

impl Slice<'_> {
    /// Runs the guest until its turn is over. This is the hot loop: nothing here or in a hot exit's handler allocates,
    /// locks, logs or formats. Outcomes are applied here and nowhere else.
    pub(super) fn run<B: Backend, H: Host>(&mut self, guest: &mut Guest<'_, '_, B, H>) -> SliceEnd {
        guest.cpu.attention = Attention::all();
        loop {
            if !guest.cpu.attention.is_empty()
                && let Some(end) = self.attend(guest)
            {
                return end;
            }
            let entered = guest.host.tsc();
            let exit = guest.cpu.vcpu.run();
            let left = guest.host.tsc();
            let ticks = &mut guest.cpu.counters.ticks;
            ticks.root = ticks.root.wrapping_add(entered.wrapping_sub(*self.last_tsc));
            ticks.guest = ticks.guest.wrapping_add(left.wrapping_sub(entered));
            *self.last_tsc = left;
            match dispatch(guest, exit) {
                Outcome::Advance(next) => guest.cpu.vcpu.advance(next),
                Outcome::Resume => {}
                Outcome::Inject(event) => guest.cpu.inject(event),
                Outcome::Stop(reason) => return SliceEnd::Stopped(reason),
            }
        }
    }

    /// Does the work that waits before the next entry.
    fn attend<B: Backend, H: Host>(&mut self, guest: &mut Guest<'_, '_, B, H>) -> Option<SliceEnd> {
        let work = core::mem::replace(&mut guest.cpu.attention, Attention::empty());
        if work.intersects(Attention::DEVICES | Attention::HOST) {
            if let Some(end) = attend_devices(guest, work) {
                return Some(end);
            }
            if guest.board.chipset.is_busy() && !self.let_devices_work(guest) {
                return Some(SliceEnd::Over);
            }
        } else if work.contains(Attention::INPUT) {
            guest.feed_console();
        }
        if work.intersects(Attention::TIME | Attention::DEVICES | Attention::HOST) {
            let now = guest.host.now();
            self.attend_time(guest, work, now);
            if work.contains(Attention::HOST) && now >= self.end {
                return Some(SliceEnd::Over);
            }
        }
        if guest.cpu.apic.init_or_startup_pending() {
            // A start-up message means nothing to the processor that runs already.
            guest.cpu.apic.take_startup();
            if guest.cpu.apic.take_init() {
                return Some(SliceEnd::Reset);
            }
        }
        // What the devices have just raised is looked at here.
        guest.cpu.attention.remove(Attention::INTERRUPTS);
        deliver_interrupts(guest);
        (guest.cpu.activity != Activity::Running).then_some(SliceEnd::Over)
    }

    /// Carries out the work for which a device lets the guest wait, in bounded steps; false when the turn is over before, or
    /// has to end because the console has no room.
    #[cold]
    fn let_devices_work<B: Backend, H: Host>(&mut self, guest: &mut Guest<'_, '_, B, H>) -> bool {
        while guest.host.now() < self.end {
            guest.device_work();
            if !guest.board.chipset.is_busy() {
                return true;
            }
            if guest.board.chipset.console_stalls() {
                guest.board.waits_for_console = true;
                return false;
            }
        }
        false
    }

    /// Timers that are due fire; the host's timer is armed for the next one, or the end of the slice.
    #[inline]
    fn attend_time<B: Backend, H: Host>(
        &mut self,
        guest: &mut Guest<'_, '_, B, H>,
        work: Attention,
        now: Nanos,
    ) {
        if guest.cpu.deadline() <= now {
            guest.cpu.apic.advance(now);
        }
        if work.intersects(Attention::DEVICES | Attention::HOST) {
            guest.board.chipset_deadline = guest.board.chipset.next_deadline();
        }
        let deadline = guest.board.chipset_deadline;
        if deadline.is_some_and(|deadline| deadline <= now) {
            let (chipset, mut wiring) = guest.devices();
            let next = advance_timers(chipset, deadline, now, &mut wiring);
            guest.board.chipset_deadline = next;
        }
        if work.contains(Attention::HOST) {
            self.timer.forget();
        }
        let next = guest.board.chipset_deadline.unwrap_or(Nanos::NEVER).min(guest.cpu.deadline());
        let deadline = next.min(self.end);
        // A slice starts with a timer of which nothing is known, so the vCPU learns of each deadline.
        if self.timer.arm(guest.host, deadline) {
            guest.cpu.vcpu.set_run_deadline(guest.host.tsc_of(deadline));
        }
    }
}

/// What the guest asked of the machine, and console bytes in both directions.
#[inline]
fn attend_devices<B: Backend, H: Host>(guest: &mut Guest<'_, '_, B, H>, work: Attention) -> Option<SliceEnd> {
    match guest.board.chipset.take_power_event() {
        Some(PowerEvent::PowerOff) => return Some(SliceEnd::Stopped(StopReason::PowerOff)),
        Some(PowerEvent::Reset) => return Some(SliceEnd::Reset),
        Some(PowerEvent::DebugExit(value)) => {
            return Some(SliceEnd::Stopped(StopReason::DebugExit(value)));
        }
        None => {}
    }
    if work.contains(Attention::HOST) {
        guest.console.pump(guest.host);
    } else {
        guest.console.send(guest.host);
    }
    guest.feed_console();
    if guest.board.chipset.console_pending() && guest.console.has_room() {
        let (chipset, mut wiring) = guest.devices();
        chipset.flush_console(&mut wiring);
    }
    None
}

/// Injects what is pending, highest first: NMI, the local APIC's vector, the 8259s'. What cannot be injected now gets a
/// window.
fn deliver_interrupts<B: Backend, H: Host>(guest: &mut Guest<'_, '_, B, H>) {
    let cpu = &mut *guest.cpu;
    if cpu.apic.nmi_pending() {
        cpu.activity = Activity::Running;
        if cpu.vcpu.nmi_ready() {
            cpu.apic.take_nmi();
            cpu.inject(Event::Nmi);
        }
    }
    cpu.set_nmi_window(cpu.apic.nmi_pending());

    let chipset = &mut guest.board.chipset;
    let from_pic = cpu.apic.accepts_pic() && chipset.pic_interrupt();
    let mut waiting = from_pic || cpu.apic.pending_vector().is_some();
    if waiting {
        if cpu.activity == Activity::Halted {
            cpu.activity = Activity::Running;
        }
        if cpu.vcpu.interruptible() {
            let vector = match cpu.apic.pending_vector() {
                Some(vector) => {
                    cpu.apic.acknowledge(vector);
                    vector
                }
                None => chipset.pic_acknowledge(),
            };
            cpu.inject(Event::Interrupt { vector });
            waiting =
                cpu.apic.pending_vector().is_some() || cpu.apic.accepts_pic() && chipset.pic_interrupt();
        }
    }
    cpu.set_interrupt_window(waiting);
}

impl<B: Backend, H: Host> Guest<'_, '_, B, H> {
    /// Gives the guest's serial port what was typed, as much as it takes.
    pub(super) fn feed_console(&mut self) {
        let number = self.number;
        while let Some(byte) = self.console.input(number) {
            let (chipset, mut wiring) = self.devices();
            if !chipset.receive(byte, &mut wiring) {
                return;
            }
            self.console.input_taken(number);
        }
    }
}
