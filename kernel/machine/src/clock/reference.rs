//! The machine's timers of known rate: HPET, ACPI timer, PIT.
//!
//! Source: IA-PC HPET Specification, "Register Overview"; ACPI Specification, "Power Management Timer"; Intel 8254 data
//! sheet, "Mode 2: Rate Generator" and "Counter Latch Command".

// UNSAFETY: reads and programs timers through I/O ports and device memory.
#![allow(unsafe_code)]

use core::cell::Cell;
use core::ptr::NonNull;

use vcpu::Hpa;
use x86_64::instructions::port::Port;

use super::counter::Counter;
use crate::acpi;
use crate::fault::lies;
use crate::memory::map_mmio;

/// Length of the HPET's registers.
const HPET_BYTES: u64 = 1024;
/// General capabilities: the upper half is the period of a tick in femtoseconds.
const HPET_PERIOD: usize = 0x004;
/// General configuration.
const HPET_CONFIGURATION: usize = 0x010;
/// General configuration: the main counter counts.
const HPET_ENABLE: u32 = 1 << 0;
/// The main counter, lower half.
const HPET_COUNTER: usize = 0x0f0;
/// Periods that the specification allows: at most 100 ns.
const HPET_PERIODS_FS: core::ops::RangeInclusive<u32> = 1..=100_000_000;
const FEMTOSECONDS_PER_SECOND: u64 = 1_000_000_000_000_000;

/// The timers' names, for the log.
pub(super) const HPET: &str = "the HPET";
pub(super) const PM_TIMER: &str = "the ACPI timer";
pub(super) const PIT: &str = "the PIT";

const PM_TIMER_HZ: u64 = 3_579_545;
/// Two readings of the ACPI timer in a row are this close (1.1 ms), or one of them caught it half-way between two
/// values, as it happens with some old chipsets.
const PM_TIMER_STEP: u32 = 4096;
/// Readings of the ACPI timer until two agree.
const PM_TIMER_READINGS: u32 = 8;

const PIT_HZ: u64 = 1_193_182;
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
/// Channel 2, both bytes, mode 2 (counts down and over again), binary.
const PIT_CHANNEL_2_MODE_2: u8 = 0b1011_0100;
/// Channel 2: hold the count until it is read.
const PIT_LATCH_CHANNEL_2: u8 = 0b1000_0000;
/// A count of zero means 65536.
const PIT_MASK: u32 = 0xffff;
const PORT_B: u16 = 0x61;
/// Port B: lets channel 2 count.
const GATE: u8 = 1 << 0;
/// Port B: channel 2 drives the speaker.
const SPEAKER: u8 = 1 << 1;
/// Port B: the bits that can be written. The others tell something, or clear an NMI's cause when written.
const PORT_B_WRITABLE: u8 = 0x0f;

/// The high precision event timer's main counter, of which the lower 32 bits serve: not every HPET has more, nor reads
/// more in one piece.
#[derive(Debug)]
pub(super) struct Hpet {
    registers: NonNull<u8>,
    hz: u64,
}

// SAFETY: the registers are mapped for good, and each access is one aligned word, from whatever CPU.
unsafe impl Send for Hpet {}
// SAFETY: as above.
unsafe impl Sync for Hpet {}

impl Hpet {
    /// The timer whose registers firmware says are there. `None` where none answers.
    pub(super) fn new(at: Hpa) -> Option<Self> {
        let registers = map_mmio(at, HPET_BYTES).ok()?;
        let timer = Self { registers, hz: 0 };
        let period_fs = timer.register(HPET_PERIOD);
        // Nobody there reads as all ones or as zero.
        let hz =
            FEMTOSECONDS_PER_SECOND / u64::from(Some(period_fs).filter(|it| HPET_PERIODS_FS.contains(it))?);
        Some(Self { hz, ..timer })
    }

    fn register(&self, offset: usize) -> u32 {
        // SAFETY: `new` mapped the registers for good; the offsets are of aligned words within. Reading has no effect.
        unsafe { self.registers.as_ptr().add(offset).cast::<u32>().read_volatile() }
    }
}

