//! The screen as a place for the log and for last words: the boot loader's linear framebuffer, or the VGA
//! text buffer where that is what there is. Where there is neither, nothing happens.
//!
//! Text goes into a [`Grid`] in ordinary memory and is drawn from there. While the kernel comes up that
//! happens at once; what is above the memory that the entry code maps has a window of its own until the final
//! page tables are loaded. Once guests run, [`refresh`] draws a bounded number of characters at a time.
//!
//! Source: Multiboot2 Specification, "Framebuffer info"; IBM VGA, alphanumeric modes: a cell is a character
//! and an attribute byte. One lock, around the grid; last words go past it.

// UNSAFETY: the screen is memory at an address that the boot loader names.
#![allow(unsafe_code)]

mod font;
mod grid;
mod painter;

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use spin::{Mutex, Once};
use vcpu::{HostScreen, Hpa};

use self::font::Row;
use self::grid::{Cell, Colour, Grid, MAX_COLUMNS, MAX_LINES};
pub(crate) use self::painter::{Field, Framebuffer};
use self::painter::{Painter, PixelMemory, Shades};
use crate::acpi::Acpi;
use crate::fault::{self, Fault};
use crate::memory::{self, PageFlags, direct_map, early_window};

/// What the entry code maps of physical memory.
const MAPPED_AT_ENTRY: u64 = 1 << 32;
/// Where VGA's text buffer is unless the boot loader says otherwise, and how large it is.
const TEXT_BUFFER: Hpa = Hpa(0xb8000);
const TEXT_COLUMNS: u32 = 80;
const TEXT_LINES: u32 = 25;
/// Where VGA has its memory.
const VGA_MEMORY: Range<u64> = 0xa0000..0xc0000;
const TEXT_CELL_BYTES: usize = 2;
/// Attributes: light grey on black, white on red.
const NORMAL_ATTRIBUTE: u16 = 0x0700;
const ALARM_ATTRIBUTE: u16 = 0x4f00;
/// Everything moves up by this part of the screen at once where characters are drawn as pixels: each time
/// nearly all of them have to be drawn again.
const PIXEL_STEP: usize = 8;
/// Characters that [`refresh`] draws at most: some 10 µs each where a framebuffer is slow.
const CELLS_A_REFRESH: usize = 20;

/// What the boot loader says of the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Display {
    /// Nothing: there may be a VGA text screen.
    Unknown,
    /// There is none that we could write to.
    Absent,
    /// VGA text.
    Text {
        /// The first cell.
        address: Hpa,
        /// Characters in a line.
        columns: u32,
        /// Lines.
        lines: u32,
    },
    /// A linear framebuffer.
    Pixels(Framebuffer),
}

/// How text becomes visible.
enum Surface {
    Text { columns: usize, lines: usize },
    Pixels(Painter),
}

/// The screen in use.
struct Output {
    surface: Surface,
    /// Where it is in physical memory.
    memory: Range<u64>,
}

static OFFERED: Mutex<Display> = Mutex::new(Display::Unknown);
static OUTPUT: Once<Output> = Once::new();
/// The first byte of the output's memory, null while it is not mapped or no longer used.
static BASE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static GRID: Mutex<Grid> = Mutex::new(Grid::new());
/// What was on the screen before has been cleared away.
static CLEARED: AtomicBool = AtomicBool::new(false);
/// Characters are drawn by [`refresh`] and not at once.
static DEFERRED: AtomicBool = AtomicBool::new(false);
/// Somebody else draws.
static LENT: AtomicBool = AtomicBool::new(false);
/// Where last words go on that found the grid locked: a cell's number on an imaginary endless screen.
static LAST_WORDS: AtomicUsize = AtomicUsize::new(0);

/// Takes the boot loader's word for what the screen is. To be called before [`start`], and as early as
/// possible: what stops the kernel then is told on it.
pub(crate) fn offer(display: Display) {
    *OFFERED.lock() = display;
}

