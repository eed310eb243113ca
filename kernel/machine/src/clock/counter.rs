//! What the calibration counts with: timers of known rate, and this CPU's own counters. The traits let tests put made-up
//! timers in their place.

/// A timer that counts up at a known rate, modulo a power of two.
pub(super) trait Counter {
    /// What it is, for the log.
    fn name(&self) -> &'static str;

    /// Ticks in a second.
    fn hz(&self) -> u64;

    /// The bits that count, from bit 0.
    fn mask(&self) -> u32;

    /// Gets it to count.
    fn start(&self);

    /// Its value: no bits beyond [`Self::mask`].
    fn read(&self) -> u32;

    /// It is not needed any more.
    fn stop(&self) {}
}

/// The counters of the CPU that calibrates.
pub(super) trait Cpu {
    /// The time-stamp counter.
    fn tsc(&self) -> u64;

    /// Starts the local APIC timer's count at zero. False where that timer goes by the TSC and needs no calibration.
    fn start_count(&self) -> bool;

    /// The local APIC timer's ticks since [`Self::start_count`].
    fn counted(&self) -> u32;
}
