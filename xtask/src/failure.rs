//! The error of every xtask command: what went wrong, in one line, and what the user can do next.

use std::fmt::Display;

/// What every fallible function of xtask returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// One clear line, and the step that may help.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What went wrong.
    pub(crate) what: String,
    /// What to try next.
    pub(crate) next: Option<String>,
}

impl Failure {
    /// A failure without a next step (give one with [`Failure::next`] where there is one).
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), next: None }
    }

    /// Adds the step that the user can try.
    pub(crate) fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }

    /// Prints the failure on standard error.
    pub(crate) fn print(&self) {
        eprintln!("error: {}", self.what);
        if let Some(next) = &self.next {
            eprintln!(" next: {next}");
        }
    }
}

/// Turns any printable error into a [`Failure`].
pub(crate) trait Context<T> {
    /// Says what was being done when the error came.
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| Failure::new(format!("{what}: {error}")))
    }
}
