//! The ports through which the hypervisor uses the machine beside running vCPUs.

use crate::Nanos;

/// The machine under the hypervisor, as the CPU that calls sees it.
pub trait Host {
    /// The time-stamp counter.
    fn tsc(&self) -> u64;

    /// Ticks of the time-stamp counter in a second.
    fn tsc_hz(&self) -> u64;

    /// The host's monotonic time for a TSC value.
    fn time_of(&self, tsc: u64) -> Nanos;

    /// The TSC value at a host time.
    fn tsc_of(&self, time: Nanos) -> u64;

    /// The host's monotonic clock now.
    #[inline]
    fn now(&self) -> Nanos {
        self.time_of(self.tsc())
    }

    /// Seconds since 1970-01-01 00:00 UTC, from the machine's clock.
    fn wall_clock_s(&self) -> u64;

    /// Interrupts this CPU at `deadline`, or at once where that has passed. Replaces the earlier one.
    fn set_timer(&mut self, deadline: Nanos);

    /// Takes interrupts that the machine has pending, without waiting.
    fn poll_interrupts(&mut self);

    /// Halts this CPU until an interrupt was served.
    fn wait_for_interrupt(&mut self);

    /// The next byte that came in on the machine's console, if any.
    fn console_read(&mut self) -> Option<u8>;

    /// Gives a byte to the machine's console. False where it has no room now; try later.
    fn console_write(&mut self, byte: u8) -> bool;

    /// A line of the kernel's own log that has not been shown yet: copies what fits and returns how many
    /// bytes it is, 0 where there is none.
    fn log_read(&mut self, buffer: &mut [u8]) -> usize;

    /// Ends the machine. Returns where the machine does not know how, or would not.
    fn power_off(&mut self);

    /// Restarts the machine. Returns where the machine would not.
    fn restart(&mut self);
}
