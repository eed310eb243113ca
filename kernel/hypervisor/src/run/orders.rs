//! What is asked of a VM by its id. An id is one VM's for ever: where that is gone, no other one is meant.

use core::fmt;

use alloc::sync::Arc;

use loader::EntryState;
use trace::Kind;
use vcpu::{Backend, Gpa, GuestMemory, Host, ImageError};

use super::Node;
use crate::config::Name;
use crate::memory_map::MemoryMap;
use crate::schedule::{self, VmId};
use crate::stop::StopReason;
use crate::vm::Vm;
use crate::vm::life::{DESTROY, Request, State};
use crate::vm::slot::Slot;

/// Why nothing comes of what was asked of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ManageError {
    /// There is no such VM, or not any more.
    NoSuchVm(VmId),
    /// It is the management domain: it is not unmade, and its power button is the machine's.
    IsDomain(VmId),
    /// It is not to be told where it begins: its kernel is loaded for it.
    HasKernel(VmId),
    /// It was not told where it begins.
    NoEntry(VmId),
    /// It has no memory now.
    NoMemory(VmId),
    /// Not in the state that it is in.
    NotNow(VmState),
    /// It cannot have such a share of the CPUs.
    Share(schedule::Error),
}

impl fmt::Display for ManageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchVm(_) => f.write_str("there is no such VM any more"),
            Self::IsDomain(_) => f.write_str("the management domain cannot have that done to it"),
            Self::HasKernel(_) => f.write_str("where it begins is its kernel's affair"),
            Self::NoEntry(_) => f.write_str("it was not told where it begins"),
            Self::NoMemory(_) => f.write_str("it has no memory, as it was not started or has ended"),
            Self::Share(error) => error.fmt(f),
            Self::NotNow(state) => write!(f, "that cannot be while it is {state}"),
        }
    }
}

/// Why nothing more was put on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FillError {
    /// The VM is not there, or runs.
    Manage(ManageError),
    /// There is no memory to read at that address.
    Address(Gpa),
    /// There is no such disk, or it ends before.
    Range {
        /// What was named.
        asked: u64,
        /// What there is.
        most: u64,
    },
    /// There is no memory for it.
    NoMemory,
}

/// What a VM is and has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Its name.
    pub name: Name,
    /// What it does.
    pub state: VmState,
    /// Virtual CPUs.
    pub cpus: usize,
    /// Bytes of memory,
    pub memory: u64,
    /// and how many of them it has now: its balloon may have given back some.
    pub resident: u64,
    /// Ticks that its vCPUs have run.
    pub ran: u64,
    /// Ticks that they wanted to run and could not.
    pub waited: u64,
    /// Its exits, as of when each vCPU last stopped running.
    pub exits: u64,
    /// What its network devices have carried: bytes received, bytes sent, frames lost.
    pub network: [u64; 3],
}

/// What a VM does, for who manages it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmState {
    /// It has ended, or was not started: it has no memory.
    Stopped(StopReason),
    /// It comes to be, starts over, comes to a halt or ends.
    Changing,
    /// Its memory is there, and it waits to be started there.
    Held,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
}

impl From<State> for VmState {
    fn from(state: State) -> Self {
        match state {
            State::Running => Self::Running,
            State::Halting(_) | State::Working(_) => Self::Changing,
            State::Paused => Self::Paused,
            State::Held => Self::Held,
            State::Stopped(reason) => Self::Stopped(reason),
        }
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped(_) => "stopped",
            Self::Changing => "starting or ending",
            Self::Held => "held",
            Self::Running => "running",
            Self::Paused => "paused",
        })
    }
}

impl<'m, B: Backend> Node<'m, B> {
    /// The VM of that name.
    pub fn named(&self, name: &str) -> Option<VmId> {
        let mut found = None;
        self.places.any(|vm| {
            let is = vm.name.as_str() == name;
            found = is.then_some(vm.id);
            is
        });
        found
    }