impl Counter for Hpet {
    fn name(&self) -> &'static str {
        HPET
    }

    fn hz(&self) -> u64 {
        self.hz
    }

    fn mask(&self) -> u32 {
        u32::MAX
    }

    fn start(&self) {
        let configuration = self.register(HPET_CONFIGURATION);
        if configuration & HPET_ENABLE == 0 {
            let enabled = configuration | HPET_ENABLE;
            // SAFETY: as in `register`; it lets the counter count. The comparators' interrupts are masked in the I/O APIC.
            unsafe {
                self.registers.as_ptr().add(HPET_CONFIGURATION).cast::<u32>().write_volatile(enabled);
            }
        }
    }

    #[inline]
    fn read(&self) -> u32 {
        self.register(HPET_COUNTER) & lies::counting()
    }
}

/// The ACPI timer.
#[derive(Clone, Copy, Debug)]
pub(super) struct PmTimer(pub(super) acpi::PmTimer);

impl PmTimer {
    #[inline]
    fn read_once(self) -> u32 {
        // SAFETY: firmware says that the timer is at this port; reading it has no effect.
        unsafe { Port::<u32>::new(self.0.port).read() & self.mask() & lies::counting() }
    }
}

impl Counter for PmTimer {
    fn name(&self) -> &'static str {
        PM_TIMER
    }

    fn hz(&self) -> u64 {
        PM_TIMER_HZ
    }

    fn mask(&self) -> u32 {
        if self.0.bits >= u32::BITS { u32::MAX } else { (1 << self.0.bits) - 1 }
    }

    fn start(&self) {}

    fn read(&self) -> u32 {
        let mut value = self.read_once();
        for _ in 1..PM_TIMER_READINGS {
            let next = self.read_once();
            if next.wrapping_sub(value) & self.mask() < PM_TIMER_STEP {
                return next;
            }
            value = next;
        }
        value
    }
}

/// The PIT's channel 2, which drives nothing but the speaker.
#[derive(Debug, Default)]
pub(super) struct Pit {
    /// Port B as it was.
    port_b: Cell<u8>,
}

impl Counter for Pit {
    fn name(&self) -> &'static str {
        PIT
    }

    fn hz(&self) -> u64 {
        PIT_HZ
    }

    fn mask(&self) -> u32 {
        PIT_MASK
    }

    fn start(&self) {
        // SAFETY: the PIT and port B belong to the kernel; the speaker is kept off.
        unsafe {
            let mut port_b = Port::<u8>::new(PORT_B);
            let before = port_b.read() & PORT_B_WRITABLE;
            self.port_b.set(before);
            port_b.write(before & !SPEAKER | GATE);
            Port::<u8>::new(PIT_COMMAND).write(PIT_CHANNEL_2_MODE_2);
            let mut count = Port::<u8>::new(PIT_CHANNEL_2);
            count.write(0);
            count.write(0);
        }
    }

    fn read(&self) -> u32 {
        // SAFETY: as in `start`; latching and reading the count changes nothing. Both bytes are always read, so that the
        // next reading starts with the lower one.
        let (low, high) = unsafe {
            Port::<u8>::new(PIT_COMMAND).write(PIT_LATCH_CHANNEL_2);
            let mut count = Port::<u8>::new(PIT_CHANNEL_2);
            (count.read(), count.read())
        };
        // It counts down.
        u32::from(u16::from_le_bytes([low, high]).wrapping_neg()) & lies::counting()
    }

    fn stop(&self) {
        // SAFETY: as in `start`.
        unsafe { Port::<u8>::new(PORT_B).write(self.port_b.get()) };
    }
}

/// A timer that time can go by where the TSC does not do: one that needs no programming and is not overtaken between two
/// looks of the kernel.
#[derive(Debug)]
pub(super) enum Steady {
    Hpet(Hpet),
    PmTimer(PmTimer),
}

impl Counter for Steady {
    fn name(&self) -> &'static str {
        match self {
            Self::Hpet(hpet) => hpet.name(),
            Self::PmTimer(timer) => timer.name(),
        }
    }

    fn hz(&self) -> u64 {
        match self {
            Self::Hpet(hpet) => hpet.hz(),
            Self::PmTimer(timer) => timer.hz(),
        }
    }

    fn mask(&self) -> u32 {
        match self {
            Self::Hpet(hpet) => hpet.mask(),
            Self::PmTimer(timer) => timer.mask(),
        }
    }

    fn start(&self) {
        match self {
            Self::Hpet(hpet) => hpet.start(),
            Self::PmTimer(timer) => timer.start(),
        }
    }

    #[inline]
    fn read(&self) -> u32 {
        match self {
            Self::Hpet(hpet) => hpet.read(),
            Self::PmTimer(timer) => timer.read(),
        }
    }
}
