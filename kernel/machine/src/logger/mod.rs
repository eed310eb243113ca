//! The kernel's log: lines like `[    1.234567] INFO  apic: …` through the `log` crate.
//!
//! Every line goes into a ring and onto the screen. Until [`hand_over`] it also goes to the serial port's queue, and with a level
//! above `info` straight to that port; afterwards the hypervisor fetches it with [`read`], because it shares that port among the
//! guests' consoles. One lock, held while a line is written.

mod bank;
mod ring;
pub(crate) mod survivor;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayString;
use log::{Level, LevelFilter, Log, Metadata, Record, info, warn};
use spin::Mutex;
use vcpu::{LogPlace, LogRead};

use self::ring::LogRing;
use self::survivor::{Ending, Occupied};
use crate::boot_info::BootInfo;
use crate::{clock, events, screen, serial};

/// Longest line in bytes; the rest is cut.
pub const LINE_BYTES: usize = 256;
const RING_BYTES: usize = 64 * 1024;
/// Ends a line that was cut.
const CUT: &str = "...";

struct Logger {
    ring: LogRing<RING_BYTES>,
    handed_over: bool,
    /// Nothing of it is set at the start, so that it takes no room in the image's file.
    without_serial: bool,
    without_screen: bool,
}

static LOGGER: Mutex<Logger> = Mutex::new(Logger {
    ring: LogRing::new(),
    handed_over: false,
    without_serial: false,
    without_screen: false,
});

/// What the `log` crate calls.
struct Sink;

/// The outputs that there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outputs {
    /// A serial port.
    pub serial: bool,
    /// A screen.
    pub screen: bool,
}

/// Serial port and screen were started, if there are any.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Starts serial port and screen, gives what there is of them, and takes the `log` crate's lines from here on.
pub fn start() -> Outputs {
    clock::mark_start(clock::tsc());
    STARTED.store(true, Ordering::Relaxed);
    let serial = serial::start();
    screen::start();
    // A second call finds the logger set and changes nothing.
    if log::set_logger(&Sink).is_ok() && log::max_level() == LevelFilter::Off {
        log::set_max_level(LevelFilter::Info);
    }
    Outputs { serial, screen: screen::is_there() }
}

/// Sees that last words have somewhere to go, however early they are.
pub(crate) fn prepare_last_words() {
    if !STARTED.swap(true, Ordering::Relaxed) {
        serial::start();
        screen::start();
    }
}

/// Keeps the log in memory that survives a reset from here on, and tells of the boot before. To be called once,
/// after [`start`].
pub fn remember(boot: &BootInfo) {
    /// Lines of the boot before that are shown: a whole epitaph.
    const SHOWN: usize = 24 + events::LINES;
    let left = match survivor::open(boot) {
        Ok(Some(left)) => left,
        Ok(None) => return,
        Err(Occupied) => return info!("this log will not survive a reset: its place in memory is in use"),
    };
    let how = match left.ending() {
        Ending::Ordered => return info!("previous boot: ended as it was told"),
        Ending::Unknown => "ended without a word: by a reset, or it hung",
        Ending::Refused => "refused to run",
        Ending::Panicked => "ended in a kernel panic",
    };
    warn!("previous boot: {how}; its last lines were:");
    for line in left.last_lines(SHOWN) {
        warn!("previous boot: {}", Lossy(line.bytes()));
    }
}

/// Bytes that may be no UTF-8, as text.
struct Lossy<'a>(&'a [u8]);

impl fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.utf8_chunks().try_for_each(|chunk| {
            f.write_str(chunk.valid())?;
            if chunk.invalid().is_empty() { Ok(()) } else { f.write_char('\u{fffd}') }
        })
    }
}

/// Lines below this level are dropped.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Says which outputs get lines: both do until this is called.
pub fn set_outputs(serial: bool, screen: bool) {
    let mut logger = LOGGER.lock();
    logger.without_serial = !serial;
    logger.without_screen = !screen;
}

/// From now on the serial port belongs to the hypervisor, which fetches lines with [`read`].
pub fn hand_over() {
    let mut logger = LOGGER.lock();
    logger.handed_over = true;
    logger.ring.mark_shown();
    screen::defer();
}

