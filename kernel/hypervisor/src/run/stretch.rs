//! How long a CPU goes on without looking for pending work. Measured in the test build only (feature `stretch`), which tells
//! each stretch in the log that is longer than all before; otherwise nothing of this is left.
//!
//! A CPU looks where interrupts can come: when it enters a guest, waits, or lets them in between two steps of a task.

use vcpu::Host;

/// What is worth telling, in ticks: half of what is allowed on a CPU of a tick an instruction and a nanosecond.
#[cfg(feature = "stretch")]
const WORTH_TELLING: u64 = 50_000;

/// One CPU's stretches.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// The TSC when the CPU last looked; 0 before the first time.
    #[cfg(feature = "stretch")]
    since: u64,
    #[cfg(feature = "stretch")]
    longest: u64,
    /// The last exit.
    #[cfg(feature = "stretch")]
    exit: Option<vcpu::Exit>,
}

#[cfg(feature = "stretch")]
impl Stretch {
    /// A stretch ends at this TSC value; `what` the CPU did.
    #[inline]
    pub(super) fn ends<H: Host>(&mut self, tsc: u64, what: &str, host: &H) {
        let length = tsc.saturating_sub(self.since);
        if self.since != 0 && length > self.longest {
            self.longest = length;
            tell(length, what, self.exit, host);
        }
    }

    /// The CPU has looked.
    #[inline]
    pub(super) fn begins(&mut self, tsc: u64) {
        self.since = tsc;
        self.exit = None;
    }

    /// A guest has left.
    #[inline]
    pub(super) fn begins_with(&mut self, tsc: u64, exit: vcpu::Exit) {
        self.since = tsc;
        self.exit = Some(exit);
    }
}

#[cfg(feature = "stretch")]
#[cold]
fn tell<H: Host>(length: u64, what: &str, exit: Option<vcpu::Exit>, host: &H) {
    let us = (u128::from(length) * 1_000_000 / u128::from(host.tsc_hz().max(1))) as u64;
    if length >= WORTH_TELLING {
        log::info!("CPU {}: {us} us, {length} ticks without a look: {what} {exit:?}", host.cpu());
    }
}

#[cfg(not(feature = "stretch"))]
impl Stretch {
    /// A stretch ends.
    #[inline]
    pub(super) fn ends<H: Host>(&mut self, _tsc: u64, _what: &str, _host: &H) {}

    /// The CPU has looked.
    #[inline]
    pub(super) fn begins(&mut self, _tsc: u64) {}

    /// A guest has left.
    #[inline]
    pub(super) fn begins_with(&mut self, _tsc: u64, _exit: vcpu::Exit) {}
}
