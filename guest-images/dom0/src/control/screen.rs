//! Where the status page is shown: on the machine's screen, and as plain lines on dom0's console where that is something else.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use crate::command_line::{self, RESCUE};

const SCREEN: &str = "/dev/tty1";
const CONSOLE: &str = "/dev/console";
/// The kernel's consoles; the last one is what `/dev/console` is.
const CONSOLES: &str = "/sys/class/tty/console/active";
/// Screens show what is new at most this often: a page is long for a serial line, and nobody reads faster.
const SCREEN_PACE: Duration = Duration::from_secs(1);
const CONSOLE_PACE: Duration = Duration::from_secs(10);
/// The kernel's messages appear on the same screen, and push the page away: it is shown again after so long.
const REFRESH: Duration = Duration::from_secs(30);
/// To the upper left corner, and everything behind it away (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// All places.
pub(super) struct Screens([Screen; 2]);

/// One place.
struct Screen {
    path: &'static str,
    /// A machine may not have it, or only when its driver has been loaded.
    file: Option<File>,
    before: &'static str,
    after: &'static str,
    shown: Vec<String>,
    refresh: Option<Instant>,
    pace: Pace,
    /// It keeps all that is written to it. What is on its way to a page is of no use here.
    is_log: bool,
}

impl Screens {
    /// Those that a machine may have.
    pub(super) fn new() -> Self {
        Self([
            Screen::new(SCREEN, (CLEAR, ""), SCREEN_PACE, false),
            Screen::new(CONSOLE, ("\r\n", "\r\n"), CONSOLE_PACE, true),
        ])
    }

    /// Shows the page where it is new. Where that has to wait, it is to be called again after so long. A console that keeps all that is written
    /// to it gets the page of a node that is ready only.
    pub(super) fn show(&mut self, page: &[String], is_ready: bool, now: Instant) -> Option<Duration> {
        let wanted = self.0.iter_mut().filter(|screen| is_ready || !screen.is_log);
        wanted.filter_map(|screen| screen.show(page, now)).min()
    }
}

/// Whether the console is the machine's screen.
fn console_is_screen() -> bool {
    let active = fs::read_to_string(CONSOLES).unwrap_or_default();
    let console = active.split_ascii_whitespace().last().unwrap_or_default();
    console.strip_prefix("tty").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

impl Screen {
    fn new(
        path: &'static str,
        (before, after): (&'static str, &'static str),
        pace: Duration,
        is_log: bool,
    ) -> Self {
        let (file, shown, refresh) = Default::default();
        Self { path, file, before, after, shown, refresh, pace: Pace::new(pace), is_log }
    }

    /// The file, once it can be opened. A shell on the console is not disturbed, and a screen that is the console has the page once.
    fn file(&mut self) -> Option<&File> {
        if self.file.is_none() {
            let has_shell = command_line::has(RESCUE) && (self.is_log || console_is_screen());
            if has_shell || self.is_log && console_is_screen() {
                return None;
            }
            let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
            let mut options = OpenOptions::new();
            self.file = options.write(true).custom_flags(flags.bits().cast_signed()).open(self.path).ok();
        }
        self.file.as_ref()
    }

    fn show(&mut self, page: &[String], now: Instant) -> Option<Duration> {
        let refresh = self.refresh.map(|refresh| refresh.saturating_duration_since(now));
        if self.shown == page && refresh.is_none_or(|rest| !rest.is_zero()) {
            return refresh;
        }
        if let Some(wait) = self.pace.wait(now) {
            return Some(wait);
        }
        let text = format!("{}{}\r\n{}", self.before, page.join("\r\n"), self.after);
        // A terminal that takes nothing (its other end is gone) is not waited for; it gets the next page.
        let _ = self.file()?.write_all(text.as_bytes());
        self.shown = page.to_vec();
        self.refresh = (!self.is_log).then_some(now + REFRESH);
        self.refresh.map(|_| REFRESH)
    }
}

/// Keeps things from happening more often than so.
struct Pace {
    distance: Duration,
    next: Option<Instant>,
}

impl Pace {
    fn new(distance: Duration) -> Self {
        Self { distance, next: None }
    }

    /// How long it is to wait; `None` is now, and counts as done.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        if let Some(next) = self.next.filter(|next| *next > now) {
            return Some(next.saturating_duration_since(now));
        }
        self.next = Some(now + self.distance);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_keep_their_distance() {
        let (mut pace, begin) = (Pace::new(Duration::from_secs(10)), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(pace.wait(at(0)), None);
        assert_eq!(pace.wait(at(3)), Some(Duration::from_secs(7)));
        assert_eq!(pace.wait(at(10)), None);
        assert_eq!(pace.wait(at(11)), Some(Duration::from_secs(9)));
    }
}
