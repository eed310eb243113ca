//! The text of the screen, kept in ordinary memory: what is wanted and what is shown. Screens are slow to
//! write and far slower to read, so only cells that differ are drawn, as many at a time as the caller has
//! time for.

use core::fmt;

/// Columns that are used; a wider screen stays dark at its right.
pub(super) const MAX_COLUMNS: usize = 256;
/// Lines that are used.
pub(super) const MAX_LINES: usize = 128;
const MAX_CELLS: usize = MAX_COLUMNS * MAX_LINES;

/// Shown for what is not ASCII.
const UNKNOWN: u8 = b'?';

/// How a character looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Colour {
    /// Light grey on black.
    Normal,
    /// White on red.
    Alarm,
}

/// A character on the screen: how far a printable ASCII character is from the blank, and with [`ALARM`] its colour. A blank is
/// zero, so that a grid that nobody has written to takes no room in the image's file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell(u8);

const ALARM: u8 = 1 << 7;

impl Cell {
    pub(super) const BLANK: Self = Self(0);

    pub(super) const fn new(character: char, colour: Colour) -> Self {
        let character = if matches!(character, ' '..='~') { character as u8 } else { UNKNOWN };
        let colour = if matches!(colour, Colour::Alarm) { ALARM } else { 0 };
        Self((character - b' ') | colour)
    }

    /// Printable ASCII.
    pub(super) const fn character(self) -> u8 {
        (self.0 & !ALARM) + b' '
    }

    pub(super) const fn colour(self) -> Colour {
        if self.0 & ALARM == 0 { Colour::Normal } else { Colour::Alarm }
    }

    /// A blank of the same colour.
    pub(super) const fn blank(self) -> Self {
        Self(self.0 & ALARM)
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", char::from(self.character()), self.colour())
    }
}

/// The grid. Text starts at the top; at the bottom everything moves up.
pub(super) struct Grid {
    wanted: [Cell; MAX_CELLS],
    shown: [Cell; MAX_CELLS],
    columns: usize,
    lines: usize,
    /// Lines by which everything moves up: more than one where redrawing the screen takes long.
    step: usize,
    line: usize,
    column: usize,
    /// Cells from here...
    dirty_start: usize,
    /// ...to here may differ from what is shown.
    dirty_end: usize,
    pub(super) colour: Colour,
}

/// Cells that take as long to look at as one to draw: most of them are the same where all lines have moved up.
const LOOKS_A_CELL: usize = 50;

impl Grid {
    /// A grid of no size, which takes no text.
    pub(super) const fn new() -> Self {
        Self {
            wanted: [Cell::BLANK; MAX_CELLS],
            shown: [Cell::BLANK; MAX_CELLS],
            columns: 0,
            lines: 0,
            step: 0,
            line: 0,
            column: 0,
            dirty_start: 0,
            dirty_end: 0,
            colour: Colour::Normal,
        }
    }

    /// Gives it its size, at most [`MAX_COLUMNS`] by [`MAX_LINES`]. The screen is taken to be blank.
    pub(super) fn open(&mut self, columns: usize, lines: usize, step: usize) {
        self.columns = columns.min(MAX_COLUMNS);
        self.lines = lines.min(MAX_LINES);
        self.step = step.clamp(1, self.lines.max(1));
    }

    /// Puts text behind the last. It is drawn by [`Self::refresh`].
    pub(super) fn write(&mut self, text: &str) {
        if self.columns == 0 || self.lines == 0 {
            return;
        }
        for character in text.chars() {
            if character == '\n' {
                self.new_line();
                continue;
            }
            if self.column == self.columns {
                self.new_line();
            }
            self.put(self.line * self.columns + self.column, Cell::new(character, self.colour));
            self.column += 1;
        }
    }

    fn new_line(&mut self) {
        // Nothing is above the very first line.
        if self.line == 0 && self.column == 0 {
            return;
        }
        self.column = 0;
        self.line += 1;
        if self.line == self.lines {
            self.line -= self.step;
            self.scroll();
        }
    }

    fn scroll(&mut self) {
        let cells = self.columns * self.lines;
        let gone = self.columns * self.step;
        self.wanted.copy_within(gone..cells, 0);
        self.wanted[cells - gone..cells].fill(Cell::BLANK);
        (self.dirty_start, self.dirty_end) = (0, cells);
    }

    fn put(&mut self, at: usize, cell: Cell) {
        let Some(wanted) = self.wanted.get_mut(at) else { return };
        *wanted = cell;
        if self.dirty_start >= self.dirty_end {
            (self.dirty_start, self.dirty_end) = (at, at);
        }
        self.dirty_start = self.dirty_start.min(at);
        self.dirty_end = self.dirty_end.max(at + 1);
    }

    /// The screen has been cleared by somebody: all that is not blank is to be drawn again.
    pub(super) fn cleared(&mut self) {
        self.shown.fill(Cell::BLANK);
        (self.dirty_start, self.dirty_end) = (0, self.columns * self.lines);
    }

