//! The machine as the hypervisor's CPU loop sees it: clock, timer, interrupts, console, power.
//!
//! The kernel runs with interrupts off; [`PcHost::poll_interrupts`] and [`PcHost::wait_for_interrupt`] are
//! the only places that let them in.

// UNSAFETY: switches interrupts on and off.
#![allow(unsafe_code)]

use core::arch::asm;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use trace::{EVENT_BYTES, Event, Kind, Subject, Taken};
use vcpu::{BringUp, Host, LogPlace, LogRead, Nanos};

use crate::apic::{ipi, local};
use crate::clock::{Clock, clock, tsc};
use crate::cpu::registry;
use crate::smp::EPOCHS;
use crate::{bring_up, cpu, fault, logger, power, screen, serial, watchdog};

/// A PC's CPU, its own: one for each CPU, which cannot leave it.
#[derive(Debug)]
pub struct PcHost {
    clock: &'static Clock,
    /// What the timer is set to; [`Nanos::NEVER`] where it is off.
    armed: Nanos,
    /// When this CPU next looks at others, where it watches some.
    next_watch: Nanos,
    stays_on_its_cpu: PhantomData<*const ()>,
}

impl PcHost {
    /// The calling CPU. `None` while its tables, the clock or the interrupt controllers are not up.
    pub fn new() -> Option<Self> {
        let clock = clock().filter(|_| cpu::is_started())?;
        let next_watch = Nanos::ZERO;
        Some(Self { clock, armed: Nanos::NEVER, next_watch, stays_on_its_cpu: PhantomData })
    }

    /// The CPU has nothing more to do, and halts: nobody waits for it to look for work, or to have seen what the others have changed.
    pub fn dismiss(self) -> ! {
        let _ = EPOCHS.leave(cpu::current());
        cpu::this().watched.rest();
        cpu::halt_forever()
    }

    /// After its interrupt the timer is off.
    #[inline]
    fn notice_timer(&mut self) {
        let fired = &cpu::this().timer_fired;
        if fired.load(Ordering::Relaxed) {
            fired.store(false, Ordering::Relaxed);
            self.armed = Nanos::NEVER;
        }
    }
}

impl Host for PcHost {
    #[inline]
    fn cpu(&self) -> usize {
        cpu::current()
    }

    #[inline]
    fn cpus(&self) -> usize {
        cpu::count()
    }

    fn kick(&mut self, cpu: usize) {
        let other = registry::get(cpu).filter(|other| other.number != cpu::current());
        if let Some(other) = other.filter(|other| !other.wake_line.call()) {
            ipi::send_kick(other.apic_id.load(Ordering::Relaxed));
        }
    }

    #[inline]
    fn tsc(&self) -> u64 {
        tsc()
    }

    #[inline]
    fn tsc_hz(&self) -> u64 {
        self.clock.tsc_hz()
    }

    fn bring_up(&self) -> BringUp {
        bring_up::so_far()
    }

    fn taken(&self) -> u64 {
        cpu::taken()
    }

    fn tsc_is_steady(&self) -> bool {
        self.clock.goes_by_tsc()
    }

    // Where it is asked does not matter so much as how often it stands there.
    #[inline(never)]
    fn now(&self) -> Nanos {
        self.clock.now()
    }

    #[inline]
    fn time_of(&self, tsc: u64) -> Nanos {
        self.clock.time_of(tsc)
    }

    #[inline]
    fn tsc_of(&self, time: Nanos) -> u64 {
        self.clock.tsc_of(time)
    }

    fn wall_clock_s(&self) -> u64 {
        self.clock.wall_clock_s(self.now())
    }

    fn set_wall_clock_s(&mut self, seconds: u64) {
        self.clock.set_wall_clock_s(seconds, self.now());
    }

    #[inline]
    fn set_timer(&mut self, deadline: Nanos) {
        self.notice_timer();
        if deadline == self.armed {
            return;
        }
        self.armed = deadline;
        if deadline == Nanos::NEVER {
            local::disarm();
        } else {
            local::arm(tsc(), self.clock.tsc_of(deadline));
        }
    }

    #[inline]
    fn poll_interrupts(&mut self) {
        // SAFETY: no lock is held here, and every vector has a handler or does nothing. STI holds
        // interrupts back for one instruction, so there must be one between.
        unsafe { asm!("sti", "nop", "cli", options(nostack)) };
        self.notice_timer();
    }

    #[inline]
    fn beat(&mut self) {
        cpu::this().watched.beat();
        watchdog::tell_strays();
        // How many CPUs there are is known late.
        let Some(period) = watchdog::period() else { return };
        let now = self.now();
        if now >= self.next_watch {
            self.next_watch = now + Nanos(period);
            watchdog::look();
        }
    }

    #[inline]
    fn next_watch(&self) -> Nanos {
        if watchdog::period().is_some() { self.next_watch } else { Nanos::NEVER }
    }

    fn wait_for_interrupt(&mut self) {
        if screen::refresh() {
            // More is to be drawn: the caller looks for work and comes again.
            return self.poll_interrupts();
        }
        fault::when_idle();
        let number = cpu::current();
        let away = EPOCHS.leave(number);
        cpu::this().watched.rest();
        cpu::wait_for_interrupt();
        cpu::this().watched.beat();
        EPOCHS.come_back(number, away);
        self.notice_timer();
    }

    #[inline]
    fn must_forget_guests(&self) -> bool {
        EPOCHS.is_behind(cpu::current())
    }

    fn forget_guests(&mut self) {
        EPOCHS.pass(cpu::current(), cpu::forget_guests);
    }

    fn console_read(&mut self) -> Option<u8> {
        serial::read()
    }

    fn console_write(&mut self, bytes: &[u8]) -> usize {
        serial::write(bytes)
    }

    fn log_read(&mut self, buffer: &mut [u8]) -> usize {
        screen::refresh();
        logger::read(buffer)
    }

    fn log_read_shown(&mut self, buffer: &mut [u8]) -> usize {
        logger::read_shown(buffer)
    }

    fn log_read_at(&mut self, place: &mut LogPlace, buffer: &mut [u8]) -> LogRead {
        logger::read_at(place, buffer)
    }

    // Where it is asked does not matter so much as how often it stands there.
    #[inline(never)]
    fn trace(&self, kind: Kind, subject: Subject, first: u64, second: u64) {
        cpu::this().trace.record(Event::new(tsc(), kind, subject, first, second));
    }

    fn trace_read(&self, cpu: usize, from: u64, to: &mut [[u8; EVENT_BYTES]]) -> Option<Taken> {
        registry::get(cpu).map(|cpu| cpu.trace.read(from, to))
    }

    fn power_off(&mut self) {
        power::power_off();
    }

    fn restart(&mut self) {
        power::restart();
    }
}
