//! What a user asks for at the console, carried out.

use core::fmt::{self, Write};

use vcpu::{Backend, Host};

use super::cpu::Cpu;
use super::lead::{Goodbye, Lead};
use crate::config::Size;
use crate::console::{Command, help};
use crate::report;
use crate::schedule::{self, CpuSet};
use crate::scheduler::ticks;
use crate::stop::StopReason;
use crate::vm::Vm;
use crate::vm::life::{Request, State};

impl Lead {
    /// Carries a command out, and answers on the console.
    pub(super) fn execute<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>, command: Command) {
        match command {
            Command::List => self.list(cpu),
            // The console has done it.
            Command::Console(_) => {}
            Command::Help => self.help(cpu),
            Command::Cpus => self.list_cpus(cpu),
            Command::Memory => {
                let free = cpu.node.backend.free_memory();
                self.answer(format_args!("{} KiB are free", free >> 10));
            }
            Command::End => self.end_all(cpu, Goodbye::User),
            Command::Start(vm) => self.ask(cpu, vm, Request::Start),
            Command::Stop(vm) => self.ask(cpu, vm, Request::Stop(StopReason::Ended)),
            Command::Reset(vm) => self.ask(cpu, vm, Request::Reset),
            Command::Pause(vm) => self.ask(cpu, vm, Request::Pause),
            Command::Resume(vm) => self.resume(cpu, vm),
            Command::Dump(vm) => self.dump(cpu, vm),
            Command::Size(vm, columns, rows) => self.resize(cpu, vm, (columns, rows)),
            Command::Balloon(vm, keeps) => self.balloon(cpu, vm, keeps),
            Command::Usage(vm) => self.tell_usage(cpu, vm),
            Command::PoolCpu(which, pool) => {
                let moved = cpu.node.scheduler.shared.move_cpu(which, pool);
                self.answer_change(moved, format_args!("CPU {} is in pool {}", which.0, pool.0));
                cpu.node.kick_all(cpu.host);
            }
            Command::Weight(vm, _)
            | Command::Cap(vm, _)
            | Command::Reservation(vm, _)
            | Command::Pin(vm, ..)
            | Command::Pool(vm, _) => self.change_share(cpu, vm, command),
            Command::Networks
            | Command::Network(..)
            | Command::Port(..)
            | Command::Rule(..)
            | Command::Mirror(..) => self.network(cpu, command),
        }
    }

    pub(super) fn answer(&mut self, text: fmt::Arguments<'_>) {
        // The console's voice takes everything.
        let _ = writeln!(self.console.voice(), "{text}");
    }

    fn help<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        let (lines, below) = help();
        for line in lines {
            self.answer(format_args!("{line}"));
            cpu.rota.look(cpu.host, "a line of the help");
        }
        self.answer(format_args!("{below}"));
    }

    fn answer_change(&mut self, result: Result<(), schedule::Error>, done: fmt::Arguments<'_>) {
        match result {
            Ok(()) => self.answer(done),
            Err(error) => self.answer(format_args!("nothing has changed: {error}")),
        }
    }

    fn ask<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>, vm: usize, request: Request) {
        let Some(vm) = cpu.node.places.get(vm) else { return };
        if vm.life.state() == State::Held && request == Request::Start && !vm.has_entry() {
            self.answer(format_args!("vm {} waits to be told where it begins", vm.name));
            return;
        }
        let asked = vm.ask(request, cpu.host);
        self.answer_asked(&vm, request, asked);
    }

    /// Tells what comes of what a VM was asked.
    fn answer_asked<B: Backend>(&mut self, vm: &Vm<'_, B>, request: Request, asked: bool) {
        let name = vm.name;
        if asked {
            if request == Request::Start {
                log::info!(
                    "vm {name}: starting with {} of memory, {} vCPUs",
                    Size(vm.config.memory),
                    vm.slots.len()
                );
            }
            self.answer(format_args!("vm {name}: {}", Doing(request)));
            return;
        }
        match vm.life.state() {
            State::Stopped(_) => self.answer(format_args!("vm {name} does not run; start {name} starts it")),
            State::Running => self.answer(format_args!("vm {name} runs already")),
            State::Held => self.answer(format_args!("vm {name} is held; start {name} lets it begin")),
            State::Paused => self.answer(format_args!("vm {name} is paused; resume {name} lets it go on")),
            _ => self.answer(format_args!("vm {name} is starting or ending; list shows when it is done")),
        }
    }

    fn resume<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>, vm: usize) {
        if let Some(vm) = cpu.node.places.get(vm) {
            let goes_on = cpu.node.go_on(cpu.host, &vm);
            self.answer_asked(&vm, Request::Resume, goes_on);
        }
    }

    fn resize<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        vm: usize,
        (columns, rows): (u16, u16),
    ) {
        let Some(vm) = cpu.node.places.get(vm) else { return };
        let name = vm.name;
        if vm.terminal.is_none() {
            self.answer(format_args!(
                "vm {name} has no virtio console: console=virtio in its line gives it one"
            ));
            return;
        }
        vm.virtio.resize(columns, rows);
        cpu.node.calls.insert(vm.number);
        self.answer(format_args!("vm {name}: its console has {columns} columns and {rows} rows"));
    }

    fn dump<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>, vm: usize) {
        let Some(vm) = cpu.node.places.get(vm) else { return };
        if vm.life.state() != State::Running {
            self.answer(format_args!("vm {} does not run", vm.name));
            return;
        }
        vm.slots.iter().for_each(crate::vm::slot::Slot::ask_for_dump);
        cpu.wake_all(&vm);
    }

    fn change_share<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        vm: usize,
        command: Command,
    ) {
        let Some(vm) = cpu.node.places.get(vm) else { return };
        let (shared, id, now) = (&cpu.node.scheduler.shared, vm.id, ticks(cpu.host));
        let changed = match command {
            Command::Weight(_, weight) => shared.set_weight(id, weight),
            Command::Cap(_, percent) => shared.set_cap(id, percent, now),
            Command::Reservation(_, percent) => shared.set_reservation(id, percent, now),
            Command::Pool(_, pool) => shared.set_pool(id, pool),
            Command::Pin(_, Some(vcpu), cpus) => shared.pin(vm.vcpu_id(vcpu.into()), cpus),
            Command::Pin(_, None, cpus) => {
                (0..vm.slots.len()).try_for_each(|index| shared.pin(vm.vcpu_id(index), cpus))
            }
            _ => Ok(()),
        };
        self.answer_change(changed, format_args!("vm {}: {}", vm.name, Share { vm: &vm, shared }));
        cpu.node.kick_all(cpu.host);
    }

    fn list<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        let _ = self.console.voice().write_str(report::HEAD);
        (self.listed, self.console.answers) = (Some(0), true);
        self.go_on_listing(cpu);
    }

    /// Lists more VMs, where a list is being told: as many as there is room for, and no more than there is time for in one look.
    pub(super) fn go_on_listing<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        let Some(first) = self.listed else { return };
        let node = cpu.node;
        for number in first..first + LINES_AT_ONCE {
            if number >= node.places.len() {
                (self.listed, self.console.answers) = (None, false);
                return;
            }
            if let Some(vm) = node.places.get(number) {
                let line = report::Line { vm: &vm, rate: self.rates.of(number) };
                if !self.row(cpu, format_args!("{line}")) {
                    return;
                }
            }
            self.listed = Some(number + 1);
        }
    }

    fn list_cpus<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        let node = cpu.node;
        let scheduler = &node.scheduler;
        for which in scheduler.shared.cpus().iter() {
            let number = usize::from(which.0);
            let here = |vm: &Vm<'_, B>| vm.slots.iter().filter(|slot| slot.home() == number).count() as u64;
            let (count, idle) = (node.places.sum(here), self.rates.idle(number));
            let pool = scheduler.shared.pool_of(which).0;
            let (percent, tenths) = (idle / 10, idle % 10);
            self.row(
                cpu,
                format_args!("CPU {number:>2}  pool {pool:>2}  idle {percent:>3}.{tenths} %  {count} vCPUs"),
            );
        }
    }
}

