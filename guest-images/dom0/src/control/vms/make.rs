//! Makes a VM from its folder, step by step; what was made of one that cannot be made whole is unmade.

use std::fs;
use std::io::{Error, Result};
use std::path::Path;

use abi::{ALL_VCPUS, Answer, DeviceKind, Name, Request};
use loader::{E820Entry, EntryState, MemoryKind};
use vcpu::Gpa;

use api::vm::{self, VmFile};

use super::builder::Progress;
use super::disk_files::disk_files;
use super::file::{self, named};
use super::seed::Seed;
use super::window::{Memory, Window};
use super::{disks, firmware, identity};
use crate::channel::{Asks, strange};
use crate::hub::{Ask, DiskFile};

/// Of a disk that is added ([`DeviceKind`]).
const READ_ONLY: u64 = 1;
/// Memory of dom0's that files on their way into VMs leave free.
const RESERVE: u64 = 16 << 20;
/// How much is done when a step is, in percent.
const FILES_READ: u8 = 20;
const DISKS_OPENED: u8 = 30;

/// What a VM begins with, in this process' memory.
struct Files {
    /// A kernel, or firmware where there is none.
    begin: Vec<u8>,
    initrd: Option<Vec<u8>>,
    /// The disk for its cloud-init, before it is known where it is.
    seed: Option<Seed>,
    /// Of disks in memory.
    disks: Vec<Option<Vec<u8>>>,
}

impl Files {
    fn read(folder: &Path, vm: &VmFile) -> Result<Self> {
        let read = |name: &String| {
            let path = folder.join(name);
            has_memory_for(&path)?;
            fs::read(&path).map_err(|error| named(&path, error))
        };
        Ok(Self {
            begin: vm.kernel.as_ref().map_or_else(firmware::read, read)?,
            initrd: vm.initrd.as_ref().map(read).transpose()?,
            seed: vm.cloud_init.as_ref().map(|seed| Seed::read(folder, seed)).transpose()?,
            disks: vm
                .disks
                .iter()
                .map(|disk| disk.format.is_none().then(|| read(&disk.file)).transpose())
                .collect::<Result<_>>()?,
        })
    }
}

/// A file that is too large for dom0's memory would be the end of this process, and of others.
fn has_memory_for(path: &Path) -> Result<()> {
    let bytes = fs::metadata(path).map_err(|error| named(path, error))?.len();
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let available = kibibytes.unwrap_or(0).saturating_mul(1024).saturating_sub(RESERVE);
    if bytes <= available {
        return Ok(());
    }
    let why = format!(
        "{}: it has {} MiB, and dom0 has {} MiB of memory for it",
        path.display(),
        bytes.div_ceil(1 << 20),
        available >> 20
    );
    let next = "give a disk a `format`, so that it stays in its file; or give dom0 more memory (`memory=` in its boot line)";
    Err(api::Error::new(api::Reason::NoMemory, why).next(next).into())
}

/// Makes and starts the VM of a folder, and says what its number is.
///
/// # Errors
/// A file that is missing or wrong, named; what the kernel refuses.
pub(super) fn make<A: Asks>(
    channel: &mut A,
    window: &mut Window,
    name: Name,
    folder: &Path,
    goes_on: impl Fn(&mut A, Progress),
) -> Result<(u64, Vec<DiskFile>)> {
    let vm_file = file::read(folder)?;
    let files = Files::read(folder, &vm_file)?;
    let disks = disk_files(folder, &vm_file)?;
    goes_on(channel, Progress::Percent(FILES_READ));
    let sectors = open_disks(name.as_str(), &disks)?;
    goes_on(channel, Progress::Percent(DISKS_OPENED));
    let vm = create(channel, name, (&vm_file, &files), &sectors)?;
    goes_on(channel, Progress::Number(vm));
    let started = serve_disks(name.as_str(), vm, &disks)
        .and_then(|()| set(channel, vm, &vm_file))
        .and_then(|()| fill(channel, window, (vm, name.as_str()), &vm_file, &files));
    if started.is_err() {
        // The error is the first one.
        let _ = channel.order(&Request::DestroyVm { vm });
    }
    started.map(|()| (vm, disks))
}

