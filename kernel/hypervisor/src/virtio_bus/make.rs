//! Makes the devices of a VM.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize};

use arrayvec::ArrayVec;
use spin::Mutex;
use vcpu::{Backend, Image, MemoryError, Nanos};
use virtio::balloon;
use virtio::block::{Block, SECTOR, Server};
use virtio::console::{Console, Line};
use virtio::net::Net;
use virtio::{Function, Kind};

use super::{Owner, VirtioBus};
use crate::config::{MAX_PORTS, Name, VmConfig};
use crate::disks::Depot;
use crate::links::Links;
use crate::networks::Device;
use crate::run::ROOM_FOR_ONE;
use crate::schedule::VmId;
use crate::serial_line::SerialLine;
use crate::vm::StartError;

/// Queues of a disk at most.
const DISK_QUEUES: usize = 8;
/// Columns and rows of a console, until somebody says otherwise.
const TERMINAL_SIZE: (u16, u16) = (80, 25);
/// Pairs of queues of a network device at most.
const NIC_PAIRS: usize = 4;

impl<I: Image> VirtioBus<I> {
    /// Those that the VM's lines ask for.
    pub(crate) fn new<'m, B: Backend<Image<'m> = I>>(
        backend: &B,
        config: &VmConfig<'m>,
        (links, vm, name): (&mut Links<'_>, VmId, Name),
        (terminal, depot): (Option<&Arc<SerialLine>>, Option<&Arc<Depot>>),
    ) -> Result<Self, StartError> {
        let mut functions = Vec::new();
        let most = config.disks.len() + config.nics.len() + 3;
        functions.try_reserve_exact(most).map_err(|_| StartError::NoRoom)?;
        for (number, disk) in config.disks.iter().enumerate() {
            let block = match depot.filter(|_| disk.served) {
                Some(depot) => {
                    let (server, sectors): (Arc<dyn Server>, _) =
                        (Arc::<Depot>::clone(depot), disk.size / SECTOR);
                    Block::served(server, number as u16, sectors, disk.read_only, disk.serial)
                        .ok_or(StartError::NoRoom)?
                }
                None => Block::new(backend.create_image(disk.bytes, disk.size)?, disk.read_only, disk.serial),
            };
            let kind = Kind::Block(block);
            let queues = config.cpus.min(DISK_QUEUES);
            functions.push(Function::new(kind, queues).ok_or(StartError::NoQueues { queues })?);
        }
        for (number, nic) in config.nics.iter().enumerate() {
            let mac = nic.address(&name, number);
            // One that is the first on its network takes most of what was free for the whole VM.
            has_room(backend)?;
            let plug = links.networks.plug(nic, Device { vm: name, number })?;
            let net = Net::new(plug, mac, nic.mtu(), config.cpus.min(NIC_PAIRS));
            let queues = net.queues();
            functions.push(
                Function::new(Kind::Net(Box::new(net)), queues).ok_or(StartError::NoQueues { queues })?,
            );
        }
        has_room(backend)?;
        if terminal.is_some() || !config.ports.is_empty() {
            let console = console(config, (links, vm.index()), terminal)?;
            let queues = console.queues();
            let kind = Kind::Console(Box::new(console));
            functions.push(Function::new(kind, queues).ok_or(StartError::NoQueues { queues })?);
        }
        if config.rng {
            match backend.create_random() {
                Some(random) => {
                    let kind = Kind::Entropy(Mutex::new(Box::new(random)));
                    functions.push(Function::new(kind, 1).ok_or(StartError::NoQueues { queues: 1 })?);
                }
                None => log::warn!(
                    target: "virtio",
                    "vm {name}: it has no entropy device, as this CPU has neither RDSEED nor RDRAND to begin one with"
                ),
            }
        }
        if config.balloon {
            let kind = Kind::Balloon(Box::default());
            let queues = balloon::QUEUES;
            functions.push(Function::new(kind, queues).ok_or(StartError::NoQueues { queues })?);
        }
        for (index, net) in functions.iter().enumerate().filter_map(|(index, it)| Some((index, it.as_net()?)))
        {
            if let Some(port) = net.plug().port() {
                port.set_owner(Owner::number(vm, index));
            }
        }
        Ok(Self {
            functions,
            slots: None,
            turn: AtomicUsize::new(0),
            deadline: AtomicU64::new(Nanos::NEVER.0),
        })
    }
}

/// Whether there is what is to be free where a VM is made: what does not ask for memory before it takes some finds that.
fn has_room<B: Backend>(backend: &B) -> Result<(), StartError> {
    let free = backend.free_memory();
    if free < ROOM_FOR_ONE {
        return Err(MemoryError::OutOfFrames { wanted: ROOM_FOR_ONE, free }.into());
    }
    Ok(())
}

fn console(
    config: &VmConfig<'_>,
    (links, vm): (&mut Links<'_>, usize),
    terminal: Option<&Arc<SerialLine>>,
) -> Result<Console, StartError> {
    let mut ports: ArrayVec<(&str, Arc<dyn Line>), MAX_PORTS> = ArrayVec::new();
    for name in &config.ports {
        // There is room: the line has no more.
        let _ = ports.try_push((name.as_str(), Arc::new(links.lines.end(*name, vm)?)));
    }
    let line = terminal.map(|line| -> Arc<dyn Line> { Arc::<SerialLine>::clone(line) });
    Ok(Console::new(line, ports, TERMINAL_SIZE))
}