/// Starts using the screen. To be called before the final page tables are built; afterwards it does nothing.
pub(crate) fn start() {
    if memory::is_started() || OUTPUT.is_completed() || fault::is(Fault::NoScreen) {
        return;
    }
    let offered = *OFFERED.lock();
    let Some(output) = Output::open(offered) else { return };
    let base = direct_map(Hpa(output.memory.start));
    let reachable = output.memory.end <= MAPPED_AT_ENTRY;
    let is_text = matches!(output.surface, Surface::Text { .. });
    if is_text {
        // SAFETY: the entry code maps the first 4 GiB at the direct map, and VGA's memory, where `Output::open`
        // has seen that this lies, is the kernel's.
        let mut mapping = unsafe { Mapping::new(base, output.memory.end - output.memory.start) };
        if !mapping.holds_what_is_written() {
            return;
        }
    }
    let (columns, lines) = output.surface.size();
    let step = if is_text { 1 } else { lines / PIXEL_STEP };
    GRID.lock().open(columns, lines, step);
    // Where there is no such window, text waits for the final page tables.
    let base = if reachable { Some(base) } else { early_window::map(&output.memory) };
    OUTPUT.call_once(|| output);
    if let Some(base) = base {
        BASE.store(base, Ordering::Release);
    }
    // Clearing a framebuffer can take a second until it is mapped for it.
    if is_text {
        clear();
    }
}

/// Whether there is a screen that shows what is written, at once or when it is mapped.
pub(crate) fn is_there() -> bool {
    OUTPUT.is_completed()
}

/// The screen's physical memory and how it is to be mapped.
pub(crate) fn mapping() -> Option<(Range<u64>, PageFlags)> {
    let output = OUTPUT.get()?;
    let flags = match output.surface {
        Surface::Text { .. } => PageFlags::DEVICE,
        Surface::Pixels(_) => PageFlags::WRITE_COMBINING,
    };
    Some((output.memory.clone(), flags))
}

/// Tells that the screen's memory is mapped elsewhere from now on, and draws everything anew; or that it is
/// mapped no more.
///
/// # Safety
///
/// What `base` points to maps the range of [`mapping`], whole and for good.
pub(crate) unsafe fn moved(base: Option<*mut u8>) {
    BASE.store(base.unwrap_or(core::ptr::null_mut()), Ordering::Release);
    clear();
    let mut grid = GRID.lock();
    grid.cleared();
    draw(&mut grid, usize::MAX);
}

/// Stops using VGA text that the kernel only supposed to be there, where firmware says that there is none.
pub fn heed_firmware(acpi: &Acpi) {
    if acpi.fadt.vga_absent && *OFFERED.lock() == Display::Unknown {
        BASE.store(core::ptr::null_mut(), Ordering::Release);
    }
}

/// What the screen is, for who is lent it.
pub(crate) fn told() -> HostScreen {
    let Some(output) = OUTPUT.get().filter(|_| !BASE.load(Ordering::Relaxed).is_null()) else {
        return HostScreen::None;
    };
    match &output.surface {
        Surface::Text { columns, lines } => match ((*columns).try_into(), (*lines).try_into()) {
            (Ok(columns), Ok(rows)) => HostScreen::Text { columns, rows },
            _ => HostScreen::None,
        },
        Surface::Pixels(Painter { framebuffer, .. }) => HostScreen::Pixels(vcpu::Framebuffer {
            address: framebuffer.address.0,
            pitch: framebuffer.pitch,
            width: framebuffer.width,
            height: framebuffer.height,
            bits: framebuffer.bits,
            fields: framebuffer.fields.map(|field| (field.position, field.size)),
        }),
    }
}

/// Draws nothing more, as somebody else does; or all of it anew. Last words are drawn in any case.
pub(crate) fn lend(lent: bool) {
    if LENT.swap(lent, Ordering::Relaxed) && !lent {
        take_back();
        let mut grid = GRID.lock();
        if clear() {
            grid.cleared();
        }
        draw(&mut grid, usize::MAX);
    }
}

/// What somebody else has drawn is to be cleared away.
fn take_back() {
    LENT.store(false, Ordering::Relaxed);
    CLEARED.store(false, Ordering::Relaxed);
}

/// From now on text waits for [`refresh`].
pub(crate) fn defer() {
    DEFERRED.store(true, Ordering::Relaxed);
}

