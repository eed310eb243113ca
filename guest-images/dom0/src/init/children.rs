//! The processes that dom0 consists of. A new job is one more line in [`Children::new`] and one more in `main`.

use std::fs::OpenOptions;
use std::io::Result;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use super::backoff::Backoff;
use crate::{PROGRAM, command_line, log};

/// The process that sees to VMs.
pub(crate) const CONTROL: &str = "control";
/// Where programs are looked for.
const PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";
const CONSOLE: &str = "/dev/console";
/// A session of its own with the console as its terminal, so that Ctrl-C works.
const SHELL: [&str; 5] = ["/bin/busybox", "setsid", "-c", "/bin/sh", "-l"];

/// A process that has to wait so long for its next start is worth telling.
const LONG: Duration = Duration::from_secs(4);

/// All of them, running or waiting for their start.
pub(crate) struct Children(Vec<Child>);

struct Child {
    name: &'static str,
    words: Vec<&'static str>,
    has_terminal: bool,
    state: State,
    backoff: Backoff,
}

enum State {
    Running { pid: Pid, since: Instant },
    Waiting { until: Instant, wait: Duration },
}

impl Children {
    /// Those that this boot is to have. None runs yet.
    pub(crate) fn new() -> Self {
        let mut children: Vec<_> = [CONTROL, "api", "disks", "drivers", "network", "storage"]
            .into_iter()
            .map(Child::of_ours)
            .collect();
        if command_line::has(command_line::RESCUE) {
            children.push(Child::new("the rescue shell", SHELL.to_vec(), true));
        }
        Self(children)
    }

    /// Starts those whose time has come.
    pub(crate) fn start_due(&mut self, now: Instant) {
        for child in &mut self.0 {
            if matches!(child.state, State::Waiting { until, .. } if until <= now) {
                child.start(now);
            }
        }
    }

    /// When the next one is to be started.
    pub(crate) fn next_start(&self) -> Option<Instant> {
        let starts = self.0.iter().filter_map(|child| match child.state {
            State::Waiting { until, .. } => Some(until),
            State::Running { .. } => None,
        });
        starts.min()
    }

    /// Takes note of all that have ended; also of the children of others, which come to us when their parents are gone.
    pub(crate) fn reap(&mut self, now: Instant) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let ours = self.0.iter_mut().find(|child| child.pid() == Some(pid));
            ours.into_iter().for_each(|child| child.ended(status, now));
        }
    }

    /// Names of those that die again and again, a line each.
    pub(crate) fn failing(&self) -> String {
        let failing = |child: &&Child| matches!(child.state, State::Waiting { wait, .. } if wait >= LONG);
        self.0.iter().filter(failing).map(|child| format!("{}\n", child.name)).collect()
    }

    /// The process of a job, where it runs.
    pub(crate) fn pid_of(&self, name: &str) -> Option<Pid> {
        self.0.iter().find(|child| child.name == name)?.pid()
    }

    /// Those that run.
    pub(crate) fn running(&self) -> Vec<Pid> {
        self.0.iter().filter_map(Child::pid).collect()
    }
}

impl Child {
    fn new(name: &'static str, words: Vec<&'static str>, has_terminal: bool) -> Self {
        let state = State::Waiting { until: Instant::now(), wait: Duration::ZERO };
        Self { name, words, has_terminal, state, backoff: Backoff::default() }
    }

    /// This program with another job.
    fn of_ours(job: &'static str) -> Self {
        Self::new(job, vec![PROGRAM, job], false)
    }

    fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            State::Waiting { .. } => None,
        }
    }

    fn start(&mut self, now: Instant) {
        let [program, words @ ..] = self.words.as_slice() else { return };
        let mut command = Command::new(program);
        command
            .args(words)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/")
            .env("TERM", "linux")
            .current_dir("/");
        if !self.has_terminal {
            // Ctrl-C on the console is not for it.
            command.stdin(Stdio::null()).process_group(0);
        }
        let console = if self.has_terminal { on_console(&mut command) } else { Ok(()) };
        let started = console.and_then(|()| command.spawn());
        let pid = started.map(|child| Pid::from_child(&child));
        match pid {
            Ok(pid) => self.state = State::Running { pid, since: now },
            Err(error) => {
                let wait = self.backoff.after(Duration::ZERO).max(Duration::from_secs(1));
                log::error(&format!("{} cannot be started: {error}", self.name));
                self.state = State::Waiting { until: now + wait, wait };
            }
        }
    }

    fn ended(&mut self, status: WaitStatus, now: Instant) {
        let State::Running { since, .. } = self.state else { return };
        let wait = self.backoff.after(now.saturating_duration_since(since));
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("ended with status {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        log::warn(&format!("{} {how}, and is started again in {} s", self.name, wait.as_secs()));
        self.state = State::Waiting { until: now + wait, wait };
    }
}

/// Connects a program to the console. It may not be one of those that were there at the beginning: for some the driver is loaded later.
fn on_console(command: &mut Command) -> Result<()> {
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits().cast_signed())
        .open(CONSOLE)?;
    command.stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console);
    Ok(())
}