/// Puts what a VM began with into its memory again, which was cleared, and starts it. Its devices, and what is on its disks, are as they were.
///
/// # Errors
/// A file that is missing or wrong, named; what the kernel refuses, where that is not the VM that was made of this folder.
pub(super) fn refill(
    channel: &mut impl Asks,
    window: &mut Window,
    vm: (u64, &str),
    folder: &Path,
) -> Result<()> {
    let vm_file = file::read(folder)?;
    let files = Files::read(folder, &vm_file)?;
    begin(channel, window, vm, &vm_file, &files)
}

/// Has them opened, where there are some. Sectors of each.
pub(super) fn open_disks(name: &str, disks: &[DiskFile]) -> Result<Vec<u64>> {
    if disks.is_empty() {
        return Ok(Vec::new());
    }
    disks::ask(&Ask::Open { name: name.to_owned(), disks: disks.to_vec() })
}

/// Has them served, where there are some.
pub(super) fn serve_disks(name: &str, vm: u64, disks: &[DiskFile]) -> Result<()> {
    if !disks.is_empty() {
        disks::ask(&Ask::Serve { name: name.to_owned(), vm })?;
    }
    Ok(())
}

/// Says what it has, and makes it.
fn create(
    channel: &mut impl Asks,
    name: Name,
    (vm, files): (&VmFile, &Files),
    sectors: &[u64],
) -> Result<u64> {
    channel.order(&Request::ForgetDevices {})?;
    let devices = [
        (vm.console, DeviceKind::Console),
        (vm.rng, DeviceKind::Entropy),
        (vm.balloon, DeviceKind::Balloon),
        (vm.text_screen, DeviceKind::TextScreen),
    ];
    for (_, kind) in devices.into_iter().filter(|(wanted, _)| *wanted) {
        channel.order(&Request::AddDevice { kind, first: 0, second: 0 })?;
    }
    if vm.kernel.is_none() {
        let first = files.begin.len() as u64;
        channel.order(&Request::AddDevice { kind: DeviceKind::Firmware, first, second: 0 })?;
    }
    let mut sectors = sectors.iter();
    for (disk, bytes) in vm.disks.iter().zip(&files.disks) {
        let (kind, first) = match bytes {
            Some(bytes) => (DeviceKind::MemoryDisk, file::sectors(bytes.len() as u64)),
            None => (DeviceKind::ServedDisk, sectors.next().copied().unwrap_or(0)),
        };
        channel.order(&Request::AddDevice { kind, first, second: disk.read_only.into() })?;
    }
    if let Some(seed) = &files.seed {
        let (kind, first) = (DeviceKind::MemoryDisk, file::sectors(seed.bytes()));
        channel.order(&Request::AddDevice { kind, first, second: READ_ONLY })?;
    }
    for (device, text) in (0_u16..).zip(&vm.networks) {
        let (text, _) = network_and_words(text);
        let network = Name::new(text).ok_or_else(|| {
            Error::other(format!("'{text}' is no network's name; write 1 to 31 of a-z, 0-9 and -"))
        })?;
        channel.order(&Request::AddNetwork { network, mac: identity::mac(vm.id.as_deref(), device) })?;
    }
    let create = Request::CreateVm { name, cpus: vm.cpus, memory: vm.memory.0 };
    channel.ask(&create, |answer| match answer {
        Answer::Vm { vm } => Ok(vm),
        other => Err(strange(&other)),
    })
}

/// A network's name, and what is said behind it of a device's port.
fn network_and_words(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_once(char::is_whitespace).unwrap_or((text, ""))
}

/// Sets its share of the CPUs, where they are, and how its ports are.
fn set(channel: &mut impl Asks, vm: u64, file: &VmFile) -> Result<()> {
    let (weight, cap, reservation) = (file.weight, file.cap, file.reservation);
    if (weight, cap, reservation) != (vm::USUAL_WEIGHT, 0, 0) {
        channel
            .order(&Request::SetShare { vm, weight, cap, reservation })
            .map_err(|error| Error::other(format!("weight, cap and reservation: {error}")))?;
    }
    if let Some(cpus) = file.pin {
        let pin = Request::Pin { vm, vcpu: ALL_VCPUS, cpus: cpus.0 };
        channel.order(&pin).map_err(|error| {
            Error::other(format!("pin: none of these CPUs is one for VMs ({error}, as bits of CPUs)"))
        })?;
    }
    for (device, text) in (0_u16..).zip(&file.networks) {
        let (network, words) = network_and_words(text);
        if !words.is_empty() {
            let change = Request::ChangePort { vm, device, words: words.as_bytes() };
            channel.order(&change).map_err(|error| Error::other(format!("network {network}: {error}")))?;
        }
    }
    Ok(())
}