    /// What a VM does. `None` where it is gone.
    pub fn state(&self, id: VmId) -> Option<VmState> {
        self.places.find(id).map(|vm| vm.life.state().into())
    }

    /// The management domain, where there is one.
    pub fn domain_id(&self) -> Option<VmId> {
        self.domain.map(|(domain, _)| domain)
    }

    /// What a VM is and has done so far. `None` where it is gone.
    pub fn status(&self, id: VmId) -> Option<Status> {
        let vm = self.places.find(id)?;
        let times = vm.times(&self.scheduler.shared);
        Some(Status {
            name: vm.name,
            state: vm.life.state().into(),
            cpus: vm.slots.len(),
            memory: vm.config.memory,
            resident: vm.with_space(|space| vm.config.memory.saturating_sub(space.taken_back())).unwrap_or(0),
            ran: times.charged.0,
            waited: times.steal.0,
            exits: vm.slots.iter().map(Slot::exits).fold(0, u64::wrapping_add),
            network: vm.virtio.traffic(),
        })
    }

    /// Each VM with its name, in the order of their places.
    pub fn each_vm(&self, mut with: impl FnMut(VmId, &str)) {
        self.places.each(|vm| with(vm.id, &vm.name));
    }

    /// Starts a VM. One that was made by [`Self::create`] gets its memory and its vCPUs and is held then; started again, it begins where
    /// [`Self::set_entry`] has said.
    ///
    /// # Errors
    /// It is gone, is on already, or does not know where to begin.
    pub fn start<H: Host>(&self, host: &mut H, id: VmId) -> Result<(), ManageError> {
        let vm = self.of(id)?;
        if vm.life.state() == State::Held && !vm.has_entry() {
            return Err(ManageError::NoEntry(id));
        }
        ask(&vm, Request::Start, host)
    }

    /// Ends a VM at once, as by pulling its plug. It stays, and can be started again.
    ///
    /// # Errors
    /// It is gone, or has ended already.
    pub fn stop<H: Host>(&self, host: &mut H, id: VmId) -> Result<(), ManageError> {
        ask(&*self.of(id)?, Request::Stop(StopReason::Ended), host)
    }

    /// Restarts a VM. One that was made by [`Self::create`] is held once its memory is cleared.
    ///
    /// # Errors
    /// It is gone, or does not run.
    pub fn reset<H: Host>(&self, host: &mut H, id: VmId) -> Result<(), ManageError> {
        ask(&*self.of(id)?, Request::Reset, host)
    }

    /// Lets a VM stand still.
    ///
    /// # Errors
    /// It is gone, or does not run.
    pub fn pause<H: Host>(&self, host: &mut H, id: VmId) -> Result<(), ManageError> {
        ask(&*self.of(id)?, Request::Pause, host)
    }

    /// Lets a VM go on.
    ///
    /// # Errors
    /// It is gone, or was not paused.
    pub fn resume<H: Host>(&self, host: &mut H, id: VmId) -> Result<(), ManageError> {
        let vm = self.of(id)?;
        if !self.go_on(host, &vm) {
            return Err(not_now(&vm));
        }
        // There may be room by now.
        vm.depot.iter().for_each(|depot| depot.retry());
        Ok(())
    }

    /// Says where the first vCPU of a VM begins that was made by [`Self::create`]: it holds until another is said.
    ///
    /// # Errors
    /// It is gone, or has a kernel or firmware.
    pub fn set_entry(&self, id: VmId, entry: EntryState) -> Result<(), ManageError> {
        let vm = self.of(id)?;
        if !vm.config.held || vm.config.firmware.is_some() {
            return Err(ManageError::HasKernel(id));
        }
        vm.set_entry(entry);
        Ok(())
    }

