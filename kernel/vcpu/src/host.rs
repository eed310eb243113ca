//! The ports through which the hypervisor uses the machine beside running vCPUs.

use core::fmt;

use trace::{EVENT_BYTES, Kind, Subject, Taken};

use crate::Nanos;

/// What has passed since the boot loader jumped to the kernel, in ticks of the time-stamp counter.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BringUp {
    /// All together.
    pub total: u64,
    /// Of these, for clearing memory.
    pub scrubbing: u64,
    /// For waiting while clocks were measured.
    pub calibration: u64,
}

impl fmt::Display for BringUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, scrubbing, calibration } = self;
        write!(f, "total {total} scrubbing {scrubbing} calibration {calibration} ticks")
    }
}

/// A place in the kernel's log, which its reader keeps. The first one is where the log began.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LogPlace {
    /// Bytes of the log's before it, as the machine counts them.
    pub bytes: u64,
    /// Lines before it.
    pub lines: u64,
}

/// What is at a place in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogRead {
    /// A line, of which so many bytes were copied.
    Line(usize),
    /// So many lines that the machine has no more.
    Lost(u64),
    /// Nothing yet.
    End,
}

/// The machine under the hypervisor, as the CPU that calls sees it.
pub trait Host {
    /// The number of the CPU that calls; the boot CPU's is 0.
    fn cpu(&self) -> usize;

    /// How many CPUs run VMs; their numbers count from 0.
    fn cpus(&self) -> usize;

    /// Interrupts that CPU soon: it leaves its guest ([`crate::Exit::HostEvent`]) or wakes up. Never waits. A kick that
    /// comes while interrupts are off there counts as soon as it enters a guest or halts.
    fn kick(&mut self, cpu: usize);

    /// True where memory was taken from a guest and this CPU may still know where it was: it has to call
    /// [`Self::forget_guests`] before it runs a vCPU. The CPU loop looks before each slice.
    #[inline]
    fn must_forget_guests(&self) -> bool {
        false
    }

    /// Drops what this CPU knows of guests' memory, so that what was taken can be used anew. No vCPU is loaded.
    fn forget_guests(&mut self) {}

    /// The time-stamp counter.
    fn tsc(&self) -> u64;

    /// Ticks of the time-stamp counter in a second, as measured when the machine started.
    fn tsc_hz(&self) -> u64;

    /// How long the machine has taken to come up, until now.
    fn bring_up(&self) -> BringUp;

    /// Bytes that the calling CPU has taken for the kernel's own use, less what it has given back, modulo 2^64. Guests' memory and
    /// what maps it do not count.
    fn taken(&self) -> u64;

    /// True where that rate never changes and the counter never stops, so that guests may keep time by it.
    fn tsc_is_steady(&self) -> bool;

    /// The host's monotonic time for a TSC value.
    fn time_of(&self, tsc: u64) -> Nanos;

    /// The TSC value at a host time.
    fn tsc_of(&self, time: Nanos) -> u64;

    /// The host's monotonic clock now.
    #[inline]
    fn now(&self) -> Nanos {
        self.time_of(self.tsc())
    }

    /// Seconds since 1970-01-01 00:00 UTC, from the machine's clock, or as it was set.
    fn wall_clock_s(&self) -> u64;

    /// Sets that, for all CPUs.
    fn set_wall_clock_s(&mut self, seconds: u64);

    /// Interrupts this CPU at `deadline`, or at once where that has passed. Replaces the earlier one; where that is the same and has not come yet,
    /// nothing is done. (Who calls does not know: the interrupt is taken wherever the CPU looks for work, and a timer may fire a little early.)
    fn set_timer(&mut self, deadline: Nanos);

    /// Takes interrupts that the machine has pending, without waiting.
    fn poll_interrupts(&mut self);

    /// This CPU looks for work: it is not stuck. Looks after the CPUs that it watches, too.
    #[inline]
    fn beat(&mut self) {}

    /// When this CPU has to [`Self::beat`] although it has nothing to do, because it watches others.
    #[inline]
    fn next_watch(&self) -> Nanos {
        Nanos::NEVER
    }

    /// Halts this CPU until an interrupt was served.
    fn wait_for_interrupt(&mut self);

    /// The next byte that came in on the machine's console, if any.
    fn console_read(&mut self) -> Option<u8>;

    /// Gives bytes to the machine's console. Returns how many of them it had room for; try later with the rest.
    fn console_write(&mut self, bytes: &[u8]) -> usize;

    /// A line of the kernel's own log that has not been shown yet: copies what fits and returns how many
    /// bytes it is, 0 where there is none.
    fn log_read(&mut self, buffer: &mut [u8]) -> usize;

    /// The same for the lines that the machine itself has shown before, from the oldest that it still has. They must be
    /// read before those of [`Self::log_read`], which leaves them out.
    fn log_read_shown(&mut self, buffer: &mut [u8]) -> usize;

    /// Looks at a place in the log, whatever was read by others, and passes what is there: copies as much of a line as fits.
    fn log_read_at(&mut self, place: &mut LogPlace, buffer: &mut [u8]) -> LogRead;

    /// Records what happens now as an event of this CPU's: in some 20 instructions, whatever others do.
    fn trace(&self, kind: Kind, subject: Subject, first: u64, second: u64);

    /// Reads a CPU's events from one of that number on, see [`trace::Ring::read`]. `None` where there is no such CPU.
    fn trace_read(&self, cpu: usize, from: u64, to: &mut [[u8; EVENT_BYTES]]) -> Option<Taken>;

    /// Ends the machine. Returns where the machine does not know how, or would not.
    fn power_off(&mut self);

    /// Restarts the machine. Returns where the machine would not.
    fn restart(&mut self);
}
