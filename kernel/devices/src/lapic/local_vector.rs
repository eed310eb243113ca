//! The local vector table.
//!
//! Source: Intel SDM volume 3, "Local Vector Table".

use super::timer::TimerMode;
use crate::message::DeliveryMode;

/// The local interrupt sources, in the order of their registers from 0x32 on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LocalInterrupt {
    /// The APIC timer.
    Timer = 0,
    /// The thermal sensor.
    Thermal = 1,
    /// Performance-counter overflow.
    PerformanceCounter = 2,
    /// Pin LINT0, in a PC the 8259s' output.
    Lint0 = 3,
    /// Pin LINT1, in a PC the NMI line.
    Lint1 = 4,
    /// An error that this APIC detected.
    Error = 5,
}

const VECTOR: u32 = 0xff;
const DELIVERY_SHIFT: u32 = 8;
const DELIVERY: u32 = 7 << DELIVERY_SHIFT;
const DELIVERY_STATUS: u32 = 1 << 12;
const POLARITY_LOW: u32 = 1 << 13;
const REMOTE_IRR: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const TIMER_MODE: u32 = 3 << 17;

impl LocalInterrupt {
    pub(super) const COUNT: usize = 6;

    /// The source whose entry is `index` after the first.
    pub(super) const fn from_index(index: u16) -> Option<Self> {
        Some(match index {
            0 => Self::Timer,
            1 => Self::Thermal,
            2 => Self::PerformanceCounter,
            3 => Self::Lint0,
            4 => Self::Lint1,
            5 => Self::Error,
            _ => return None,
        })
    }

    /// Bits of the entry that software may set.
    const fn writable(self) -> u32 {
        VECTOR
            | MASKED
            | match self {
                Self::Timer => TIMER_MODE,
                Self::Error => 0,
                Self::Thermal | Self::PerformanceCounter => DELIVERY,
                Self::Lint0 | Self::Lint1 => DELIVERY | POLARITY_LOW | LEVEL,
            }
    }

    /// Bits of the entry that exist, the read-only ones too; a set bit besides them is #GP in x2APIC mode.
    pub(super) const fn defined(self) -> u32 {
        let read_only = match self {
            Self::Lint0 | Self::Lint1 => DELIVERY_STATUS | REMOTE_IRR,
            _ => DELIVERY_STATUS,
        };
        self.writable() | read_only
    }
}

#[derive(Clone, Debug)]
pub(super) struct LocalVectors([u32; LocalInterrupt::COUNT]);

impl LocalVectors {
    pub(super) const fn new() -> Self {
        Self([MASKED; LocalInterrupt::COUNT])
    }

    pub(super) const fn read(&self, source: LocalInterrupt) -> u32 {
        self.0[source as usize]
    }

    /// Writes an entry; while the APIC is software-disabled its mask bit stays set.
    pub(super) fn write(&mut self, source: LocalInterrupt, value: u32, enabled: bool) {
        let masked = if enabled { 0 } else { MASKED };
        self.0[source as usize] = value & source.writable() | masked;
    }

    /// Disabling the APIC by software masks every entry.
    pub(super) fn mask_all(&mut self) {
        for entry in &mut self.0 {
            *entry |= MASKED;
        }
    }

    /// LINT0 takes the 8259s' output, LINT1 the NMI line.
    pub(super) fn enter_virtual_wire(&mut self) {
        self.0[LocalInterrupt::Lint0 as usize] = (DeliveryMode::ExtInt as u32) << DELIVERY_SHIFT;
        self.0[LocalInterrupt::Lint1 as usize] = (DeliveryMode::Nmi as u32) << DELIVERY_SHIFT;
    }

    /// How and with which vector `source` interrupts, unless it is masked or its delivery mode reserved.
    #[inline]
    pub(super) fn delivery(&self, source: LocalInterrupt) -> Option<(DeliveryMode, u8)> {
        let entry = self.read(source);
        if entry & MASKED != 0 {
            return None;
        }
        Some((DeliveryMode::from_bits((entry >> DELIVERY_SHIFT) as u8)?, entry as u8))
    }

    #[inline]
    pub(super) fn lint0_is_extint(&self) -> bool {
        matches!(self.delivery(LocalInterrupt::Lint0), Some((DeliveryMode::ExtInt, _)))
    }

    /// Whether the timer is periodic and masked: nobody sees it expire.
    #[inline]
    pub(super) fn timer_sleeps(&self) -> bool {
        let entry = self.read(LocalInterrupt::Timer);
        entry & MASKED != 0 && matches!(TimerMode::from_lvt(entry), TimerMode::Periodic)
    }
}
