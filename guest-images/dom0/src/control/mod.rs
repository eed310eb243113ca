//! Knows the state of the node: gathers what the other processes tell and what Basalt's kernel says of VMs, says when the node is ready, and shows
//! the status page.

mod screen;
mod vms;
mod wall_clock;
mod watch;

use std::fs::File;
use std::io::{Error, Result};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGTERM};

use crate::channel::{self, Channel};
use crate::network::{report, seen};
use crate::signals::{caught, is_signalled};
use crate::status::{Status, Vm};
use crate::{clock, facts, log, storage};
use screen::Screens;
use vms::Vms;
use wall_clock::WallClock;
use watch::Watch;

/// Between two looks at VMs.
const LOOK: Duration = Duration::from_secs(10);
/// How long VMs have to shut down, when the machine is to end.
pub(crate) const VMS_PATIENCE: Duration = Duration::from_secs(30);
/// How the node is reached today.
const REACH: &str = "at this screen; `basalt.rescue` on dom0's command line gives a shell";

/// The process: ends when it is asked to, with all VMs.
pub(crate) fn run() -> Result<bool> {
    let news = facts::watch()?;
    // HUP is for shells, but comes to all.
    let asked = caught(&[SIGTERM, SIGHUP])?;
    let mut screens = Screens::new();
    let mut is_ready = facts::read(facts::READY).is_some();
    let mut kernel = Kernel::default();
    loop {
        facts::forget(&news);
        let mut status = gather(is_ready);
        kernel.tell(&mut status);
        if !is_ready && everything_is_settled(&status) {
            is_ready = true;
            status.is_ready = true;
            log::info("ready");
            facts::write(facts::READY, "")?;
        }
        let again = screens.show(&status.lines(), is_ready, Instant::now());
        wait(&[&news, &asked], kernel.file(), again.unwrap_or(LOOK).min(LOOK))?;
        if is_signalled(&asked) {
            kernel.shut_down()?;
            clock::store();
            return Ok(true);
        }
    }
}

/// Basalt's kernel, as far as it can be heard.
#[derive(Default)]
struct Kernel {
    channel: Option<Channel>,
    watch: Watch,
    vms: Vms,
    wall_clock: WallClock,
    /// Why it cannot be heard, as it was said last.
    trouble: Option<String>,
}

impl Kernel {
    /// What becomes readable when it tells something.
    fn file(&self) -> Option<&File> {
        self.channel.as_ref().map(Channel::file)
    }

    /// Adds what the kernel says of VMs, or why it cannot be asked.
    fn tell(&mut self, status: &mut Status) {
        match self.ask() {
            Ok(vms) => {
                status.vms = vms;
                status.complaints.extend(self.vms.complaints());
                self.trouble = None;
            }
            Err(error) => {
                let trouble = format!("Basalt's kernel cannot be asked: {error}");
                if self.trouble.as_ref() != Some(&trouble) {
                    log::error(&trouble);
                }
                status.complaints.push(trouble.clone());
                (self.channel, self.trouble) = (None, Some(trouble));
            }
        }
    }

    /// Asks all VMs to shut down, and waits for that.
    fn shut_down(&mut self) -> Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        self.vms.shut_down(channel, &mut self.watch, Instant::now() + VMS_PATIENCE)
    }

    fn ask(&mut self) -> Result<Vec<Vm>> {
        if self.channel.is_none() {
            self.channel = Channel::open(channel::CONTROL)?;
            if let Some(channel) = &mut self.channel {
                log::info(&format!("Basalt's kernel answers, in {} us", channel.round_trip()?.as_micros()));
                let events = channel.trace(0)?;
                let last = events.last().map_or("none".to_owned(), ToString::to_string);
                log::info(&format!("trace: {} events of CPU 0, the last one: {last}", events.len()));
            }
        }
        let Some(channel) = &mut self.channel else { return Ok(Vec::new()) };
        channel.listen()?;
        self.wall_clock.tell(channel)?;
        if !self.vms.has_begun() {
            let there = self.watch.look(channel)?;
            let storage = storage::report::read(&facts::read(facts::STORAGE).unwrap_or_default());
            self.vms.begin(channel, &there, storage.data.is_some());
        }
        self.vms.hear(channel)?;
        self.vms.tell_hub();
        let mut vms = self.watch.look(channel)?;
        self.vms.see_to_room(channel, &mut vms);
        Ok(vms.into_iter().map(|(_, vm)| vm).collect())
    }
}

fn gather(is_ready: bool) -> Status {
    let read = |name| facts::read(name).unwrap_or_default();
    let failing = read(facts::FAILING);
    Status {
        node: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        is_ready,
        ports: report::read(&read(facts::NETWORK)),
        storage: storage::report::read(&read(facts::STORAGE)),
        vms: Vec::new(),
        complaints: failing.lines().map(|name| format!("dom0's {name} dies again and again")).collect(),
        reach: vec![REACH.to_owned()],
    }
}

/// The devices that were there have their drivers, and each interface among them has an address, no carrier, or nobody who answers.
fn everything_is_settled(status: &Status) -> bool {
    let is_told = |name: &String| status.ports.iter().any(|port| port.name == *name);
    facts::read(facts::DRIVERS).is_some()
        && seen::all().keys().all(is_told)
        && status.ports.iter().all(|port| port.state.is_settled())
}

/// Waits for one of these files, for the kernel, or so long.
fn wait(files: &[&dyn AsFd], kernel: Option<&File>, again: Duration) -> Result<()> {
    let timeout = Timespec::try_from(again).map_err(Error::other)?;
    let files = files.iter().map(|file| file.as_fd());
    let kernel = kernel.map(AsFd::as_fd);
    let mut files: Vec<_> =
        files.chain(kernel).map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN)).collect();
    match poll(&mut files, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
