//! The long work on a VM, in steps of at most about 100 us: making its memory and vCPUs, loading its kernel, clearing its
//! memory for a restart, giving everything back. Whoever calls looks for other work between two steps. Nothing here
//! takes memory but by the backend, whose errors end the task; what it has taken until then is given back by
//! [`Task::End`].

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use alloc::sync::Arc;
use alloc::vec::Vec;

use devices::acpi::table_loader::{LoaderFiles, loader_files};
use devices::acpi::{self, AcpiConfig, AcpiError, AcpiTables};
use vcpu::{AddressSpace, Backend, Host, Hpa, MemoryError, Shrink};

use super::boot::{Loading, Scrub, Start};
use super::life::Task;
use super::{StartError, Vm};
use crate::memory_map::{ACPI_TABLES, ACPI_TABLES_SIZE, PCI_MEMORY};
use crate::processor::VirtualCpu;

/// What a start takes beside the VM's RAM, mostly less: nested tables and a vCPU.
const BESIDE_RAM: u64 = 128 << 10;

/// How far a VM's task has come.
pub(crate) enum Stage<B: Backend> {
    /// It has not begun.
    Begin,
    /// Memory is being made: this many bytes of the range with this number.
    Memory { space: B::Space, range: usize, done: u64 },
    /// vCPUs are being made, from this one on.
    Processors { next: usize },
    /// Memory is being cleared.
    Scrub(Scrub),
    /// The kernel is being loaded: so many bytes are.
    Load { done: u64 },
    /// vCPUs are put in the state after power-up, from this one on; all begin at the same time.
    PowerUp { next: usize, start: Start, started: u64 },
    /// Devices are quieted, from this one on.
    Quiet { next: usize },
    /// vCPUs, then memory are given back.
    Destroy,
}

impl<B: Backend> Stage<B> {
    fn name(&self) -> &'static str {
        match self {
            Self::Begin => "the beginning of a task",
            Self::Memory { .. } => "making memory",
            Self::Processors { .. } => "making a vCPU",
            Self::Scrub(_) => "clearing memory",
            Self::Load { .. } => "loading the kernel",
            Self::PowerUp { .. } => "setting a vCPU",
            Self::Quiet { .. } => "quieting a device",
            Self::Destroy => "giving back",
        }
    }
}

/// What a step has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// There is more to do.
    More,
    /// Another CPU has to do something first.
    Waiting,
    /// The task is done.
    Done,
    /// It is, up to where the VM waits for what comes from outside.
    Held,
}

impl<'m, B: Backend> Vm<'m, B> {
    /// Of what was promised to it, its start will take no more than this.
    fn settle(&self, left: u64, promised: &AtomicU64) {
        let before = self.promised.fetch_min(left, SeqCst);
        promised.fetch_sub(before.saturating_sub(left), SeqCst);
    }

