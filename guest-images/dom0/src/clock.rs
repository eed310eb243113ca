//! The system's clock, from the machine's.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use rustix::time::{ClockId, Timespec, clock_settime};

use crate::log;

const CLOCKS: &str = "/sys/class/rtc";

/// Sets the system's clock, unless the kernel has done so while it started. Without the machine's clock the time stays that since 1970.
pub(crate) fn set() {
    match first_clock() {
        Ok(None) => {}
        Ok(Some(seconds)) => {
            let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
            match clock_settime(ClockId::Realtime, time) {
                Ok(()) => {
                    log::info(&format!("the time is set from the machine's clock: {seconds} s since 1970"))
                }
                Err(error) => log::error(&format!("the time cannot be set: {error}")),
            }
        }
        Err(error) => log::warn(&format!("the machine's clock cannot be read: {error}")),
    }
}

/// What the machine's clock shows, in seconds since 1970, UTC. `None` where the kernel has taken its time from it.
fn first_clock() -> Result<Option<i64>> {
    let folder = Path::new(CLOCKS).join("rtc0");
    // Says that the kernel has.
    if fs::read_to_string(folder.join("hctosys"))?.trim() == "1" {
        return Ok(None);
    }
    let text = fs::read_to_string(folder.join("since_epoch"))?;
    text.trim().parse().map(Some).map_err(|error| Error::new(ErrorKind::InvalidData, error))
}
