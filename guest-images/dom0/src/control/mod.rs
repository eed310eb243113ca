//! Knows the state of the node and changes it: gathers what the other processes tell and what Basalt's kernel says of VMs, says when the node is ready,
//! shows the status page, and does what is asked by the process with the API ([`server`]).

mod access;
mod consoles;
pub(crate) mod images;
mod kernel;
mod node_log;
mod operations;
mod processes;
mod refusals;
mod screen;
mod server;
mod tasks;
mod usage;
mod vms;
mod wall_clock;
mod watch;

use std::io::{Error, Result};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGTERM};

use crate::network::{report, seen};
use crate::signals::{caught, is_signalled};
use crate::status::Status;
use crate::{clock, facts, log, storage};
use access::Access;
pub(crate) use access::{FOLDER as ACCESS, hash};
use kernel::Kernel;
use screen::Screens;
use server::Server;

/// Between two looks at everything.
const LOOK: Duration = Duration::from_secs(10);
/// Between two tries to hand a VM what was typed for it.
const TYPING: Duration = Duration::from_millis(50);
/// How long VMs have to shut down, when the machine is to end.
pub(crate) const VMS_PATIENCE: Duration = Duration::from_secs(30);
/// The user as which the process with the API runs.
pub(crate) const API_USER: u32 = 900;
/// How the node is reached where there is no API.
const REACH: &str = "at this screen; `basalt.rescue` on dom0's command line gives a shell";

/// The process.
struct Control {
    kernel: Kernel,
    server: Server,
    /// Who may ask; not known before the node's data is there.
    access: Option<Access>,
    status: Status,
    screens: Screens,
}

/// The process: ends when it is asked to, with all VMs.
pub(crate) fn run() -> Result<bool> {
    let news = facts::watch()?;
    // HUP is for shells, but comes to all.
    let asked = caught(&[SIGTERM, SIGHUP])?;
    let mut control = Control {
        kernel: Kernel::new()?,
        server: Server::open(API_USER)?,
        access: None,
        status: Status { is_ready: facts::read(facts::READY).is_some(), ..Status::default() },
        screens: Screens::new(),
    };
    loop {
        facts::forget(&news);
        let again = control.look()?;
        control.serve(&[news.as_fd(), asked.as_fd()], Instant::now() + again)?;
        if is_signalled(&asked) {
            control.kernel.shut_down()?;
            clock::store();
            return Ok(true);
        }
    }
}

impl Control {
    /// Looks at everything, and shows it. How long that holds.
    fn look(&mut self) -> Result<Duration> {
        let mut status = gather(self.status.is_ready);
        self.open_access(&status);
        status.reach = self.reach(&status);
        self.kernel.tell(&mut status);
        if !status.is_ready && everything_is_settled(&status) {
            status.is_ready = true;
            log::info("ready");
            facts::write(facts::READY, "")?;
        }
        self.status = status;
        self.pass_on();
        let again = self.screens.show(&self.status.lines(), self.status.is_ready, Instant::now());
        Ok(again.unwrap_or(LOOK).min(LOOK))
    }

    /// Serves the kernel, the builder and who asks, until something else is to be looked at.
    fn serve(&mut self, others: &[BorrowedFd<'_>], until: Instant) -> Result<()> {
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            let rest = if self.server.has_typed() { rest.min(TYPING) } else { rest };
            let there = self.wait(others, rest)?;
            if there.others || until <= Instant::now() {
                return Ok(());
            }
            let wishes = self.server.turn();
            let changes = there.kernel || !wishes.is_empty();
            if changes && !self.kernel.hear(!wishes.is_empty()) {
                return Ok(());
            }
            for (peer, wish) in wishes {
                self.grant(peer, wish);
            }
            self.kernel.type_for(&mut self.server);
            if self.pass_on() {
                return Ok(());
            }
        }
    }

    /// Tells those who listen what has happened, and what VMs have said. Whether a VM is in another state.
    fn pass_on(&mut self) -> bool {
        let any = self.kernel.pass_on(&mut self.server);
        self.server.send();
        any
    }

    /// Waits for these, the kernel, the builder or who asks, at most so long.
    fn wait(&self, others: &[BorrowedFd<'_>], rest: Duration) -> Result<There> {
        let timeout = Timespec::try_from(rest).map_err(Error::other)?;
        let count = others.len();
        let kernel: Vec<_> = self.kernel.files().collect();
        let kernels = kernel.len();
        let read = others.iter().copied().chain(kernel).map(|file| (file, PollFlags::IN));
        let all = read.chain(self.server.files());
        let mut files: Vec<_> = all.map(|(file, flags)| PollFd::from_borrowed_fd(file, flags)).collect();
        match poll(&mut files, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_there = |file: &PollFd<'_>| !file.revents().is_empty();
        Ok(There {
            others: files.iter().take(count).any(is_there),
            kernel: files.iter().skip(count).take(kernels).any(is_there),
        })
    }

    /// Tokens are where the node's data is.
    fn open_access(&mut self, status: &Status) {
        if self.access.is_some() || status.storage.data.is_none() {
            return;
        }
        match Access::open(Path::new(ACCESS)) {
            Ok(access) => {
                self.server.tell_access(&access.known(), None);
                self.access = Some(access);
            }
            Err(error) => {
                log::error(&format!("nobody can ask over the network: {error}"));
            }
        }
    }

    /// How the node is reached, a line each.
    fn reach(&self, status: &Status) -> Vec<String> {
        let (Some(access), Some(fingerprint)) = (&self.access, facts::read(facts::FINGERPRINT)) else {
            return vec![REACH.to_owned()];
        };
        let addresses = status.ports.iter().filter_map(|port| match &port.state {
            report::State::Leased { address, .. } => Some(format!("https://{address}:{}", api::PORT)),
            _ => None,
        });
        let mut lines: Vec<_> = addresses.take(2).collect();
        // 64 digits do not fit on the line with anything else.
        lines.extend([format!("known by {}", fingerprint.trim())]);
        lines.extend(access.first().map(|first| format!("first token {first}, shown until it is used")));
        lines
    }
}

/// What has something to say.
struct There {
    others: bool,
    kernel: bool,
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
        reach: Vec::new(),
    }
}

/// The devices that were there have their drivers, and each interface among them has an address, no carrier, or nobody who answers.
fn everything_is_settled(status: &Status) -> bool {
    let is_told = |name: &String| status.ports.iter().any(|port| port.name == *name);
    facts::read(facts::DRIVERS).is_some()
        && seen::all().keys().all(is_told)
        && status.ports.iter().all(|port| port.state.is_settled())
}

/// Waits for one of these files, or so long.
fn wait(files: &[&dyn AsFd], again: Duration) -> Result<()> {
    let timeout = Timespec::try_from(again).map_err(Error::other)?;
    let files = files.iter().map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN));
    match poll(&mut files.collect::<Vec<_>>(), Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
