//! The VGA text screen, 80 columns by 25 lines, as a place for the log. Where there is none, nothing happens.
//!
//! Source: IBM VGA, alphanumeric modes: a cell is a character and an attribute byte. One lock.

// UNSAFETY: the screen is memory at a fixed address.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicPtr, Ordering};

use spin::Mutex;
use vcpu::Hpa;

use crate::fault::{self, Fault};
use crate::memory::{self, direct_map};

/// Where the text buffer is in physical memory.
pub(crate) const TEXT_BUFFER: Hpa = Hpa(0xb8000);
/// Bytes of the text buffer.
pub(crate) const TEXT_BUFFER_BYTES: u64 = (COLUMNS * LINES * 2) as u64;

const COLUMNS: usize = 80;
const LINES: usize = 25;
/// Light grey on black.
const NORMAL: u16 = 0x0700;
/// White on red.
const ALARM: u16 = 0x4f00;
const BLANK: u16 = NORMAL | b' ' as u16;
/// Shown for what code page 437 and UTF-8 do not share.
const UNKNOWN: u8 = b'?';

/// The first cell, null while there is no screen. It moves when the final page tables are built.
static CELLS: AtomicPtr<u16> = AtomicPtr::new(core::ptr::null_mut());
static SCREEN: Mutex<Screen> = Mutex::new(Screen::new(NORMAL));

/// What the screen shows, kept in ordinary memory: reading the text buffer takes microseconds a cell.
struct Screen {
    shown: [u16; COLUMNS * LINES],
    column: usize,
    attribute: u16,
}

/// Starts using the screen if it holds what is written to it. To be called before the final page tables are
/// built; afterwards it does nothing.
pub(crate) fn start() {
    if memory::is_started() {
        return;
    }
    let cells = direct_map(TEXT_BUFFER).cast::<u16>();
    // SAFETY: the entry code maps the first 4 GiB at the direct map; the cells are only ever touched
    // through volatile accesses.
    let answers = unsafe {
        let old = cells.read_volatile();
        cells.write_volatile(!old);
        let held = cells.read_volatile() == !old && !fault::is(Fault::NoScreen);
        if held {
            // From here on the screen shows what `SCREEN` remembers.
            for at in 0..COLUMNS * LINES {
                cells.add(at).write_volatile(BLANK);
            }
        }
        held
    };
    if answers {
        CELLS.store(cells, Ordering::Release);
    }
}

/// Whether there is a screen that shows what is written.
pub(crate) fn is_there() -> bool {
    !CELLS.load(Ordering::Acquire).is_null()
}

/// Tells that the text buffer is mapped elsewhere from now on.
///
/// # Safety
///
/// `cells` maps the VGA text buffer, whole and for good.
pub(crate) unsafe fn moved(cells: *mut u16) {
    if !CELLS.load(Ordering::Acquire).is_null() {
        CELLS.store(cells, Ordering::Release);
    }
}

/// Writes text at the bottom of the screen.
pub(crate) fn write(text: &str) {
    SCREEN.lock().write(text);
}

/// Writes text in alarming colours, although the lock may be held.
pub(crate) fn write_in_panic(text: &str) {
    if let Some(mut screen) = SCREEN.try_lock() {
        screen.attribute = ALARM;
        screen.write(text);
    } else {
        Screen::new(ALARM).write(text);
    }
}

impl Screen {
    const fn new(attribute: u16) -> Self {
        Self { shown: [BLANK; COLUMNS * LINES], column: 0, attribute }
    }

    fn write(&mut self, text: &str) {
        for character in text.chars() {
            if character == '\n' || self.column == COLUMNS {
                self.scroll();
            }
            if character != '\n' {
                let byte = if matches!(character, ' '..='~') { character as u8 } else { UNKNOWN };
                self.set((LINES - 1) * COLUMNS + self.column, self.attribute | u16::from(byte));
                self.column += 1;
            }
        }
    }

    fn scroll(&mut self) {
        self.column = 0;
        for at in 0..COLUMNS * LINES {
            let below = self.shown.get(at + COLUMNS).copied().unwrap_or(BLANK);
            self.set(at, below);
        }
    }

    /// Shows a cell, if it differs.
    #[inline]
    fn set(&mut self, at: usize, cell: u16) {
        let Some(shown) = self.shown.get_mut(at).filter(|shown| **shown != cell) else { return };
        *shown = cell;
        let cells = CELLS.load(Ordering::Acquire);
        if !cells.is_null() {
            // SAFETY: `CELLS` maps the text buffer, and `at` lies inside it.
            unsafe { cells.add(at).write_volatile(cell) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(screen: &Screen, line: usize) -> String {
        let cells = &screen.shown[line * COLUMNS..][..COLUMNS];
        let text: String = cells.iter().map(|cell| char::from(*cell as u8)).collect();
        text.trim_end().into()
    }

    #[test]
    fn text_enters_at_the_bottom_and_moves_up() {
        let mut screen = Screen::new(NORMAL);
        screen.write("\none\ntwo é");
        assert_eq!(line(&screen, LINES - 2), "one");
        assert_eq!(line(&screen, LINES - 1), "two ?");
        screen.write(&"\n".repeat(LINES));
        assert!((0..LINES).all(|n| line(&screen, n).is_empty()));
    }

    #[test]
    fn a_long_line_goes_on_below() {
        let mut screen = Screen::new(NORMAL);
        screen.write(&"x".repeat(COLUMNS + 2));
        assert_eq!(line(&screen, LINES - 2), "x".repeat(COLUMNS));
        assert_eq!(line(&screen, LINES - 1), "xx");
    }
}
