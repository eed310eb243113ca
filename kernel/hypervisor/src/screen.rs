//! A guest's text screen on its console: text memory is looked at now and then, and rows that have changed are written out.
//! Where the VM is shown alone that is by cursor movements and colours (ECMA-48), among other VMs as plain lines.
//!
//! A look costs one copy of 4000 bytes, at most ten times a second, on no exit; a row is written only where the console has
//! room for all of it, and those that had none come at the next look.
//!
//! Sources: IBM VGA XGA technical reference, "Text modes"; ECMA-48, "CUP", "SGR", "EL", "ED"; IBM code page 437.

use core::fmt::{self, Write};

use alloc::boxed::Box;
use alloc::vec::Vec;

use devices::Vga;
use loader::TextScreen;
use vcpu::{Backend, Gpa, GuestMemory, Nanos};

use crate::console::{Console, Shown};
use crate::heap;
use crate::vm::Vm;

const COLUMNS: usize = Vga::COLUMNS as usize;
const ROWS: usize = Vga::ROWS as usize;
const CELL: usize = 2;
const ROW_BYTES: usize = COLUMNS * CELL;
const SCREEN_BYTES: usize = ROWS * ROW_BYTES;
/// What a row can become at most: each character in another colour, three bytes of UTF-8.
const ROW_OUTPUT: usize = COLUMNS * (12 + 3) + 32;
/// Between two looks at the screen of a VM that is shown alone, and among others.
const LOOK_ALONE: Nanos = Nanos::from_millis(100);
const LOOK_IN_LINES: Nanos = Nanos::from_millis(1000);
/// Light grey on black.
const PLAIN: u8 = 0x07;
/// The adapter's colours 0 to 7 in ECMA-48's order.
const COLOURS: [u8; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// What a kernel is told of the screen.
pub(crate) const DESCRIPTION: TextScreen =
    TextScreen { base: Vga::TEXT, columns: Vga::COLUMNS, rows: Vga::ROWS };

/// The upper half of code page 437.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
                     └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";

/// The character of a code.
fn character(code: u8) -> char {
    match code {
        0..0x20 | 0x7f => ' ',
        0x20..0x7f => char::from(code),
        _ => UPPER.chars().nth(usize::from(code - 0x80)).unwrap_or(' '),
    }
}

/// What was shown last.
#[derive(Debug)]
pub(crate) struct Screen {
    cells: Vec<u8>,
    look: Vec<u8>,
    shown: Shown,
    /// The cell under the cursor, as shown.
    cursor: usize,
    next: Nanos,
}

impl Screen {
    /// `None` where there is no memory for it.
    pub(crate) fn new() -> Option<Box<Self>> {
        heap::boxed(Self {
            cells: heap::row(SCREEN_BYTES, 0)?,
            look: heap::row(SCREEN_BYTES, 0)?,
            shown: Shown::Not,
            cursor: 0,
            next: Nanos::ZERO,
        })
    }

    /// Shows what has changed on the VM's screen, when it is time for it.
    pub(crate) fn serve<B: Backend>(&mut self, vm: &Vm<'_, B>, console: &mut Console, now: Nanos) {
        let shown = console.shown(vm.number);
        if now < self.next && shown == self.shown {
            return;
        }
        self.next = now + if shown == Shown::Alone { LOOK_ALONE } else { LOOK_IN_LINES };
        if shown == Shown::Not {
            self.shown = Shown::Not;
            return;
        }
        let Some(vga) = vm.vga() else { return };
        let cursor = usize::from(vga.cursor().wrapping_sub(vga.start()));
        if vm.with_space(|space| self.look_at(&vga, space)).is_some_and(|looked| looked.is_ok()) {
            self.show(cursor, vm.number, console);
        }
    }

    /// Copies the screen out of text memory, whose end is followed by its start.
    fn look_at(&mut self, vga: &Vga, memory: &impl GuestMemory) -> Result<(), vcpu::NotRam> {
        let start = u64::from(vga.start()) * CELL as u64 % Vga::TEXT_SIZE;
        let until_end = ((Vga::TEXT_SIZE - start) as usize).min(SCREEN_BYTES);
        let (first, second) = self.look.split_at_mut_checked(until_end).unwrap_or_default();
        memory.read(Gpa(Vga::TEXT.0 + start), first)?;
        memory.read(Vga::TEXT, second)
    }

    /// Writes out the rows that differ from what was shown, as far as there is room.
    fn show(&mut self, cursor: usize, guest: usize, console: &mut Console) {
        let mut out = Output { console, guest };
        let shown = out.console.shown(guest);
        if shown == Shown::Alone && self.shown != Shown::Alone {
            self.cells.fill(0);
            // The console takes everything that there is room for.
            let _ = out.write_str("\x1b[0m\x1b[2J");
        }
        let mut moved = cursor != self.cursor || shown != self.shown;
        self.shown = shown;
        let rows = self.cells.chunks_exact_mut(ROW_BYTES).zip(self.look.chunks_exact(ROW_BYTES));
        for (number, (old, new)) in rows.enumerate().filter(|(_, (old, new))| old != new) {
            if !out.console.has_room_for(ROW_OUTPUT) {
                return;
            }
            let _ = match self.shown {
                Shown::Alone => write_row(&mut out, number, new),
                _ => write_line(&mut out, old, new),
            };
            old.copy_from_slice(new);
            moved = true;
        }
        if self.shown == Shown::Alone && moved && out.console.has_room_for(ROW_OUTPUT) {
            self.cursor = cursor;
            let (row, column) = (cursor / COLUMNS + 1, cursor % COLUMNS + 1);
            let _ = write!(out, "\x1b[{};{column}H", row.min(ROWS));
        }
    }
}

/// A row with its colours, at its place.
fn write_row(out: &mut Output<'_>, number: usize, row: &[u8]) -> fmt::Result {
    write!(out, "\x1b[{};1H\x1b[0m", number + 1)?;
    let mut colours = PLAIN;
    for cell in row.as_chunks::<CELL>().0 {
        let [code, attribute] = *cell;
        if attribute != colours {
            colours = attribute;
            let colour = |bits: u8| COLOURS.get(usize::from(bits & 7)).copied().unwrap_or_default();
            let bright = if attribute & 8 == 0 { 0 } else { 1 };
            write!(out, "\x1b[{bright};3{};4{}m", colour(attribute), colour(attribute >> 4))?;
        }
        out.write_char(character(code))?;
    }
    out.write_str("\x1b[0m")
}

/// A row as a line, where its text has changed.
fn write_line(out: &mut Output<'_>, old: &[u8], new: &[u8]) -> fmt::Result {
    let text = |row| -> [u8; COLUMNS] {
        let mut text = [0; COLUMNS];
        let (cells, _): (&[[u8; CELL]], _) = <[u8]>::as_chunks(row);
        for (slot, [code, _]) in text.iter_mut().zip(cells) {
            *slot = *code;
        }
        text
    };
    let (old, new) = (text(old), text(new));
    let used = new.iter().rposition(|code| !matches!(code, 0 | b' ')).map_or(0, |last| last + 1);
    if old == new || used == 0 {
        return Ok(());
    }
    for code in new.iter().take(used) {
        out.write_char(character(*code))?;
    }
    out.write_str("\r\n")
}

/// Bytes of a guest for the console. There is room: it was asked before.
struct Output<'a> {
    console: &'a mut Console,
    guest: usize,
}

