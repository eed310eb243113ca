//! Knows the state of the node: gathers what the other processes tell, says when the node is ready, and shows the status page. VMs and their
//! management will come from the channel to Basalt's kernel, which this process will hold.

mod screen;

use std::io::Result;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::network::{report, seen};
use crate::status::Status;
use crate::{facts, log, storage};
use screen::Screens;

/// How the node is reached today.
const REACH: &str = "at this screen; `basalt.rescue` on dom0's command line gives a shell";

/// The process: comes back only with an error.
pub(crate) fn run() -> Result<bool> {
    let news = facts::watch()?;
    let mut screens = Screens::new();
    let mut is_ready = facts::read(facts::READY).is_some();
    loop {
        facts::forget(&news);
        let mut status = gather(is_ready);
        if !is_ready && everything_is_settled(&status) {
            is_ready = true;
            status.is_ready = true;
            log::info("ready");
            facts::write(facts::READY, "")?;
        }
        let again = screens.show(&status.lines(), is_ready, Instant::now());
        wait(&news, again)?;
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
