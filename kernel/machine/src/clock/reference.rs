//! The machine's timers of known rate: HPET, ACPI timer, PIT.
//!
//! Source: ACPI Specification, "Power Management Timer"; Intel 8254 data
//! sheet, "Mode 2: Rate Generator" and "Counter Latch Command".

// UNSAFETY: reads and programs timers through I/O ports.
#![allow(unsafe_code)]

use core::cell::Cell;

use x86_64::instructions::port::Port;

use super::counter::Counter;
use crate::acpi;
use crate::fault::lies;
use crate::hpet::Hpet;

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

impl Counter for Hpet {
    fn name(&self) -> &'static str {
        HPET
    }

    fn hz(&self) -> u64 {
        self.hz()
    }

    fn mask(&self) -> u32 {
        u32::MAX
    }

    fn start(&self) {
        self.start();
    }

    #[inline]
    fn read(&self) -> u32 {
        self.count() & lies::counting()
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
