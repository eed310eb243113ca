//! The node's VMs: a folder each ([`store`]). Those below `/etc/basalt/vms` are made when the kernel can be asked; the node's own, below `/data/vms`, are
//! made where their file says `autostart`, once the data is there, and when somebody asks for it. All of them in the order of their names. A VM that has
//! ended is unmade: what is left is its folder.

mod acts;
mod builder;
mod disk_files;
mod disks;
mod file;
mod firmware;
mod identity;
mod make;
mod room;
mod seed;
mod status;
mod store;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Result;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use abi::{Reason, Request, VmState};
use api::event::What;
use api::name::Name;
use api::status::State;

use super::tasks::Tasks;
use super::watch::{Seen, Watch};
use crate::channel::{Asks, Channel, News};
use crate::hub::DiskFile;
use crate::{facts, log};
use builder::{Builder, Job, Outcome, Progress};
use room::Room;

/// Between two looks at VMs that shut down.
const SECOND: Duration = Duration::from_secs(1);

/// What there is and what becomes of it.
pub(super) struct Vms {
    all: BTreeMap<String, Entry>,
    builder: Builder,
    pub(super) tasks: Tasks,
    /// What the tasks are about that the builder has.
    jobs: BTreeMap<u64, Purpose>,
    /// Those of the folders that were to start by themselves, and were started: also by a process before this one.
    begun: BTreeSet<String>,
    /// The node's own are among them.
    has_own: bool,
    /// Who serves disks, as it was told of them.
    hub: Option<String>,
    /// What has happened and was not told yet.
    events: Vec<What>,
    /// Those for which there is no room.
    room: Room,
    /// What VMs have said and nobody has heard yet.
    said: Vec<(String, Vec<u8>)>,
}

/// A VM.
struct Entry {
    folder: PathBuf,
    phase: Phase,
    /// What is wrong with it, or why it does not run.
    trouble: Option<String>,
    /// That is somebody's fault, and not what was wanted.
    is_complaint: bool,
    /// Tasks that are done when it has ended.
    ends: Vec<u64>,
    /// The state that was told last.
    told: Option<(State, Option<String>)>,
}

/// Where a VM is between its folder and its end.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Phase {
    /// It is a folder only.
    Stopped,
    /// The builder has it, and the kernel perhaps, under this number.
    Changing(Option<u64>),
    /// The kernel has it under this number.
    Made { number: u64, disks: Vec<DiskFile> },
}

/// What a task of the builder's is for.
enum Purpose {
    Start(String),
    Unmake(String),
    Serve(String),
    /// What is told to who serves disks, or a folder that goes.
    Other,
}

impl Entry {
    fn new(folder: PathBuf) -> Self {
        let (trouble, ends, told) = Default::default();
        Self { folder, phase: Phase::Stopped, trouble, is_complaint: false, ends, told }
    }

    const fn number(&self) -> Option<u64> {
        match self.phase {
            Phase::Made { number, .. } => Some(number),
            Phase::Changing(number) => number,
            Phase::Stopped => None,
        }
    }

    fn has_failed(&mut self, why: String) {
        (self.phase, self.trouble, self.is_complaint) = (Phase::Stopped, Some(why), true);
    }
}

impl Vms {
    /// Before anything is known.
    ///
    /// # Errors
    /// There is no memory for a thread.
    pub(super) fn new() -> Result<Self> {
        let begun = facts::read(facts::BEGUN).unwrap_or_default();
        Ok(Self {
            all: BTreeMap::new(),
            builder: Builder::new()?,
            tasks: Tasks::default(),
            jobs: BTreeMap::new(),
            begun: begun.lines().map(str::to_owned).collect(),
            has_own: false,
            hub: None,
            events: Vec::new(),
            room: Room::default(),
            said: Vec::new(),
        })
    }

    /// What is wrong, a line each.
    pub(super) fn complaints(&self) -> impl Iterator<Item = String> {
        let wrong = self.all.iter().filter(|(_, entry)| entry.is_complaint);
        wrong.filter_map(|(name, entry)| Some(format!("VM {name}: {}", entry.trouble.as_ref()?)))
    }

    /// What becomes readable when [`Self::build`] has something to do.
    pub(super) const fn bell(&self) -> &UnixStream {
        self.builder.bell()
    }

    /// What has happened since the last call.
    pub(super) fn events(&mut self) -> Vec<What> {
        core::mem::take(&mut self.events)
    }

    /// What VMs have said since the last call.
    pub(super) fn said(&mut self) -> Vec<(String, Vec<u8>)> {
        core::mem::take(&mut self.said)
    }

    /// Where a VM's log is to be: in its folder where that is the node's own.
    pub(super) fn folder(&self, name: &str) -> Option<&PathBuf> {
        self.all.get(name).map(|entry| &entry.folder).filter(|folder| store::is_own(folder))
    }

