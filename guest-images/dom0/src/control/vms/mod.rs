//! The node's VMs: a folder each. Those below `/etc/basalt/vms` came with dom0's initial file system, and are made when the kernel can be asked; those
//! below `/data/vms` are the node's own, and are made where their file says `autostart`, once the data is there. All of them in the order of their
//! names; they are unmade when they have ended.

mod disk_files;
mod disks;
mod file;
mod firmware;
mod make;
mod room;
mod seed;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use abi::{Name, Reason, Request};

use super::watch::Watch;
use crate::channel::{Channel, News};
use crate::hub::{Ask, DiskFile};
use crate::status::Vm;
use crate::{facts, log};

use room::Room;
use window::Window;

/// The folders, a VM each: what came with dom0,
const WITH_DOM0: &str = "/etc/basalt/vms";
/// and what is the node's own.
const OWN: &str = "/data/vms";

/// The state of a VM for which there is no room.
const NO_ROOM: &str = "no room on disk";

/// Between two looks at VMs that shut down.
const SECOND: Duration = Duration::from_secs(1);

/// What there is and what became of it.
#[derive(Default)]
pub(super) struct Vms {
    /// Those of the folders whose time has come.
    begun: BTreeSet<String>,
    /// That is all of them.
    has_all: bool,
    /// Those that were made here, by their numbers.
    made: BTreeMap<u64, Made>,
    /// What went wrong, by the names of VMs.
    complaints: BTreeMap<String, String>,
    window: Option<Window>,
    /// Who serves disks, as it was told of them.
    hub: Option<String>,
    /// Those that stand still as there is no room.
    room: Room,
}

/// A VM that was made here.
#[derive(Clone)]
struct Made {
    name: String,
    folder: PathBuf,
    /// Its disks that are in files.
    disks: Vec<DiskFile>,
}

impl Made {
    /// Bytes that are free for its disks; where nobody can tell, it may be tried now and then.
    fn free(&self) -> u64 {
        room::free(self.disks.iter().map(|disk| disk.path.as_path())).unwrap_or(u64::MAX)
    }
}

impl Vms {
    /// What is wrong, a line each.
    pub(super) fn complaints(&self) -> impl Iterator<Item = String> {
        self.complaints.iter().map(|(name, why)| format!("VM {name}: {why}"))
    }

    /// Whether [`Self::begin`] has nothing more to do.
    pub(super) const fn has_begun(&self) -> bool {
        self.has_all
    }

    /// Makes what is to be there. `there` are the VMs that the kernel has already. Those with disks in files wait until it `is_settled` where these are.
    pub(super) fn begin(&mut self, channel: &mut Channel, there: &[(u64, Vm)], is_settled: bool) {
        self.has_all = is_settled;
        for (name, folder) in folders(is_settled) {
            if self.begun.contains(&name) || !is_settled && file::has_files(&folder) {
                continue;
            }
            self.begun.insert(name.clone());
            if folder.starts_with(OWN) && !starts_by_itself(&folder) {
                continue;
            }
            // Another basaltd has made it, before this one.
            if let Some((number, _)) = there.iter().find(|(_, known)| known.name == name) {
                let disks = disk_files::files_of(&folder);
                self.made.insert(*number, Made { name, folder, disks });
                continue;
            }
            log::info(&format!("VM {name}: is being made"));
            match self.make(channel, &name, &folder) {
                Ok((number, disks)) => {
                    log::info(&format!("VM {name}: runs"));
                    self.made.insert(number, Made { name, folder, disks });
                }
                Err(error) => {
                    log::error(&format!("VM {name}: {error}"));
                    self.complaints.insert(name, error.to_string());
                }
            }
        }
    }

