//! The VMs of a machine, and the CPUs that run them. `docs/smp.md` tells how they share.
//!
//! Interrupts are off in here; the host's timer and kicks by other CPUs are the only things that end a guest's run from
//! outside.

mod bring_back;
mod cpu;
mod create;
mod dealings;
mod domain;
mod lead;
mod manage;
mod memory;
mod network;
mod news;
mod orders;
pub(crate) mod places;
pub(crate) mod poll;
pub(crate) mod presence;
pub(crate) mod rates;
mod rota;
mod served;
mod sleepers;
mod slice;
mod stretch;
mod turn;
mod work;

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

use alloc::collections::TryReserveError;
use alloc::sync::Arc;

use spin::{Mutex, Once};
use vcpu::{Backend, BringUp, Hardware, Host, Nanos, Random};
use virtio::VmSet;

use crate::channel::{self, Channel, DiskDesk};
use crate::config::{self, End, Module, Options, Plan, Size};
use crate::console::Console;
use crate::disks;
use crate::links::{Lines, Links};
use crate::mailbox::Mailboxes;
use crate::networks::Networks;
use crate::schedule::{Pool, VmId};
use crate::scheduler::Scheduler;
use crate::vm::Vm;
use crate::vm::life::Request;
use cpu::Cpu;
pub use create::CreateVmError;
pub(crate) use dealings::PinError;
use lead::Lead;
pub(crate) use network::PortError;
pub(crate) use orders::FillError;
pub use orders::{ManageError, VmState};
use places::Places;
use rates::Rates;

/// How long the first CPU runs vCPUs at most before the console is looked at.
pub(crate) const SLICE: Nanos = Nanos::from_millis(10);

/// What is to be free where a VM is made: its devices and its console take less, and nothing of that may fail half-way.
pub(crate) const ROOM_FOR_ONE: u64 = 2 << 20;

/// VMs for which there is room beside those of the boot modules, where there is a management domain that makes some, and vCPUs of each on average.
const MADE_LATER: usize = 64;
const VCPUS_EACH: usize = 4;

/// How everything ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The machine was told to power off or to restart, and did not: only tests see this.
    PoweredOff,
    /// The CPU has nothing more to do: the first one ends the machine.
    Dismissed,
}

/// The VMs, and what CPUs share. Made by the first CPU; all of them then [`run`](Self::run) it.
pub struct Node<'m, B: Backend> {
    backend: B,
    places: Places<'m, B>,
    /// The VM that has the machine's own devices, and those.
    domain: Option<(VmId, &'static dyn Hardware)>,
    /// The networks between VMs.
    pub(crate) networks: Networks,
    /// The lines between ports of VMs. Held while a VM is made or unmade.
    lines: Mutex<Lines>,
    /// VMs for whose network devices something has come.
    calls: Arc<VmSet>,
    /// VMs with orders for disks that the management domain serves,
    pub(crate) orders: Arc<VmSet>,
    /// and those that wait for room there, which it was not told of.
    pub(crate) full: VmSet,
    /// VMs of which something is asked.
    asked: Arc<VmSet>,
    /// VMs that are to be unmade.
    leaving: VmSet,
    /// VMs that may have ended or been reset since that was told, for the management domain.
    news: VmSet,
    /// VMs have come, or are to go: the first CPU is to look.
    changed: AtomicBool,
    /// The CPU on which the next one that is made begins.
    next_home: AtomicUsize,
    /// vCPUs that there is room for.
    room_for_vcpus: usize,
    /// Bytes that VMs which are starting will take yet.
    promised: AtomicU64,
    mailboxes: Mailboxes,
    scheduler: Scheduler,
    options: NodeOptions<'m>,
    ended: AtomicBool,
    tsc_hz: u64,
    /// What it took until the first guest was entered.
    bring_up: Once<BringUp>,
}

struct NodeOptions<'m> {
    end: End,
    view: config::FirstView<'m>,
    times: u32,
    /// How long a CPU waits for a vCPU that has halted, at most.
    poll: Nanos,
}