    /// What the next step does.
    pub(crate) fn stage_name(&self) -> &'static str {
        self.stage.try_lock().map_or("", |stage| stage.name())
    }

    /// Does a step of a task. No vCPU runs or is loaded, and no other CPU does steps of this VM. `promised` is what the starts of all
    /// VMs will take yet.
    pub(crate) fn step<H: Host>(
        &self,
        task: Task,
        backend: &B,
        host: &H,
        promised: &AtomicU64,
    ) -> Result<Progress, StartError> {
        let mut place = self.stage.try_lock().ok_or(StartError::Busy { index: 0 })?;
        let stage = core::mem::replace(&mut *place, Stage::Begin);
        let (next, progress) = match task {
            Task::End(_) => {
                self.settle(0, promised);
                self.destroy(stage)?
            }
            Task::Start | Task::Reset | Task::Enter => match stage {
                Stage::Begin if task == Task::Enter => self.begin_at_entry(host),
                Stage::Begin if task == Task::Reset => (Stage::Quiet { next: 0 }, Progress::More),
                Stage::Quiet { next } if task == Task::Reset => (self.quiet(next), Progress::More),
                Stage::Begin | Stage::Quiet { .. } | Stage::Destroy => {
                    (self.begin(backend, promised)?, Progress::More)
                }
                Stage::Memory { space, range, done } => {
                    let start = host.tsc();
                    let stage = self.grow(backend, space, (range, done), &mut place, promised)?;
                    self.birth.count_memory(host.tsc().wrapping_sub(start));
                    (stage, Progress::More)
                }
                Stage::Processors { next } => (self.add_processor(next, backend, host)?, Progress::More),
                Stage::Scrub(scrub) => (self.scrub(scrub)?, Progress::More),
                Stage::Load { done } => {
                    self.settle(0, promised);
                    self.load_kernel(done, host)?
                }
                Stage::PowerUp { next, start, started } => self.power_up(next, &start, started)?,
            },
        };
        *place = next;
        Ok(progress)
    }

    /// Where all memory that the VM needs is free, and not promised to others that are just starting, the beginning of its memory.
    fn begin(&self, backend: &B, promised: &AtomicU64) -> Result<Stage<B>, StartError> {
        // What was set aside for it does not come out of what is free.
        let taken = if self.hardware.is_none() { self.map.ram.as_slice() } else { &[] };
        let wanted = taken.iter().map(|range| range.length).sum();
        let all = wanted + BESIDE_RAM;
        self.promised.store(all, SeqCst);
        let others = promised.fetch_add(all, SeqCst);
        let free = backend.free_memory().saturating_sub(others);
        if all > free {
            self.settle(0, promised);
            return Err(MemoryError::OutOfFrames { wanted, free }.into());
        }
        Ok(Stage::Memory { space: backend.create_space()?, range: 0, done: 0 })
    }

    /// On an error, `left` gets what there is.
    fn grow(
        &self,
        backend: &B,
        mut space: B::Space,
        (range, done): (usize, u64),
        left: &mut Stage<B>,
        promised: &AtomicU64,
    ) -> Result<Stage<B>, StartError> {
        let Some(ram) = self.map.ram.get(range) else {
            if let Err(error) = self.finish_space(backend, &mut space) {
                *left = Stage::Memory { space, range, done };
                return Err(error.into());
            }
            return match self.set_space(space) {
                Ok(()) => Ok(Stage::Processors { next: 0 }),
                Err(space) => {
                    *left = Stage::Memory { space, range, done };
                    Err(StartError::Busy { index: 0 })
                }
            };
        };
        if self.hardware.is_some() {
            return match space.adopt(Hpa(ram.start.0), ram.length) {
                Ok(()) => Ok(Stage::Memory { space, range: range + 1, done: 0 }),
                Err(error) => {
                    *left = Stage::Memory { space, range, done };
                    Err(error.into())
                }
            };
        }
        let grown = space.grow(vcpu::Gpa(ram.start.0 + done), ram.length - done);
        let to_come: u64 = self.map.ram.iter().skip(range).map(|range| range.length).sum();
        let before: u64 = self.map.ram.iter().take(range).map(|range| range.length).sum();
        self.birth.has_memory(before + done + grown.unwrap_or_default());
        let there = done + grown.unwrap_or_default() + space.coming();
        self.settle((to_come + BESIDE_RAM).saturating_sub(there), promised);
        match grown {
            Ok(bytes) if done + bytes == ram.length => Ok(Stage::Memory { space, range: range + 1, done: 0 }),
            Ok(bytes) => Ok(Stage::Memory { space, range, done: done + bytes }),
            Err(error) => {
                *left = Stage::Memory { space, range, done };
                Err(error.into())
            }
        }
    }

    /// What its address space needs beside its memory.
    fn finish_space(&self, backend: &B, space: &mut B::Space) -> Result<(), MemoryError> {
        if let Some(hardware) = &self.hardware {
            let mut chipset = self.chipset.lock();
            space.pass_ports(&mut |port| hardware.passes(port) && !chipset.has_port(port))?;
        }
        if backend.wants_apic_page() { space.add_apic_page() } else { Ok(()) }
    }

    fn add_processor<H: Host>(&self, next: usize, backend: &B, host: &H) -> Result<Stage<B>, StartError> {
        let Some(slot) = self.slots.get(next) else { return Ok(Stage::Load { done: 0 }) };
        let made = self.with_space(|space| {
            slot.with_processor(|place| {
                *place = Some(VirtualCpu::new(backend, space, host, next, self.slots.len(), &self.config)?);
                Ok(Stage::Processors { next: next + 1 })
            })
        });
        made.flatten().unwrap_or(Err(StartError::Busy { index: next }))
    }

    /// Quiets a device before a reset.
    fn quiet(&self, next: usize) -> Stage<B> {
        if self.virtio.power_up_one(next) {
            Stage::Quiet { next: next + 1 }
        } else {
            Stage::Scrub(Scrub::default())
        }
    }

    fn scrub(&self, mut scrub: Scrub) -> Result<Stage<B>, StartError> {
        let done = self.with_space(|space| scrub.step(space, &self.map.ram));
        let done = done.ok_or(StartError::Busy { index: 0 })??;
        Ok(if done { Stage::Load { done: 0 } } else { Stage::Scrub(scrub) })
    }

    fn load_kernel<H: Host>(&self, done: u64, host: &H) -> Result<(Stage<B>, Progress), StartError> {
        if done == 0 {
            self.reset_chipset(host.now());
        }
        let loaded = self.with_space(|space| self.load(space, done));
        Ok(match loaded.ok_or(StartError::Busy { index: 0 })?? {
            Loading::Until(done) => (Stage::Load { done }, Progress::More),
            Loading::Done(start) => (self.begin_at(start, host), Progress::More),
            Loading::Held => (Stage::Begin, Progress::Held),
        })
    }

    /// Its own time begins.
    fn begin_at<H: Host>(&self, start: Start, host: &H) -> Stage<B> {
        let started = host.tsc();
        self.birth.began(started);
        Stage::PowerUp { next: 0, start, started }
    }

    /// The same where it was told, or in firmware.
    fn begin_at_entry<H: Host>(&self, host: &H) -> (Stage<B>, Progress) {
        match *self.entry.lock() {
            _ if self.config.firmware.is_some() => (self.begin_at(Start::PowerUp, host), Progress::More),
            Some(entry) => (self.begin_at(Start::Entry(entry), host), Progress::More),
            None => (Stage::Begin, Progress::Held),
        }
    }

    fn power_up(&self, next: usize, start: &Start, started: u64) -> Result<(Stage<B>, Progress), StartError> {
        let Some(slot) = self.slots.get(next) else { return Ok((Stage::Begin, Progress::Done)) };
        let entered = slot.with_processor(|place| {
            place.as_mut().map(|processor| self.enter_at_power_up(slot, processor, start, started))
        });
        entered.flatten().ok_or(StartError::Busy { index: next })?;
        Ok((Stage::PowerUp { next: next + 1, start: *start, started }, Progress::More))
    }

    /// Gives something back.
    fn destroy(&self, stage: Stage<B>) -> Result<(Stage<B>, Progress), StartError> {
        if let Some(hardware) = &self.hardware {
            hardware.machine().lend_screen(false);
        }
        let next = match stage {
            Stage::Destroy => None,
            Stage::Quiet { next } => Some(next),
            Stage::Memory { space, range, done } => match self.set_space(space) {
                Ok(()) => Some(0),
                Err(space) => return Ok((Stage::Memory { space, range, done }, Progress::Waiting)),
            },
            _ => Some(0),
        };
        // Nothing is left to its devices, and who is at the other end of a cable hears of it.
        if let Some(next) = next
            && self.virtio.power_up_one(next)
        {
            return Ok((Stage::Quiet { next: next + 1 }, Progress::More));
        }
        for (index, slot) in self.slots.iter().enumerate().rev() {
            let gone = slot.with_processor(Option::take).ok_or(StartError::Busy { index })?;
            if gone.is_some() {
                return Ok((Stage::Destroy, Progress::More));
            }
        }
        let waits = Ok((Stage::Destroy, Progress::Waiting));
        // Who is at it, for another VM's device or the console, is so for a moment.
        let Some(mut place) = self.space.try_write() else { return waits };
        let Some(place) = Arc::get_mut(&mut place) else { return waits };
        let progress = match place.as_mut().map_or(Shrink::Done, AddressSpace::shrink) {
            Shrink::More => Progress::More,
            Shrink::Waiting => Progress::Waiting,
            Shrink::InUse => return Err(StartError::Busy { index: 0 }),
            Shrink::Done => {
                *place = None;
                return Ok((Stage::Begin, Progress::Done));
            }
        };
        Ok((Stage::Destroy, progress))
    }
}

/// The firmware tables of a VM with so many vCPUs.
pub(super) fn tables(vcpus: usize, generation_id: Option<[u8; 16]>) -> Result<AcpiTables, StartError> {
    let tables = with_acpi_config(vcpus, generation_id, |config| acpi::build(config, ACPI_TABLES))?;
    if tables.bytes.len() as u64 > ACPI_TABLES_SIZE {
        return Err(AcpiError::Base(tables.base).into());
    }
    Ok(tables)
}

/// The same as files for firmware of the VM's own.
pub(crate) fn table_files(vcpus: usize, generation_id: Option<[u8; 16]>) -> Result<LoaderFiles, AcpiError> {
    with_acpi_config(vcpus, generation_id, loader_files)
}

fn with_acpi_config<T>(
    vcpus: usize,
    generation_id: Option<[u8; 16]>,
    with: impl FnOnce(&AcpiConfig<'_>) -> T,
) -> T {
    let apic_ids: Vec<u32> = (0..vcpus as u32).collect();
    with(&AcpiConfig { apic_ids: &apic_ids, pci_memory: PCI_MEMORY, pci_memory_64: None, generation_id })
}
