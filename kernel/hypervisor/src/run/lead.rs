//! What the first CPU does beside running vCPUs: the console, its keys, and the end of the machine.

use core::fmt;
use core::sync::atomic::Ordering::SeqCst;

use alloc::vec::Vec;

use vcpu::{Backend, Host, Nanos};

use super::Ended;
use super::cpu::Cpu;
use super::presence::Shown;
use super::rates::Rates;
use crate::channel::{Channel, DiskDesk};
use crate::config::End;
use crate::console::Console;
use crate::stop::StopReason;
use crate::vm::Vm;
use crate::vm::life::Request;

/// Between two looks at the console while nothing else happens.
const CONSOLE_POLL: Nanos = Nanos::from_millis(10);
/// The same while bytes wait to be shown.
const CONSOLE_DRAIN: Nanos = Nanos::from_millis(1);
/// Pieces of output that are moved in one look: a machine's serial port takes far less, that of an emulator any number.
const PIECES: usize = 6;
/// VMs whose lines are looked at before others get their turn.
const VMS_AT_ONCE: usize = 8;
/// How long the end waits for VMs to come to a halt, and then for the last bytes to be shown.
const FAREWELL: Nanos = Nanos::from_secs(2);
/// And then for the serial port's own buffer.
const LAST_BYTES: Nanos = Nanos::from_millis(20);

/// Who wants the machine's end, and which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Goodbye {
    /// The user, at the console.
    User,
    /// The management domain switches it off.
    Off,
    /// The management domain restarts it.
    Restart,
}

impl fmt::Display for Goodbye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "ended by the user",
            Self::Off => "switched off by the management domain",
            Self::Restart => "restarted by the management domain",
        })
    }
}

/// The first CPU's own affairs.
pub(super) struct Lead {
    pub(super) console: Console,
    pub(super) rates: Rates,
    end: End,
    /// All VMs have ended, and it was told.
    all_ended: bool,
    /// Somebody has asked for the end of the machine.
    goodbye: Option<Goodbye>,
    /// The machine ends by then at the latest.
    ending: Option<Nanos>,
    done: bool,
    /// Bytes wait to be shown.
    pending: bool,
    /// When to look again.
    next: Nanos,
    /// What it took until the first guest was entered was told.
    tells_bring_up: bool,
    /// The VM whose line of the list is next, while that is told.
    pub(super) listed: Option<usize>,
    /// To the management domain, where there is one.
    pub(super) channel: Option<Channel>,
    /// The same for disks that the domain serves.
    pub(super) disks: Option<Channel<DiskDesk>>,
    /// The domain has ended, and it was told.
    pub(super) domain_ended: bool,
    /// By their places; where there is none, there is no VM.
    pub(super) shown: Vec<Option<Shown>>,
}

impl Lead {
    /// For so many places as the console has, of whose VMs none is shown yet.
    pub(super) fn new(
        console: Console,
        end: End,
        rates: Rates,
        (channel, disks): (Option<Channel>, Option<Channel<DiskDesk>>),
    ) -> Self {
        let mut shown = Vec::new();
        shown.resize_with(console.places(), || None);
        Self {
            channel,
            disks,
            shown,
            console,
            rates,
            end,
            all_ended: false,
            goodbye: None,
            domain_ended: false,
            ending: None,
            done: false,
            pending: false,
            next: Nanos::ZERO,
            tells_bring_up: true,
            listed: None,
        }
    }

    /// Whether the machine is to be powered off.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// Whether somebody has asked for the machine's end.
    pub(super) const fn has_goodbye(&self) -> bool {
        self.goodbye.is_some()
    }

    /// When the console should be looked at again.
    pub(super) fn next_look(&self) -> Nanos {
        self.next
    }

