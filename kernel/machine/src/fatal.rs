//! The one way to refuse a machine.

use core::fmt::{self, Write};

use crate::cpu;
use crate::logger::LastWords;

/// Says on serial port and screen why the kernel cannot run here and what its user can do, and stops.
pub fn refuse(reason: impl fmt::Display, advice: impl fmt::Display) -> ! {
    // `LastWords` never fails.
    let _ = write!(LastWords, "\nBASALT CANNOT RUN HERE: {reason}\nWhat to do: {advice}\n");
    cpu::halt_forever()
}