    /// Draws at most `budget` cells that differ from what is shown: (line, column), the cell, and what is shown. True where some
    /// may be left.
    pub(super) fn refresh(
        &mut self,
        mut budget: usize,
        mut draw: impl FnMut((usize, usize), Cell, Cell),
    ) -> bool {
        let mut looks = budget.saturating_mul(LOOKS_A_CELL);
        while self.dirty_start < self.dirty_end {
            let at = self.dirty_start;
            if looks == 0 {
                return true;
            }
            looks -= 1;
            let (Some(wanted), Some(shown)) = (self.wanted.get(at), self.shown.get_mut(at)) else { break };
            if wanted != shown {
                if budget == 0 {
                    return true;
                }
                budget -= 1;
                draw((at / self.columns, at % self.columns), *wanted, *shown);
                *shown = *wanted;
            }
            self.dirty_start += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::string::String;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn grid(columns: usize, lines: usize, step: usize) -> Box<Grid> {
        let mut grid = Box::new(Grid::new());
        grid.open(columns, lines, step);
        grid
    }

    /// A screen that shows what it is told.
    struct Glass(Vec<Vec<u8>>);

    impl Glass {
        fn new(columns: usize, lines: usize) -> Self {
            Self(vec![vec![b' '; columns]; lines])
        }

        fn refresh(&mut self, grid: &mut Grid, budget: usize) -> bool {
            grid.refresh(budget, |(line, column), cell, _| self.0[line][column] = cell.character())
        }

        fn text(&self) -> Vec<String> {
            self.0.iter().map(|line| String::from_utf8_lossy(line).trim_end().into()).collect()
        }
    }

    fn shown(grid: &mut Grid) -> Vec<String> {
        let mut glass = Glass::new(grid.columns, grid.lines);
        grid.cleared();
        glass.refresh(grid, usize::MAX);
        glass.text()
    }

    #[test]
    fn text_starts_at_the_top_and_goes_down() {
        let mut grid = grid(20, 4, 1);
        grid.write("\none");
        grid.write("\ntwo é");
        assert_eq!(shown(&mut grid), ["one", "two ?", "", ""]);
    }

    #[test]
    fn at_the_bottom_everything_moves_up_by_the_step() {
        let mut grid = grid(20, 4, 2);
        grid.write("\n1\n2\n3\n4");
        assert_eq!(shown(&mut grid), ["1", "2", "3", "4"]);
        grid.write("\n5");
        assert_eq!(shown(&mut grid), ["3", "4", "5", ""]);
    }

    #[test]
    fn a_long_line_goes_on_below() {
        let mut grid = grid(4, 3, 1);
        grid.write("abcdefgh");
        grid.write("\ni");
        assert_eq!(shown(&mut grid), ["abcd", "efgh", "i"]);
    }

    #[test]
    fn only_what_changes_is_drawn() {
        let mut grid = grid(10, 3, 1);
        let mut glass = Glass::new(10, 3);
        grid.write("same\nsame\nsame");
        glass.refresh(&mut grid, usize::MAX);
        grid.write("\nsane");
        let mut drawn = Vec::new();
        grid.refresh(usize::MAX, |place, cell, shown| {
            drawn.push((place, cell.character(), shown.character()));
        });
        assert_eq!(drawn, [((2, 2), b'n', b'm')]);
    }

    #[test]
    fn looking_for_what_has_changed_has_a_limit_too() {
        let mut grid = grid(100, 3, 1);
        let mut glass = Glass::new(100, 3);
        grid.write("same\nsame\n");
        grid.write(&"x".repeat(100));
        glass.refresh(&mut grid, usize::MAX);
        grid.write("\nlast");
        let mut refreshes = 1;
        while glass.refresh(&mut grid, 2) {
            refreshes += 1;
        }
        assert_eq!(glass.text()[2], "last");
        assert!(refreshes >= 104 / 2, "{refreshes}");
        grid.write("\nlast");
        grid.write("\nlast");
        glass.refresh(&mut grid, usize::MAX);
        // Nothing differs, and there are 300 cells.
        grid.write("\nlast");
        assert!(glass.refresh(&mut grid, 2));
        while glass.refresh(&mut grid, 2) {}
        assert_eq!(glass.text(), ["last"; 3]);
    }

    #[test]
    fn alarm_is_a_change_although_the_letter_is_the_same() {
        let mut grid = grid(10, 1, 1);
        grid.colour = Colour::Alarm;
        grid.write(" ");
        let mut drawn = 0;
        grid.refresh(usize::MAX, |_, cell, _| drawn += usize::from(cell.colour() == Colour::Alarm));
        assert_eq!(drawn, 1);
    }

    #[test]
    fn without_a_size_nothing_happens() {
        let mut grid = Box::new(Grid::new());
        grid.write("\ntext\n");
        assert!(!grid.refresh(usize::MAX, |_, _, _| panic!("drawn")));
        grid.open(0, 5, 1);
        grid.write("\ntext\n");
    }

    proptest! {
        #[test]
        fn however_small_the_budget_the_end_is_the_same(
            texts in proptest::collection::vec("[a-z\n]{0,12}", 0..20),
            budget in 0_usize..9,
            (columns, lines, step) in (1_usize..9, 1_usize..7, 0_usize..9),
        ) {
            let mut slow = grid(columns, lines, step);
            let mut fast = grid(columns, lines, step);
            let mut glass = Glass::new(columns, lines);
            for text in &texts {
                slow.write(text);
                glass.refresh(&mut slow, budget);
                fast.write(text);
            }
            while glass.refresh(&mut slow, budget.max(1)) {}
            prop_assert_eq!(glass.text(), shown(&mut fast));
        }
    }
}