    /// The files that VMs' descriptions name.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, Vec<String>)> {
        self.all.iter().map(|(name, entry)| {
            let file = file::read(&entry.folder).ok();
            (name.as_str(), file.map_or_else(Vec::new, |file| file.files().map(str::to_owned).collect()))
        })
    }

    /// Looks for folders, and starts what is to start by itself. `seen` are the VMs that the kernel has already. Those with disks in files wait until it
    /// `is_settled` where these are.
    pub(super) fn begin(&mut self, seen: &[Seen], is_settled: bool) {
        if is_settled && !self.has_own {
            self.has_own = true;
            for folder in store::left_over() {
                self.give("delete", None, Purpose::Other, Job::Delete { folder });
            }
        }
        let folders = store::folders(self.has_own);
        self.all.retain(|name, entry| entry.phase != Phase::Stopped || folders.contains_key(name));
        for (name, folder) in folders {
            if self.all.contains_key(&name) || !is_settled && file::has_files(&folder) {
                continue;
            }
            let is_own = store::is_own(&folder);
            // Another basaltd has made it, before this one.
            if let Some(seen) = seen.iter().find(|seen| seen.name == name) {
                self.adopt(name, folder, seen);
                continue;
            }
            self.all.insert(name.clone(), Entry::new(folder.clone()));
            let starts = !is_own || file::read(&folder).map_or(true, |file| file.autostart);
            if starts && !self.begun.contains(&name) {
                self.start(&name, None);
            }
            self.has_begun(name);
        }
    }

    /// Notes that a VM was started, or not, for this boot.
    fn has_begun(&mut self, name: String) {
        if self.begun.insert(name) {
            let text: String = self.begun.iter().map(|name| format!("{name}\n")).collect();
            if let Err(error) = facts::write(facts::BEGUN, &text) {
                log::warn(&format!("{}: {error}", facts::BEGUN));
            }
        }
    }

    fn adopt(&mut self, name: String, folder: PathBuf, seen: &Seen) {
        let number = seen.number;
        let mut entry = Entry::new(folder);
        entry.phase = Phase::Made { number, disks: disk_files::files_of(&entry.folder) };
        self.all.insert(name.clone(), entry);
        if seen.state == VmState::Held {
            // Whoever made it has died over it.
            self.remake(&name, number);
        }
    }

    /// Has a VM made, after all that was asked for before. The number of the task.
    fn start(&mut self, name: &str, before: Option<u64>) -> Option<u64> {
        let entry = self.all.get_mut(name)?;
        (entry.phase, entry.trouble, entry.is_complaint) = (Phase::Changing(None), None, false);
        log::info(&format!("VM {name}: is being made"));
        let job = Job::Make { before, name: name.to_owned(), folder: entry.folder.clone() };
        let what = if before.is_some() { "reset" } else { "start" };
        Some(self.give(what, Some(name), Purpose::Start(name.to_owned()), job))
    }

    fn remake(&mut self, name: &str, number: u64) -> Option<u64> {
        self.start(name, Some(number))
    }

    /// A VM that has reset itself has nothing in its memory, and all else as it was.
    fn starts_over(&mut self, vm: u64) {
        let Some((name, entry)) = self.all.iter_mut().find(|(_, entry)| entry.number() == Some(vm)) else {
            return;
        };
        let (name, folder) = (name.clone(), entry.folder.clone());
        log::info(&format!("VM {name}: starts over"));
        let Phase::Made { disks, .. } = core::mem::replace(&mut entry.phase, Phase::Changing(Some(vm)))
        else {
            self.remake(&name, vm);
            return;
        };
        (entry.trouble, entry.is_complaint) = (None, false);
        let job = Job::Refill { vm, name: name.clone(), folder, disks };
        self.give("reset", Some(&name), Purpose::Start(name.clone()), job);
    }

    fn give(&mut self, what: &str, vm: Option<&str>, purpose: Purpose, job: Job) -> u64 {
        let id = self.tasks.add(what, vm.and_then(|vm| vm.parse::<Name>().ok()));
        self.jobs.insert(id, purpose);
        self.builder.give(id, job);
        id
    }

    /// Has what VMs say told from here on: who opens the channel begins with none of it.
    pub(super) fn watch_consoles(&self, channel: &mut Channel) {
        for vm in self.all.values().filter_map(Entry::number) {
            if let Err(error) = channel.order(&Request::WatchConsole { vm, on: true }) {
                log::warn(&format!("a console cannot be watched: {error}"));
            }
        }
    }

    /// Sees to what the builder says. Whether it has said that VMs are others than before.
    pub(super) fn build(&mut self, channel: &mut Channel) -> bool {
        let mut any = false;
        while let Some(news) = self.builder.hear(channel) {
            match news {
                builder::News::Progress(task, Progress::Number(number)) => {
                    let Some(Purpose::Start(name)) = self.jobs.get(&task) else { continue };
                    let entry = self.all.get_mut(name);
                    entry.into_iter().for_each(|entry| entry.phase = Phase::Changing(Some(number)));
                }
                builder::News::Progress(task, Progress::Percent(percent)) => {
                    let task = self.tasks.goes_on(task, percent).cloned();
                    self.events.extend(task.map(|task| What::Task { task }));
                }
                builder::News::Over(task, outcome) => {
                    any = true;
                    self.is_over(task, outcome);
                }
            }
        }
        any
    }

    fn is_over(&mut self, task: u64, outcome: Result<Outcome>) {
        let error = match (self.jobs.remove(&task), outcome) {
            (Some(Purpose::Start(name)), Ok(Outcome::Made(number, disks))) => {
                log::info(&format!("VM {name}: runs"));
                let entry = self.all.get_mut(&name);
                entry
                    .into_iter()
                    .for_each(|entry| entry.phase = Phase::Made { number, disks: disks.clone() });
                None
            }
            (Some(Purpose::Unmake(name)), Ok(_)) => {
                log::info(&format!("VM {name}: all that it had is free"));
                self.has_stopped(&name);
                None
            }
            (Some(Purpose::Serve(name)), Ok(_)) => {
                log::info(&format!("VM {name}: its disks are served again"));
                None
            }
            (Some(Purpose::Start(name) | Purpose::Unmake(name)), Err(error)) => {
                log::error(&format!("VM {name}: {error}"));
                let entry = self.all.get_mut(&name);
                entry.into_iter().for_each(|entry| entry.has_failed(error.to_string()));
                self.has_stopped(&name);
                Some(error.into())
            }
            (Some(Purpose::Serve(name)), Err(error)) => {
                log::error(&format!("VM {name}: its disks stand still: {error}"));
                Some(error.into())
            }
            (_, outcome) => outcome.err().map(api::Error::from),
        };
        let task = self.tasks.is_over(task, error).cloned();
        self.events.extend(task.map(|task| What::Task { task }));
    }

    /// Whoever waits for its end hears of it.
    fn has_stopped(&mut self, name: &str) {
        let Some(entry) = self.all.get_mut(name) else { return };
        entry.phase = Phase::Stopped;
        for task in core::mem::take(&mut entry.ends) {
            let task = self.tasks.is_over(task, None).cloned();
            self.events.extend(task.map(|task| What::Task { task }));
        }
    }

    /// Sees to what the kernel has told. Whether VMs are others than before.
    pub(super) fn hear(&mut self, channel: &mut Channel) -> bool {
        let mut any = false;
        while let Some(news) = channel.news() {
            any |= !matches!(news, News::Console(..) | News::ConsoleLost(..));
            match news {
                News::Ended(vm, reason) => self.ended(vm, reason),
                News::Reset(vm) => self.starts_over(vm),
                News::NoRoom(vm) => self.has_no_room(vm),
                News::Console(vm, bytes) => {
                    self.said.extend(self.name_of(vm).map(|name| (name, bytes)));
                }
                News::ConsoleLost(vm, count) => {
                    let text = format!("\r\n[{count} bytes of the console were lost]\r\n").into_bytes();
                    self.said.extend(self.name_of(vm).map(|name| (name, text)));
                }
                News::Orders(..) => {}
            }
        }
        any
    }

    /// A VM's name.
    fn name_of(&self, number: u64) -> Option<String> {
        let found = self.all.iter().find(|(_, entry)| entry.number() == Some(number));
        found.map(|(name, _)| name.clone())
    }

    fn ended(&mut self, vm: u64, reason: Reason) {
        let Some(name) = self.name_of(vm) else { return };
        let why = why(reason);
        log::info(&format!("VM {name}: has ended: {why}"));
        self.room.forget(vm);
        if let Some(entry) = self.all.get_mut(&name) {
            (entry.phase, entry.trouble) = (Phase::Changing(Some(vm)), Some(why.to_owned()));
            entry.is_complaint = reason == Reason::Crashed;
        }
        let job = Job::Unmake { vm, name: name.clone() };
        self.give("end", Some(&name), Purpose::Unmake(name.clone()), job);
    }

    /// Where another process serves disks than before, it is told of all that there are.
    pub(super) fn tell_hub(&mut self) {
        let hub = facts::read(facts::HUB);
        if hub.is_none() || hub == self.hub {
            return;
        }
        // The first one was told while the VM was made.
        if core::mem::replace(&mut self.hub, hub).is_none() {
            return;
        }
        let made = self.all.iter().filter_map(|(name, entry)| match &entry.phase {
            Phase::Made { number, disks } if !disks.is_empty() => {
                Some((name.clone(), *number, disks.clone()))
            }
            _ => None,
        });
        for (name, vm, disks) in made.collect::<Vec<_>>() {
            let job = Job::Serve { vm, name: name.clone(), disks };
            self.give("serve disks", Some(&name), Purpose::Serve(name.clone()), job);
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
        let runs = |vm: &&Seen| vm.state == VmState::Running;
        for vm in watch.look(channel)?.iter().filter(runs) {
            log::info(&format!("VM {}: is asked to shut down", vm.name));
            // One that has ended meanwhile has no button any more.
            let _ = channel.order(&Request::PressPowerButton { vm: vm.number });
        }
        loop {
            channel.listen()?;
            self.hear(channel);
            self.build(channel);
            let left: Vec<_> = watch.look(channel)?.iter().filter(runs).map(|vm| vm.name.as_str()).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                log::warn(&format!("not shut down, and ended with the machine: {}", left.join(", ")));
                return Ok(());
            }
            super::wait(&[channel.file(), self.bell()], SECOND)?;
        }
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
