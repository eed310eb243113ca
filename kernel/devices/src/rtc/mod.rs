//! The MC146818 real-time clock and the 128 bytes of CMOS memory around it.
//!
//! Sources: Motorola MC146818A data sheet, "Registers" and "Update Cycle"; the PC's use of the CMOS bytes as in Ralf
//! Brown's list, "CMOS Memory Map". Differences: an update takes no time (the time registers are valid up to the
//! second's end, though UIP announces it 244 microseconds ahead), daylight-saving switching does not exist, and an
//! impossible date is carried over to a possible one when the clock runs on from it.

mod alarm;
mod calendar;
mod cmos;
#[cfg(test)]
mod tests;

use crate::bus::IoError;
use crate::clock::{Frequency, earlier};
use alarm::Alarm;
use bitflags::bitflags;
use calendar::{DateTime, day_of_week};
pub use cmos::MemorySize;
use cmos::{Cmos, index};
use vcpu::Nanos;

/// The CMOS byte that holds the century, as the FADT tells.
pub const CENTURY_INDEX: u8 = index::CENTURY;

const SECOND: Nanos = Nanos::from_secs(1);
/// How long before an update UIP is set.
const UPDATE_NOTICE: Nanos = Nanos::from_micros(244);
/// The first update after the divider leaves reset comes so much later.
const AFTER_DIVIDER_RESET: Nanos = Nanos::from_millis(500);
/// The oscillator of the periodic interrupt.
const PERIODIC: Frequency = Frequency(32_768);

/// Register A.
mod a {
    pub(super) const RATE: u8 = 0x0f;
    pub(super) const DIVIDER: u8 = 0x70;
    /// Divider settings 110 and 111 hold the divider in reset.
    pub(super) const DIVIDER_RESET: u8 = 0x60;
    pub(super) const UPDATE_IN_PROGRESS: u8 = 0x80;
    /// 32.768 kHz time base, 1024 Hz periodic rate.
    pub(super) const DEFAULT: u8 = 0x26;
}

bitflags! {
    /// Register B.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Control: u8 {
        const DAYLIGHT_SAVING = 1 << 0;
        const HOURS_24 = 1 << 1;
        const BINARY = 1 << 2;
        const SQUARE_WAVE = 1 << 3;
        const UPDATE_INTERRUPT = 1 << 4;
        const ALARM_INTERRUPT = 1 << 5;
        const PERIODIC_INTERRUPT = 1 << 6;
        /// Stops the updates so that the time can be set.
        const SET = 1 << 7;
    }

    /// Register C; the bits stand where their enables stand in register B.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Flags: u8 {
        const UPDATE = 1 << 4;
        const ALARM = 1 << 5;
        const PERIODIC = 1 << 6;
        const INTERRUPT_REQUEST = 1 << 7;
    }
}

/// Register D: the battery is good.
const VALID_RAM_AND_TIME: u8 = 0x80;

/// Hours in 12-hour mode: afternoon.
const AFTERNOON: u8 = 0x80;

/// The time base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Time {
    /// `seconds` since 1970 began at `since`, and every second after.
    Running { seconds: u64, since: Nanos },
    /// Held by SET or the divider reset at these registers.
    Stopped(DateTime),
}

/// The clock and its memory. Its line level (ISA line 8) is [`Rtc::irq`].
#[derive(Clone, Debug)]
pub struct Rtc {
    cmos: Cmos,
    /// The register selected through port 0x70.
    select: u8,
    register_a: u8,
    control: Control,
    flags: Flags,
    time: Time,
    /// Added to the calendar's day of the week, as the guest's may differ.
    weekday_offset: u8,
    /// Flags are up to date with this moment.
    settled: Nanos,
}

impl Rtc {
    /// Offset of the port that chooses a register.
    pub const SELECT: u16 = 0;

    /// A clock that shows `wall_clock` (seconds since 1970, UTC) at `now`, in BCD and 24-hour mode.
    pub fn new(wall_clock: u64, memory: MemorySize, now: Nanos) -> Self {
        Self {
            cmos: Cmos::new(memory),
            select: 0,
            register_a: a::DEFAULT,
            control: Control::HOURS_24,
            flags: Flags::empty(),
            time: Time::Running { seconds: wall_clock, since: now },
            weekday_offset: 0,
            settled: now,
        }
    }

    /// What a reset of the machine does: the interrupts are off, time and memory stay (the battery).
    pub fn reset(&mut self, now: Nanos) {
        self.advance(now);
        self.flags = Flags::empty();
        self.control -= Control::UPDATE_INTERRUPT
            | Control::ALARM_INTERRUPT
            | Control::PERIODIC_INTERRUPT
            | Control::SQUARE_WAVE;
        self.select = 0;
    }

    /// The level of the interrupt line: asserted until register C is read.
    #[inline]
    pub fn irq(&self) -> bool {
        self.flags.contains(Flags::INTERRUPT_REQUEST)
    }