impl<'m, B: Backend> Node<'m, B> {
    /// Makes the VMs that the modules describe, to run on as many CPUs as the host has.
    pub fn new<H: Host>(backend: B, host: &H, modules: &[Module<'m>], options: &Options<'m>) -> Self {
        emulator::prepare();
        let scheduler = Scheduler::new(host);
        if host.cpus() > scheduler.cpus() {
            log::warn!(
                "{} CPUs run no VMs: {} is the most",
                host.cpus() - scheduler.cpus(),
                scheduler.cpus()
            );
        }
        for (pool, cpus) in options.pools.iter().enumerate() {
            if let Err(error) = scheduler.give_cpus(Pool(pool as u8), *cpus) {
                log::error!("pool {pool}: {error}");
            }
        }
        let calls = Arc::default();
        let mut node = Self {
            places: Places::none(),
            domain: None,
            networks: Networks::new(seed(&backend, host)),
            lines: Mutex::new(Lines::new(&calls)),
            calls,
            orders: Arc::default(),
            full: VmSet::default(),
            asked: Arc::default(),
            leaving: VmSet::default(),
            news: VmSet::default(),
            changed: AtomicBool::new(false),
            next_home: AtomicUsize::new(0),
            room_for_vcpus: 0,
            promised: AtomicU64::new(0),
            mailboxes: Mailboxes::new(scheduler.cpus()),
            scheduler,
            options: NodeOptions {
                end: options.end,
                view: options.view,
                times: options.times,
                poll: Nanos::from_micros(options.poll.into()),
            },
            ended: AtomicBool::new(false),
            backend,
            tsc_hz: host.tsc_hz(),
            bring_up: Once::new(),
        };
        // VMs begin on different CPUs, and the vCPUs of each are spread.
        let mut plan = config::collect(modules, |error| log::error!("{error}"));
        if node.make_room(&plan, options.later).is_err() {
            log::error!("no memory for {} VMs with {} vCPUs; leave some out", plan.vms(), plan.vcpus());
            plan = Plan::default();
        }
        node.make_planned(host, plan);
        node.networks.set_up(&options.networks);
        node
    }

    /// Makes the VMs that the boot modules describe.
    fn make_planned<H: Host>(&mut self, host: &H, plan: Plan<'m>) {
        plan.each(|name, config| {
            // A network is not its first VM's.
            for nic in &config.nics {
                self.networks.named(nic.network);
            }
            let taken = host.taken();
            let first = self.next_home.load(SeqCst);
            let (networks, asked, news) = (&self.networks, &self.asked, self.disk_news());
            let made = self.make_vm(
                host,
                (name, config),
                first,
                &mut Links { networks, lines: &mut self.lines.lock(), asked, news },
            );
            match made {
                Ok(vm) => {
                    if let Some(hardware) = &vm.hardware {
                        self.domain = Some((vm.id, hardware.machine()));
                    }
                    vm.count_own(host.taken().wrapping_sub(taken));
                    self.places.fill(Arc::clone(&vm));
                    self.next_home.store(first + config.cpus, SeqCst);
                    if config.starts {
                        vm.life.ask(Request::Start);
                        vm.trace_request(Request::Start, host);
                        vm.birth.asked(host.tsc());
                        let (memory, vcpus) = (Size(config.memory), config.cpus);
                        log::info!("vm {name}: starting with {memory} of memory, {vcpus} vCPUs");
                    }
                }
                Err(error) => log::error!("vm {name}: not started: {error}"),
            }
        });
    }

    /// The kernel's ends of the lines to the management domain, where there is one.
    fn open_channels(&self) -> (Option<Channel>, Option<Channel<DiskDesk>>) {
        let Some(domain) = self.domain_id() else { return (None, None) };
        // The domain itself is called when something comes for the kernel: so it hears of it, who must look anyway.
        let line = |name| self.lines.lock().end(config::name(name), domain.index()).ok();
        let control = line(channel::PORT).and_then(|line| Channel::new(line, self.places.len()));
        let disks = line(channel::DISKS_PORT).and_then(Channel::of_disks);
        if control.is_none() || disks.is_none() {
            log::error!("no memory for the channels to the management domain");
        }
        (control, disks)
    }

    /// How a VM's devices tell that there are orders for its disks.
    fn disk_news(&self) -> disks::News {
        let domain = self.domain.map_or(0, |(domain, _)| domain.index());
        disks::News { vms: Arc::clone(&self.orders), calls: Arc::clone(&self.calls), domain }
    }

    /// Makes room for all these VMs, and for some that are made later, in what is sized by their number.
    fn make_room(&mut self, plan: &Plan<'m>, later: Option<usize>) -> Result<(), TryReserveError> {
        let later = later.unwrap_or(if plan.has_domain() { MADE_LATER } else { 0 });
        let vms = (plan.vms() + later).min(config::MAX_VMS);
        self.room_for_vcpus = plan.vcpus() + later * VCPUS_EACH;
        self.places.make_room(vms)?;
        self.mailboxes.make_room(vms)?;
        self.scheduler.make_room(vms, self.room_for_vcpus)
    }

    /// Bytes of the kernel's that belong to VMs.
    pub fn own_bytes(&self) -> u64 {
        self.places.sum(Vm::own_bytes)
    }

    /// Whether this holds for one of the VMs of which something is asked.
    #[inline]
    fn any_asked(&self, mut is: impl FnMut(&Vm<'m, B>) -> bool) -> bool {
        !self.asked.is_empty() && self.asked.any(|vm| self.places.with(vm, &mut is) == Some(true))
    }

    /// Runs VMs on the calling CPU. The first CPU has the console and comes back when the machine did not power off; the
    /// others come back when it is about to.
    pub fn run<H: Host>(&self, host: &mut H) -> Ended {
        self.prepare(host).run()
    }

    /// Takes what the calling CPU needs to run VMs. This is the end of bring-up: from here on the heap is used by nothing but the networks' reserves.
    pub fn prepare<'n, 'h, H: Host>(&'n self, host: &'h mut H) -> Prepared<'n, 'm, 'h, B, H> {
        let cpu = Cpu::new(self, host);
        if cpu.number() != 0 {
            return Prepared { cpu, lead: None };
        }
        let mut console = Console::new(self.places.len());
        console.remember(cpu.host);
        let rates = Rates::new(cpu.host, self.places.len(), self.scheduler.cpus(), self.options.times);
        let mut lead = Lead::new(console, self.options.end, rates, self.open_channels());
        let mut vms = 0;
        self.places.each(|vm| {
            lead.welcome(vm);
            vms += 1;
        });
        lead.console.begin_with(self.options.view);
        log::info!("{} KiB of memory are free for VMs", self.backend.free_memory() >> 10);
        log::info!("console ready, {vms} VMs; Ctrl-A h helps");
        Prepared { cpu, lead: Some(lead) }
    }
}

/// A CPU that is ready to run VMs; the first one with what it does beside.
pub struct Prepared<'n, 'm, 'h, B: Backend, H: Host> {
    cpu: Cpu<'n, 'm, 'h, B, H>,
    lead: Option<Lead>,
}

