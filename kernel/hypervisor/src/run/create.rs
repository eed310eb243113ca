//! VMs that are made and unmade while the machine runs.
//!
//! Making one takes a place, what it needs with the scheduler, and heap memory, all at once and on the calling CPU: its RAM comes with its start.
//! It can fail at any point, and what it has taken until then is given back. Unmaking one is two things: it is told to end, which it does in steps
//! as ever ([`Node::destroy`]); and once it has, and nobody has a share of it, it leaves its place ([`Node::unmake`]).

use core::fmt;
use core::sync::atomic::Ordering::SeqCst;

use alloc::sync::Arc;

use vcpu::{Backend, Host, MemoryError};

use super::presence::Presence;
use super::{Node, ROOM_FOR_ONE};
use crate::config::{Description, MAX_CPUS, Name, Size, VmConfig};
use crate::heap;
use crate::links::Links;
use crate::schedule::{self, Ticks, VmId};
use crate::scheduler::ticks;
use crate::vm::{StartError, Vm};

/// Why a VM was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateVmError {
    /// This is no name, of the VM or of what it is joined to.
    BadName(Name),
    /// Another VM has this name.
    NameTaken(Name),
    /// It asks for no vCPU, or for too many.
    Cpus {
        /// How many.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// It asks for too little memory, or too much, or not for whole pages.
    Memory {
        /// How many bytes.
        asked: u64,
        /// How many are the least,
        least: u64,
        /// and the most.
        most: u64,
    },
    /// It asks for a disk that is not of whole sectors, has none, or is too large.
    Disk {
        /// How many bytes.
        asked: u64,
        /// How many are the most.
        most: u64,
    },
    /// It asks for a ROM that is too small or too large, or not of whole pages.
    Rom {
        /// How many bytes.
        asked: u64,
        /// How many are the most.
        most: u64,
    },
    /// It asks for too many network devices.
    Nics {
        /// How many.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// A TSC cannot have that rate.
    TscRate {
        /// In kHz.
        khz: u32,
    },
    /// All places of VMs are taken, or there are as many vCPUs as there can be.
    NoPlace,
    /// There is no memory for what the kernel keeps of it.
    NoMemory {
        /// How much there should be.
        wanted: u64,
        /// How much there is.
        free: u64,
    },
    /// Another VM is just being made or unmade: ask again.
    Busy,
    /// It asks for what there is not.
    Refused(StartError),
}

impl fmt::Display for CreateVmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName(name) => write!(f, "'{name}' is no name; write 1 to 31 of a-z, 0-9 and -"),
            Self::NameTaken(name) => write!(f, "there is a VM '{name}' already; choose another name"),
            Self::Cpus { asked, most } => write!(f, "{asked} vCPUs: a VM has from 1 to {most}"),
            Self::Memory { asked, least, most } => {
                write!(
                    f,
                    "{asked} bytes of memory: a VM has whole pages from {} to {}",
                    Size(*least),
                    Size(*most)
                )
            }
            Self::Disk { asked, most } => {
                write!(f, "a disk of {asked} bytes: there are those of whole sectors up to {}", Size(*most))
            }
            Self::Rom { asked, most } => {
                write!(f, "firmware of {asked} bytes: there is such of whole pages up to {}", Size(*most))
            }
            Self::Nics { asked, most } => write!(f, "{asked} network devices: a VM has up to {most}"),
            Self::TscRate { khz } => write!(f, "a TSC of {khz} kHz: there is none with that rate"),
            Self::NoPlace => {
                f.write_str("there are as many VMs, or vCPUs, as there can be; destroy another first")
            }
            Self::NoMemory { wanted, free } => {
                write!(f, "not enough memory: {} KiB wanted, {} KiB free", wanted >> 10, free >> 10)
            }
            Self::Busy => f.write_str("another VM is just being made or unmade; try again"),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl From<StartError> for CreateVmError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Memory(MemoryError::OutOfFrames { wanted, free }) => Self::NoMemory { wanted, free },
            StartError::Schedule(schedule::Error::Full) => Self::NoPlace,
            other => Self::Refused(other),
        }
    }
}

