//! Made-up timers for the tests of calibration: everything that is read costs time.

use std::cell::Cell;

use super::counter::{Counter, Cpu};

/// A machine's true time, and how its counters follow it.
#[derive(Debug)]
pub(super) struct World {
    /// In picoseconds.
    pub(super) now: Cell<u128>,
    /// What a reading costs.
    pub(super) look_ps: u128,
    pub(super) tsc_hz: u64,
    /// 0 where the local APIC's timer stands still.
    pub(super) apic_hz: u64,
    /// From this moment on for so long nothing runs: something below interrupts.
    pub(super) interruption: Cell<Option<(u128, u128)>>,
    /// And again after so long, where that is not 0.
    pub(super) again_ps: u128,
    /// Readings so far.
    pub(super) looks: Cell<u64>,
    pub(super) counting_since: Cell<u128>,
}

const PS_PER_SECOND: u128 = 1_000_000_000_000;

impl World {
    pub(super) fn new(tsc_hz: u64, look_ns: u64) -> Self {
        Self {
            now: Cell::new(123_456_789_000),
            look_ps: u128::from(look_ns) * 1000,
            tsc_hz,
            apic_hz: 100_000_000,
            interruption: Cell::new(None),
            again_ps: 0,
            looks: Cell::new(0),
            counting_since: Cell::new(0),
        }
    }

    fn look(&self) -> u128 {
        self.looks.set(self.looks.get() + 1);
        let mut now = self.now.get() + self.look_ps;
        if let Some((at, length)) = self.interruption.get()
            && now >= at
        {
            now += length;
            let again = self.again_ps;
            self.interruption.set((again != 0).then_some((now + again, length)));
        }
        self.now.set(now);
        now
    }

    pub(super) fn now_ps(&self) -> u128 {
        self.now.get()
    }

    /// A timer of this world.
    pub(super) fn timer(&self, name: &'static str, hz: u64, bits: u32) -> Timer<'_> {
        Timer { world: self, name, hz, true_hz: hz, bits }
    }
}

fn ticks(time_ps: u128, hz: u64) -> u64 {
    (time_ps * u128::from(hz) / PS_PER_SECOND) as u64
}

impl Cpu for World {
    fn tsc(&self) -> u64 {
        ticks(self.look(), self.tsc_hz)
    }

    fn start_count(&self) -> bool {
        self.counting_since.set(self.look());
        true
    }

    fn counted(&self) -> u32 {
        ticks(self.look() - self.counting_since.get(), self.apic_hz) as u32
    }
}

/// A timer that says that it runs at `hz`.
#[derive(Debug)]
pub(super) struct Timer<'a> {
    pub(super) world: &'a World,
    pub(super) name: &'static str,
    pub(super) hz: u64,
    /// What it really runs at; 0 where it stands still.
    pub(super) true_hz: u64,
    pub(super) bits: u32,
}

impl Counter for Timer<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn hz(&self) -> u64 {
        self.hz
    }

    fn mask(&self) -> u32 {
        ((1_u64 << self.bits) - 1) as u32
    }

    fn start(&self) {}

    fn read(&self) -> u32 {
        ticks(self.world.look(), self.true_hz) as u32 & self.mask()
    }
}
