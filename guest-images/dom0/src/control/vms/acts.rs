//! What people ask for. Each of it is done, was done already, or is refused by name and has changed nothing.

use abi::{Request, VmState};
use api::event::What;
use api::name::Name;
use api::task::Task;
use api::vm::VmFile;
use api::{Error, Reason};

use super::builder::Job;
use super::disk_files::other_limits;
use super::{Entry, Phase, Purpose, Vms, file, store};
use crate::channel::{Asks, Channel};
use crate::control::refusals::{no_data, no_vm};
use crate::control::tasks::MOST;
use crate::control::watch::Seen;
use crate::log;
use crate::operation::Act;

impl Vms {
    /// Makes a VM's folder. The same once more changes nothing.
    ///
    /// # Errors
    /// Another VM has that name; its description is wrong, or names files that are not there; it cannot be written.
    pub(in crate::control) fn create(
        &mut self,
        name: &Name,
        file: &VmFile,
        seen: &[Seen],
    ) -> Result<(), Error> {
        file.check().map_err(|why| Error::new(Reason::Invalid, why))?;
        self.data()?;
        if let Some(entry) = self.all.get(name.as_str()) {
            let old = file::read(&entry.folder).ok();
            let same = old
                .is_some_and(|old| VmFile { id: file.id.clone().or(old.id.clone()), ..file.clone() } == old);
            return if same { Ok(()) } else { Err(taken(name)) };
        }
        if seen.iter().any(|seen| seen.name == name.as_str()) {
            return Err(taken(name));
        }
        self.is_another(name.as_str(), file)?;
        let folder = store::create(name, file)?;
        log::info(&format!("VM {name}: is created"));
        self.all.insert(name.to_string(), Entry::new(folder));
        // It is started when that is asked for, and with the next boot.
        self.has_begun(name.to_string());
        self.events.push(What::Changed { vm: name.clone() });
        Ok(())
    }

    /// Describes it anew: what runs goes on, and has it from its next start on; what its disks may do changes at once.
    ///
    /// # Errors
    /// As for [`Self::create`]; it is not the node's own.
    pub(in crate::control) fn change(&mut self, name: &Name, file: &VmFile) -> Result<(), Error> {
        file.check().map_err(|why| Error::new(Reason::Invalid, why))?;
        self.is_another(name.as_str(), file)?;
        let entry = self.own(name)?;
        store::change(&entry.folder, file)?;
        log::info(&format!("VM {name}: is described anew"));
        self.limit_disks(name, file);
        self.events.push(What::Changed { vm: name.clone() });
        Ok(())
    }

    /// Has what the disks of a VM that runs may do be as it is described.
    fn limit_disks(&mut self, name: &Name, file: &VmFile) {
        let Some(Entry { phase: Phase::Made { disks, .. }, .. }) = self.all.get_mut(name.as_str()) else {
            return;
        };
        let limits = other_limits(disks, file);
        if limits.is_empty() {
            return;
        }
        for limit in &limits {
            let its = disks.iter_mut().find(|disk| disk.number == limit.disk);
            its.into_iter().for_each(|disk| disk.limits = limit.limits);
        }
        let job = Job::Limit { name: name.to_string(), limits };
        self.give("limit disks", Some(name.as_str()), Purpose::Other, job);
    }

    /// Deletes its folder with all that is in it.
    ///
    /// # Errors
    /// It runs; it is not the node's own.
    pub(in crate::control) fn delete(&mut self, name: &Name) -> Result<Task, Error> {
        let entry = self.own(name)?;
        if entry.phase != Phase::Stopped {
            return Err(Error::new(Reason::State, format!("VM {name} is not stopped"))
                .next(format!("stop it first: `basalt vm stop {name}`")));
        }
        let folder = store::delete(name.as_str(), &entry.folder.clone())?;
        log::info(&format!("VM {name}: is deleted"));
        self.all.remove(name.as_str());
        self.begun.remove(name.as_str());
        self.events.push(What::Deleted { vm: name.clone() });
        let id = self.give("delete", Some(name.as_str()), Purpose::Other, Job::Delete { folder });
        self.task(id)
    }