impl Write for Output<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.console.put(self.guest, byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FirstView;
    use crate::console::GuestConsole;
    use std::string::String;
    use vcpu::AddressSpace;
    use vcpu::fake::{Clock, FakeHost, FakeSpace};

    fn memory() -> FakeSpace {
        let mut space = FakeSpace::with_memory(1 << 20);
        space.grow_all(Vga::TEXT, Vga::TEXT_SIZE).unwrap();
        space
    }

    fn write(space: &FakeSpace, row: u64, column: u64, text: &[u8], attribute: u8) {
        for (index, byte) in text.iter().enumerate() {
            let cell = Vga::TEXT.0 + ((row * 80 + column + index as u64) * 2) % Vga::TEXT_SIZE;
            space.write(Gpa(cell), &[*byte, attribute]).unwrap();
        }
    }

    fn console(first: FirstView<'_>) -> Console {
        let mut console = Console::new(1);
        console.add(0, GuestConsole::new(crate::config::name("demo")).expect("memory"));
        console.begin_with(first);
        console
    }

    /// What a look shows.
    fn look(screen: &mut Screen, space: &FakeSpace, console: &mut Console, vga: &Vga) -> String {
        let mut host = FakeHost::new(&Clock::new(1_000_000_000));
        host.output_room = usize::MAX;
        screen.look_at(vga, space).unwrap();
        screen.show(85, 0, console);
        console.pump(&mut host);
        String::from_utf8(host.output).unwrap()
    }

    #[test]
    fn changed_rows_are_shown_as_lines_among_others() {
        let (space, vga) = (memory(), Vga::default());
        let mut console = console(FirstView::Merged);
        let mut screen = Screen::new().expect("memory");
        write(&space, 0, 2, b"Hello \xc9\xcd\x01!", 0x1f);
        write(&space, 24, 79, b"x", PLAIN);
        let shown = look(&mut screen, &space, &mut console, &vga);
        let last = std::format!("[demo] {}x\r\n", " ".repeat(79));
        assert_eq!(shown, std::format!("[demo]   Hello ╔═ !\r\n{last}"));
        assert_eq!(look(&mut screen, &space, &mut console, &vga), "", "nothing has changed");
        write(&space, 0, 2, b"H", 0x2f);
        assert_eq!(look(&mut screen, &space, &mut console, &vga), "", "only a colour has");
    }

    #[test]
    fn a_vm_alone_has_colours_and_a_cursor() {
        let (space, vga) = (memory(), Vga::default());
        let mut console = console(FirstView::Guest("demo"));
        let mut screen = Screen::new().expect("memory");
        write(&space, 1, 0, b"ab", 0x1c);
        let shown = look(&mut screen, &space, &mut console, &vga);
        assert!(shown.starts_with("\x1b[0m\x1b[2J\x1b[2;1H\x1b[0m\x1b[1;31;44mab"), "{shown:?}");
        assert!(shown.ends_with("\x1b[0m\x1b[2;6H"), "{shown:?}");
        assert_eq!(look(&mut screen, &space, &mut console, &vga), "");
    }
}
