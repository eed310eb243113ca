//! The VGA text screen, 80 columns by 25 lines, as a place for the log. Where there is none, nothing happens.
//!
//! Source: IBM VGA, alphanumeric modes: a cell is a character and an attribute byte. One lock.

// UNSAFETY: the screen is memory at a fixed address.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicPtr, Ordering};

use spin::Mutex;
use vcpu::Hpa;

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
static CURSOR: Mutex<Cursor> = Mutex::new(Cursor { column: 0, attribute: NORMAL });

struct Cursor {
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
        let held = cells.read_volatile() == !old;
        cells.write_volatile(old);
        held
    };
    if answers {
        CELLS.store(cells, Ordering::Release);
    }
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
    CURSOR.lock().write(text);
}

/// Writes text in alarming colours, although the lock may be held.
pub(crate) fn write_in_panic(text: &str) {
    if let Some(mut cursor) = CURSOR.try_lock() {
        cursor.attribute = ALARM;
        cursor.write(text);
    } else {
        Cursor { column: 0, attribute: ALARM }.write(text);
    }
}

fn cell(cells: *mut u16, line: usize, column: usize) -> *mut u16 {
    cells.wrapping_add((line % LINES) * COLUMNS + column % COLUMNS)
}

impl Cursor {
    fn write(&mut self, text: &str) {
        let cells = CELLS.load(Ordering::Acquire);
        if cells.is_null() {
            return;
        }
        for character in text.chars() {
            if character == '\n' || self.column == COLUMNS {
                scroll(cells);
                self.column = 0;
            }
            if character == '\n' {
                continue;
            }
            let byte = if matches!(character, ' '..='~') { character as u8 } else { UNKNOWN };
            // SAFETY: `CELLS` maps the text buffer; `cell` stays inside the buffer.
            unsafe { cell(cells, LINES - 1, self.column).write_volatile(self.attribute | u16::from(byte)) };
            self.column += 1;
        }
    }
}

fn scroll(cells: *mut u16) {
    for line in 0..LINES {
        for column in 0..COLUMNS {
            // SAFETY: `CELLS` maps the text buffer; `cell` stays inside the buffer.
            unsafe {
                let below =
                    if line + 1 < LINES { cell(cells, line + 1, column).read_volatile() } else { BLANK };
                cell(cells, line, column).write_volatile(below);
            }
        }
    }
}
