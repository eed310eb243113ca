//! One VM's disks: this process has the images that were handed to it open, the window, and a socket to the hub; and no rights beside. What an
//! image says is read nowhere else, so that one which is made to do harm does it here.
//!
//! First the hub says what the disks are, with their files and the window; this says how large they are, or what is wrong. From then on orders come,
//! and answers go, as `docs/disks.md` has them.

mod confine;
mod create;
mod image;
mod message;
mod orders;
mod qcow2;
mod queue;
mod throttle;

use std::fs::File;
use std::io::{Error, ErrorKind, IoSliceMut, Result, stdin};
use std::os::fd::AsFd;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use serde::{Deserialize, Serialize};
use vm_memory::{FileOffset, MmapRegion};

use api::image::Format;

use crate::log;
pub(crate) use create::create;
use image::{Backing, Image};
pub(crate) use message::{Limit, Message};
use orders::{Orders, WINDOW_BYTES};
pub(crate) use throttle::Limits;

/// Bytes of a message at most: what the disks are; orders are shorter.
pub(crate) const MESSAGE_BYTES: usize = 16 << 10;
/// Files that come with it at most: the window, and two for a disk.
const MOST_FILES: usize = 17;

/// Disks of a VM at most.
const MOST_DISKS: usize = 8;

/// What the disks are, in the order of their files and their numbers.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Disks {
    pub(crate) disks: Vec<Disk>,
}

/// One of them.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Disk {
    /// Its number in orders: other disks of its VM may be none of this process.
    pub(crate) number: u16,
    pub(crate) read_only: bool,
    pub(crate) source: Source,
    pub(crate) limits: Limits,
    /// What is below it, whose file comes behind its own,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backing: Option<Source>,
    /// and what that may be called in the file itself.
    pub(crate) backing_names: Vec<String>,
}

/// How a file is to be read.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Source {
    pub(crate) format: Format,
    /// It is open past this system's memory.
    pub(crate) direct: bool,
}

/// What has become of them.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Opened {
    /// Sectors of each.
    Sectors(Vec<u64>),
    /// Why one of them cannot be had.
    Error(String),
}

/// The process. It ends when the hub does.
pub(crate) fn run() -> Result<bool> {
    let socket = stdin();
    let socket = socket.as_fd();
    // Whoever started this has opened the log for it.
    log::begin_without_opening("worker");
    rustix::thread::set_no_new_privs(true)?;
    // Before anything of an image is read.
    confine::confine()?;
    let (images, limits, window) = match begin(socket) {
        Ok(begun) => begun,
        Err(error) => {
            tell(socket, &Opened::Error(error.to_string()))?;
            return Err(error);
        }
    };
    tell(socket, &Opened::Sectors(images.iter().flatten().map(Image::sectors).collect()))?;
    Orders { images: &images, window: &window, limits: &limits }.serve(socket)?;
    images.iter().flatten().try_for_each(Image::flush)?;
    Ok(true)
}

fn tell(socket: BorrowedFd<'_>, opened: &Opened) -> Result<()> {
    let text = toml::to_string(opened).map_err(Error::other)?;
    send(socket, text.as_bytes(), SendFlags::empty())?;
    Ok(())
}

/// Hears what the disks are, and opens them: images and limits by their numbers.
fn begin(socket: BorrowedFd<'_>) -> Result<(Vec<Option<Image>>, Vec<Limits>, MmapRegion)> {
    let (text, files) = hear(socket)?;
    let Disks { disks } = toml::from_str(&text).map_err(Error::other)?;
    let mut files = files.into_iter().map(File::from);
    let mut next = || {
        let none = || Error::new(ErrorKind::InvalidInput, "the window and each image come with a file");
        files.next().ok_or_else(none)
    };
    let window = next()?;
    let window = MmapRegion::from_file(FileOffset::new(window, 0), WINDOW_BYTES).map_err(Error::other)?;
    let mut open = |disk: &Disk| {
        let file = next()?;
        let backing = disk.backing.map(|source| Ok::<_, Error>((next()?, source))).transpose()?;
        let backing = backing.map(|(file, source)| Backing { file, source, names: &disk.backing_names });
        Image::open((file, disk.source), disk.read_only, backing)
            .map_err(|error| Error::other(format!("disk {}: {error}", disk.number)))
    };
    let mut images: Vec<Option<Image>> = (0..MOST_DISKS).map(|_| None).collect();
    let mut limits = vec![Limits::default(); MOST_DISKS];
    for disk in &disks {
        let number = usize::from(disk.number);
        let (Some(image), Some(limit)) = (images.get_mut(number), limits.get_mut(number)) else {
            return Err(Error::new(ErrorKind::InvalidInput, format!("a VM has up to {MOST_DISKS} disks")));
        };
        (*image, *limit) = (Some(open(disk)?), disk.limits);
    }
    Ok((images, limits, window))
}

/// A message with the files that came with it.
fn hear(socket: BorrowedFd<'_>) -> Result<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; MESSAGE_BYTES];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let heard = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files = files.flatten().collect();
    let text = bytes.get(..heard.bytes).unwrap_or_default().to_vec();
    Ok((String::from_utf8(text).map_err(Error::other)?, files))
}
