//! ACPI fixed hardware: the PM1a event and control registers and the power-management timer.
//!
//! Source: ACPI specification, "ACPI Hardware Specification", sections "PM1 Event Grouping", "PM1 Control Grouping" and
//! "Power Management Timer". There is no SMI command port, so the machine is always in ACPI mode (SCI_EN reads 1).

use crate::bus::{IoError, Width, read_by_bytes};
use crate::clock::Frequency;
use crate::power::PowerEvent;
use bitflags::bitflags;
use vcpu::Nanos;

/// The timer's oscillator, 3.579545 MHz.
const FREQUENCY: Frequency = Frequency(3_579_545);
/// The timer's status is set whenever its highest bit changes.
const TIMER_HALF: u64 = 1 << 31;

bitflags! {
    /// PM1 status and enable registers share these positions. Only the timer and the power button ever happen; the
    /// others can be enabled all the same, as systems look whether the bits stick.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Events: u16 {
        const TIMER = 1 << 0;
        const GLOBAL_LOCK = 1 << 5;
        const POWER_BUTTON = 1 << 8;
        const SLEEP_BUTTON = 1 << 9;
        const RTC_ALARM = 1 << 10;
    }
}

/// PM1 control.
mod control {
    pub(super) const SCI_ENABLE: u16 = 1 << 0;
    pub(super) const BUS_MASTER_RELOAD: u16 = 1 << 1;
    pub(super) const SLEEP_TYPE_SHIFT: u32 = 10;
    pub(super) const SLEEP_TYPE: u16 = 7 << SLEEP_TYPE_SHIFT;
    pub(super) const SLEEP_ENABLE: u16 = 1 << 13;
}

/// The block of registers. Its line level (the SCI, level-triggered) is [`PowerManagement::sci`].
#[derive(Clone, Debug)]
pub struct PowerManagement {
    status: Events,
    enable: Events,
    control: u16,
    origin: Nanos,
    /// Halves of the timer's range that have been accounted for in the status.
    halves: u64,
}

impl PowerManagement {
    /// First port of the block: PM1a event block.
    pub const PORT: u16 = 0xb000;
    /// Ports it occupies.
    pub const PORTS: u16 = 12;
    /// Offset of the PM1a control block.
    pub const CONTROL: u16 = 4;
    /// Offset of the timer, 32 bits wide.
    pub const TIMER: u16 = 8;
    /// The value of SLP_TYP that means soft off, as `\_S5` says.
    pub const SLEEP_TYPE_S5: u8 = 5;

    /// All events clear and disabled; the timer starts from zero.
    pub const fn new(now: Nanos) -> Self {
        Self {
            status: Events::empty(),
            enable: Events::empty(),
            control: control::SCI_ENABLE,
            origin: now,
            halves: 0,
        }
    }

    /// The level of the system-control interrupt.
    #[inline]
    pub fn sci(&self) -> bool {
        self.status.intersects(self.enable)
    }

    /// Presses and releases the power button.
    pub fn press_power_button(&mut self) {
        self.status |= Events::POWER_BUTTON;
    }

    /// Sets the timer's status when its highest bit changed until `now`.
    pub fn advance(&mut self, now: Nanos) {
        let halves = self.ticks(now) / TIMER_HALF;
        if halves > self.halves {
            self.halves = halves;
            self.status |= Events::TIMER;
        }
    }

    /// When the timer next interrupts; after the last [`Self::advance`].
    pub fn next_deadline(&self) -> Option<Nanos> {
        let wanted = self.enable.contains(Events::TIMER) && !self.status.contains(Events::TIMER);
        wanted.then(|| self.origin + FREQUENCY.time_of((self.halves + 1) * TIMER_HALF))
    }

    /// Reads `width` at `offset` into the block, within its bounds; all parts show the same moment.
    #[inline]
    pub fn read(&mut self, offset: u16, width: Width, now: Nanos) -> Result<u32, IoError> {
        if offset == Self::TIMER && width == Width::Dword {
            return Ok(self.ticks(now) as u32);
        }
        if offset + u16::from(width.bytes()) > Self::PORTS {
            return Err(IoError::Width { offset, width });
        }
        self.advance(now);
        Ok(read_by_bytes(width, |index| self.read_byte(offset + u16::from(index), now)) as u32)
    }

