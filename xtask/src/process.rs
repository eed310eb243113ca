//! Running other programs to their end, with errors that say which program and what it said.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure, Result};

/// How many of the last lines of a failed program's errors are shown.
const SHOWN_LINES: usize = 12;
/// Folders searched after `PATH`: a user's path often lacks the last two.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// Finds a program in `PATH` and the system's folders.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    search_folders().into_iter().map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The same folders as a `PATH`, for a script that runs such programs.
pub(crate) fn search_path() -> Result<OsString> {
    std::env::join_paths(search_folders()).context("making a PATH")
}

fn search_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(PathBuf::from)).collect()
}

/// Runs a program; gives its standard output. Its errors are shown only if it fails.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().context(format_args!("starting {}", name(command)))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = if said.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { said };
    let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n    ");
    Err(Failure::new(format!("{} failed ({}):\n    {tail}", name(command), output.status)))
}

/// As [`output`], for programs that answer with text.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Runs a program that reports to the user itself.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().context(format_args!("starting {}", name(command)))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{} failed ({status})", name(command))))
}

/// Runs a program that may hang; it is ended after `limit`. True when it succeeded in time.
pub(crate) fn succeeds_within(command: &mut Command, limit: Duration) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) | Err(_) => {
                // Ending a program that has just ended by itself fails, harmlessly.
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

fn name(command: &Command) -> String {
    Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}