    /// Sets the flags of everything that happened until `now`.
    pub fn advance(&mut self, now: Nanos) {
        let passed = |deadline: Option<Nanos>| deadline.is_some_and(|deadline| deadline <= now);
        let mut flags = Flags::empty();
        flags.set(Flags::PERIODIC, passed(self.next_periodic()));
        flags.set(Flags::UPDATE, passed(self.next_update()));
        flags.set(Flags::ALARM, passed(self.next_alarm()));
        self.flags |= flags;
        self.settled = self.settled.max(now);
        self.request_interrupt();
    }

    /// When an enabled interrupt next happens that is not pending yet; after the last [`Self::advance`].
    pub fn next_deadline(&self) -> Option<Nanos> {
        let wanted =
            |interrupt: Control, flag: Flags| self.control.contains(interrupt) && !self.flags.contains(flag);
        let mut deadline = None;
        if wanted(Control::PERIODIC_INTERRUPT, Flags::PERIODIC) {
            deadline = self.next_periodic();
        }
        if wanted(Control::UPDATE_INTERRUPT, Flags::UPDATE) {
            deadline = earlier(deadline, self.next_update());
        }
        if wanted(Control::ALARM_INTERRUPT, Flags::ALARM) {
            deadline = earlier(deadline, self.next_alarm());
        }
        deadline
    }

    /// Reads port 0x70 + `offset`. The index port is write-only.
    pub fn read(&mut self, offset: u16, now: Nanos) -> Result<u8, IoError> {
        if offset != 1 {
            return Err(IoError::NoRegister { offset });
        }
        self.advance(now);
        Ok(match self.select {
            index::SECONDS
            | index::MINUTES
            | index::HOURS
            | index::WEEKDAY..=index::YEAR
            | index::CENTURY => self.read_time(self.select, now),
            index::A => self.register_a | if self.updating(now) { a::UPDATE_IN_PROGRESS } else { 0 },
            index::B => self.control.bits(),
            index::C => {
                let flags = self.flags.bits();
                self.flags = Flags::empty();
                flags
            }
            index::D => VALID_RAM_AND_TIME,
            _ => self.cmos.read(self.select),
        })
    }

    /// Writes port 0x70: chooses a register, and changes nothing else. Bit 7, the NMI mask, has no effect.
    #[inline]
    pub const fn select(&mut self, value: u8) {
        self.select = value & 0x7f;
    }

    /// Writes port 0x70 + `offset`.
    pub fn write(&mut self, offset: u16, value: u8, now: Nanos) -> Result<(), IoError> {
        match offset {
            Self::SELECT => self.select(value),
            1 => {
                self.advance(now);
                self.write_register(value, now);
            }
            _ => return Err(IoError::NoRegister { offset }),
        }
        Ok(())
    }

    fn write_register(&mut self, value: u8, now: Nanos) {
        match self.select {
            index::SECONDS
            | index::MINUTES
            | index::HOURS
            | index::WEEKDAY..=index::YEAR
            | index::CENTURY => {
                self.write_time(self.select, value, now);
            }
            index::A => {
                let was_stopped = self.stopped();
                let was_reset = self.divider_reset();
                self.register_a = value & !a::UPDATE_IN_PROGRESS;
                let first_update = if was_reset { AFTER_DIVIDER_RESET } else { SECOND };
                self.start_or_stop(was_stopped, first_update, now);
            }
            index::B => {
                let was_stopped = self.stopped();
                self.control = Control::from_bits_retain(value);
                if self.control.contains(Control::SET) {
                    self.control -= Control::UPDATE_INTERRUPT;
                }
                self.start_or_stop(was_stopped, SECOND, now);
                self.request_interrupt();
            }
            // Flags and the battery's state are read-only.
            index::C | index::D => {}
            _ => self.cmos.write(self.select, value),
        }
    }

    /// The request line follows the enabled flags, and stays until register C is read.
    fn request_interrupt(&mut self) {
        let enabled = Flags::from_bits_truncate(self.control.bits()) - Flags::INTERRUPT_REQUEST;
        if self.flags.intersects(enabled) {
            self.flags |= Flags::INTERRUPT_REQUEST;
        }
    }

    fn divider_reset(&self) -> bool {
        self.register_a & a::DIVIDER >= a::DIVIDER_RESET
    }

    fn stopped(&self) -> bool {
        self.control.contains(Control::SET) || self.divider_reset()
    }

    /// Freezes or restarts the time after registers A or B changed.
    fn start_or_stop(&mut self, was_stopped: bool, first_update: Nanos, now: Nanos) {
        match (self.stopped(), was_stopped) {
            (true, false) => self.time = Time::Stopped(self.now(now)),
            (false, true) => {
                let seconds = self.now(now).seconds();
                // `first_update` from now the second ends: it began so much before a whole one.
                let shift = SECOND - first_update;
                self.time = match now >= shift {
                    true => Time::Running { seconds, since: now - shift },
                    false => Time::Running { seconds: seconds + 1, since: now + first_update },
                };
            }
            _ => {}
        }
    }

    /// Seconds since 1970, while the clock runs.
    fn seconds(&self, now: Nanos) -> Option<u64> {
        match self.time {
            Time::Running { seconds, since } => Some(seconds + (now - since).0 / SECOND.0),
            Time::Stopped(_) => None,
        }
    }

