//! The view of all: whole lines, each with its guest's name before it.
//!
//! A guest's bytes are kept until its line is complete, or too long, or until the guest sleeps and has been quiet for a moment (a
//! prompt). So guests that write at the same time, and the kernel's log, break each other's lines only where a guest stopped
//! in the middle of one.

use arrayvec::ArrayVec;
use vcpu::Nanos;

use super::keys::View;
use super::{Console, Writer};
use crate::config::MAX_NAME;
use crate::run::SLICE;

/// Longest line that is kept together.
const LINE_BYTES: usize = 256;
/// What a line can become: a line break before it, `[name] `, and a line break for a bare line feed.
pub(super) const MOST_FOR_ONE_LINE: usize = 2 + MAX_NAME + 3 + LINE_BYTES + 1;
/// A guest that sleeps and has sent nothing for so long has stopped in mid-line.
pub(super) const QUIET: Nanos = Nanos(5 * SLICE.0);
/// The same for one that could run: it may be in mid-line while many others have their slices, or an emulator that runs the
/// machine waits for its host.
pub(super) const QUIET_AWAKE: Nanos = Nanos(100 * SLICE.0);

/// The beginning of a guest's line.
#[derive(Debug, Default)]
pub(super) struct PartialLine {
    bytes: ArrayVec<u8, LINE_BYTES>,
    /// Bytes came since the last look.
    fresh: bool,
    /// The guest could run at the last look.
    awake: bool,
    /// The first look after the last byte.
    quiet_since: Nanos,
}

impl Console {
    /// Takes a byte of a guest; there is room for a line.
    pub(super) fn put_merged(&mut self, guest: usize, byte: u8) {
        let continues = self.writer == Writer::Guest(guest) && !self.line_start;
        let Some(line) = self.guest_mut(guest).map(|guest| &mut guest.line) else { return };
        if byte == b'\r' && line.bytes.is_empty() && !continues {
            return;
        }
        line.fresh = true;
        // There always is room: a full line is shown at once.
        let _ = line.bytes.try_push(byte);
        if byte == b'\n' || line.bytes.is_full() {
            self.show_line(guest);
        }
    }

    /// Says whether a guest could run now, or all of it sleeps.
    pub fn set_awake(&mut self, guest: usize, awake: bool) {
        if let Some(guest) = self.guest_mut(guest) {
            guest.line.awake = awake;
        }
    }

    /// Shows what a guest has sent of its line.
    pub(super) fn show_line(&mut self, number: usize) {
        let Some(guest) = self.guest_mut(number) else { return };
        let (name, bytes) = (guest.name, core::mem::take(&mut guest.line.bytes));
        if bytes.is_empty() {
            return;
        }
        if self.writer != Writer::Guest(number) {
            self.break_line();
            self.writer = Writer::Guest(number);
        }
        if self.line_start {
            b"[".iter().chain(name.as_bytes()).chain(b"] ").for_each(|byte| self.emit(*byte));
        }
        for byte in bytes {
            if byte == b'\n' && !self.after_return {
                self.emit(b'\r');
            }
            self.emit(byte);
        }
    }

    /// Shows the lines of all, complete or not. Those for which there is no room are kept.
    pub(super) fn show_lines(&mut self) {
        for guest in 0..self.guests.len() {
            if self.output.free() >= MOST_FOR_ONE_LINE {
                self.show_line(guest);
            }
        }
    }

    /// Shows the lines of guests that have been quiet for a while. True where some are kept: there will be something to
    /// show soon.
    pub(super) fn show_quiet_lines(&mut self, now: Nanos) -> bool {
        if self.view != View::Merged {
            return false;
        }
        let mut kept = false;
        for number in 0..self.guests.len() {
            let has_room = self.has_room();
            let Some(line) = self.guest_mut(number).map(|guest| &mut guest.line) else { continue };
            if core::mem::take(&mut line.fresh) {
                line.quiet_since = now;
            }
            if line.bytes.is_empty() {
                continue;
            }
            let quiet = if line.awake { QUIET_AWAKE } else { QUIET };
            if has_room && now - line.quiet_since >= quiet {
                self.show_line(number);
            } else {
                kept = true;
            }
        }
        kept
    }
}
