//! How a test ends, and the macros that say so.

use core::fmt::{self, Write};

use crate::{Exception, Global};

/// Why a test did not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A check failed; [`reason`] says which.
    Failed,
    /// The machine lacks what the test needs; [`reason`] says what.
    Skipped,
    /// An exception that the test did not expect.
    Exception(Exception),
}

impl From<Exception> for Verdict {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

/// What a test returns.
pub type TestResult = Result<(), Verdict>;

const REASON_SIZE: usize = 240;

struct Reason {
    text: [u8; REASON_SIZE],
    length: usize,
}

impl Write for Reason {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.length..];
        let length = text.len().min(room.len());
        room[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        Ok(())
    }
}

static REASON: Global<Reason> = Global::new(Reason { text: [0; REASON_SIZE], length: 0 });

fn set_reason(text: fmt::Arguments<'_>) {
    REASON.with(|reason| {
        reason.length = 0;
        let _ = reason.write_fmt(text);
    });
}

/// The last reason given, cut to 240 bytes.
pub fn reason() -> &'static str {
    // SAFETY: written only between two tests' ends, read after the end.
    let reason = unsafe { &*REASON.as_ptr() };
    core::str::from_utf8(&reason.text[..reason.length]).unwrap_or("(cut)")
}

/// A failed check with its reason.
pub fn fail(text: fmt::Arguments<'_>) -> Verdict {
    set_reason(text);
    Verdict::Failed
}

/// A missing precondition with its reason.
pub fn skip(text: fmt::Arguments<'_>) -> Verdict {
    set_reason(text);
    Verdict::Skipped
}

/// Fails the test unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err($crate::verdict::fail(format_args!($($reason)+)));
        }
    };
}

/// Fails the test unless both integers are equal; prints them in hexadecimal.
#[macro_export]
macro_rules! check_eq {
    ($actual:expr, $expected:expr, $($what:tt)+) => {{
        let (actual, expected) = ($actual, $expected);
        if actual != expected {
            return Err($crate::verdict::fail(format_args!(
                "{}: {:#x} instead of {:#x}", format_args!($($what)+), actual, expected
            )));
        }
    }};
}

/// Skips the test with a reason.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {
        return Err($crate::verdict::skip(format_args!($($reason)+)))
    };
}

/// Skips the test unless the machine has what it needs.
#[macro_export]
macro_rules! need {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            $crate::skip!($($reason)+);
        }
    };
}
