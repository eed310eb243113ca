//! The loop of a CPU: pick a vCPU, let it run for a slice, look at the console, wait where nobody can run.
//!
//! Interrupts are off in here; the host's timer is the only thing that ends a guest's run from outside.

mod slice;

use core::fmt::Write;

use alloc::vec::Vec;

use vcpu::{Backend, Host, Nanos, Vcpu};

use crate::config::{self, End, MAX_VMS, Module, Options, Size};
use crate::console::{Command, Console};
use crate::guest::Guest;
use crate::processor::Activity;
use crate::report;
use crate::schedule::{RoundRobin, SHORTEST_SLICE, SLICE};
use crate::stop::StopReason;
use crate::vm::{State, Vm, advance_timers};
use slice::{HostTimer, Slice, SliceEnd};

/// Between two looks at the console while nothing else happens.
const CONSOLE_POLL: Nanos = SLICE;
/// The same while bytes wait to be shown.
const CONSOLE_DRAIN: Nanos = Nanos::from_millis(1);
/// How long the end waits for the last bytes to be shown.
const FAREWELL: Nanos = Nanos::from_secs(2);
/// And then for the serial port's own buffer.
const LAST_BYTES: Nanos = Nanos::from_millis(20);

/// How everything ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The machine was told to power off, and did not: only tests see this.
    PoweredOff,
}