impl<B: Backend, H: Host> Prepared<'_, '_, '_, B, H> {
    /// The CPU.
    pub fn host(&mut self) -> &mut H {
        self.cpu.host
    }

    /// One turn of the CPU's loop: vCPUs run, and what VMs are asked to do is done. False where there was nothing to do.
    pub fn turn(&mut self) -> bool {
        self.cpu.turn()
    }

    /// A turn with what the CPU does beside, and a rest where there was nothing to do.
    pub fn round(&mut self) {
        match &mut self.lead {
            Some(lead) => lead_round(&mut self.cpu, lead),
            None => crew_round(&mut self.cpu),
        }
    }

    /// Has the first CPU talk to a domain, as if there were one.
    #[cfg(test)]
    pub(crate) fn talk(&mut self, channel: Channel) {
        if let Some(lead) = &mut self.lead {
            lead.channel = Some(channel);
        }
    }

    /// The same of disks that a domain serves.
    #[cfg(test)]
    pub(crate) fn talk_of_disks(&mut self, channel: Channel<DiskDesk>) {
        if let Some(lead) = &mut self.lead {
            lead.disks = Some(channel);
        }
    }

    /// See [`Node::run`].
    pub fn run(&mut self) -> Ended {
        let Self { cpu, lead } = self;
        let node = cpu.node;
        let Some(lead) = lead else {
            while cpu.number() < node.scheduler.cpus() && !node.ended.load(SeqCst) {
                crew_round(cpu);
            }
            cpu.release();
            return Ended::Dismissed;
        };
        while !lead.is_done() {
            lead_round(cpu, lead);
        }
        node.ended.store(true, SeqCst);
        (1..node.mailboxes.len()).for_each(|other| cpu.host.kick(other));
        cpu.release();
        lead.leave(cpu.host)
    }
}

/// A round of the first CPU.
#[inline(always)]
fn lead_round<B: Backend, H: Host>(cpu: &mut Cpu<'_, '_, '_, B, H>, lead: &mut Lead) {
    lead.look(cpu);
    cpu.rota.look(cpu.host, "a look at the console");
    if !cpu.turn() && !cpu.node.changed.load(SeqCst) {
        cpu.rest(lead.next_look());
    }
}

/// A round of another one.
#[inline(always)]
fn crew_round<B: Backend, H: Host>(cpu: &mut Cpu<'_, '_, '_, B, H>) {
    if !cpu.turn() {
        cpu.rest(Nanos::NEVER);
    }
}

/// A number that guests cannot know.
fn seed<B: Backend, H: Host>(backend: &B, host: &H) -> u64 {
    let mut bytes = host.tsc().to_le_bytes();
    if let Some(mut random) = backend.create_random() {
        random.fill(&mut bytes);
    }
    u64::from_le_bytes(bytes)
}
