//! Lines in the kernel's log: there they stand in order with the kernel's own, reach the console, and outlive the process that said them.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

const DEVICE: &str = "/dev/kmsg";
/// Begins each line.
const PREFIX: &str = "basaltd: ";
/// The kernel takes lines up to about 1,000 bytes and refuses longer ones.
const LONGEST: usize = 800;

static PART: OnceLock<&str> = OnceLock::new();
/// The log, for a process that is going to have no right to open it.
static KEPT: OnceLock<File> = OnceLock::new();
static OPENS_NOTHING: AtomicBool = AtomicBool::new(false);

/// Names the part of dom0 that this process is, for all its lines.
pub(crate) fn begin(part: &'static str) {
    // A second name would be a mistake of ours that changes no more than a word.
    let _ = PART.set(part);
}

/// The same for a process that will give up the right to open the log.
pub(crate) fn begin_and_keep(part: &'static str) {
    begin(part);
    if let Ok(file) = OpenOptions::new().write(true).open(DEVICE) {
        let _ = KEPT.set(file);
    }
}

/// The same for a process that may open nothing: its lines go to where its errors go, which is this log.
pub(crate) fn begin_without_opening(part: &'static str) {
    begin(part);
    OPENS_NOTHING.store(true, Ordering::Relaxed);
}

/// Something that will not work, and that somebody has to look at.
pub(crate) fn error(text: &str) {
    write(3, text);
}

/// Something odd that is served nevertheless.
pub(crate) fn warn(text: &str) {
    write(4, text);
}

/// The course of things.
pub(crate) fn info(text: &str) {
    write(6, text);
}

/// `level` is one of the kernel's (Linux, `/dev/kmsg`), where the low ones are urgent.
fn write(level: u8, text: &str) {
    let line = line(level, PART.get().copied().unwrap_or_default(), text);
    let write = || -> Result<()> {
        match KEPT.get() {
            Some(mut file) => file.write_all(line.as_bytes()),
            None => OpenOptions::new().write(true).open(DEVICE)?.write_all(line.as_bytes()),
        }
    };
    if OPENS_NOTHING.load(Ordering::Relaxed) || write().is_err() {
        // It may be the same device, which whoever has started this process has opened for it: so it is one record, too. Where nobody takes it, that
        // is no reason to end.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

fn line(level: u8, part: &str, text: &str) -> String {
    let colon = if part.is_empty() { "" } else { ": " };
    let mut line = format!("<{level}>{PREFIX}{part}{colon}");
    // One record is one line, and what devices and networks say in it is not to reach a terminal as it is.
    line.extend(text.chars().take(LONGEST).map(|symbol| if symbol.is_control() { ' ' } else { symbol }));
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_record_is_one_line_without_controls() {
        assert_eq!(line(6, "", "ready"), "<6>basaltd: ready\n");
        assert_eq!(line(4, "network", "a\nb\x1b[2J"), "<4>basaltd: network: a b [2J\n");
        assert!(line(6, "", &"x".repeat(5000)).len() < 1000);
    }
}