/// Makes the VMs that the modules describe and runs them until all have ended.
pub fn start<B: Backend, H: Host>(
    backend: &B,
    host: &mut H,
    modules: &[Module<'_>],
    options: &Options<'_>,
) -> Ended {
    emulator::prepare();
    let configs = config::collect(modules, |error| log::error!("{error}"));
    let mut vms = Vec::with_capacity(MAX_VMS);
    for config in configs {
        let (name, memory) = (config.name, Size(config.memory));
        match Vm::new(backend, host, config) {
            Ok(vm) => {
                log::info!("vm {name}: starting with {memory} of memory");
                vms.push(vm);
            }
            Err(error) => log::error!("vm {name}: not started: {error}"),
        }
    }
    let mut console = Console::new(vms.iter().map(|vm: &Vm<'_, B>| vm.config.name), options.view);
    console.remember(host);
    log::info!("console ready, {} VMs; Ctrl-A h helps", vms.len());
    let last_tsc = host.tsc();
    Hypervisor {
        host,
        vms,
        console,
        turns: RoundRobin::default(),
        timer: HostTimer::default(),
        loaded: None,
        last_tsc,
        end: options.end,
        all_ended: false,
    }
    .run()
}

/// Everything that one CPU runs.
struct Hypervisor<'h, 'm, B: Backend, H: Host> {
    host: &'h mut H,
    vms: Vec<Vm<'m, B>>,
    console: Console<'m>,
    turns: RoundRobin,
    timer: HostTimer,
    /// The VM whose vCPU is loaded.
    loaded: Option<usize>,
    /// Up to here all ticks are accounted for.
    last_tsc: u64,
    end: End,
    all_ended: bool,
}

impl<'m, B: Backend, H: Host> Hypervisor<'_, 'm, B, H> {
    fn run(&mut self) -> Ended {
        loop {
            self.console.pump(self.host);
            while let Some(command) = self.console.read_keys(self.host) {
                match command {
                    Command::List => self.list(),
                    Command::End => {
                        self.end_all();
                        return self.power_off();
                    }
                }
            }
            self.serve_devices();
            let vms = &self.vms;
            let runnable = |index: usize| vms.get(index).is_some_and(Vm::is_runnable);
            if let Some(next) = self.turns.next(vms.len(), runnable) {
                self.switch_to(next);
                self.run_slice(next);
                continue;
            }
            if !self.all_ended && !vms.iter().any(Vm::is_alive) {
                self.all_ended = true;
                match self.end {
                    End::PowerOff => {
                        log::info!("all VMs have ended; powering off");
                        return self.power_off();
                    }
                    End::Console => log::info!("all VMs have ended; Ctrl-A x powers off"),
                }
            }
            self.idle();
        }
    }

    /// Timers that are due and console bytes of every VM; wakes those that wait for them.
    fn serve_devices(&mut self) {
        let now = self.host.now();
        let refused = self.console.take_refused();
        for index in 0..self.vms.len() {
            let Some(mut guest) = self.guest(index) else { continue };
            if guest.cpu.apic.next_deadline().is_some_and(|deadline| deadline <= now) {
                guest.cpu.apic.advance(now);
            }
            let (chipset, mut wiring) = guest.devices();
            advance_timers(chipset, chipset.next_deadline(), now, &mut wiring);
            if refused >> index & 1 != 0 {
                chipset.flush_console(&mut wiring);
                guest.board.waits_for_console = guest.board.chipset.console_stalls();
            }
            guest.feed_console();
            guest.show_screen(now);
            let Some(vm) = self.vms.get_mut(index) else { continue };
            vm.wake();
        }
    }

    /// A VM that has not ended, with everything around it.
    fn guest(&mut self, index: usize) -> Option<Guest<'_, 'm, B, H>> {
        let vm = self.vms.get_mut(index).filter(|vm| vm.is_alive())?;
        Some(Guest {
            cpu: &mut vm.cpu,
            board: &mut vm.board,
            console: &mut self.console,
            host: self.host,
            name: vm.config.name,
            number: index,
        })
    }

    fn switch_to(&mut self, next: usize) {
        if self.loaded == Some(next) {
            return;
        }
        self.unload();
        if let Some(vm) = self.vms.get_mut(next) {
            vm.cpu.vcpu.load();
            self.loaded = Some(next);
        }
    }

    fn unload(&mut self) {
        if let Some(vm) = self.loaded.take().and_then(|index| self.vms.get_mut(index)) {
            vm.cpu.vcpu.unload();
        }
    }

    fn run_slice(&mut self, index: usize) {
        let start = self.host.now();
        let others = self.vms.iter().enumerate().filter(|(other, _)| *other != index);
        let wake = others.map(|(_, vm)| vm.deadline()).min().unwrap_or(Nanos::NEVER);
        let end = (start + SLICE).min(wake.max(start + SHORTEST_SLICE));
        if let Some(vm) = self.vms.get_mut(index)
            && let State::Resetting(scrub) = vm.state
        {
            self.go_on_resetting(index, scrub, end);
            return;
        }
        let (mut timer, mut last_tsc) = (self.timer, self.last_tsc);
        let Some(mut guest) = self.guest(index) else { return };
        let outcome = Slice { end, timer: &mut timer, last_tsc: &mut last_tsc }.run(&mut guest);
        (self.timer, self.last_tsc) = (timer, last_tsc);
        match outcome {
            SliceEnd::Over => {}
            SliceEnd::Reset => {
                if let Some(vm) = self.vms.get_mut(index) {
                    log::info!("vm {}: restarting", vm.config.name);
                    vm.reset();
                }
            }
            SliceEnd::Stopped(reason) => self.stop(index, reason),
        }
    }

    /// Clears memory in small steps until the slice is over, then loads the kernel.
    fn go_on_resetting(&mut self, index: usize, mut scrub: crate::vm::Scrub, end: Nanos) {
        let Some(vm) = self.vms.get_mut(index) else { return };
        loop {
            match vm.reset_step(&mut scrub, self.host) {
                Ok(true) => {
                    log::info!("vm {}: restarted", vm.config.name);
                    return;
                }
                Ok(false) if self.host.now() < end => {}
                Ok(false) => {
                    vm.state = State::Resetting(scrub);
                    return;
                }
                Err(error) => {
                    log::error!("vm {}: not restarted: {error}", vm.config.name);
                    self.stop(index, StopReason::ReloadFailed);
                    return;
                }
            }
        }
    }

    /// Ends a VM; its vCPU is loaded.
    fn stop(&mut self, index: usize, reason: StopReason) {
        // Who watches this VM sees its last bytes, then why it ended.
        // First back to the view of all: who watched this VM alone wants to see why it ended.
        self.console.end_guest(index);
        self.console.pump(self.host);
        if let Some(guest) = self.guest(index) {
            report::stopped(&guest, reason);
        }
        if let Some(vm) = self.vms.get_mut(index) {
            vm.state = State::Stopped(reason);
        }
        self.unload();
    }

    /// Waits until a timer of a VM is due or the console should be looked at.
    fn idle(&mut self) {
        let poll = if self.console.pump(self.host) { CONSOLE_DRAIN } else { CONSOLE_POLL };
        let deadline = self.vms.iter().map(Vm::deadline).min().unwrap_or(Nanos::NEVER);
        self.timer.arm(self.host, deadline.min(self.host.now() + poll));
        let before = self.host.tsc();
        self.account_root(before);
        self.host.wait_for_interrupt();
        let after = self.host.tsc();
        for vm in &mut self.vms {
            if vm.is_alive() && vm.cpu.activity != Activity::Running {
                vm.cpu.counters.ticks.idle += after.wrapping_sub(before);
            }
        }
        self.last_tsc = after;
        self.timer.forget();
    }

    /// The time since the last accounting was spent for the VM that ran last.
    fn account_root(&mut self, now: u64) {
        if let Some(vm) = self.loaded.and_then(|index| self.vms.get_mut(index)) {
            vm.cpu.counters.ticks.root += now.wrapping_sub(self.last_tsc);
        }
        self.last_tsc = now;
    }

    fn list(&mut self) {
        let mut voice = self.console.voice();
        for (number, vm) in self.vms.iter().enumerate() {
            // The console's voice takes everything.
            let _ = write!(voice, "{}", report::Line { number, vm });
        }
    }

    /// The user ends everything.
    fn end_all(&mut self) {
        for index in 0..self.vms.len() {
            if self.vms.get(index).is_some_and(Vm::is_alive) {
                self.switch_to(index);
                self.stop(index, StopReason::Ended);
            }
        }
        log::info!("ended by the user; goodbye");
    }

    /// Shows what is left to show, then powers the machine off.
    fn power_off(&mut self) -> Ended {
        self.unload();
        let give_up = self.host.now() + FAREWELL;
        while self.console.pump(self.host) && self.host.now() < give_up {
            self.wait(CONSOLE_DRAIN);
        }
        self.wait(LAST_BYTES);
        self.host.power_off();
        log::error!("the machine cannot power itself off; switch it off now");
        self.console.pump(self.host);
        Ended::PoweredOff
    }

    fn wait(&mut self, span: Nanos) {
        let until = self.host.now() + span;
        self.timer.arm(self.host, until);
        self.host.wait_for_interrupt();
        self.timer.forget();
    }
}