/// Copies the next line that was not shown on the serial port yet, without line feed and as much as fits.
/// Returns its length, 0 where there is none.
pub(crate) fn read(buffer: &mut [u8]) -> usize {
    LOGGER.lock().ring.read(buffer).unwrap_or(0)
}

/// The same for the lines from before [`hand_over`], which were shown on the serial port then.
pub(crate) fn read_shown(buffer: &mut [u8]) -> usize {
    LOGGER.lock().ring.read_shown(buffer).unwrap_or(0)
}

/// The same for a reader of its own, who keeps the place.
pub(crate) fn read_at(place: &mut LogPlace, buffer: &mut [u8]) -> LogRead {
    LOGGER.lock().ring.read_at(place, buffer)
}

/// Writes the lines that nobody has fetched yet to the serial port, unless the lock is held.
pub(crate) fn flush_in_panic() {
    let Some(mut logger) = LOGGER.try_lock() else { return };
    let mut line = [0; LINE_BYTES];
    while let Some(length) = logger.ring.read(&mut line) {
        if logger.handed_over {
            serial::write_in_panic(&line[..length]);
            serial::write_in_panic(b"\r\n");
        }
    }
}

/// A line under construction; what does not fit is cut and marked.
struct Line(ArrayString<LINE_BYTES>);

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let character = if character.is_control() { ' ' } else { character };
            if self.0.remaining_capacity() < CUT.len() + character.len_utf8() {
                self.0.push_str(CUT);
                return Err(fmt::Error);
            }
            self.0.push(character);
        }
        Ok(())
    }
}

fn format(record: &Record<'_>) -> Line {
    let level = match record.level() {
        Level::Error => "ERROR",
        Level::Warn => "WARN",
        Level::Info => "INFO",
        Level::Debug => "DEBUG",
        Level::Trace => "TRACE",
    };
    let micros = clock::uptime().0 / 1000;
    let mut line = Line(ArrayString::new());
    let target = record.target().rsplit(':').next().unwrap_or_default();
    // An error here means that the line was cut, which it shows.
    let _ = write!(
        line,
        "[{:5}.{:06}] {level:<5} {target}: {}",
        micros / 1_000_000,
        micros % 1_000_000,
        record.args()
    );
    line
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = format(record);
        let mut logger = LOGGER.lock();
        logger.ring.push(line.0.as_bytes());
        survivor::push(line.0.as_bytes());
        if !logger.without_serial && !logger.handed_over {
            // Who looks for what stops the kernel wants each line to be out before anything else happens.
            let wait = log::max_level() > LevelFilter::Info;
            serial::write_all(line.0.as_bytes(), false);
            serial::write_all(b"\r\n", wait);
        }
        if !logger.without_screen {
            screen::write("\n");
            screen::write(&line.0);
        }
    }

    fn flush(&self) {}
}

/// Writes to serial port and screen at once, past log and locks: for panics and refusals.
pub(crate) struct LastWords;

/// The same for what the screen has no room for.
pub(crate) struct Particulars;

impl fmt::Write for LastWords {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        Particulars.write_str(text)?;
        screen::write_in_panic(text);
        Ok(())
    }
}

impl fmt::Write for Particulars {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive('\n') {
            let line = piece.trim_end_matches('\n');
            serial::write_in_panic(line.as_bytes());
            if line.len() != piece.len() {
                serial::write_in_panic(b"\r\n");
            }
        }
        survivor::push_piece(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(target: &str, text: &str) -> String {
        format(&Record::builder().level(Level::Info).target(target).args(format_args!("{text}")).build())
            .0
            .to_string()
    }

    #[test]
    fn a_line_names_time_level_and_module() {
        assert_eq!(line_of("machine::apic::local", "ready"), "[    0.000000] INFO  local: ready");
    }

    #[test]
    fn a_line_stays_one_line() {
        assert!(line_of("x", "a\nb\rc").ends_with("a b c"));
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let line = line_of("x", &"é".repeat(400));
        assert!(line.len() <= LINE_BYTES && line.ends_with("é..."));
    }
}
