//! How a VM comes to be, before it is started.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

use alloc::sync::Arc;
use alloc::vec::Vec;

use devices::{Chipset, ChipsetConfig};
use spin::{Mutex, RwLock};
use vcpu::{Backend, Gpa, Host, Random};

use super::board::Signals;
use super::life::Life;
use super::past::Past;
use super::slot::Slot;
use super::task::Stage;
use super::{Birth, StartError, Vm, task};
use crate::config::{Name, VmConfig};
use crate::disks::Depot;
use crate::firmware::add_devices;
use crate::hardware::Hardware;
use crate::heap;
use crate::links::Links;
use crate::memory_map::{ACPI_TABLES, MemoryMap};
use crate::ratelimit::RateLimits;
use crate::schedule::VmId;
use crate::serial_line::SerialLine;
use crate::virtio_bus::VirtioBus;

impl<'m, B: Backend> Vm<'m, B> {
    /// A VM that is not started: what it takes to have it in the list, and its chipset. Memory and vCPUs come with the
    /// start.
    pub(crate) fn new<H: Host>(
        host: &H,
        backend: &B,
        (name, config): (Name, &Arc<VmConfig<'m>>),
        id: VmId,
        links: &mut Links<'_>,
    ) -> Result<Self, StartError> {
        let Layout { hardware, map, tables_at } = Layout::new(backend, config)?;
        let mut chipset = Chipset::new(&ChipsetConfig {
            memory: map.size,
            wall_clock: host.wall_clock_s(),
            now: host.now(),
            outside: config.hardware,
        });
        // As long as the machine runs: a VM that starts anew there finds its disks as it left them, one on another machine does not.
        let generation_id = backend.create_random().map(|mut random| {
            let mut id = [0; 16];
            random.fill(&mut id);
            id
        });
        add_devices(&mut chipset, config, &map, generation_id)?;
        let line = || SerialLine::new().ok_or(StartError::NoConsole);
        let vcpus = config.cpus;
        let terminal = match config.devices.virtio_console {
            true => Some(line().and_then(|line| heap::arc(line).ok_or(StartError::NoConsole))?),
            false => None,
        };
        let depot = match config.disks.iter().any(|disk| disk.served) {
            true => Some(Depot::new(id.index(), &links.news).ok_or(StartError::NoRoom)?),
            false => None,
        };
        let virtio = VirtioBus::new(backend, config, (links, id, name), (terminal.as_ref(), depot.as_ref()))?;
        let virtio = match &hardware {
            Some(hardware) => virtio.among(|count| hardware.slots(count)),
            None => virtio,
        };
        Ok(Self {
            number: id.index(),
            id,
            tables: match &hardware {
                Some(hardware) => hardware.tables(config.cpus, tables_at)?,
                None => task::tables(config.cpus, generation_id)?,
            },
            hardware,
            life: Life::new(links.asked, id.index()),
            virtio,
            terminal,
            depot,
            name,
            config: Arc::clone(config),
            map,
            space: RwLock::new(heap::arc(None).ok_or(StartError::NoProcessors { vcpus })?),
            slots: slots(vcpus)?,
            serial: line()?,
            stage: Mutex::new(Stage::Begin),
            entry: Mutex::new(None),
            presence: Mutex::new(None),
            speaks_until: AtomicU64::new(0),
            work: AtomicU64::new(0),
            birth: Birth::default(),
            own: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            restarts: AtomicU32::new(0),
            waits_until: AtomicU64::new(0),
            chipset: Mutex::new(chipset),
            signals: Signals::new(),
            past: Past::none(),
            limits: Mutex::new(RateLimits::default()),
            rotor: AtomicUsize::new(0),
        })
    }
}

/// Where what is in its memory, and what of the machine it has.
struct Layout {
    hardware: Option<Hardware>,
    map: MemoryMap,
    /// Its firmware's tables.
    tables_at: Gpa,
}

impl Layout {
    fn new<B: Backend>(backend: &B, config: &VmConfig<'_>) -> Result<Self, StartError> {
        let hardware = match config.hardware {
            true => Some(Hardware::new(backend.hardware().ok_or(StartError::NoHardware)?)),
            false => None,
        };
        let (mut map, tables_at) = match &hardware {
            Some(hardware) => {
                MemoryMap::of_machine(hardware.machine().memory_map()).ok_or(StartError::NoHardware)?
            }
            None => (MemoryMap::new(config.memory).ok_or(StartError::NoRoom)?, ACPI_TABLES),
        };
        if config.devices.vga_text {
            map = map.with_text_memory();
        }
        if let Some(bytes) = config.firmware {
            map = map.with_rom(bytes);
        }
        Ok(Self { hardware, map, tables_at })
    }
}

/// Places for so many vCPUs.
fn slots<B: Backend>(vcpus: usize) -> Result<Vec<Slot<B>>, StartError> {
    let none = StartError::NoProcessors { vcpus };
    let mut slots = Vec::new();
    slots.try_reserve_exact(vcpus).map_err(|_| none)?;
    for _ in 0..vcpus {
        slots.push(Slot::new().ok_or(none)?);
    }
    Ok(slots)
}