/// Lines of the list of VMs that are told in one look.
const LINES_AT_ONCE: usize = 32;

/// What a VM does next.
struct Doing(Request);

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Request::Start => "starting",
            Request::Reset => "restarting",
            Request::Stop(_) => "stopping",
            Request::Pause => "pausing",
            Request::Resume => "goes on",
        })
    }
}

/// A VM's share in words.
struct Share<'a, 'm, B: Backend> {
    vm: &'a Vm<'m, B>,
    shared: &'a schedule::Shared,
}

impl<B: Backend> fmt::Display for Share<'_, '_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(parameters) = self.shared.parameters(self.vm.id) else { return Ok(()) };
        write!(f, "weight {}, ", parameters.weight)?;
        match parameters.cap {
            0 => f.write_str("no cap")?,
            cap => write!(f, "cap {cap} %")?,
        }
        write!(f, ", reservation {} %, pool {}", parameters.reservation, parameters.pool.0)?;
        let vcpus = 0..self.vm.slots.len();
        let allowed = vcpus.filter_map(|index| self.shared.allowed(self.vm.vcpu_id(index)).ok());
        let all = allowed.fold(CpuSet::EMPTY, |all, one| CpuSet::from_bits(all.bits() | one.bits()));
        f.write_str(", on CPUs")?;
        all.iter().try_for_each(|cpu| write!(f, " {}", cpu.0))
    }
}