    fn now(&self, now: Nanos) -> DateTime {
        match self.time {
            Time::Running { seconds, since } => DateTime::from_seconds(seconds + (now - since).0 / SECOND.0),
            Time::Stopped(registers) => registers,
        }
    }

    /// Whether the update at the end of the second is announced.
    fn updating(&self, now: Nanos) -> bool {
        match self.time {
            Time::Running { since, .. } => (now - since).0 % SECOND.0 >= (SECOND - UPDATE_NOTICE).0,
            Time::Stopped(_) => false,
        }
    }

    /// The first end of a second after the last settled moment.
    fn next_update(&self) -> Option<Nanos> {
        let Time::Running { since, .. } = self.time else { return None };
        if self.settled < since {
            return Some(since);
        }
        let whole = (self.settled - since).0 / SECOND.0 + 1;
        Some(since + Nanos(whole.saturating_mul(SECOND.0)))
    }

    fn next_alarm(&self) -> Option<Nanos> {
        let next = self.next_update()?;
        let second_of_day = self.seconds(next)? % 86_400;
        let alarm = Alarm {
            second: self.alarm_field(index::SECONDS_ALARM),
            minute: self.alarm_field(index::MINUTES_ALARM),
            hour: self.alarm_field(index::HOURS_ALARM),
        };
        alarm.seconds_until(second_of_day as u32).map(|wait| next + Nanos::from_secs(wait.into()))
    }

    fn next_periodic(&self) -> Option<Nanos> {
        if self.divider_reset() {
            return None;
        }
        let period = match self.register_a & a::RATE {
            0 => return None,
            // With a 32.768 kHz time base the two lowest settings repeat settings 8 and 9.
            rate @ 1..=2 => 1 << (rate + 6),
            rate => 1u64 << (rate - 1),
        };
        let tick = PERIODIC.ticks(self.settled);
        Some(PERIODIC.time_of((tick / period + 1) * period))
    }

    fn alarm_field(&self, index: u8) -> Option<u8> {
        let raw = self.cmos.read(index);
        // The two highest bits set: any value matches.
        (raw & 0xc0 != 0xc0).then(|| match index {
            index::HOURS_ALARM => self.decode_hour(raw),
            _ => self.decode(raw),
        })
    }

    fn read_time(&self, index: u8, now: Nanos) -> u8 {
        let time = self.now(now);
        match index {
            index::SECONDS => self.encode(time.second),
            index::MINUTES => self.encode(time.minute),
            index::HOURS => self.encode_hour(time.hour),
            index::WEEKDAY => {
                let calendar = day_of_week(self.seconds(now).unwrap_or_else(|| time.seconds()));
                (calendar - 1 + self.weekday_offset) % 7 + 1
            }
            index::DAY => self.encode(time.day),
            index::MONTH => self.encode(time.month),
            index::YEAR => self.encode((time.year % 100) as u8),
            _ => self.encode((time.year / 100) as u8),
        }
    }

    fn write_time(&mut self, index: u8, value: u8, now: Nanos) {
        let mut time = self.now(now);
        let field = self.decode(value);
        match index {
            index::SECONDS => time.second = field,
            index::MINUTES => time.minute = field,
            index::HOURS => time.hour = self.decode_hour(value),
            index::WEEKDAY => {
                let calendar = day_of_week(time.seconds());
                self.weekday_offset = (value % 8 + 7 - calendar) % 7;
                return;
            }
            index::DAY => time.day = field,
            index::MONTH => time.month = field,
            index::YEAR => time.year = time.year / 100 * 100 + u16::from(field) % 100,
            _ => time.year = time.year % 100 + u16::from(field) % 100 * 100,
        }
        self.time = match self.time {
            Time::Running { since, .. } => {
                // The phase of the second stays.
                let passed = (now - since).0 / SECOND.0;
                Time::Running { seconds: time.seconds(), since: since + Nanos(passed * SECOND.0) }
            }
            Time::Stopped(_) => Time::Stopped(time),
        };
    }

    /// A register's value as a number. Digits above 9 count as they are.
    fn decode(&self, raw: u8) -> u8 {
        if self.control.contains(Control::BINARY) { raw } else { (raw >> 4) * 10 + (raw & 0x0f) }
    }

    fn encode(&self, value: u8) -> u8 {
        if self.control.contains(Control::BINARY) { value } else { ((value / 10 % 10) << 4) | (value % 10) }
    }

    fn decode_hour(&self, raw: u8) -> u8 {
        if self.control.contains(Control::HOURS_24) {
            return self.decode(raw);
        }
        let hour = self.decode(raw & !AFTERNOON) % 12;
        if raw & AFTERNOON != 0 { hour + 12 } else { hour }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.control.contains(Control::HOURS_24) {
            return self.encode(hour);
        }
        let twelve = (hour % 12 + 11) % 12 + 1;
        self.encode(twelve) | if hour >= 12 { AFTERNOON } else { 0 }
    }
}
