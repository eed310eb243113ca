//! The end of the machine: the other processes first, then what is mounted, then the power.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::sync;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use rustix::system::{RebootCommand, reboot};

use super::Ended;
use crate::control::VMS_PATIENCE;
use crate::log;
use crate::signals::is_signalled;
use crate::storage::DATA;

/// How long processes have to end by themselves,
const PATIENCE: Duration = Duration::from_secs(5);
/// and the one that has VMs shut down before.
const SHUT_DOWN_PATIENCE: Duration = Duration::from_secs(VMS_PATIENCE.as_secs() + 5);

/// Ends everything, of which `patient` is the process that has VMs shut down. Does not come back, whatever fails.
pub(crate) fn end(
    running: Vec<Pid>,
    patient: Option<Pid>,
    ended: Option<&Ended>,
    command: RebootCommand,
) -> ! {
    log::info(if matches!(command, RebootCommand::PowerOff) { "powering off" } else { "rebooting" });
    let left = stop(running, patient, ended);
    // A process that does not end holds its files open; the disk is to be whole nevertheless.
    left.iter().for_each(|pid| _ = kill_process(*pid, Signal::KILL));
    sync();
    if unmount(DATA, UnmountFlags::empty()).is_err() {
        // Not mounted at all, or in use: then nothing more is written to it at least.
        let _ = mount_remount(DATA, MountFlags::RDONLY, "");
    }
    if let Err(error) = reboot(command) {
        log::error(&format!("the machine does not end: {error}"));
    }
    // The kernel would panic if we ended.
    loop {
        let _ = poll(&mut [], None);
    }
}

/// Asks the processes to end, and waits for that. Gives those that have not.
fn stop(mut running: Vec<Pid>, patient: Option<Pid>, ended: Option<&Ended>) -> Vec<Pid> {
    // A shell in use takes no notice of TERM, but ends when its terminal is gone.
    for signal in [Signal::TERM, Signal::HUP] {
        running.iter().for_each(|pid| _ = kill_process(*pid, signal));
    }
    let begun = Instant::now();
    loop {
        while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
            running.retain(|other| *other != pid);
        }
        let shuts_down = patient.is_some_and(|pid| running.contains(&pid));
        let until = begun + if shuts_down { SHUT_DOWN_PATIENCE } else { PATIENCE };
        let rest = until.saturating_duration_since(Instant::now());
        let (Some(Ended(stream)), Ok(timeout)) = (ended, Timespec::try_from(rest)) else { return running };
        if running.is_empty() || rest.is_zero() {
            return running;
        }
        let _ = poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&timeout));
        is_signalled(stream);
    }
}
