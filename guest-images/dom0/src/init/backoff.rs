//! How long a process that has died waits before it is started again.

use std::time::Duration;

/// The second death in a row waits so long, and each one after it twice as long,
const FIRST: Duration = Duration::from_secs(1);
/// up to this.
const LONGEST: Duration = Duration::from_secs(60);
/// A process that lived so long had a good start: its death is the first one again.
const GOOD: Duration = Duration::from_secs(60);

/// The deaths of one process.
#[derive(Default)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// The process has died after such a life: how long to wait.
    pub(crate) fn after(&mut self, life: Duration) -> Duration {
        if life >= GOOD {
            self.next = Duration::ZERO;
        }
        let wait = self.next;
        self.next = (wait * 2).clamp(FIRST, LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_forgotten() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|_| backoff.after(Duration::from_secs(2)).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.after(GOOD), Duration::ZERO);
        assert_eq!(backoff.after(Duration::ZERO), FIRST);
    }
}
