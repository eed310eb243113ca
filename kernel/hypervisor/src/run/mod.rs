//! The VMs of a machine, and the CPUs that run them. `docs/smp.md` tells how they share.
//!
//! Interrupts are off in here; the host's timer and kicks by other CPUs are the only things that end a guest's run from
//! outside.

mod cpu;
mod lead;
mod queue;
mod slice;

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use alloc::vec::Vec;

use vcpu::{Backend, Host};

use crate::config::{self, End, MAX_VMS, Module, Options, Size};
use crate::console::Console;
use crate::mailbox::Mailboxes;
use crate::vm::Vm;
use cpu::Cpu;
use lead::Lead;
pub(crate) use queue::SLICE;

/// How everything ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The machine was told to power off, and did not: only tests see this.
    PoweredOff,
    /// The CPU has nothing more to do: the first one ends the machine.
    Dismissed,
}

/// The VMs, and what CPUs share. Made by the first CPU; all of them then [`run`](Self::run) it.
pub struct Node<'m, B: Backend> {
    vms: Vec<Vm<'m, B>>,
    mailboxes: Mailboxes,
    options: NodeOptions<'m>,
    ended: AtomicBool,
}

struct NodeOptions<'m> {
    end: End,
    view: config::FirstView<'m>,
}

impl<'m, B: Backend> Node<'m, B> {
    /// Makes the VMs that the modules describe, to run on as many CPUs as the host has.
    pub fn new<H: Host>(backend: &B, host: &H, modules: &[Module<'m>], options: &Options<'m>) -> Self {
        emulator::prepare();
        let configs = config::collect(modules, |error| log::error!("{error}"));
        let cpus = host.cpus().max(1);
        let mut vms = Vec::with_capacity(MAX_VMS);
        // VMs begin on different CPUs, and the vCPUs of each are spread.
        let mut next_home = 0;
        for config in configs {
            let (name, memory, count) = (config.name, config.memory, config.cpus);
            let home = next_home;
            match Vm::new(backend, host, config, vms.len(), |index| (home + index) % cpus) {
                Ok(vm) => {
                    next_home = (home + count) % cpus;
                    log::info!("vm {name}: starting with {} of memory, {count} vCPUs", Size(memory));
                    vms.push(vm);
                }
                Err(error) => log::error!("vm {name}: not started: {error}"),
            }
        }
        Self {
            vms,
            mailboxes: Mailboxes::new(cpus),
            options: NodeOptions { end: options.end, view: options.view },
            ended: AtomicBool::new(false),
        }
    }

    /// Runs VMs on the calling CPU. The first CPU has the console and comes back when the machine did not power off; the
    /// others come back when it is about to.
    pub fn run<H: Host>(&self, host: &mut H) -> Ended {
        let mut cpu = Cpu::new(self, host);
        if cpu.number() != 0 {
            while !self.ended.load(SeqCst) {
                cpu.turn();
                cpu.rest(vcpu::Nanos::NEVER);
            }
            cpu.release();
            return Ended::Dismissed;
        }
        let names = self.vms.iter().map(|vm| vm.config.name);
        let mut console = Console::new(names, self.options.view);
        console.remember(cpu.host);
        let mut lead = Lead::new(console, self.options.end, &self.vms);
        log::info!("console ready, {} VMs; Ctrl-A h helps", self.vms.len());
        while !lead.is_done() {
            lead.look(&mut cpu);
            if !cpu.turn() {
                cpu.rest(lead.next_look(cpu.host));
            }
        }
        self.ended.store(true, SeqCst);
        (1..self.mailboxes.len()).for_each(|other| cpu.host.kick(other));
        cpu.release();
        lead.power_off(cpu.host)
    }
}
