//! One VM's disks: its worker, and what that was told.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use abi::{DiskAnswer, DiskOrder};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, sendmsg, socketpair,
};

use super::files::DiskFile;
use super::window::Window;
use crate::worker::{Disk, Disks, Limit, MESSAGE_BYTES, Message, Opened};
use crate::{PROGRAM, log};

/// Nobody: users and groups of that number own nothing.
const NOBODY: u32 = 65_534;
/// The kernel's log, which nobody may open.
const LOG: &str = "/dev/kmsg";
/// Files of a worker at most: the window, and the disks of a VM with what is below them.
const MOST_FILES: usize = 17;
const SLOTS: usize = 32;
/// How long a worker has to open its images.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait with another one, where one has died.
const AGAIN: Duration = Duration::from_secs(1);

/// The disks of a VM.
pub(super) struct Service {
    name: String,
    disks: Vec<DiskFile>,
    window: Window,
    worker: Worker,
    sectors: Vec<u64>,
    vm: Option<u64>,
    /// What the worker was told and has not answered, by slots.
    out: [Option<DiskOrder>; SLOTS],
    /// When another worker is to be started.
    due: Option<Instant>,
}

/// A process, which ends with this.
struct Worker {
    socket: OwnedFd,
    child: Child,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended already is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    /// Opens the images, and has a worker look at them.
    ///
    /// # Errors
    /// One of them cannot be had, which is named; there is no memory for the window.
    pub(super) fn new(name: &str, disks: Vec<DiskFile>) -> Result<Self> {
        let window = Window::new()?;
        let (worker, sectors) = Worker::start(&disks, &window)?;
        Ok(Self {
            name: name.to_owned(),
            disks,
            window,
            worker,
            sectors,
            vm: None,
            out: [None; SLOTS],
            due: None,
        })
    }

    /// Sectors of each disk.
    pub(super) fn sectors(&self) -> &[u64] {
        &self.sectors
    }

    /// Where its window is.
    pub(super) const fn window(&self) -> u64 {
        self.window.physical()
    }

    /// The VM is made: it has this number, and no order is under way.
    pub(super) const fn is_of(&mut self, vm: u64) {
        self.vm = Some(vm);
        self.out = [None; SLOTS];
    }

    pub(super) const fn vm(&self) -> Option<u64> {
        self.vm
    }

    pub(super) const fn socket(&self) -> &OwnedFd {
        &self.worker.socket
    }

    /// Tells orders of the kernel's to the worker.
    pub(super) fn tell(&mut self, orders: &[u8]) {
        let (entries, _) = orders.as_chunks::<{ DiskOrder::BYTES }>();
        for order in entries.iter().filter_map(|entry| DiskOrder::from_bytes(entry).ok()) {
            if let Some(place) = self.out.get_mut(usize::from(order.slot)) {
                *place = Some(order);
            }
        }
        // A worker that is gone is seen where answers are taken, and another one is told all of it.
        let _ = Message::Orders(orders).send(&self.worker.socket);
    }

    /// A disk may do so much from here on, also where another worker has to be started.
    ///
    /// # Errors
    /// It has no such disk.
    pub(super) fn limit(&mut self, limit: Limit) -> Result<()> {
        let disk = self.disks.iter_mut().find(|disk| disk.number == limit.disk).ok_or(ErrorKind::NotFound)?;
        disk.limits = limit.limits;
        let _ = Message::Limit(limit).send(&self.worker.socket);
        Ok(())
    }

    /// What the worker has answered since the last call. What nobody asked is left out.
    pub(super) fn answers(&mut self) -> Vec<DiskAnswer> {
        let mut answers = Vec::new();
        let mut bytes = [0; DiskAnswer::BYTES];
        loop {
            match recv(&self.worker.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((DiskAnswer::BYTES, _)) => {
                    let Ok(answer) = DiskAnswer::from_bytes(&bytes) else { continue };
                    let order = self.out.get_mut(usize::from(answer.slot)).and_then(Option::take);
                    answers.extend(order.map(|_| answer));
                }
                Err(rustix::io::Errno::AGAIN) => return answers,
                Err(rustix::io::Errno::INTR) => {}
                Ok((0, _)) | Err(_) => {
                    if self.due.is_none() {
                        log::error(&format!(
                            "VM {}: the process with its disks has died, and is started again",
                            self.name
                        ));
                        self.due = Some(Instant::now() + AGAIN);
                    }
                    return answers;
                }
                Ok(_) => {}
            }
        }
    }

    /// Starts another worker where one has died, and tells it what that one has not answered.
    pub(super) fn start_due(&mut self, now: Instant) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        match Worker::start(&self.disks, &self.window) {
            Ok((worker, sectors)) if sectors == self.sectors => {
                (self.worker, self.due) = (worker, None);
                let orders: Vec<u8> = self.out.iter().flatten().flat_map(DiskOrder::to_bytes).collect();
                if !orders.is_empty() {
                    let _ = Message::Orders(&orders).send(&self.worker.socket);
                }
            }
            Ok(_) => {
                log::error(&format!(
                    "VM {}: its images have another size than before; its disks stand still",
                    self.name
                ));
                self.due = Some(now + PATIENCE);
            }
            Err(error) => {
                log::error(&format!("VM {}: its disks stand still: {error}", self.name));
                self.due = Some(now + PATIENCE);
            }
        }
    }
}

impl Worker {
    /// Starts one with the images and the window, and hears how large they are.
    fn start(disks: &[DiskFile], window: &Window) -> Result<(Self, Vec<u64>)> {
        let opened = disks.iter().map(DiskFile::open).collect::<Result<Vec<_>>>()?;
        let (socket, its) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = Command::new(PROGRAM)
            .arg("worker")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(its))
            .stdout(Stdio::null())
            .stderr(OpenOptions::new().write(true).open(LOG)?)
            .uid(NOBODY)
            .gid(NOBODY)
            .process_group(0)
            .spawn()?;
        let worker = Self { socket, child };
        let sectors = worker.greet(opened, window)?;
        Ok((worker, sectors))
    }

    fn greet(&self, opened: Vec<(Disk, Vec<File>)>, window: &Window) -> Result<Vec<u64>> {
        let (disks, files): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        let wanted = disks.len();
        let text = toml::to_string(&Disks { disks }).map_err(Error::other)?;
        let files = files.iter().flatten();
        let all: Vec<BorrowedFd<'_>> = [window.file()].into_iter().chain(files).map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&all)) {
            return Err(Error::new(ErrorKind::InvalidInput, "a VM has up to eight disks"));
        }
        sendmsg(&self.socket, &[IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
        rustix::net::sockopt::set_socket_timeout(
            &self.socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        )?;
        let mut bytes = [0; MESSAGE_BYTES];
        let (count, _) = recv(&self.socket, &mut bytes, RecvFlags::empty())?;
        if count == 0 {
            return Err(Error::other(
                "the process that looks at its images has died; the kernel's log may say why",
            ));
        }
        let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned();
        match toml::from_str(&text).map_err(Error::other)? {
            Opened::Sectors(sectors) if sectors.len() == wanted => Ok(sectors),
            Opened::Sectors(_) => Err(ErrorKind::InvalidData.into()),
            Opened::Error(why) => Err(Error::other(why)),
        }
    }
}
