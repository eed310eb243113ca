//! The user's terminal in raw mode: every key, Ctrl-C too, goes to the guest.

use std::io::{IsTerminal, stdin};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::{Context, Result};

/// Raw mode, until dropped.
pub(crate) struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Enters raw mode, if standard input is a terminal.
    pub(crate) fn enter() -> Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(stdin()).context("reading the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        // Output stays as it is, so that a bare line feed begins a line.
        raw.output_modes = before.output_modes;
        tcsetattr(stdin(), OptionalActions::Now, &raw).context("switching the terminal to raw mode")?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The terminal may be gone, and then nothing is left to be restored.
            let _ = tcsetattr(stdin(), OptionalActions::Flush, before);
        }
    }
}
