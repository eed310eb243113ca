//! Disks of VMs that dom0 serves: orders come from the kernel, go to the worker of their VM, and answers come back. This process opens the images
//! and never looks into them; what is in them is the business of processes without rights (`worker`).
//!
//! `control` says what a VM's disks are, before it makes the VM, and what number that has, once it is made ([`Ask`]).

mod files;
mod service;
mod window;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Result};
use std::time::{Duration, Instant};

use abi::{DiskAnswer, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
    recv, send, socket_with,
};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGTERM};

use crate::channel::{self, Asks, Channel, News};
use crate::signals::{caught, is_signalled};
use crate::worker::{Limit, MESSAGE_BYTES, Opened};
use crate::{facts, log};
pub(crate) use files::{BackingFile, DiskFile};
use service::Service;

/// Where it listens.
pub(crate) const SOCKET: &str = "/run/basalt/disks";
/// Surplus huge pages that windows may take: one for each VM.
const OVERCOMMIT: (&str, &str) = ("/proc/sys/vm/nr_overcommit_hugepages", "512");
/// Between two looks at what has to be started again.
const LOOK: Duration = Duration::from_secs(10);

/// What is asked of it. All of it is answered by [`Opened`]; what has no sectors to tell, by none.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ask {
    /// A VM of this name is to have these disks.
    Open { name: String, disks: Vec<DiskFile> },
    /// It is made, and has this number in the kernel.
    Serve { name: String, vm: u64 },
    /// It is no more.
    Close { name: String },
    /// One of its disks may do so much from here on.
    Limit { name: String, limit: Limit },
}

/// The process: ends when it is asked to.
pub(crate) fn run() -> Result<bool> {
    let asked = caught(&[SIGTERM, SIGHUP])?;
    if let Err(error) = std::fs::write(OVERCOMMIT.0, OVERCOMMIT.1) {
        log::warn(&format!("{}: {error}: VMs may find no room for windows", OVERCOMMIT.0));
    }
    let mut hub = Hub { listener: listener()?, channel: None, talks: Vec::new(), services: BTreeMap::new() };
    facts::write(facts::HUB, &std::process::id().to_string())?;
    loop {
        hub.turn(&asked)?;
        if is_signalled(&asked) {
            return Ok(true);
        }
    }
}

fn listener() -> Result<OwnedFd> {
    let _ = std::fs::remove_file(SOCKET);
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    bind(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    listen(&socket, 8)?;
    Ok(socket)
}

/// All of it.
struct Hub {
    listener: OwnedFd,
    /// The kernel, once the port's driver is there.
    channel: Option<Channel>,
    /// Who asks for something.
    talks: Vec<OwnedFd>,
    /// By the names of VMs.
    services: BTreeMap<String, Service>,
}

impl Hub {
    /// Waits, and does what is to be done.
    fn turn(&mut self, asked: &std::os::unix::net::UnixStream) -> Result<()> {
        if self.channel.is_none() {
            self.channel = Channel::open(channel::DISKS)?;
        }
        let ready = self.wait(asked)?;
        let (talks, services) = ready.split_at(self.talks.len().min(ready.len()));
        self.hear_talks(talks);
        self.collect(services)?;
        self.distribute()?;
        let now = Instant::now();
        self.services.values_mut().for_each(|service| service.start_due(now));
        while let Ok(talk) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            self.talks.push(talk);
        }
        Ok(())
    }

    /// Waits for any of them. Which talks, and then which services, have something to say.
    fn wait(&self, asked: &std::os::unix::net::UnixStream) -> Result<Vec<bool>> {
        let timeout = Timespec::try_from(LOOK).map_err(|_| ErrorKind::InvalidInput)?;
        let mut files = vec![PollFd::new(asked, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        files.extend(self.talks.iter().map(|talk| PollFd::new(talk, PollFlags::IN)));
        files.extend(self.services.values().map(|service| PollFd::new(service.socket(), PollFlags::IN)));
        let heard = files.len();
        files.extend(self.channel.iter().map(|channel| PollFd::new(channel.file(), PollFlags::IN)));
        match poll(&mut files, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(files.iter().take(heard).skip(2).map(|file| !file.revents().is_empty()).collect())
    }

    /// Does what `control` asks for.
    fn hear_talks(&mut self, ready: &[bool]) {
        let mut gone = Vec::new();
        for number in ready.iter().enumerate().filter_map(|(number, ready)| ready.then_some(number)) {
            let Some(talk) = self.talks.get(number) else { continue };
            let mut bytes = [0; MESSAGE_BYTES];
            let heard = recv(talk, &mut bytes, RecvFlags::DONTWAIT).map(|(count, _)| count);
            let text = match heard {
                Ok(0) | Err(_) => {
                    gone.push(number);
                    continue;
                }
                Ok(count) => String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned(),
            };
            let answer =
                match toml::from_str(&text).map_err(std::io::Error::other).and_then(|ask| self.answer(ask)) {
                    Ok(sectors) => Opened::Sectors(sectors),
                    Err(error) => Opened::Error(error.to_string()),
                };
            let text = toml::to_string(&answer).unwrap_or_default();
            if let Some(talk) = self.talks.get(number) {
                // Who has gone meanwhile is seen the next time.
                let _ = send(talk, text.as_bytes(), SendFlags::DONTWAIT);
            }
        }
        for number in gone.into_iter().rev() {
            self.talks.remove(number);
        }
    }

    fn answer(&mut self, ask: Ask) -> Result<Vec<u64>> {
        match ask {
            Ask::Open { name, disks } => {
                // One of before goes, with its worker, which has the files.
                self.services.remove(&name);
                let service = Service::new(&name, disks)?;
                let sectors = service.sectors().to_vec();
                self.services.insert(name, service);
                Ok(sectors)
            }
            Ask::Serve { name, vm } => {
                let service = self.services.get_mut(&name).ok_or(ErrorKind::NotFound)?;
                let channel = self.channel.as_mut().ok_or(ErrorKind::NotConnected)?;
                channel.order(&Request::ServeDisks { vm, window: service.window() })?;
                service.is_of(vm);
                Ok(Vec::new())
            }
            Ask::Close { name } => {
                self.services.remove(&name);
                Ok(Vec::new())
            }
            Ask::Limit { name, limit } => {
                self.services.get_mut(&name).ok_or(ErrorKind::NotFound)?.limit(limit)?;
                Ok(Vec::new())
            }
        }
    }

    /// Takes the kernel's orders to the workers.
    fn distribute(&mut self) -> Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        channel.listen()?;
        while let Some(news) = channel.news() {
            let News::Orders(vm, orders) = news else { continue };
            // Of a VM that is gone, the kernel knows that, too.
            if let Some(service) = self.services.values_mut().find(|service| service.vm() == Some(vm)) {
                service.tell(&orders);
            }
        }
        Ok(())
    }

    /// Takes the workers' answers to the kernel.
    fn collect(&mut self, ready: &[bool]) -> Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        for (service, _) in self.services.values_mut().zip(ready).filter(|(_, ready)| **ready) {
            let answers = service.answers();
            let Some(vm) = service.vm().filter(|_| !answers.is_empty()) else { continue };
            let bytes: Vec<u8> = answers.iter().flat_map(DiskAnswer::to_bytes).collect();
            channel.say(&Request::DisksDone { vm, answers: &bytes })?;
        }
        Ok(())
    }
}
