//! Lines in the kernel's log: there they stand in order with the kernel's own, reach the console, and outlive the process that said them.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

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

/// Keeps lines that a guest can cause from filling the log: so many in a minute, and then how many were left out.
pub(crate) struct Limit(Mutex<(Option<Instant>, u32)>);

const MOST_IN_A_MINUTE: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);

impl Limit {
    /// Nothing was said yet.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Something that will not work, where that was not said too often.
    pub(crate) fn error(&self, text: &str) {
        if let Some(left_out) = self.allow(Instant::now()) {
            let more = if left_out > 0 { format!(" ({left_out} lines left out)") } else { String::new() };
            error(&format!("{text}{more}"));
        }
    }

    /// Whether another line may be said, and how many were left out before it.
    fn allow(&self, now: Instant) -> Option<u32> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = &mut *told;
        let is_over = since.is_none_or(|since| now.saturating_duration_since(since) >= MINUTE);
        let left_out = if is_over { count.saturating_sub(MOST_IN_A_MINUTE) } else { 0 };
        if is_over {
            (*since, *count) = (Some(now), 0);
        }
        *count = count.saturating_add(1);
        (*count <= MOST_IN_A_MINUTE).then_some(left_out)
    }
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
    use super::*;

    #[test]
    fn lines_that_a_guest_causes_are_few() {
        let (limit, now) = (Limit::new(), Instant::now());
        let said: Vec<_> = (0..100).filter_map(|_| limit.allow(now)).collect();
        assert_eq!(said, [0; MOST_IN_A_MINUTE as usize]);
        assert_eq!(limit.allow(now + MINUTE), Some(90));
        assert_eq!(limit.allow(now + MINUTE), Some(0));
    }

    #[test]
    fn a_record_is_one_line_without_controls() {
        assert_eq!(line(6, "", "ready"), "<6>basaltd: ready\n");
        assert_eq!(line(4, "network", "a\nb\x1b[2J"), "<4>basaltd: network: a b [2J\n");
        assert!(line(6, "", &"x".repeat(5000)).len() < 1000);
    }
}