/// Writes text behind the last.
pub(crate) fn write(text: &str) {
    let mut grid = GRID.lock();
    grid.write(text);
    if !DEFERRED.load(Ordering::Relaxed) {
        draw(&mut grid, usize::MAX);
    }
}

/// Draws a few of the characters that wait. True where some are left.
pub(crate) fn refresh() -> bool {
    GRID.try_lock().is_some_and(|mut grid| draw(&mut grid, CELLS_A_REFRESH))
}

/// Writes text in alarming colours at once, although the lock may be held.
pub(crate) fn write_in_panic(text: &str) {
    if LENT.load(Ordering::Relaxed) {
        take_back();
    }
    let cleared = clear();
    if let Some(mut grid) = GRID.try_lock() {
        if cleared {
            grid.cleared();
        }
        grid.colour = Colour::Alarm;
        grid.write(text);
        draw(&mut grid, usize::MAX);
    } else {
        write_past_the_grid(text);
    }
}

/// What the screen is, for the log.
pub fn describe() -> impl fmt::Display {
    struct Description;
    impl fmt::Display for Description {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Some(output) = OUTPUT.get().filter(|_| !BASE.load(Ordering::Relaxed).is_null()) else {
                return f.write_str("none");
            };
            let (columns, lines) = output.surface.size();
            write!(f, "{columns} x {lines} characters, ")?;
            match &output.surface {
                Surface::Text { .. } => write!(f, "VGA text")?,
                Surface::Pixels(Painter { framebuffer, .. }) => {
                    let Framebuffer { width, height, bits, .. } = framebuffer;
                    write!(f, "{width} x {height} pixels of {bits} bits")?;
                }
            }
            write!(f, " at {:#x}", output.memory.start)
        }
    }
    Description
}

/// Overwrites the oldest text, from the top of the screen, without a look at what is there.
fn write_past_the_grid(text: &str) {
    let Some(surface) = OUTPUT.get().map(|output| &output.surface) else { return };
    let Some(mut memory) = mapped() else { return };
    let (columns, lines) = surface.size();
    if columns == 0 || lines == 0 {
        return;
    }
    let mut at = LAST_WORDS.load(Ordering::Relaxed);
    for character in text.chars() {
        if character == '\n' {
            at = at.next_multiple_of(columns);
            continue;
        }
        if at.is_multiple_of(columns) {
            for column in 0..columns {
                surface.draw(&mut memory, (at / columns % lines, column), Cell::BLANK, None);
            }
        }
        let place = (at / columns % lines, at % columns);
        surface.draw(&mut memory, place, Cell::new(character, Colour::Alarm), None);
        at += 1;
    }
    LAST_WORDS.store(at, Ordering::Relaxed);
}

/// Clears away what was on the screen before us, once, and with it what has been drawn so far. True where that was
/// now.
fn clear() -> bool {
    let (Some(output), Some(mut memory)) = (OUTPUT.get(), mapped()) else { return false };
    let first = !CLEARED.swap(true, Ordering::Relaxed);
    if first {
        output.surface.clear(&mut memory);
    }
    first
}

fn draw(grid: &mut Grid, budget: usize) -> bool {
    if LENT.load(Ordering::Relaxed) {
        return false;
    }
    let (Some(output), Some(mut memory)) = (OUTPUT.get(), mapped()) else { return false };
    let is_ours = CLEARED.load(Ordering::Relaxed);
    grid.refresh(budget, |place, cell, shown| {
        output.surface.draw(&mut memory, place, cell, Some(shown).filter(|_| is_ours));
    })
}

fn mapped() -> Option<Mapping> {
    let memory = &OUTPUT.get()?.memory;
    let base = BASE.load(Ordering::Acquire);
    // SAFETY: `BASE` maps the output's memory where it is not null, as `start` saw and `moved` requires.
    (!base.is_null()).then(|| unsafe { Mapping::new(base, memory.end - memory.start) })
}

