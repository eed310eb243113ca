//! Process 1: mounts what every program expects, starts the other processes and starts them again when they die, waits for all that end, and
//! ends the machine when asked. It reads the kernel's command line and nothing else.
//!
//! Signals ask it to end the machine, as busybox' programs send them: TERM and INT (Ctrl-Alt-Del) for a reboot, USR1 and USR2 for power off.

mod backoff;
mod children;
mod mounts;
mod power;

use std::io::Result;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::system::RebootCommand;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::signals::{caught, is_signalled};
use crate::{clock, command_line, facts, log};
use children::{CONTROL, Children};

/// The node's name, where the command line gives none.
const NAME: &str = "basalt";

/// The first process never ends: the kernel would panic.
pub(crate) fn run() -> ! {
    mounts::all();
    log::info("dom0 begins");
    clock::set();
    name_node();
    let (ended, asked) = match (Ended::catch(), Asked::catch()) {
        (Ok(ended), Ok(asked)) => (ended, asked),
        (Err(error), _) | (_, Err(error)) => {
            log::error(&format!("without signals nothing can be supervised: {error}"));
            power::end(Vec::new(), None, None, RebootCommand::Restart);
        }
    };
    let mut children = Children::new();
    let mut told = String::new();
    loop {
        children.start_due(Instant::now());
        tell(children.failing(), &mut told);
        let timeout = children.next_start().map(|start| start.saturating_duration_since(Instant::now()));
        ended.wait(&asked, timeout);
        children.reap(Instant::now());
        if let Some(command) = asked.command() {
            power::end(children.running(), children.pid_of(CONTROL), Some(&ended), command);
        }
    }
}

/// Tells the others, where something is new. The status page would show it; without that, the log has it.
fn tell(failing: String, told: &mut String) {
    if failing != *told {
        let _ = facts::write(facts::FAILING, &failing);
        *told = failing;
    }
}

fn name_node() {
    let name = command_line::value(command_line::NAME).unwrap_or_else(|| NAME.to_owned());
    if let Err(error) = rustix::system::sethostname(name.as_bytes()) {
        log::warn(&format!("the node cannot be named {name}: {error}"));
    }
}

/// Becomes readable when children have ended.
struct Ended(UnixStream);

impl Ended {
    fn catch() -> Result<Self> {
        Ok(Self(caught(&[SIGCHLD])?))
    }

    /// Waits for the end of a child, for a request or for the time.
    fn wait(&self, asked: &Asked, timeout: Option<Duration>) {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let streams = [&self.0, &asked.reboot, &asked.power_off];
        let mut watched = streams.map(|stream| PollFd::new(stream, PollFlags::IN));
        // An error is an interruption: the caller looks at everything in any case.
        let _ = poll(&mut watched, timeout.as_ref());
        is_signalled(&self.0);
    }
}

/// Becomes readable when the machine is to end.
struct Asked {
    reboot: UnixStream,
    power_off: UnixStream,
}

impl Asked {
    fn catch() -> Result<Self> {
        // Ctrl-Alt-Del is to be a signal to us, not the machine's immediate end.
        if let Err(error) = rustix::system::reboot(RebootCommand::CadOff) {
            log::warn(&format!("Ctrl-Alt-Del stays with the kernel: {error}"));
        }
        Ok(Self { reboot: caught(&[SIGTERM, SIGINT])?, power_off: caught(&[SIGUSR1, SIGUSR2])? })
    }

    fn command(&self) -> Option<RebootCommand> {
        if is_signalled(&self.power_off) {
            return Some(RebootCommand::PowerOff);
        }
        is_signalled(&self.reboot).then_some(RebootCommand::Restart)
    }
}
