//! Where the status page is shown: on the machine's screen, and as plain lines on dom0's console where that is something else.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use crate::command_line;

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
pub(super) struct Screens(Vec<Screen>);

/// One place.
struct Screen {
    file: File,
    before: &'static str,
    after: &'static str,
    shown: Vec<String>,
    refresh: Option<Instant>,
    pace: Pace,
    /// What is on its way to a page is of no use here.
    is_log: bool,
}

impl Screens {
    /// Those that this machine has. A shell on the console is not disturbed.
    pub(super) fn find() -> Self {
        let active = fs::read_to_string(CONSOLES).unwrap_or_default();
        let console = active.split_ascii_whitespace().last().unwrap_or_default();
        let is_screen =
            console.starts_with("tty") && console[3..].starts_with(|first: char| first.is_ascii_digit());
        let has_shell = command_line::has("basalt.rescue");
        let mut screens = Vec::new();
        if !(is_screen && has_shell) {
            screens.extend(Screen::open(SCREEN, CLEAR, "", SCREEN_PACE, false));
        }
        if !is_screen && !has_shell {
            screens.extend(Screen::open(CONSOLE, "\r\n", "\r\n", CONSOLE_PACE, true));
        }
        Self(screens)
    }

    /// Shows the page where it is new. Where that has to wait, it is to be called again after so long. A console that keeps all that is written
    /// to it gets the page of a node that is ready only.
    pub(super) fn show(&mut self, page: &[String], is_ready: bool, now: Instant) -> Option<Duration> {
        self.0
            .iter_mut()
            .filter(|screen| is_ready || !screen.is_log)
            .filter_map(|screen| screen.show(page, now))
            .min()
    }
}

impl Screen {
    fn open(
        path: &str,
        before: &'static str,
        after: &'static str,
        pace: Duration,
        is_log: bool,
    ) -> Option<Self> {
        let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
        // A machine without such a device shows it elsewhere.
        let file = OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
        Some(Self { file, before, after, shown: Vec::new(), refresh: None, pace: Pace::new(pace), is_log })
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
        let _ = self.file.write_all(text.as_bytes());
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
