//! Tests that talk to a node from outside: the program `node-tests`, which asks the API of the machine that a scenario has booted, and its command
//! `basalt`. What it prints is judged as the results of a test guest are.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use ::tests::dom0::DOM0;
use ::tests::log::Log;

use crate::console::Console;
use crate::failure::{Context, Result};
use crate::machine::Forward;
use crate::run::API_PORT;
use crate::{build, guest, paths, process, progress, toolchain};

/// The guest of whose files tests make VMs.
const GUEST: &str = "node";
/// Ports of the management domain that tests may have led to a VM.
const MORE_PORTS: [u16; 2] = [2222, 8080];
const POLL: Duration = Duration::from_millis(200);

/// A group of tests.
pub(crate) struct Talk<'a> {
    pub(crate) forwards: &'a [Forward],
    pub(crate) group: &'a str,
    pub(crate) limit: Duration,
}

impl Talk<'_> {
    /// Ports of this computer that lead to those of the node.
    pub(crate) fn forwards() -> Result<Vec<Forward>> {
        [API_PORT].into_iter().chain(MORE_PORTS).map(Forward::to).collect()
    }

    /// Builds the programs.
    pub(crate) fn prepare() -> Result<()> {
        static BUILT: Mutex<bool> = Mutex::new(false);
        let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*built {
            let mut command = toolchain::cargo();
            command.args(["build", "--quiet", "--package", "node-tests"]);
            progress::step("building the tests of nodes", || {
                process::run(&mut command).map_err(build::compile_errors)
            })?;
            *built = true;
        }
        Ok(())
    }

    /// Has the tests talk, while the machine goes on.
    pub(crate) fn carry_out(&self, console: &mut Console) -> Result<Vec<(String, Option<String>)>> {
        let mut child = self.command(&console.log)?.spawn().context("starting node-tests")?;
        let lines = read_lines(&mut child);
        let (mut tests, until) = (Vec::new(), Instant::now() + self.limit);
        let is_over = loop {
            console.next(POLL)?;
            let is_closed = take(&lines, &mut tests);
            if is_closed || Instant::now() >= until || console.log.panicked() {
                break is_closed;
            }
        };
        if !is_over {
            // Fails only when it has ended by itself.
            let _ = child.kill();
        }
        let status = child.wait().context("waiting for node-tests")?;
        let title = format!("talk {}", self.group);
        let flaw = match (is_over, status.success(), tests.is_empty()) {
            (false, ..) => Some(format!("it was not over within {} s", self.limit.as_secs())),
            (true, false, _) if tests.iter().all(|(_, why)| why.is_none()) => {
                Some(format!("node-tests: {status}"))
            }
            (true, _, true) => Some("it has tested nothing".to_owned()),
            (true, ..) => None,
        };
        tests.push((title, flaw));
        Ok(tests)
    }

    fn command(&self, log: &Log) -> Result<Command> {
        let here = |there: u16| self.forwards.iter().find(|forward| forward.there == there).map(|it| it.here);
        let port = |there| here(there).map_or_else(String::new, |port| port.to_string());
        let said = |what: &str| {
            let line = log.vm(DOM0).filter_map(|line| line.split_once(what)).last();
            let word = line.and_then(|(_, rest)| rest.split([' ', ',']).next());
            word.unwrap_or_default().to_owned()
        };
        let guest = guest::prepare(GUEST, "")?;
        let folder = paths::target().join("debug");
        let mut command = Command::new(folder.join("node-tests"));
        command
            .arg(self.group)
            .env("BASALT_NODE", format!("https://127.0.0.1:{}", port(API_PORT)))
            .env("BASALT_TOKEN", said("first token "))
            .env("BASALT_FINGERPRINT", said("known by "))
            .env("BASALT_COMMAND", folder.join("basalt"))
            .env("BASALT_KERNEL", &guest.kernel)
            .env("BASALT_INITRD", guest.initrd.unwrap_or_else(PathBuf::new))
            .env("BASALT_PORTS", MORE_PORTS.map(|there| format!("{there}={}", port(there))).join(","))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(command)
    }
}

fn read_lines(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                // Who does not listen any more has ended it.
                let _ = sender.send(line);
            }
        });
    }
    lines
}

/// Takes the results that have come. Whether it says nothing more.
fn take(lines: &Receiver<String>, tests: &mut Vec<(String, Option<String>)>) -> bool {
    loop {
        match lines.try_recv() {
            Ok(line) => {
                line.strip_prefix("note ").into_iter().for_each(progress::note);
                tests.extend(result(&line));
            }
            Err(TryRecvError::Empty) => return false,
            Err(TryRecvError::Disconnected) => return true,
        }
    }
}

/// A test's name, and why it has failed.
fn result(line: &str) -> Option<(String, Option<String>)> {
    if let Some(name) = line.strip_prefix("ok ") {
        return Some((name.to_owned(), None));
    }
    let (name, reason) = line.strip_prefix("FAILED ")?.split_once(": ")?;
    Some((name.to_owned(), Some(reason.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        assert_eq!(result("ok a name"), Some(("a name".to_owned(), None)));
        assert_eq!(result("FAILED b: why: so"), Some(("b".to_owned(), Some("why: so".to_owned()))));
        assert_eq!(result("anything else"), None);
    }
}
