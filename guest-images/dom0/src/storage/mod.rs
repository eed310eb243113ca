//! Looks at the machine's block devices, and mounts the one with the node's data: an ext4 file system with the label `BASALT-DATA`.
//!
//! Nothing is ever written to a disk that does not say by its label that it is ours.

pub(crate) mod report;
mod superblock;

use std::fs::{self, File};
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::uevent::{Events, Received};
use crate::{facts, log};
use report::{Data, Disk, Report};

const BLOCK_DEVICES: &str = "/sys/class/block";
const LABEL: &str = "BASALT-DATA";
/// Where it is mounted.
pub(crate) const DATA: &str = "/data";
const MOUNTS: &str = "/proc/self/mounts";
/// `size` in `/sys` counts these, whatever the disk's own blocks are.
const SECTOR: u64 = 512;
/// USB disks take a moment to start when their controller has its driver. Only then it is said that there is no data.
const PATIENCE: Duration = Duration::from_secs(15);
/// Block devices that are no disks.
const OTHERS: [&str; 4] = ["loop", "ram", "sr", "zram"];

/// The process: comes back only with an error.
pub(crate) fn run() -> Result<bool> {
    log::begin("storage");
    let events = Events::open()?;
    let drivers = facts::watch()?;
    let mut report = Report { data: already_mounted(), ..Report::default() };
    let mut told = None;
    let mut patience = None;
    loop {
        if patience.is_none() && facts::read(facts::DRIVERS).is_some() {
            patience = Some(Instant::now() + PATIENCE);
        }
        look(&mut report);
        if report.data.is_none() && patience.is_some_and(|until| until <= Instant::now()) {
            log::warn(&format!(
                "no disk has a file system labelled {LABEL}: nothing that is kept here will last"
            ));
            report.data = Some(Data::Nowhere);
        }
        if told.as_ref() != Some(&report) {
            facts::write(facts::STORAGE, &report::write(&report))?;
            told = Some(report.clone());
        }
        let rest = patience
            .filter(|_| report.data.is_none())
            .map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = rest.and_then(|rest| Timespec::try_from(rest).ok());
        let mut watched = [PollFd::new(&events, PollFlags::IN), PollFd::new(&drivers, PollFlags::IN)];
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        facts::forget(&drivers);
        while events.receive()? != Received::Nothing {}
    }
}

/// What an earlier life of this process has mounted.
fn already_mounted() -> Option<Data> {
    let mounts = fs::read_to_string(MOUNTS).unwrap_or_default();
    let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(DATA))?;
    let device = line.split(' ').next()?.trim_start_matches("/dev/");
    Some(Data::Mounted(device.to_owned()))
}

/// Takes note of the disks, and mounts the data where it has come.
fn look(report: &mut Report) {
    let devices = devices();
    let is_disk = |device: &&Device| !device.is_partition && device.bytes > 0;
    let disk = |device: &Device| Disk { name: device.name.clone(), bytes: device.bytes };
    report.disks = devices.iter().filter(is_disk).map(disk).collect();
    if matches!(report.data, Some(Data::Mounted(_) | Data::Refused(_))) {
        return;
    }
    let Some(device) = devices.iter().find(|device| is_ours(&device.name)) else { return };
    report.data = Some(mount_data(&device.name));
}

struct Device {
    name: String,
    bytes: u64,
    is_partition: bool,
}

/// Disks and their partitions, sorted by name, so that the same machine always takes the same one.
fn devices() -> Vec<Device> {
    let entries = fs::read_dir(BLOCK_DEVICES).into_iter().flatten().flatten();
    let mut devices: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let sectors: u64 = fs::read_to_string(entry.path().join("size")).ok()?.trim().parse().ok()?;
            let is_other = OTHERS.iter().any(|other| name.starts_with(other));
            let is_partition = entry.path().join("partition").exists();
            (!is_other).then_some(Device { name, bytes: sectors.saturating_mul(SECTOR), is_partition })
        })
        .collect();
    devices.sort_by(|one, other| one.name.cmp(&other.name));
    devices
}

fn is_ours(name: &str) -> bool {
    let mut bytes = [0; superblock::LENGTH];
    let read = File::open(Path::new("/dev").join(name))
        .and_then(|device| device.read_exact_at(&mut bytes, superblock::PLACE));
    // Disks that are too small, empty readers of cards, broken ones: none of them is ours.
    read.is_ok() && superblock::label(&bytes).as_deref() == Some(LABEL)
}

fn mount_data(name: &str) -> Data {
    let device = Path::new("/dev").join(name);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let made = fs::create_dir_all(DATA);
    match made.and_then(|()| Ok(mount(&device, DATA, "ext4", flags, c"errors=remount-ro")?)) {
        Ok(()) => {
            log::info(&format!("{name} is mounted at {DATA}"));
            Data::Mounted(name.to_owned())
        }
        Err(error) => {
            log::error(&format!("{name} is labelled {LABEL} and cannot be mounted: {error}"));
            Data::Refused(name.to_owned())
        }
    }
}