/// Gives it its memory, puts what is to be there on its disks and into that, and starts it.
fn fill(
    channel: &mut impl Asks,
    window: &mut Window,
    (vm, name): (u64, &str),
    file: &VmFile,
    files: &Files,
) -> Result<()> {
    channel.order(&Request::Start { vm })?;
    let in_memory =
        files.disks.iter().enumerate().filter_map(|(number, bytes)| Some((number, bytes.as_ref()?)));
    for (number, bytes) in in_memory {
        window.fill(channel, vm, u16::try_from(number).map_err(Error::other)?, bytes)?;
    }
    begin(channel, window, (vm, name), file, files)
}

/// Puts what it begins with into its memory, and starts it.
fn begin(
    channel: &mut impl Asks,
    window: &mut Window,
    (vm, name): (u64, &str),
    file: &VmFile,
    files: &Files,
) -> Result<()> {
    if let (Some(seed), Some(description)) = (&files.seed, &file.cloud_init) {
        let networks = (0..).take(file.networks.len()).map(|device| hardware_address(channel, vm, device));
        let networks = networks.collect::<Result<Vec<_>>>()?;
        let identity = file.id.as_deref().unwrap_or(name);
        let image = seed.image(description, (name, identity), &networks)?;
        window.fill(channel, vm, u16::try_from(file.disks.len()).map_err(Error::other)?, &image)?;
    }
    match &file.kernel {
        Some(kernel) => load(channel, window, vm, (file, kernel), files)?,
        None => firmware::place(&mut Memory { window, channel, vm, failure: None }, &files.begin)?,
    }
    // Nothing that it says is missed.
    channel.order(&Request::WatchConsole { vm, on: true })?;
    channel.order(&Request::Start { vm })
}

/// Puts its kernel into its memory, and says where that begins.
fn load(
    channel: &mut impl Asks,
    window: &mut Window,
    vm: u64,
    (file, kernel): (&VmFile, &str),
    files: &Files,
) -> Result<()> {
    let (map, rsdp) = memory_map(channel, vm)?;
    let request = loader::Request {
        initrd: files.initrd.as_deref(),
        command_line: file.command_line.as_bytes(),
        rsdp: Some(rsdp),
        ..loader::Request::new(&files.begin, &map)
    };
    let mut memory = Memory { window, channel, vm, failure: None };
    let loaded = loader::load(&request, &mut memory);
    if let Some(failure) = memory.failure {
        return Err(failure);
    }
    let loaded = loaded.map_err(|error| Error::other(format!("{kernel}: {error}")))?;
    channel.order(&entry(vm, &loaded.entry))
}

/// The address of a VM's network device.
fn hardware_address(channel: &mut impl Asks, vm: u64, device: u16) -> Result<[u8; 6]> {
    channel.ask(&Request::Port { vm, device }, |answer| match answer {
        Answer::Port { mac, .. } => {
            let [address @ .., _, _] = mac.to_le_bytes();
            Ok(address)
        }
        other => Err(strange(&other)),
    })
}

/// Where its memory is, and the root pointer of its ACPI tables.
fn memory_map(channel: &mut impl Asks, vm: u64) -> Result<(Vec<E820Entry>, Gpa)> {
    channel.ask(&Request::MemoryMap { vm }, |answer| match answer {
        Answer::MemoryMap { rsdp, ranges } => {
            let (ranges, _) = ranges.as_chunks::<3>();
            let there = ranges.iter().filter(|[_, length, _]| *length != 0);
            let entry = |[base, length, kind]: &[u64; 3]| E820Entry {
                base: Gpa(*base),
                length: *length,
                kind: u32::try_from(*kind).map_or(MemoryKind::RESERVED, MemoryKind),
            };
            Ok((there.map(entry).collect(), Gpa(rsdp)))
        }
        other => Err(strange(&other)),
    })
}

fn entry(vm: u64, entry: &EntryState) -> Request<'static> {
    Request::SetEntry {
        vm,
        registers: [entry.rip, entry.rax, entry.rbx, entry.rsi, entry.rsp],
        control: [entry.cr0, entry.cr3, entry.cr4, entry.efer],
        gdt: entry.gdt_base,
        gdt_limit: entry.gdt_limit,
    }
}