impl Output {
    fn open(display: Display) -> Option<Self> {
        let supposed = Display::Text { address: TEXT_BUFFER, columns: TEXT_COLUMNS, lines: TEXT_LINES };
        match if display == Display::Unknown { supposed } else { display } {
            Display::Unknown | Display::Absent => None,
            Display::Text { address, columns, lines } => {
                let (columns, lines) = (columns as usize, lines as usize);
                if !(1..=MAX_COLUMNS).contains(&columns) || !(1..=MAX_LINES).contains(&lines) {
                    return None;
                }
                let start = address.0;
                let end = start.checked_add((columns * lines * TEXT_CELL_BYTES) as u64)?;
                let inside = start.is_multiple_of(2) && VGA_MEMORY.start <= start && end <= VGA_MEMORY.end;
                inside.then_some(Self { surface: Surface::Text { columns, lines }, memory: start..end })
            }
            Display::Pixels(framebuffer) => {
                let painter = Painter::new(framebuffer)?;
                let start = framebuffer.address.0;
                let memory = start..start + framebuffer.bytes();
                Some(Self { surface: Surface::Pixels(painter), memory })
            }
        }
    }
}

impl Surface {
    /// Columns and lines that are used.
    fn size(&self) -> (usize, usize) {
        let (columns, lines) = match self {
            Self::Text { columns, lines } => (*columns, *lines),
            Self::Pixels(painter) => painter.size(),
        };
        (columns.min(MAX_COLUMNS), lines.min(MAX_LINES))
    }

    fn draw(&self, memory: &mut Mapping, (line, column): (usize, usize), cell: Cell, before: Option<Cell>) {
        match self {
            Self::Text { columns, .. } => memory.set_text_cell(line * columns + column, cell),
            Self::Pixels(painter) => painter.draw(memory, (line, column), cell, before),
        }
    }

    fn clear(&self, memory: &mut Mapping) {
        match self {
            Self::Text { columns, lines } => {
                (0..columns * lines).for_each(|at| memory.set_text_cell(at, Cell::BLANK));
            }
            Self::Pixels(painter) => painter.clear(memory),
        }
    }
}

/// The screen's memory where it is mapped. Last words may write while another has one of these: only
/// volatile writes ever go there, and what they leave is only seen by people.
struct Mapping {
    base: *mut u8,
    bytes: usize,
}

impl Mapping {
    /// # Safety
    ///
    /// `base` maps `bytes` bytes of a screen while this exists, aligned to four bytes (VGA text: two).
    const unsafe fn new(base: *mut u8, bytes: u64) -> Self {
        Self { base, bytes: bytes as usize }
    }

    /// Whether there is memory behind the first text cell. What was there is lost.
    fn holds_what_is_written(&mut self) -> bool {
        let cell = self.base.cast::<u16>();
        // SAFETY: by the condition of `new`; a text screen has at least one cell.
        unsafe {
            let old = cell.read_volatile();
            cell.write_volatile(!old);
            cell.read_volatile() == !old
        }
    }

    fn set_text_cell(&mut self, at: usize, cell: Cell) {
        let attribute = match cell.colour() {
            Colour::Normal => NORMAL_ATTRIBUTE,
            Colour::Alarm => ALARM_ATTRIBUTE,
        };
        if at < self.bytes / TEXT_CELL_BYTES {
            let value = attribute | u16::from(cell.character());
            // SAFETY: by the condition of `new`, and `at` lies inside.
            unsafe { self.base.cast::<u16>().add(at).write_volatile(value) };
        }
    }
}

impl PixelMemory for Mapping {
    fn store(&mut self, offset: usize, row: Row, shades: &Shades, (bytes, times): (usize, usize)) {
        if offset + font::WIDTH * times * bytes > self.bytes {
            return;
        }
        // SAFETY: by the condition of `new`, and all of the pixels lie inside. Where pixels have two or four
        // bytes, `Painter::new` has seen that the lines are aligned to that.
        unsafe {
            let start = self.base.add(offset);
            match bytes {
                4 => each_pixel(row, shades, times, |n, pixel| {
                    start.cast::<u32>().add(n).write_volatile(pixel);
                }),
                2 => each_pixel(row, shades, times, |n, pixel| {
                    start.cast::<u16>().add(n).write_volatile(pixel as u16);
                }),
                _ => each_pixel(row, shades, times, |n, pixel| {
                    start.add(3 * n).write_volatile(pixel as u8);
                    start.add(3 * n + 1).write_volatile((pixel >> 8) as u8);
                    start.add(3 * n + 2).write_volatile((pixel >> 16) as u8);
                }),
            }
        }
    }

