//! The high precision event timer: its main counter, and its first comparator as a source of interrupts in even distances.
//!
//! Source: IA-PC HPET Specification, "Memory Mapped Registers", "Periodic Mode", "Interrupt Mapping".

// UNSAFETY: reads and programs a timer in device memory.
#![allow(unsafe_code)]

use core::ptr::NonNull;

use vcpu::Hpa;

use crate::memory::map_mmio;

/// Length of the registers.
const BYTES: u64 = 1024;
/// General capabilities; their upper half is the period of a tick in femtoseconds.
const CAPABILITIES: usize = 0x000;
const PERIOD: usize = 0x004;
const CONFIGURATION: usize = 0x010;
/// The main counter, lower half.
const COUNTER: usize = 0x0f0;
/// The first timer.
const TIMER_0: usize = 0x100;
const COMPARATOR_0: usize = 0x108;

/// Capabilities: the first two timers can take the places of PIT and RTC as sources of interrupts.
const LEGACY_CAPABLE: u32 = 1 << 15;
/// Configuration: the main counter counts; the first two timers are in those places.
const ENABLE: u32 = 1 << 0;
const LEGACY: u32 = 1 << 1;
/// A timer's configuration: its interrupt is a level; it is enabled; it repeats; it can repeat; the next value written is the
/// comparator's and not the distance; 32 bits count; it writes messages instead.
const LEVEL: u32 = 1 << 1;
const INTERRUPTS: u32 = 1 << 2;
const PERIODIC: u32 = 1 << 3;
const PERIODIC_CAPABLE: u32 = 1 << 4;
const SET_VALUE: u32 = 1 << 6;
const SHORT: u32 = 1 << 8;
const MESSAGES: u32 = 1 << 14;

/// Periods that the specification allows: at most 100 ns.
const PERIODS_FS: core::ops::RangeInclusive<u32> = 1..=100_000_000;
const FEMTOSECONDS_PER_SECOND: u64 = 1_000_000_000_000_000;

/// A timer that is there. Of its counter the lower 32 bits serve: not every HPET has more, nor reads more in one piece.
#[derive(Debug)]
pub(crate) struct Hpet {
    registers: NonNull<u8>,
    hz: u64,
}

// SAFETY: the registers are mapped for good, and each access is one aligned word, from whatever CPU.
unsafe impl Send for Hpet {}
// SAFETY: as above.
unsafe impl Sync for Hpet {}

impl Hpet {
    /// The timer whose registers firmware says are there. `None` where none answers.
    pub(crate) fn new(at: Hpa) -> Option<Self> {
        let registers = map_mmio(at, BYTES).ok()?;
        let timer = Self { registers, hz: 0 };
        let period_fs = timer.read(PERIOD);
        // Nobody there reads as all ones or as zero.
        let hz = FEMTOSECONDS_PER_SECOND / u64::from(Some(period_fs).filter(|it| PERIODS_FS.contains(it))?);
        Some(Self { hz, ..timer })
    }

    fn read(&self, offset: usize) -> u32 {
        // SAFETY: `new` mapped the registers for good; the offsets are of aligned words within. Reading has no effect.
        unsafe { self.registers.as_ptr().add(offset).cast::<u32>().read_volatile() }
    }

    /// # Safety
    ///
    /// An interrupt that this lets through must have a handler.
    unsafe fn write(&self, offset: usize, value: u32) {
        // SAFETY: as in `read`; the caller answers for the value.
        unsafe { self.registers.as_ptr().add(offset).cast::<u32>().write_volatile(value) };
    }

    /// Ticks of the counter in a second.
    pub(crate) const fn hz(&self) -> u64 {
        self.hz
    }

    /// The counter.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.read(COUNTER)
    }

    /// Lets the counter count.
    pub(crate) fn start(&self) {
        let configuration = self.read(CONFIGURATION);
        if configuration & ENABLE == 0 {
            // SAFETY: counting interrupts nobody: the pins that the comparators lead to are masked until `repeat`'s caller
            // routes one.
            unsafe { self.write(CONFIGURATION, configuration | ENABLE) };
        }
    }

    /// From now on interrupts every so many ticks, as edges where the PIT's interrupt arrives otherwise. False where this
    /// timer cannot do that.
    pub(crate) fn repeat(&self, ticks: u32) -> bool {
        let timer = self.read(TIMER_0);
        if self.read(CAPABILITIES) & LEGACY_CAPABLE == 0 || timer & PERIODIC_CAPABLE == 0 {
            return false;
        }
        self.start();
        let still = timer & !(LEVEL | INTERRUPTS | MESSAGES);
        // SAFETY: as in `start`. The distance goes to the same register as the comparator's value, behind it; the counter may
        // run meanwhile, as it is far from the comparator.
        unsafe {
            self.write(TIMER_0, still | PERIODIC | SHORT | SET_VALUE);
            self.write(COMPARATOR_0, self.count().wrapping_add(ticks));
            self.write(COMPARATOR_0, ticks);
            self.write(CONFIGURATION, self.read(CONFIGURATION) | LEGACY);
            self.write(TIMER_0, still | PERIODIC | SHORT | INTERRUPTS);
        }
        true
    }
}