    /// When it is time, looks at everything: bytes of guests, of the log, and keys; and whether the end has come.
    pub(super) fn look<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        self.serve_disks(cpu);
        let is_asked = self.channel.as_ref().is_some_and(Channel::is_asked);
        if cpu.host.now() < self.next && !is_asked && !cpu.node.changed.load(SeqCst) {
            return;
        }
        self.meet(cpu);
        cpu.rota.look(cpu.host, "VMs that come and go");
        if self.tells_bring_up
            && let Some(bring_up) = cpu.node.bring_up.get()
        {
            self.tells_bring_up = false;
            log::info!(target: "bring-up", "{bring_up}");
            cpu.rota.look(cpu.host, "the line of the bring-up");
        }
        let rota = &mut cpu.rota;
        self.rates.look(cpu.node, cpu.host, |host| rota.look(host, "a line of the times"));
        cpu.rota.look(cpu.host, "the lists' counters");
        for _ in 0..PIECES {
            self.serve_lines(cpu);
            cpu.rota.look(cpu.host, "serial lines");
            self.pending = self.console.pump(cpu.host) || cpu.node.places.any(Vm::has_output);
            cpu.rota.look(cpu.host, "the console's output");
            if !self.pending {
                break;
            }
        }
        while let Some(command) = self.console.read_keys(cpu.host) {
            self.execute(cpu, command);
        }
        self.go_on_listing(cpu);
        let talks = self.talk(cpu);
        self.heed_the_domain(cpu);
        self.look_for_the_end(cpu);
        let soon = talks || self.pending || self.listed.is_some() || !cpu.node.leaving.is_empty();
        self.next = cpu.host.now() + if soon { CONSOLE_DRAIN } else { CONSOLE_POLL };
    }

    /// Hands orders for disks to the management domain, and its answers back.
    #[inline]
    fn serve_disks<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        let Some(disks) = &mut self.disks else { return };
        if disks.is_asked() || !cpu.node.orders.is_empty() {
            disks.serve(cpu.node, cpu.host);
            cpu.rota.answer_calls(cpu.host);
        }
    }

    /// Bytes between the guests' serial ports and the console, both ways.
    fn serve_lines<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        let node = cpu.node;
        for (number, shown) in self.shown.iter_mut().enumerate() {
            let Some(shown) = shown else { continue };
            let Some(vm) = node.places.get(number) else { continue };
            if number > 0 && number.is_multiple_of(VMS_AT_ONCE) {
                cpu.rota.look(cpu.host, "serial lines of some VMs");
            }
            let (console, channel) = (&mut self.console, &mut self.channel);
            let mut show = |byte| {
                let is_shown = console.put(number, byte);
                if is_shown && let Some(channel) = channel {
                    channel.overhear(number, byte);
                }
                is_shown
            };
            vm.serial.drain(&mut show);
            if let Some(terminal) = &vm.terminal {
                terminal.drain(&mut show);
            }
            console.set_awake(number, vm.is_awake());
            if !vm.life.is_alive() {
                if !shown.end && !vm.has_output() {
                    shown.end = true;
                    self.console.end_guest(number);
                }
                continue;
            }
            shown.end = false;
            if vm.life.is_closed() {
                continue;
            }
            if vm.serial.take_refused() {
                let stalled = vm.console_stalls();
                cpu.rota.with_chipset(cpu.host, &vm, |chipset, wiring| chipset.flush_console(wiring));
                if stalled && !vm.console_stalls() {
                    cpu.wake_all(&vm);
                }
            }
            let line = vm.listening_line();
            while self.console.input(number).is_some_and(|byte| line.type_byte(byte)) {
                self.console.input_taken(number);
            }
            if let Some(terminal) = &vm.terminal
                && (terminal.take_refused() || terminal.is_opened() && terminal.has_input())
            {
                node.calls.insert(number);
            }
            if let Some(screen) = &mut shown.screen {
                screen.serve(&vm, &mut self.console, cpu.host.now());
            }
            if vm.serial.has_input() {
                // Using it feeds it.
                cpu.rota.with_chipset(cpu.host, &vm, |_, _| ());
            }
        }
        cpu.rota.answer_calls(cpu.host);
    }

    fn look_for_the_end<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        let late = self.ending.is_some_and(|until| cpu.host.now() >= until);
        let alive = cpu.node.places.any(|vm| vm.life.is_alive());
        if alive && !late {
            self.all_ended = false;
            return;
        }
        let unsaid = self.listed.is_some() || cpu.node.places.any(Vm::has_output);
        if unsaid && !late {
            // What they said at last is still on its way; nobody waits for it for ever.
            if self.ending.is_none() && self.end == End::PowerOff {
                self.ending = Some(cpu.host.now() + FAREWELL);
            }
            return;
        }
        if let Some(goodbye) = self.goodbye {
            log::info!("{goodbye}; goodbye");
            self.done = true;
        } else if !self.all_ended {
            self.all_ended = true;
            log::info!("{} KiB of memory are free again", cpu.node.backend.free_memory() >> 10);
            match self.end {
                End::PowerOff => {
                    log::info!("all VMs have ended; powering off");
                    self.done = true;
                }
                End::Console => log::info!("all VMs have ended; Ctrl-A x powers off"),
            }
        }
    }

    /// Everything ends. The first who wants that is obeyed.
    pub(super) fn end_all<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>, goodbye: Goodbye) {
        if self.goodbye.is_some() {
            return;
        }
        cpu.node.places.each(|vm| {
            vm.ask(Request::Stop(StopReason::Ended), cpu.host);
        });
        self.goodbye = Some(goodbye);
        self.ending = Some(cpu.host.now() + FAREWELL);
    }

    /// Shows what is left to show, then powers the machine off or restarts it.
    pub(super) fn leave<H: Host>(&mut self, host: &mut H) -> Ended {
        let give_up = host.now() + FAREWELL;
        while self.console.pump(host) && host.now() < give_up {
            wait(host, CONSOLE_DRAIN);
        }
        wait(host, LAST_BYTES);
        if self.goodbye == Some(Goodbye::Restart) {
            host.restart();
            log::error!("the machine cannot restart itself; switch it off and on");
        } else {
            host.power_off();
            log::error!("the machine cannot power itself off; switch it off now");
        }
        self.console.pump(host);
        Ended::PoweredOff
    }
}

fn wait<H: Host>(host: &mut H, span: Nanos) {
    let until = host.now() + span;
    host.set_timer(until);
    host.wait_for_interrupt();
}