    fn zero(&mut self, offset: usize, length: usize) {
        if offset + length > self.bytes {
            return;
        }
        // SAFETY: by the condition of `new`, and all of it lies inside.
        unsafe { memory::zero_bytes(self.base.add(offset), length) };
    }
}

/// The pixels of a row, each so many times, with their numbers. A loop of its own for each format: a line has ten thousand pixels.
#[inline(always)]
fn each_pixel(row: Row, shades: &Shades, times: usize, mut put: impl FnMut(usize, u32)) {
    let mut number = 0;
    for shade in row.shades() {
        let pixel = shades.of(shade);
        put(number, pixel);
        number += 1;
        for _ in 1..times {
            put(number, pixel);
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn text(address: u64, columns: u32, lines: u32) -> Option<Range<u64>> {
        Output::open(Display::Text { address: Hpa(address), columns, lines }).map(|output| output.memory)
    }

    #[test]
    fn text_is_where_the_loader_says_inside_vgas_memory_only() {
        assert_eq!(text(0xb8000, 80, 25), Some(0xb8000..0xb8fa0));
        assert_eq!(text(0xb8000, 132, 60), Some(0xb8000..0xb8000 + 132 * 60 * 2));
        for (address, columns, lines) in [
            (0xb8001, 80, 25),
            (0x9f000, 80, 25),
            (0xbfff0, 80, 25),
            (u64::MAX - 1, 80, 25),
            (0xb8000, 0, 25),
            (0xb8000, 80, 0),
            (0xb8000, u32::MAX, u32::MAX),
        ] {
            assert_eq!(text(address, columns, lines), None);
        }
        let memory = |display| Output::open(display).map(|output| output.memory);
        assert_eq!(memory(Display::Unknown), Some(0xb8000..0xb8fa0));
        assert_eq!(memory(Display::Absent), None);
    }

    #[test]
    fn text_cells_carry_their_attribute_and_stay_inside() {
        let mut cells = [0_u16; 6];
        // SAFETY: the memory is the array's, but for its last two cells.
        let mut mapping = unsafe { Mapping::new(cells.as_mut_ptr().cast(), 8) };
        let surface = Surface::Text { columns: 2, lines: 3 };
        assert!(mapping.holds_what_is_written());
        surface.clear(&mut mapping);
        surface.draw(&mut mapping, (1, 0), Cell::new('A', Colour::Alarm), None);
        assert_eq!(cells, [0x0720, 0x0720, 0x4f41, 0x0720, 0, 0]);
    }

    #[test]
    fn pixels_outside_are_left_out() {
        const BASE: u32 = 0x0102_0300;
        let mut memory = [0xffff_ffff_u32; 10];
        // SAFETY: the memory is the array's, but for its last word.
        let mut mapping = unsafe { Mapping::new(memory.as_mut_ptr().cast(), 36) };
        let shades = Shades(core::array::from_fn(|shade| BASE + shade as u32));
        mapping.store(4, Row::of([0, 1, 2, 3, 4, 5, 15]), &shades, (4, 1));
        // One pixel too many, and twice as wide.
        mapping.store(12, Row::of([9; 7]), &shades, (4, 1));
        mapping.store(0, Row::of([9; 7]), &shades, (4, 2));
        assert_eq!(memory[0], u32::MAX);
        assert_eq!(memory[1..8], [0, 1, 2, 3, 4, 5, 15].map(|shade| BASE + shade));
        mapping.store(0, Row::of([2, 1, 0, 0, 0, 0, 0]), &shades, (3, 1));
        assert_eq!(
            memory[..2].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>(),
            [2, 3, 2, 1, 3, 2, 0, 3]
        );
        mapping.zero(8, 28);
        mapping.zero(33, 4);
        assert_eq!(memory[2..], [0, 0, 0, 0, 0, 0, 0, u32::MAX]);
    }
}
