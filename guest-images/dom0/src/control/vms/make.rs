//! Makes a VM from its folder, step by step; what was made of one that cannot be made whole is unmade.

use std::fs;
use std::io::{Error, Result};
use std::path::Path;

use abi::{ALL_VCPUS, Answer, DeviceKind, Name, Request};
use loader::{E820Entry, EntryState, MemoryKind};
use vcpu::Gpa;

use super::builder::Progress;
use super::{disks, identity};
use api::vm::{self, VmFile};

use super::file::{self, named};
use super::window::{Memory, Window};
use crate::channel::{Asks, strange};
use crate::hub::{Ask, DiskFile};
use api::image::Format;

/// How much is done when a step is, in percent.
const FILES_READ: u8 = 20;
const DISKS_OPENED: u8 = 30;

/// What a VM begins with, in this process' memory.
struct Files {
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
    /// Of disks in memory.
    disks: Vec<Option<Vec<u8>>>,
}

impl Files {
    fn read(folder: &Path, vm: &VmFile) -> Result<Self> {
        let read = |name: &String| {
            let path = folder.join(name);
            fs::read(&path).map_err(|error| named(&path, error))
        };
        Ok(Self {
            kernel: read(&vm.kernel)?,
            initrd: vm.initrd.as_ref().map(read).transpose()?,
            disks: vm
                .disks
                .iter()
                .map(|disk| disk.format.is_none().then(|| read(&disk.file)).transpose())
                .collect::<Result<_>>()?,
        })
    }
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
        .and_then(|()| fill(channel, window, vm, &vm_file, &files));
    if started.is_err() {
        // The error is the first one.
        let _ = channel.order(&Request::DestroyVm { vm });
    }
    started.map(|()| (vm, disks))
}

/// Those of its disks that are in files, which are there then.
fn disk_files(folder: &Path, vm: &VmFile) -> Result<Vec<DiskFile>> {
    vm.disks.iter().try_for_each(|disk| make_disk(folder, disk))?;
    let file = |disk: &vm::Disk| {
        Some(DiskFile { path: folder.join(&disk.file), format: disk.format?, read_only: disk.read_only })
    };
    Ok(vm.disks.iter().filter_map(file).collect())
}

/// The same of a VM that is there already. Of one whose file cannot be read any more nothing is known.
pub(super) fn files_of(folder: &Path) -> Vec<DiskFile> {
    file::read(folder).and_then(|file| disk_files(folder, &file)).unwrap_or_default()
}

/// Has them opened, where there are some. Sectors of each.
pub(super) fn open_disks(name: &str, disks: &[DiskFile]) -> Result<Vec<u64>> {
    if disks.is_empty() {
        return Ok(Vec::new());
    }
    disks::ask(&Ask::Open { name: name.to_owned(), disks: disks.to_vec() })
}

/// Makes the file of a disk that says how large it is, where there is none.
fn make_disk(folder: &Path, disk: &vm::Disk) -> Result<()> {
    let path = folder.join(&disk.file);
    let Some(size) = disk.size.filter(|_| !path.exists()) else { return Ok(()) };
    if disk.format != Some(Format::Raw) {
        return Err(named(&path, "there is no such file; only raw ones are made"));
    }
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    let made = folder.and_then(|()| fs::File::create_new(&path)).and_then(|file| file.set_len(size.0));
    made.map_err(|error| named(&path, error))
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
    let devices =
        [(vm.console, DeviceKind::Console), (vm.rng, DeviceKind::Entropy), (vm.balloon, DeviceKind::Balloon)];
    for (_, kind) in devices.into_iter().filter(|(wanted, _)| *wanted) {
        channel.order(&Request::AddDevice { kind, first: 0, second: 0 })?;
    }
    let mut sectors = sectors.iter();
    for (disk, bytes) in vm.disks.iter().zip(&files.disks) {
        let (kind, first) = match bytes {
            Some(bytes) => (DeviceKind::MemoryDisk, file::sectors(bytes.len() as u64)),
            None => (DeviceKind::ServedDisk, sectors.next().copied().unwrap_or(0)),
        };
        channel.order(&Request::AddDevice { kind, first, second: disk.read_only.into() })?;
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

/// Gives it its memory and what is to be in it, and starts it.
fn fill(channel: &mut impl Asks, window: &mut Window, vm: u64, file: &VmFile, files: &Files) -> Result<()> {
    channel.order(&Request::Start { vm })?;
    let in_memory =
        files.disks.iter().enumerate().filter_map(|(number, bytes)| Some((number, bytes.as_ref()?)));
    for (number, bytes) in in_memory {
        window.fill(channel, vm, u16::try_from(number).map_err(Error::other)?, bytes)?;
    }
    let (map, rsdp) = memory_map(channel, vm)?;
    let request = loader::Request {
        initrd: files.initrd.as_deref(),
        command_line: file.command_line.as_bytes(),
        rsdp: Some(rsdp),
        ..loader::Request::new(&files.kernel, &map)
    };
    let mut memory = Memory { window, channel, vm, failure: None };
    let loaded = loader::load(&request, &mut memory);
    if let Some(failure) = memory.failure {
        return Err(failure);
    }
    let loaded = loaded.map_err(|error| Error::other(format!("{}: {error}", file.kernel)))?;
    channel.order(&entry(vm, &loaded.entry))?;
    // Nothing that it says is missed.
    channel.order(&Request::WatchConsole { vm, on: true })?;
    channel.order(&Request::Start { vm })
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