impl<'m, B: Backend> Node<'m, B> {
    /// Makes a VM, which has no memory yet and does not run: [`Self::start`] gives it that.
    ///
    /// # Errors
    /// Why not; nothing is taken then.
    pub fn create<H: Host>(&self, host: &mut H, description: Description) -> Result<VmId, CreateVmError> {
        description.check()?;
        let (name, cpus) = (description.name, description.cpus);
        let Some(mut lines) = self.lines.try_lock() else { return Err(CreateVmError::Busy) };
        if self.named(&name).is_some() {
            return Err(CreateVmError::NameTaken(name));
        }
        let vcpus = self.places.sum(|vm| vm.slots.len() as u64);
        if vcpus + cpus as u64 > self.room_for_vcpus as u64 {
            return Err(CreateVmError::NoPlace);
        }
        let taken = host.taken();
        let short = || CreateVmError::NoMemory { wanted: ROOM_FOR_ONE, free: self.free_memory() };
        let config = heap::arc(description.into_config()).ok_or_else(short)?;
        let presence = Presence::new(name, &config).ok_or_else(short)?;
        let first = self.next_home.fetch_add(cpus, SeqCst);
        let mut links =
            Links { networks: &self.networks, lines: &mut lines, asked: &self.asked, news: self.disk_news() };
        let made = self.make_vm(host, (name, &config), first, &mut links);
        let vm = made.inspect_err(|_| lines.tidy())?;
        vm.leave_presence(presence);
        vm.count_own(host.taken().wrapping_sub(taken));
        let id = vm.id;
        self.places.fill(vm);
        log::info!("vm {name}: is made, with {} of memory to come and {cpus} vCPUs", Size(config.memory));
        self.tell_lead(host);
        Ok(id)
    }

    /// Bytes that are free and not promised to anybody.
    pub(crate) fn free_memory(&self) -> u64 {
        self.backend.free_memory().saturating_sub(self.promised.load(SeqCst))
    }

    /// Makes a VM for the place that the scheduler has for it.
    pub(super) fn make_vm<H: Host>(
        &self,
        host: &H,
        (name, config): (Name, &Arc<VmConfig<'m>>),
        first: usize,
        links: &mut Links<'_>,
    ) -> Result<Arc<Vm<'m, B>>, StartError> {
        let free = self.free_memory();
        if free < ROOM_FOR_ONE {
            return Err(MemoryError::OutOfFrames { wanted: ROOM_FOR_ONE, free }.into());
        }
        let now = ticks(host);
        let mut homes = [0; MAX_CPUS];
        let id = self.scheduler.add_vm(&config.share, config.cpus, first, now, |index, cpu| {
            if let Some(home) = homes.get_mut(index) {
                *home = cpu;
            }
        })?;
        let vm = Vm::new(host, &self.backend, (name, config), id, links);
        let vm = vm.and_then(|vm| {
            let none = StartError::NoProcessors { vcpus: config.cpus };
            heap::arc(vm).ok_or(none)
        });
        let vm = vm.inspect_err(|_| self.scheduler.remove_vm(id, now))?;
        for (slot, home) in vm.slots.iter().zip(homes) {
            slot.set_home(home);
        }
        Ok(vm)
    }

    /// Takes a VM that has ended out of its place, with all that it has. False where somebody is still at it, or at another one: ask again.
    pub(super) fn unmake(&self, id: VmId, now: Ticks) -> bool {
        let Some(mut lines) = self.lines.try_lock() else { return false };
        let Some(vm) = self.places.take(id) else { return false };
        // Its ports, its ends of lines and its memory go with it. Its number is free for another one only then.
        drop(vm);
        lines.tidy();
        self.scheduler.remove_vm(id, now);
        true
    }

    /// How many virtio devices a VM has, for tests.
    #[cfg(test)]
    pub(crate) fn devices(&self, id: VmId) -> Option<usize> {
        Some(self.places.find(id)?.virtio.len())
    }

    /// What there is now, for tests: VMs, vCPUs that queues have, lines between ports, and bytes that are promised.
    #[cfg(test)]
    pub(crate) fn holdings(&self) -> [u64; 4] {
        let queued = (0..self.scheduler.cpus()).filter_map(|cpu| self.scheduler.queue(cpu));
        let vcpus = queued.map(|queue| queue.len() as u64).sum();
        [self.places.sum(|_| 1), vcpus, self.lines.lock().len() as u64, self.promised.load(SeqCst)]
    }

    /// Has the first CPU look which VMs have come, or can go.
    pub(super) fn tell_lead<H: Host>(&self, host: &mut H) {
        self.changed.store(true, SeqCst);
        if host.cpu() != 0 {
            host.kick(0);
        }
    }
}
