//! The clock on the wall: the kernel has read the machine's once; dom0's may be set better later, and guests are to be shown that, and the
//! machine's is to be set.

use std::io::Result;
use std::time::{Instant, SystemTime};

use abi::{Answer, Request};

use crate::channel::{Asks, Channel};
use crate::clock;

/// What the kernel was told, and when.
#[derive(Default)]
pub(super) struct WallClock(Option<(u64, Instant)>);

impl WallClock {
    /// Tells the kernel where its clock may be wrong.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(super) fn tell(&mut self, channel: &mut Channel) -> Result<()> {
        let (now, at) = (SystemTime::now(), Instant::now());
        let Ok(since) = now.duration_since(SystemTime::UNIX_EPOCH) else { return Ok(()) };
        let seconds = since.as_secs();
        if self.0.is_some_and(|told| goes_on(told, (seconds, at))) {
            return Ok(());
        }
        self.0 = Some((seconds, at));
        // Whoever has set it wants it to be so after the next start, too.
        clock::store();
        // A machine without a clock begins in 1970, which is refused.
        channel.ask(&Request::SetWallClock { seconds }, |_: Answer<'_>| Ok(()))
    }
}

/// Whether a clock that has shown the one at that time shows the other now, to a second.
fn goes_on((before, then): (u64, Instant), (seconds, now): (u64, Instant)) -> bool {
    (before + now.saturating_duration_since(then).as_secs()).abs_diff(seconds) <= 1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let then = Instant::now();
        let later = then + Duration::from_millis(10_900);
        assert!(goes_on((1000, then), (1011, later)));
        assert!(goes_on((1000, then), (1010, later)));
        assert!(!goes_on((1000, then), (1013, later)), "forward");
        assert!(!goes_on((1000, then), (900, later)), "back");
    }
}
