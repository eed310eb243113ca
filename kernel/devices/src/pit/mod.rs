//! The 8254 interval timer and the port that gates its third channel (0x61).
//!
//! Sources: Intel 8254 data sheet, "Mode Definitions" and "Read Operations"; Intel 82371AB (PIIX4) data sheet, "NMI
//! Status and Control Register" for port 0x61. The counters are functions of time: nothing runs between accesses.
//! Lost ticks of channel 0 coalesce to one rising edge; the grid they lie on does not move.

mod counter;
#[cfg(test)]
mod tests;

use crate::bus::IoError;
use crate::clock::Frequency;
use counter::Counter;
use vcpu::Nanos;

/// The oscillator of all three channels, 1.193182 MHz.
pub(crate) const FREQUENCY: Frequency = Frequency(1_193_182);

/// Ticks are counted from here, so that a phase before the start of time is no special case.
const TICK_BIAS: u64 = 1 << 32;

mod offset {
    pub(super) const CONTROL: u16 = 3;
}

/// Control word: the channel field's value for the read-back command.
const READ_BACK: u8 = 3;
/// Read-back command: do not latch the counts (the status).
const READ_BACK_NO_COUNT: u8 = 1 << 5;
const READ_BACK_NO_STATUS: u8 = 1 << 4;

/// Port 0x61.
mod system_control {
    pub(super) const GATE: u8 = 1 << 0;
    pub(super) const WRITABLE: u8 = 0x0f;
    pub(super) const REFRESH_TOGGLE: u8 = 1 << 4;
    pub(super) const OUTPUT: u8 = 1 << 5;
}

/// Half the period of the DRAM refresh toggle in port 0x61.
const REFRESH_NANOS: u64 = 15_085;

/// Interrupts of channel 0 are not spaced closer than this many ticks (about 10 microseconds).
const SHORTEST_INTERVAL: u64 = 12;

/// The timer. Channel 0's output is the ISA interrupt line 0.
#[derive(Clone, Debug)]
pub struct Pit {
    counters: [Counter; 3],
    /// The bits of port 0x61 that are kept as written.
    system_control: u8,
    /// Rising edges of channel 0 up to this tick have been seen.
    seen: u64,
    /// Channel 0 rose since [`Pit::take_edge`].
    edge: bool,
}

#[inline]
fn tick(now: Nanos) -> u64 {
    FREQUENCY.ticks(now) + TICK_BIAS
}

impl Pit {
    /// All channels unprogrammed, the gate of channel 2 low.
    pub fn new(now: Nanos) -> Self {
        let mut counters = [Counter::new(), Counter::new(), Counter::new()];
        counters[2].set_gate(false, tick(now));
        Self { counters, system_control: 0, seen: tick(now), edge: false }
    }

    /// Brings channel 0 up to `now`.
    pub fn advance(&mut self, now: Nanos) {
        let now = tick(now).max(self.seen);
        self.edge |= self.counters[0].next_rise(self.seen).is_some_and(|rise| rise <= now);
        self.counters[0].settle(now);
        self.seen = now;
    }

    /// When channel 0 next rises, always after the time of the last [`Self::advance`].
    pub fn next_deadline(&self) -> Option<Nanos> {
        let channel = &self.counters[0];
        let skip = channel.period().map_or(0, |period| SHORTEST_INTERVAL.saturating_sub(period));
        let rise = channel.next_rise(self.seen + skip)?;
        Some(FREQUENCY.time_of(rise - TICK_BIAS))
    }

    /// Whether channel 0's output rose since the last call: one edge, however many there were.
    #[inline]
    pub fn take_edge(&mut self) -> bool {
        core::mem::take(&mut self.edge)
    }

    /// The level of channel 0's output, as of the last [`Self::advance`].
    #[inline]
    pub fn output(&self) -> bool {
        self.counters[0].output(self.seen)
    }

    /// Reads port 0x40 + `offset`.
    pub fn read(&mut self, offset: u16, now: Nanos) -> Result<u8, IoError> {
        self.advance(now);
        match self.counters.get_mut(usize::from(offset)) {
            Some(counter) => Ok(counter.read(tick(now))),
            None => Err(IoError::NoRegister { offset }),
        }
    }

    /// Writes port 0x40 + `offset`.
    pub fn write(&mut self, offset: u16, value: u8, now: Nanos) -> Result<(), IoError> {
        self.advance(now);
        let high = self.output();
        let tick = self.seen;
        if offset == offset::CONTROL {
            self.control(value, tick);
        } else if let Some(counter) = self.counters.get_mut(usize::from(offset)) {
            counter.write(value, tick);
        } else {
            return Err(IoError::NoRegister { offset });
        }
        self.edge |= !high && self.output();
        Ok(())
    }

    /// Reads port 0x61.
    pub fn read_system_control(&self, now: Nanos) -> u8 {
        let mut value = self.system_control;
        if now.0 / REFRESH_NANOS % 2 == 1 {
            value |= system_control::REFRESH_TOGGLE;
        }
        if self.counters[2].output(tick(now)) {
            value |= system_control::OUTPUT;
        }
        value
    }

    /// Writes port 0x61: bit 0 is channel 2's gate, bit 1 the speaker.
    pub fn write_system_control(&mut self, value: u8, now: Nanos) {
        self.system_control = value & system_control::WRITABLE;
        self.counters[2].set_gate(value & system_control::GATE != 0, tick(now));
    }

    fn control(&mut self, word: u8, tick: u64) {
        let channel = word >> 6;
        if channel == READ_BACK {
            for (index, counter) in self.counters.iter_mut().enumerate() {
                if word & 2 << index == 0 {
                    continue;
                }
                // Status before count is the order they are read in; both freeze the same moment.
                if word & READ_BACK_NO_STATUS == 0 {
                    counter.latch_status(tick);
                }
                if word & READ_BACK_NO_COUNT == 0 {
                    counter.latch_count(tick);
                }
            }
        } else if let Some(counter) = self.counters.get_mut(usize::from(channel)) {
            counter.control(word, tick);
        }
    }
}
