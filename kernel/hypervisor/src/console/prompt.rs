//! The prompt, at which commands with names and numbers are typed.
//!
//! While it is open, a guest that is shown alone waits with its bytes; where all are shown, their lines come before
//! the prompt's, which is written anew.

use arrayvec::ArrayVec;

use super::command::{LINE_BYTES, Mistake, parse};
use super::keys::View;
use super::{Command, Console, Writer};

const PROMPT: &str = "basalt> ";

const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
const CONTROL_C: u8 = 0x03;
const CONTROL_U: u8 = 0x15;
const ESCAPE: u8 = 0x1b;

/// What has been typed.
#[derive(Debug, Default)]
pub(super) struct Prompt {
    line: ArrayVec<u8, LINE_BYTES>,
    open: bool,
}

impl Prompt {
    /// Whether typed bytes are for it.
    pub(super) const fn is_open(&self) -> bool {
        self.open
    }
}

impl Console {
    /// Opens the prompt.
    pub(super) fn open_prompt(&mut self) {
        self.prompt.open = true;
        self.prompt.line.clear();
        self.draw_prompt();
    }

    /// Leaves it.
    pub(super) fn close_prompt(&mut self) {
        if self.prompt.open {
            self.prompt.open = false;
            self.break_line();
            self.writer = Writer::Kernel;
        }
    }

    /// Shows it again, where something else was shown since.
    pub(super) fn draw_prompt(&mut self) {
        if !self.prompt.open || self.answers || self.writer == Writer::Prompt || !self.has_room() {
            return;
        }
        self.break_line();
        self.writer = Writer::Prompt;
        let line = self.prompt.line.clone();
        PROMPT.bytes().chain(line).for_each(|byte| self.emit(byte));
    }

    /// Takes a typed byte.
    pub(super) fn type_at_prompt(&mut self, byte: u8) -> Option<Command> {
        self.draw_prompt();
        match byte {
            b'\r' | b'\n' => return self.execute(),
            BACKSPACE | DELETE => self.rub_out(1),
            CONTROL_U => self.rub_out(LINE_BYTES),
            CONTROL_C | ESCAPE => self.close_prompt(),
            b' '..=b'~' if self.prompt.line.try_push(byte).is_ok() => self.emit(byte),
            _ => {}
        }
        None
    }

    fn rub_out(&mut self, count: usize) {
        for _ in 0..count.min(self.prompt.line.len()) {
            self.prompt.line.pop();
            [BACKSPACE, b' ', BACKSPACE].into_iter().for_each(|byte| self.emit(byte));
        }
    }

    /// The line is complete. The prompt stays open for the next one, unless it is empty.
    fn execute(&mut self) -> Option<Command> {
        let line = core::mem::take(&mut self.prompt.line);
        self.break_line();
        self.writer = Writer::Kernel;
        // Only printable ASCII gets into a line.
        let text = core::str::from_utf8(&line).unwrap_or_default().trim_ascii();
        if text.is_empty() {
            self.close_prompt();
            return None;
        }
        match parse(text, self.names()) {
            Ok(Command::Console(guest)) => {
                self.close_prompt();
                self.show(View::Guest(guest));
            }
            Ok(command) => return Some(command),
            Err(mistake) => self.say_mistake(mistake),
        }
        None
    }

    fn say_mistake(&mut self, mistake: Mistake<'_>) {
        self.say_formatted(format_args!("{mistake}\n"));
    }

    fn say_formatted(&mut self, text: core::fmt::Arguments<'_>) {
        // The console's voice takes everything.
        let _ = core::fmt::Write::write_fmt(&mut self.voice(), text);
    }
}