    /// Writes one byte at `offset`. The timer is read-only.
    pub fn write(&mut self, offset: u16, value: u8, now: Nanos) -> Result<Option<PowerEvent>, IoError> {
        self.advance(now);
        let shift = 8 * u32::from(offset % 2);
        let (value, lane) = (u16::from(value) << shift, 0xff << shift);
        match offset / 2 {
            // Status bits are cleared by writing ones.
            0 => self.status -= Events::from_bits_truncate(value),
            1 => {
                let kept = self.enable.bits() & !lane;
                self.enable = Events::from_bits_truncate(kept | value);
            }
            2 => return Ok(self.write_control(self.control & !lane | value)),
            3..=5 => {}
            _ => return Err(IoError::NoRegister { offset }),
        }
        Ok(None)
    }

    fn write_control(&mut self, value: u16) -> Option<PowerEvent> {
        self.control = value & (control::BUS_MASTER_RELOAD | control::SLEEP_TYPE) | control::SCI_ENABLE;
        let sleep_type = (value & control::SLEEP_TYPE) >> control::SLEEP_TYPE_SHIFT;
        let off = value & control::SLEEP_ENABLE != 0 && sleep_type == u16::from(Self::SLEEP_TYPE_S5);
        off.then_some(PowerEvent::PowerOff)
    }

    fn read_byte(&self, offset: u16, now: Nanos) -> u8 {
        let bytes = |value: u16| value.to_le_bytes()[usize::from(offset % 2)];
        match offset {
            0..=1 => bytes(self.status.bits()),
            2..=3 => bytes(self.enable.bits()),
            4..=5 => bytes(self.control),
            Self::TIMER.. => (self.ticks(now) >> (8 * u32::from(offset - Self::TIMER))) as u8,
            _ => 0,
        }
    }

    #[inline]
    fn ticks(&self, now: Nanos) -> u64 {
        FREQUENCY.ticks(now - self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write_word(pm: &mut PowerManagement, offset: u16, value: u16, now: Nanos) -> Option<PowerEvent> {
        let [low, high] = value.to_le_bytes();
        let first = pm.write(offset, low, now).unwrap();
        first.or(pm.write(offset + 1, high, now).unwrap())
    }

    #[test]
    fn soft_off_needs_the_right_sleep_type() {
        let mut pm = PowerManagement::new(Nanos::ZERO);
        assert_eq!(write_word(&mut pm, 4, 1 << 13, Nanos::ZERO), None);
        assert_eq!(write_word(&mut pm, 4, 5 << 10, Nanos::ZERO), None);
        assert_eq!(pm.read(4, Width::Word, Nanos::ZERO), Ok(5 << 10 | 1));
        assert_eq!(write_word(&mut pm, 4, 5 << 10 | 1 << 13, Nanos::ZERO), Some(PowerEvent::PowerOff));
    }

    #[test]
    fn power_button_raises_the_sci_until_it_is_cleared() {
        let mut pm = PowerManagement::new(Nanos::ZERO);
        pm.press_power_button();
        assert!(!pm.sci());
        write_word(&mut pm, 2, 0xffff, Nanos::ZERO);
        assert!(pm.sci());
        assert_eq!(pm.read(0, Width::Dword, Nanos::ZERO), Ok(0x0721_0100));
        write_word(&mut pm, 0, 1 << 8, Nanos::ZERO);
        assert!(!pm.sci());
    }

    #[test]
    fn timer_runs_and_reports_its_highest_bit() {
        let start = Nanos::from_secs(7);
        let mut pm = PowerManagement::new(start);
        assert_eq!(pm.read(8, Width::Dword, start + Nanos::from_secs(2)), Ok(7_159_090));
        assert_eq!(pm.read(10, Width::Word, start + Nanos::from_secs(2)), Ok(7_159_090 >> 16));
        write_word(&mut pm, 2, 1, start);
        let deadline = pm.next_deadline().unwrap();
        pm.advance(Nanos(deadline.0 - 1));
        assert!(!pm.sci());
        pm.advance(deadline);
        assert!(pm.sci());
        assert_eq!(pm.read(8, Width::Dword, deadline), Ok(1 << 31));
        assert_eq!(pm.next_deadline(), None);
        write_word(&mut pm, 0, 1, deadline);
        assert!(pm.next_deadline() > Some(deadline));
    }

    proptest! {
        #[test]
        fn deadlines_lie_ahead(steps in prop::collection::vec(any::<(u8, u8, u64)>(), 0..100)) {
            let mut pm = PowerManagement::new(Nanos(5));
            let mut now = Nanos::ZERO;
            for (offset, value, wait) in steps {
                now = now + Nanos(wait >> 20);
                let _ = pm.write(u16::from(offset % 13), value, now);
                let _ = pm.read(u16::from(offset % 13), Width::Word, now);
                pm.advance(now);
                prop_assert!(pm.next_deadline().is_none_or(|deadline| deadline > now));
            }
        }
    }
}