    /// Does something with a VM's memory: a piece of work that is bounded.
    ///
    /// # Errors
    /// It is gone, or has none.
    pub fn with_memory<R>(&self, id: VmId, with: impl FnOnce(&B::Space) -> R) -> Result<R, ManageError> {
        self.of(id)?.with_space(with).ok_or(ManageError::NoMemory(id))
    }

    /// Does something with a VM's memory map, and where the root pointer of its ACPI tables is.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn with_map<R>(
        &self,
        id: VmId,
        with: impl FnOnce(&MemoryMap, Gpa) -> R,
    ) -> Result<R, ManageError> {
        let vm = self.of(id)?;
        Ok(with(&vm.map, vm.rsdp()))
    }

    /// Puts bytes of somebody's memory on a disk of a VM's that does not run: a piece of work that is bounded. The disk is named by its number; what
    /// is put there begins at an offset.
    ///
    /// # Errors
    /// It is gone, or runs; there is no such place, or no memory for it.
    pub(crate) fn fill_disk<M: GuestMemory>(
        &self,
        id: VmId,
        (disk, offset): (usize, u64),
        (from, gpa): (&M, Gpa),
        length: u32,
    ) -> Result<(), FillError> {
        let vm = self.of(id).map_err(FillError::Manage)?;
        let state = VmState::from(vm.life.state());
        if !matches!(state, VmState::Stopped(_) | VmState::Held) {
            return Err(FillError::Manage(ManageError::NotNow(state)));
        }
        let most = vm.config.disks.len() as u64;
        let image = vm.virtio.disk(disk).ok_or(FillError::Range { asked: disk as u64, most })?;
        let end = offset.saturating_add(length.into());
        if end > image.bytes() {
            return Err(FillError::Range { asked: end, most: image.bytes() });
        }
        match image.fill(offset, from, gpa, length) {
            Ok(_) => Ok(()),
            Err(ImageError::NotRam(missing)) => Err(FillError::Address(missing.gpa)),
            Err(ImageError::OutOfImage) => Err(FillError::NoMemory),
        }
    }

    /// Ends a VM, where it has not, and unmakes it. It starts no more from here on. Its name and its place are free when
    /// [`Self::state`] knows it no more: all that it had is back then.
    ///
    /// # Errors
    /// It is gone, or is the management domain.
    pub fn destroy<H: Host>(&self, host: &mut H, id: VmId) -> Result<(), ManageError> {
        if self.domain.is_some_and(|(domain, _)| domain == id) {
            return Err(ManageError::IsDomain(id));
        }
        let vm = self.of(id)?;
        vm.life.condemn();
        host.trace(Kind::Asked, id.subject(), DESTROY, 0);
        vm.ask(Request::Stop(StopReason::Ended), host);
        self.leaving.insert(vm.number);
        self.tell_lead(host);
        Ok(())
    }

    pub(super) fn of(&self, id: VmId) -> Result<Arc<Vm<'m, B>>, ManageError> {
        self.places.find(id).ok_or(ManageError::NoSuchVm(id))
    }

    /// Lets a VM go on that was paused. False where it was not.
    pub(super) fn go_on<H: Host>(&self, host: &mut H, vm: &Vm<'m, B>) -> bool {
        if vm.life.state() == State::Paused {
            vm.tell_pause();
        }
        let goes_on = vm.ask(Request::Resume, host);
        if goes_on {
            self.mailboxes.be_due(vm.home(), vm.device_deadline());
            for (vcpu, slot) in vm.slots.iter().enumerate() {
                slot.inbox.nudge();
                vm.poke(vcpu, &self.mailboxes, host);
            }
        }
        goes_on
    }
}

fn ask<B: Backend, H: Host>(vm: &Vm<'_, B>, request: Request, host: &mut H) -> Result<(), ManageError> {
    if vm.ask(request, host) { Ok(()) } else { Err(not_now(vm)) }
}

pub(super) fn not_now<B: Backend>(vm: &Vm<'_, B>) -> ManageError {
    ManageError::NotNow(vm.life.state().into())
}
