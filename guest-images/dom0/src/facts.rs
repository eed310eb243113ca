//! What one process of dom0 tells the others: a small text file each below `/run/basalt`, written whole or not at all. Whoever reads it may
//! come later, and may come again.

use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::inotify;

/// The folder of the files.
pub(crate) const FOLDER: &str = "/run/basalt";

/// All devices that were there at the beginning have their drivers.
pub(crate) const DRIVERS: &str = "drivers";
/// The interfaces, as [`crate::network::report`] writes them.
pub(crate) const NETWORK: &str = "network";
/// The disks, as [`crate::storage::report`] writes them.
pub(crate) const STORAGE: &str = "storage";
/// Processes of dom0 that die again and again, a line each.
pub(crate) const FAILING: &str = "failing";
/// The process that serves disks: its number, as another one knows nothing of what this was told.
pub(crate) const HUB: &str = "hub";
/// VMs that were to start by themselves and were started, a line each.
pub(crate) const BEGUN: &str = "begun";
/// The SHA-256 of the certificate of the API.
pub(crate) const FINGERPRINT: &str = "fingerprint";
/// The node was ready once.
pub(crate) const READY: &str = "ready";

/// Says it, in the place of what was said by that name before.
pub(crate) fn write(name: &str, text: &str) -> Result<()> {
    let finished = path(name);
    let new = finished.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, &finished)
}

/// What was said last, if anything was.
pub(crate) fn read(name: &str) -> Option<String> {
    fs::read_to_string(path(name)).ok()
}

/// A file descriptor that can be read from when something new was said. [`forget`] makes it wait again.
pub(crate) fn watch() -> Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, FOLDER, inotify::WatchFlags::MOVED_TO)?;
    Ok(watch)
}

/// Takes what a [`watch`] has to say; all files are to be read then.
pub(crate) fn forget(watch: &OwnedFd) {
    let mut events = [0; 4096];
    while rustix::io::read(watch, &mut events).is_ok_and(|length| length > 0) {}
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}
