//! Progress lines on standard error. A step that is done at once says nothing.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::failure::Result;

/// A step shorter than this stays silent.
const QUIET: Duration = Duration::from_millis(800);
/// A long step reports this often.
const REMINDER: Duration = Duration::from_secs(20);

/// Runs `work` as a step named `name`, saying so when it takes a while.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let ticker = Ticker::start(name);
    let result = work();
    ticker.finish(result.is_ok());
    result
}

/// Prints one line of news.
pub(crate) fn note(text: &str) {
    eprintln!("basalt: {text}");
}

struct Ticker {
    stop: Sender<bool>,
    thread: JoinHandle<()>,
}

impl Ticker {
    fn start(name: &str) -> Self {
        let (stop, stopped) = channel();
        let name = name.to_owned();
        let thread = std::thread::spawn(move || {
            let start = Instant::now();
            let mut wait = QUIET;
            let mut announced = false;
            loop {
                match stopped.recv_timeout(wait) {
                    Err(RecvTimeoutError::Timeout) if announced => {
                        note(&format!("{name}: still at it ({} s)", start.elapsed().as_secs()));
                    }
                    Err(RecvTimeoutError::Timeout) => note(&format!("{name} ...")),
                    Ok(true) if announced => {
                        return note(&format!("{name}: done ({:.1} s)", start.elapsed().as_secs_f64()));
                    }
                    Ok(_) | Err(RecvTimeoutError::Disconnected) => return,
                }
                announced = true;
                wait = REMINDER;
            }
        });
        Self { stop, thread }
    }

    fn finish(self, success: bool) {
        // The ticker may only be gone if it panicked, and then there is nothing to stop.
        let _ = self.stop.send(success);
        let _ = self.thread.join();
    }
}
