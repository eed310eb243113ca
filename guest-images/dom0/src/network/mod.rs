//! Brings the node's own Ethernet interfaces up: each one with a carrier asks for an address by DHCP and keeps it.

mod interface;
mod kernel;
pub(crate) mod report;
pub(crate) mod seen;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Error, Result};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{facts, log};
use interface::Interface;
use kernel::{Changes, Kernel};

/// Where programs look for servers of names.
const NAMES: &str = "/etc/resolv.conf";

/// The process: comes back only with an error.
pub(crate) fn run() -> Result<bool> {
    log::begin("network");
    let changes = Changes::open()?;
    let kernel = Kernel::open()?;
    if let Some(error) = seen::loopback().and_then(|index| kernel.switch_on(index).err()) {
        log::warn(&format!("the loopback interface stays off: {error}"));
    }
    let mut interfaces = BTreeMap::new();
    let mut told = None;
    // Times are since here.
    let begin = Instant::now();
    loop {
        changes.forget();
        look(&mut interfaces, &kernel, begin.elapsed());
        interfaces.values_mut().for_each(|interface| interface.work(&kernel, begin.elapsed()));
        tell(&interfaces, &mut told)?;
        wait(&changes, &interfaces, begin.elapsed())?;
    }
}

/// Takes note of interfaces that came, went or changed.
fn look(interfaces: &mut BTreeMap<String, Interface>, kernel: &Kernel, now: Duration) {
    let seen = seen::all();
    interfaces.retain(|name, interface| seen.get(name).is_some_and(|seen| interface.is(seen)));
    for (name, seen) in &seen {
        let interface =
            interfaces.entry(name.clone()).or_insert_with(|| Interface::switch_on(name, seen, kernel, now));
        interface.see(seen.has_carrier, kernel, now);
    }
}

/// Tells the others, where something is new.
fn tell(interfaces: &BTreeMap<String, Interface>, told: &mut Option<(String, String)>) -> Result<()> {
    let ports: Vec<_> = interfaces.values().map(Interface::port).collect();
    let mut names = String::new();
    for name in interfaces.values().filter_map(Interface::lease).flat_map(|lease| &lease.names) {
        writeln!(names, "nameserver {name}").map_err(Error::other)?;
    }
    let new = Some((report::write(&ports), names));
    if *told == new {
        return Ok(());
    }
    if let Some((report, names)) = &new {
        facts::write(facts::NETWORK, report)?;
        fs::write(NAMES, names)?;
    }
    *told = new;
    Ok(())
}

fn wait(changes: &Changes, interfaces: &BTreeMap<String, Interface>, now: Duration) -> Result<()> {
    let deadline = interfaces.values().filter_map(Interface::deadline).min();
    let timeout = deadline.and_then(|deadline| Timespec::try_from(deadline.saturating_sub(now)).ok());
    let mut watched = vec![PollFd::new(changes, PollFlags::IN)];
    watched.extend(
        interfaces.values().filter_map(Interface::socket).map(|socket| PollFd::new(socket, PollFlags::IN)),
    );
    match poll(&mut watched, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
