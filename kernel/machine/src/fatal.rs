//! The one way to refuse a machine, and what all last words end with.

use core::fmt::{self, Write};

use crate::logger::LastWords;
use crate::logger::survivor::{self, Ending};
use crate::smp::stop;
use crate::{clock, cpu, logger};

/// Says on serial port and screen why the kernel cannot run here and what its user can do, and stops.
pub fn refuse(reason: impl fmt::Display, advice: impl fmt::Display) -> ! {
    stop::others();
    logger::prepare_last_words();
    survivor::set_ending(Ending::Refused);
    // `LastWords` never fails.
    let _ = writeln!(LastWords, "\nBASALT CANNOT RUN HERE: {reason}");
    advise(advice);
    cpu::halt_forever()
}

/// The last two lines: what the user can do, and when that was.
pub(crate) fn advise(advice: impl fmt::Display) {
    let _ = writeln!(LastWords, "What to do: {advice}");
    let _ = match clock::uptime_or_ticks() {
        Ok(uptime) => writeln!(
            LastWords,
            "Stopped {}.{:06} s after the kernel's start.",
            uptime.0 / NANOS_PER_SECOND,
            uptime.0 % NANOS_PER_SECOND / 1000
        ),
        Err(ticks) => writeln!(LastWords, "Stopped {ticks} TSC ticks after the kernel's start."),
    };
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;
