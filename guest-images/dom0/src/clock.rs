//! The system's clock, from the machine's, and the other way round where somebody has set it better.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustix::time::{ClockId, Timespec, clock_settime};

use crate::log;

const CLOCKS: &str = "/sys/class/rtc";
/// Sets the machine's clock: that takes an ioctl, for which there is no safe way here but this.
const SETTER: (&str, [&str; 3]) = ("/bin/busybox", ["hwclock", "--systohc", "--utc"]);
/// Seconds by which clocks may differ: both show whole ones.
const TOLERANCE: u64 = 1;

/// What it shows, in seconds since 1970.
pub(crate) fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Sets the system's clock, unless the kernel has done so while it started. Without the machine's clock the time stays that since 1970.
pub(crate) fn set() {
    let result = seconds_to_set(&Path::new(CLOCKS).join("rtc0")).and_then(|seconds| {
        let Some(seconds) = seconds else { return Ok(()) };
        clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: 0 })?;
        log::info(&format!("the time is set from the machine's clock: {seconds} s since 1970"));
        Ok(())
    });
    if let Err(error) = result {
        log::warn(&format!("the time cannot be set from the machine's clock: {error}"));
    }
}

/// Sets the machine's clock from the system's, where they differ. A machine without a clock needs none.
pub(crate) fn store() {
    let Ok(shown) = shown(&Path::new(CLOCKS).join("rtc0")) else { return };
    let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else { return };
    let now = now.as_secs();
    if now.abs_diff(u64::try_from(shown).unwrap_or(0)) <= TOLERANCE {
        return;
    }
    let (program, arguments) = SETTER;
    match Command::new(program).args(arguments).status() {
        Ok(status) if status.success() => {
            log::info(&format!("the machine's clock is set, from {shown} to {now} s since 1970"));
        }
        Ok(status) => log::warn(&format!("the machine's clock cannot be set: {program}: {status}")),
        Err(error) => log::warn(&format!("the machine's clock cannot be set: {program}: {error}")),
    }
}

/// What the machine's clock shows, in seconds since 1970, UTC.
fn shown(clock: &Path) -> Result<i64> {
    let text = fs::read_to_string(clock.join("since_epoch"))?;
    text.trim().parse().map_err(|error| Error::new(ErrorKind::InvalidData, error))
}

/// What the machine's clock shows, in seconds since 1970, UTC. `None` where the kernel has taken its time from it.
fn seconds_to_set(clock: &Path) -> Result<Option<i64>> {
    // Says that the kernel has.
    if fs::read_to_string(clock.join("hctosys"))?.trim() == "1" {
        return Ok(None);
    }
    shown(clock).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_read_where_the_kernel_has_not() {
        let clock = std::env::temp_dir().join(format!("basaltd-clock-{}", std::process::id()));
        fs::create_dir_all(&clock).unwrap();
        let shows = |taken: &str, time: &str| {
            fs::write(clock.join("hctosys"), taken).unwrap();
            fs::write(clock.join("since_epoch"), time).unwrap();
            seconds_to_set(&clock).ok()
        };
        assert_eq!(shows("0\n", "1700000000\n"), Some(Some(1_700_000_000)));
        assert_eq!(shows("1\n", "1700000000\n"), Some(None));
        assert_eq!(shows("0\n", "soon\n"), None);
        fs::remove_dir_all(&clock).unwrap();
        assert!(seconds_to_set(&clock).is_err());
    }
}
