//! Knows the state of the node: gathers what the other processes tell and what Basalt's kernel says of VMs, says when the node is ready, and shows
//! the status page.

mod channel;
mod screen;

use std::io::Result;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::network::{report, seen};
use crate::status::{Status, Vm};
use crate::{facts, log, storage};
use channel::Channel;
use screen::Screens;

/// Between two looks at VMs.
const LOOK: Duration = Duration::from_secs(10);
/// How the node is reached today.
const REACH: &str = "at this screen; `basalt.rescue` on dom0's command line gives a shell";

/// The process: comes back only with an error.
pub(crate) fn run() -> Result<bool> {
    let news = facts::watch()?;
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
        // What VMs do is asked for; what the kernel tells of them unasked is not listened to yet.
        wait(&news, Some(again.unwrap_or(LOOK).min(LOOK)))?;
    }
}

/// Basalt's kernel, as far as it can be heard.
#[derive(Default)]
struct Kernel {
    channel: Option<Channel>,
    /// Why it cannot be heard, as it was said last.
    trouble: Option<String>,
}

impl Kernel {
    /// Adds what the kernel says of VMs, or why it cannot be asked.
    fn tell(&mut self, status: &mut Status) {
        match self.ask() {
            Ok(vms) => {
                status.vms = vms;
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

    fn ask(&mut self) -> Result<Vec<Vm>> {
        if self.channel.is_none() {
            self.channel = Channel::open()?;
            if self.channel.is_some() {
                log::info("Basalt's kernel answers");
            }
        }
        self.channel.as_mut().map_or(Ok(Vec::new()), Channel::vms)
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

fn wait(news: &rustix::fd::OwnedFd, again: Option<Duration>) -> Result<()> {
    let timeout = again.and_then(|again| Timespec::try_from(again).ok());
    match poll(&mut [PollFd::new(news, PollFlags::IN)], timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
