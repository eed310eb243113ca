//! The node's API: REST and JSON over a socket of this machine and over TLS. This process has no rights of files or of the kernel: it reads what comes
//! from outside, sees that whoever asks may ask, and passes it on to `control` ([`crate::operation`]).
//!
//! docs/api.md tells of it; `docs/openapi.json` is made of what stands in [`routes`].

mod answer;
mod auth;
mod certificate;
mod console;
mod control;
mod events;
mod images;
mod metrics;
mod routes;
mod serve;

use std::fs;
use std::io::{Error, Result};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::control::API_USER;
use crate::control::images::INCOMING;
use crate::{facts, log, storage};
use certificate::Certificate;

/// Where it listens for programs of this machine; root's only.
pub(crate) const SOCKET: &str = "/run/basalt/api";
/// Between two looks at whether the node has found its data.
const LOOK: Duration = Duration::from_secs(5);

/// The process: comes back only with an error.
pub(crate) fn run() -> Result<bool> {
    log::begin_and_keep("api");
    wait_for_data()?;
    let certificate = Certificate::open(Path::new(crate::control::ACCESS))?;
    let local = local()?;
    let incoming = incoming();
    facts::write(facts::FINGERPRINT, certificate.fingerprint())?;
    give_up_rights()?;
    if let Err(error) = incoming {
        log::warn(&format!("{INCOMING}: {error}: no images can be uploaded"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(serve::serve(local, certificate))?;
    Ok(true)
}

/// The certificate is where the node's data is; where that is nowhere, it lasts until the next boot.
fn wait_for_data() -> Result<()> {
    let watch = facts::watch()?;
    let timeout = Timespec::try_from(LOOK).map_err(Error::other)?;
    loop {
        facts::forget(&watch);
        let text = facts::read(facts::STORAGE).unwrap_or_default();
        if storage::report::read(&text).data.is_some() {
            return Ok(());
        }
        // An error is an interruption.
        let _ = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout));
    }
}

fn local() -> Result<UnixListener> {
    let _ = fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET)?;
    fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Makes the folder for what is uploaded. What is left there of before is of no use to anybody.
fn incoming() -> Result<()> {
    if Path::new(INCOMING).exists() {
        fs::remove_dir_all(INCOMING)?;
    }
    fs::create_dir_all(INCOMING)?;
    fs::set_permissions(INCOMING, fs::Permissions::from_mode(0o700))?;
    chown(INCOMING, Some(API_USER), Some(API_USER))
}

/// From here on, this is a user that owns nothing but uploads. There is no other thread yet.
fn give_up_rights() -> Result<()> {
    let (user, group) = (rustix::process::Uid::from_raw(API_USER), rustix::process::Gid::from_raw(API_USER));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    set_no_new_privs(true)?;
    Ok(())
}