    /// Does something to it.
    ///
    /// # Errors
    /// It cannot be in the state that it is in; the kernel refuses.
    pub(in crate::control) fn act(
        &mut self,
        name: &Name,
        act: Act,
        seen: &[Seen],
        channel: &mut Channel,
    ) -> Result<Task, Error> {
        let entry = self.all.get(name.as_str()).ok_or_else(|| no_vm(name.as_str()))?;
        let known = seen.iter().find(|seen| Some(seen.number) == entry.number());
        let state = known.map(|known| known.state);
        match (act, &entry.phase, state) {
            (Act::Start, Phase::Stopped, _) => return self.ask_to_start(name),
            // It is so already.
            (Act::Start | Act::Resume, Phase::Made { .. }, Some(VmState::Running))
            | (Act::Stop | Act::Shutdown, Phase::Stopped, _)
            | (Act::Pause, Phase::Made { .. }, Some(VmState::Paused)) => {}
            (Act::Start, Phase::Made { .. }, Some(VmState::Paused)) => {
                return Err(Error::new(Reason::State, format!("VM {name} is paused"))
                    .next(format!("let it go on: `basalt vm resume {name}`")));
            }
            (
                Act::Shutdown | Act::Stop,
                Phase::Made { number, .. },
                Some(VmState::Running | VmState::Paused),
            ) => {
                let vm = *number;
                let is_soft = act == Act::Shutdown;
                if is_soft && state == Some(VmState::Paused) {
                    return Err(Error::new(Reason::State, format!("VM {name} is paused, and hears nothing"))
                        .next(format!(
                            "let it go on (`basalt vm resume {name}`), or stop it (`basalt vm stop {name}`)"
                        )));
                }
                channel.order(&if is_soft {
                    Request::PressPowerButton { vm }
                } else {
                    Request::Stop { vm }
                })?;
                return self.until_it_ends(name, act);
            }
            (Act::Reset, Phase::Made { number, .. }, Some(VmState::Running | VmState::Paused)) => {
                channel.order(&Request::Reset { vm: *number })?;
            }
            (Act::Pause, Phase::Made { number, .. }, Some(VmState::Running)) => {
                channel.order(&Request::Pause { vm: *number })?;
            }
            (Act::Resume, Phase::Made { number, .. }, Some(VmState::Paused)) => {
                channel.order(&Request::Resume { vm: *number })?;
                let entry = self.all.get_mut(name.as_str());
                entry.into_iter().for_each(|entry| (entry.trouble, entry.is_complaint) = (None, false));
            }
            (_, Phase::Stopped, _) => {
                return Err(Error::new(Reason::State, format!("VM {name} does not run"))
                    .next(format!("start it: `basalt vm start {name}`")));
            }
            _ => {
                return Err(Error::new(Reason::State, format!("VM {name} is being started or ended"))
                    .next("try again in a moment"));
            }
        }
        let id = self.tasks.add(word(act), Some(name.clone()));
        self.tasks.is_over(id, None).cloned().ok_or_else(|| lost(id))
    }

    fn ask_to_start(&mut self, name: &Name) -> Result<Task, Error> {
        if self.tasks.waiting() >= MOST {
            return Err(Error::new(Reason::TooMany, format!("{MOST} tasks wait already"))
                .next("wait for some of them: `basalt node tasks`"));
        }
        let folder = &self.all.get(name.as_str()).ok_or_else(|| no_vm(name.as_str()))?.folder;
        let file = file::read(folder).map_err(|error| Error::new(Reason::File, error))?;
        self.is_another(name.as_str(), &file)?;
        let id = self.start(name.as_str(), None).ok_or_else(|| no_vm(name.as_str()))?;
        self.task(id)
    }

    /// A task that is over when the VM has ended.
    fn until_it_ends(&mut self, name: &Name, act: Act) -> Result<Task, Error> {
        let id = self.tasks.add(word(act), Some(name.clone()));
        self.tasks.goes_on(id, 0);
        let entry = self.all.get_mut(name.as_str());
        entry.into_iter().for_each(|entry| entry.ends.push(id));
        self.task(id)
    }

    fn task(&self, id: u64) -> Result<Task, Error> {
        self.tasks.get(id).cloned().ok_or_else(|| lost(id))
    }

    /// Two VMs with one identity would have the same addresses.
    fn is_another(&self, name: &str, file: &VmFile) -> Result<(), Error> {
        let Some(id) = &file.id else { return Ok(()) };
        let has_it = |(other, entry): &(&String, &Entry)| {
            other.as_str() != name && file::read(&entry.folder).is_ok_and(|file| file.id.as_ref() == Some(id))
        };
        match self.all.iter().find(has_it) {
            None => Ok(()),
            Some((other, _)) => Err(Error::new(
                Reason::IdentityTaken,
                format!("VM {name} is the same machine as VM {other}: both have the id {id}"),
            )
            .next(format!("take the line `id` out of {name}'s vm.toml to make it a machine of its own"))),
        }
    }

    /// The node's own VM of that name.
    fn own(&self, name: &Name) -> Result<&Entry, Error> {
        let entry = self.all.get(name.as_str()).ok_or_else(|| no_vm(name.as_str()))?;
        if store::is_own(&entry.folder) {
            return Ok(entry);
        }
        Err(Error::new(
            Reason::State,
            format!("VM {name} came with the boot medium, and stays as it is there"),
        ))
    }

    /// The node's data has to be there, or known to be nowhere.
    fn data(&self) -> Result<(), Error> {
        if self.has_own {
            return Ok(());
        }
        Err(no_data())
    }
}

fn taken(name: &Name) -> Error {
    Error::new(Reason::NameTaken, format!("there is another VM with the name {name}"))
        .next("choose another name, or change that one: `basalt vm edit`")
}

fn lost(id: u64) -> Error {
    Error::new(Reason::Failed, format!("task {id} is not known any more"))
}

const fn word(act: Act) -> &'static str {
    match act {
        Act::Start => "start",
        Act::Shutdown => "shutdown",
        Act::Stop => "stop",
        Act::Reset => "reset",
        Act::Pause => "pause",
        Act::Resume => "resume",
    }
}
