//! Loads the kernel modules that the machine's devices ask for: those that are there when dom0 starts, and later what is plugged in.

mod index;
mod loader;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Error, Result};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::uevent::{Events, Received};
use crate::{facts, log};
use loader::Loader;

const DEVICES: &str = "/sys/devices";
/// Drivers find further devices a moment after they were loaded. When none has come for so long, the first ones are complete.
const QUIET: Duration = Duration::from_millis(250);
/// A machine on which devices come and go all the time is complete after so long.
const LONGEST: Duration = Duration::from_secs(10);

/// The process: comes back only with an error.
pub(crate) fn run() -> Result<bool> {
    log::begin("drivers");
    // First the socket: what comes while we look at the devices waits in it.
    let events = Events::open()?;
    let mut loader = Loader::open()?;
    coldplug(&mut loader);
    let begin = Instant::now();
    let mut settled = false;
    loop {
        let quiet = Timespec::try_from(QUIET).map_err(Error::other)?;
        let timeout = if settled { None } else { Some(&quiet) };
        let came = poll(&mut [PollFd::new(&events, PollFlags::IN)], timeout);
        let came =
            came.or_else(|error| if error == rustix::io::Errno::INTR { Ok(1) } else { Err(error) })? > 0;
        follow(&events, &mut loader)?;
        if !settled && (!came || begin.elapsed() > LONGEST) {
            settled = true;
            log::info(&format!("modules for this machine: {}", loader.summary()));
            facts::write(facts::DRIVERS, "settled\n")?;
        }
    }
}

/// Does what the kernel asks `/sbin/modprobe` for: `-q -- NAME`, where a name may be an alias. True where there is a module for each.
pub(crate) fn modprobe(words: impl Iterator<Item = String>) -> Result<bool> {
    log::begin("modprobe");
    let mut loader = Loader::open()?;
    // The kernel asks for much that is built in, or that it can do without: that is not worth a word.
    Ok(words.filter(|word| !word.starts_with('-')).all(|name| loader.load_for(&name)))
}

fn follow(events: &Events, loader: &mut Loader) -> Result<()> {
    loop {
        match events.receive()? {
            Received::Event(event) => {
                if event.action == "add"
                    && let Some(alias) = &event.modalias
                {
                    loader.load_for(alias);
                }
            }
            Received::Lost => coldplug(loader),
            Received::Nonsense => {}
            Received::Nothing => return Ok(()),
        }
    }
}

/// Loads for all devices that are there.
fn coldplug(loader: &mut Loader) {
    let mut aliases = BTreeSet::new();
    find(Path::new(DEVICES), &mut aliases);
    for alias in &aliases {
        loader.load_for(alias);
    }
}

/// The aliases below a folder of `/sys`. Links there lead to other places of the same tree.
fn find(folder: &Path, aliases: &mut BTreeSet<String>) {
    // A device may be gone before we come to it.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), aliases);
        } else if entry.file_name() == "modalias"
            && let Ok(alias) = fs::read_to_string(entry.path())
        {
            aliases.insert(alias.trim_end().to_owned());
        }
    }
}