    fn make(&mut self, channel: &mut Channel, name: &str, folder: &Path) -> Result<(u64, Vec<DiskFile>)> {
        let name = Name::new(name).ok_or_else(|| {
            std::io::Error::new(
                ErrorKind::InvalidInput,
                "its folder's name is no name for a VM; write 1 to 31 of a-z, 0-9 and -",
            )
        })?;
        if self.window.is_none() {
            self.window = Some(Window::new()?);
        }
        match &mut self.window {
            Some(window) => make::make(channel, window, name, folder),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Sees to what the kernel has told.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(super) fn hear(&mut self, channel: &mut Channel) -> Result<()> {
        while let Some(news) = channel.news() {
            match news {
                News::Ended(vm, reason) => self.ended(channel, vm, reason)?,
                News::Reset(vm) => self.reset(channel, vm)?,
                News::NoRoom(vm) => self.has_no_room(vm),
                News::Orders(..) => {}
            }
        }
        Ok(())
    }

    fn has_no_room(&mut self, vm: u64) {
        let Some(made) = self.made.get(&vm) else { return };
        log::warn(&format!("VM {}: stands still: there is no room for what it writes", made.name));
        self.room.lacks(vm, made.free(), Instant::now());
    }

    /// Has VMs go on for which there is room again, and says of the others why they stand still.
    pub(super) fn see_to_room(&mut self, channel: &mut Channel, vms: &mut [(u64, Vm)]) {
        for (number, vm) in vms {
            let Some(made) = self.made.get(number).filter(|_| self.room.waits(*number)) else { continue };
            if vm.runs() {
                // Somebody has let it go on.
                self.room.goes_on(*number);
            } else if self.room.has_come(*number, made.free(), Instant::now()) {
                log::info(&format!("VM {}: goes on: there is room again", made.name));
                // One that goes on already, or ends, needs no more.
                let _ = channel.order(&Request::Resume { vm: *number });
                self.room.goes_on(*number);
            } else {
                vm.state = NO_ROOM.to_owned();
            }
        }
    }

    /// Where another process serves disks than before, it is told of all that there are.
    pub(super) fn tell_hub(&mut self) {
        let hub = facts::read(facts::HUB);
        if hub.is_none() || hub == self.hub {
            return;
        }
        let is_first = core::mem::replace(&mut self.hub, hub).is_none();
        for (vm, Made { name, disks, .. }) in &self.made {
            // The first one was told while the VM was made.
            if is_first || disks.is_empty() {
                continue;
            }
            let told = make::open_disks(name, disks).and_then(|_| make::serve_disks(name, *vm, disks));
            match told {
                Ok(()) => log::info(&format!("VM {name}: its disks are served again")),
                Err(error) => log::error(&format!("VM {name}: its disks stand still: {error}")),
            }
        }
    }

    /// Presses the power buttons of all VMs that run, and waits until all have ended, but not for ever: what runs on then ends with the machine.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(super) fn shut_down(
        &mut self,
        channel: &mut Channel,
        watch: &mut Watch,
        until: Instant,
    ) -> Result<()> {
        for (vm, it) in watch.look(channel)?.iter().filter(|(_, vm)| vm.runs()) {
            log::info(&format!("VM {}: is asked to shut down", it.name));
            // One that has ended meanwhile has no button any more.
            let _ = channel.order(&Request::PressPowerButton { vm: *vm });
        }
        loop {
            channel.listen()?;
            self.hear(channel)?;
            let vms = watch.look(channel)?;
            let left: Vec<_> =
                vms.iter().filter(|(_, vm)| vm.runs()).map(|(_, vm)| vm.name.as_str()).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                log::warn(&format!("not shut down, and ended with the machine: {}", left.join(", ")));
                return Ok(());
            }
            super::wait(&[], Some(channel.file()), SECOND)?;
        }
    }

    fn ended(&mut self, channel: &mut Channel, vm: u64, reason: Reason) -> Result<()> {
        let Some(Made { name, .. }) = self.made.remove(&vm) else { return Ok(()) };
        log::info(&format!("VM {name}: has ended: {}", why(reason)));
        self.unmake(channel, vm, &name)
    }

    /// A VM that starts over has nothing in its memory: it is made anew.
    fn reset(&mut self, channel: &mut Channel, vm: u64) -> Result<()> {
        let Some(Made { name, folder, .. }) = self.made.remove(&vm) else { return Ok(()) };
        log::info(&format!("VM {name}: starts over"));
        self.unmake(channel, vm, &name)?;
        match self.make(channel, &name, &folder) {
            Ok((number, disks)) => {
                self.made.insert(number, Made { name, folder, disks });
            }
            Err(error) => {
                log::error(&format!("VM {name}: {error}"));
                self.complaints.insert(name, error.to_string());
            }
        }
        Ok(())
    }

    fn unmake(&mut self, channel: &mut Channel, vm: u64, name: &str) -> Result<()> {
        channel.order(&Request::DestroyVm { vm })?;
        self.room.forget(vm);
        // One that has no such disks is none of it.
        let _ = disks::ask(&Ask::Close { name: name.to_owned() });
        log::info(&format!("VM {name}: all that it had is free"));
        Ok(())
    }
}

fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::PowerOff => "it has switched itself off",
        Reason::Stopped => "it was stopped",
        Reason::Crashed => "it has crashed",
        Reason::Halted => "it sleeps for ever",
        Reason::NotStarted => "it could not be started",
    }
}

/// VMs' names and folders, in order. What came with dom0 has its name before one of the node's own.
fn folders(with_own: bool) -> BTreeMap<String, PathBuf> {
    let below = |place: &str| {
        let entries = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
        let folders = entries.filter(|path| path.join(file::NAME).is_file());
        folders.filter_map(|path| Some((path.file_name()?.to_string_lossy().into_owned(), path)))
    };
    let mut all: BTreeMap<_, _> = if with_own { below(OWN).collect() } else { BTreeMap::new() };
    all.extend(below(WITH_DOM0));
    all
}

/// Whether its file says so. One that cannot be read is told of where it is made.
fn starts_by_itself(folder: &Path) -> bool {
    file::read(folder).map_or(true, |file| file.autostart)
}
