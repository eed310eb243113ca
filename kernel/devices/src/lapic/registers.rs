//! The registers, by their index in the page (offset / 16), which is also their place among the x2APIC MSRs.
//!
//! Source: Intel SDM volume 3, "Local APIC Register Address Map".

use super::timer::TimerMode;
use super::{ApicEffect, ApicMode, FIRST_LEGAL_VECTOR, LocalApic, LocalInterrupt, esr, icr, svr};
use crate::bus::Width;
use crate::message::{ApicMessage, DeliveryMode, Shorthand, widen_destination};
use vcpu::Nanos;

pub(super) mod index {
    pub(crate) const ID: u16 = 0x02;
    pub(crate) const VERSION: u16 = 0x03;
    pub(crate) const TASK_PRIORITY: u16 = 0x08;
    pub(crate) const ARBITRATION_PRIORITY: u16 = 0x09;
    pub(crate) const PROCESSOR_PRIORITY: u16 = 0x0a;
    pub(crate) const EOI: u16 = 0x0b;
    pub(crate) const REMOTE_READ: u16 = 0x0c;
    pub(crate) const LOGICAL_DESTINATION: u16 = 0x0d;
    pub(crate) const DESTINATION_FORMAT: u16 = 0x0e;
    pub(crate) const SPURIOUS: u16 = 0x0f;
    pub(crate) const IN_SERVICE: u16 = 0x10;
    pub(crate) const IN_SERVICE_LAST: u16 = 0x17;
    pub(crate) const TRIGGER_MODE: u16 = 0x18;
    pub(crate) const TRIGGER_MODE_LAST: u16 = 0x1f;
    pub(crate) const REQUEST: u16 = 0x20;
    pub(crate) const REQUEST_LAST: u16 = 0x27;
    pub(crate) const ERROR_STATUS: u16 = 0x28;
    pub(crate) const COMMAND: u16 = 0x30;
    pub(crate) const COMMAND_HIGH: u16 = 0x31;
    pub(crate) const LOCAL_VECTOR: u16 = 0x32;
    pub(crate) const LOCAL_VECTOR_LAST: u16 = 0x37;
    pub(crate) const INITIAL_COUNT: u16 = 0x38;
    pub(crate) const CURRENT_COUNT: u16 = 0x39;
    pub(crate) const DIVIDE: u16 = 0x3e;
    pub(crate) const SELF_IPI: u16 = 0x3f;
}

/// Version of an integrated APIC with suppression of EOI broadcasts.
const VERSION: u32 = 0x14 | (LocalInterrupt::COUNT as u32 - 1) << 16 | 1 << 24;

/// Bytes between two registers of the page.
const STRIDE: u64 = 16;
/// Bytes of the register page.
const PAGE: u64 = 0x400;

const XAPIC_ID_SHIFT: u32 = 24;
const XAPIC_LOGICAL_DESTINATION: u32 = 0xff00_0000;
const XAPIC_DESTINATION_FORMAT: u32 = 0xf000_0000;

impl LocalApic {
    /// Reads the register page at `offset` in xAPIC mode.
    pub fn mmio_read(&mut self, offset: u64, width: Width, now: Nanos) -> u64 {
        let lane = offset % STRIDE;
        if self.mode != ApicMode::XApic || lane + u64::from(width.bytes()) > 4 {
            return 0;
        }
        match self.xapic_read((offset / STRIDE) as u16, now) {
            Some(value) if offset < PAGE => u64::from(value) >> (8 * lane) & width.mask(),
            _ => {
                self.note_error(esr::ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes the register page at `offset` in xAPIC mode.
    pub fn mmio_write(&mut self, offset: u64, width: Width, value: u64, now: Nanos) -> ApicEffect {
        if self.mode != ApicMode::XApic || width != Width::Dword || !offset.is_multiple_of(STRIDE) {
            return ApicEffect::None;
        }
        let value = value as u32;
        match (offset / STRIDE) as u16 {
            _ if offset >= PAGE => self.illegal_register(),
            index::LOGICAL_DESTINATION => {
                self.logical_destination = value & XAPIC_LOGICAL_DESTINATION;
                ApicEffect::RoutingChanged
            }
            index::DESTINATION_FORMAT => {
                self.destination_format = value | !XAPIC_DESTINATION_FORMAT;
                ApicEffect::RoutingChanged
            }
            index::COMMAND => self.send_xapic_command(value),
            index::COMMAND_HIGH => {
                self.command = self.command & u64::from(u32::MAX) | u64::from(value) << 32;
                ApicEffect::None
            }
            index::SELF_IPI => self.illegal_register(),
            index => self.write_register(index, value, now).unwrap_or_else(|| self.illegal_register()),
        }
    }

    /// A register as the guest reads it in the present mode, by its place in the page divided by 16, where it changes only when
    /// the guest writes a register: what a CPU can be left to show. `None` for others.
    pub fn shown(&self, index: u16) -> Option<u32> {
        let moment = Nanos::ZERO;
        match (self.mode, index) {
            (
                _,
                index::TASK_PRIORITY..=index::EOI
                | index::IN_SERVICE..=index::REQUEST_LAST
                | index::CURRENT_COUNT,
            )
            | (ApicMode::Disabled, _) => None,
            (ApicMode::XApic, _) => self.xapic_read(index, moment),
            (ApicMode::X2Apic, index::ID) => Some(self.config.apic_id),
            (ApicMode::X2Apic, index::LOGICAL_DESTINATION) => Some(self.routing().x2apic_logical_id()),
            (ApicMode::X2Apic, _) => self.read_register(index, moment),
        }
    }

    fn illegal_register(&mut self) -> ApicEffect {
        self.note_error(esr::ILLEGAL_REGISTER);
        ApicEffect::None
    }

    fn xapic_read(&self, index: u16, now: Nanos) -> Option<u32> {
        Some(match index {
            index::ID => self.config.apic_id << XAPIC_ID_SHIFT,
            index::ARBITRATION_PRIORITY => self.arbitration_priority().into(),
            // Write-only; hardware gives what it likes.
            index::EOI | index::REMOTE_READ => 0,
            index::LOGICAL_DESTINATION => self.logical_destination,
            index::DESTINATION_FORMAT => self.destination_format,
            index::COMMAND => self.command as u32,
            index::COMMAND_HIGH => (self.command >> 32) as u32,
            _ => return self.read_register(index, now),
        })
    }

    /// The 32-bit registers that both modes show alike; `None` when there is none that can be read.
    #[inline]
    pub(super) fn read_register(&self, index: u16, now: Nanos) -> Option<u32> {
        Some(match index {
            index::VERSION => VERSION,
            index::TASK_PRIORITY => self.state.task_priority.into(),
            index::PROCESSOR_PRIORITY => self.processor_priority().into(),
            index::SPURIOUS => self.spurious,
            index::IN_SERVICE..=index::IN_SERVICE_LAST => self.state.in_service.word(index),
            index::TRIGGER_MODE..=index::TRIGGER_MODE_LAST => self.state.level.word(index),
            index::REQUEST..=index::REQUEST_LAST => self.state.requests.word(index),
            index::ERROR_STATUS => self.error_status,
            index::LOCAL_VECTOR..=index::LOCAL_VECTOR_LAST => {
                self.local_vectors.read(LocalInterrupt::from_index(index - index::LOCAL_VECTOR)?)
            }
            index::INITIAL_COUNT => self.timer.initial,
            index::CURRENT_COUNT => self.timer.current(now),
            index::DIVIDE => self.timer.divide,
            _ => return None,
        })
    }

    /// The 32-bit registers that both modes write alike; `None` when there is none at `index`. Writes of read-only
    /// registers do nothing.
    #[inline]
    pub(super) fn write_register(&mut self, index: u16, value: u32, now: Nanos) -> Option<ApicEffect> {
        match index {
            index::EOI => {
                return Some(self.end_of_interrupt().map_or(ApicEffect::None, ApicEffect::EoiBroadcast));
            }
            index::TASK_PRIORITY => self.state.task_priority = value as u8,
            index::SPURIOUS => {
                self.write_spurious(value);
                return Some(ApicEffect::RoutingChanged);
            }
            index::ERROR_STATUS => {
                self.error_status = self.errors;
                self.errors = 0;
            }
            index::LOCAL_VECTOR..=index::LOCAL_VECTOR_LAST => {
                let source = LocalInterrupt::from_index(index - index::LOCAL_VECTOR)?;
                return Some(self.write_local_vector(source, value, now));
            }
            index::INITIAL_COUNT => {
                self.advance(now);
                self.timer.set_initial(value, now);
                return Some(ApicEffect::TimerChanged);
            }
            index::DIVIDE => {
                self.advance(now);
                self.timer.set_divide(value, now);
                return Some(ApicEffect::TimerChanged);
            }
            index::ID
            | index::VERSION
            | index::ARBITRATION_PRIORITY
            | index::PROCESSOR_PRIORITY
            | index::REMOTE_READ
            | index::IN_SERVICE..=index::REQUEST_LAST
            | index::CURRENT_COUNT => {}
            _ => return None,
        }
        Some(ApicEffect::None)
    }

    fn write_spurious(&mut self, value: u32) {
        self.spurious = value & svr::WRITABLE;
        if self.spurious & svr::ENABLE == 0 {
            self.local_vectors.mask_all();
        }
    }

    fn write_local_vector(&mut self, source: LocalInterrupt, value: u32, now: Nanos) -> ApicEffect {
        let enabled = self.software_enabled();
        if source != LocalInterrupt::Timer {
            self.local_vectors.write(source, value, enabled);
            return ApicEffect::None;
        }
        // What expired under the old entry counts under the old entry.
        self.advance(now);
        self.local_vectors.write(source, value, enabled);
        self.timer.set_mode(TimerMode::from_lvt(value), now);
        ApicEffect::TimerChanged
    }

    fn arbitration_priority(&self) -> u8 {
        let class = |vector: Option<u8>| vector.unwrap_or(0) >> 4;
        let (requested, served) =
            (class(self.state.requests.highest()), class(self.state.in_service.highest()));
        let task = self.state.task_priority >> 4;
        if task >= requested && task > served {
            self.state.task_priority
        } else {
            task.max(requested).max(served) << 4
        }
    }

    fn send_xapic_command(&mut self, low: u32) -> ApicEffect {
        self.command = self.command & !u64::from(u32::MAX) | u64::from(low) & icr::WRITABLE;
        let logical = self.command & icr::LOGICAL != 0;
        self.send(widen_destination((self.command >> 56) as u8, logical))
    }

    /// Writes the 64-bit command register of x2APIC mode, whose reserved bits the caller has checked.
    #[inline]
    pub(super) fn send_x2apic_command(&mut self, value: u64) -> ApicEffect {
        self.command = value & (icr::WRITABLE | !u64::from(u32::MAX));
        self.send((value >> 32) as u32)
    }

    /// The message that the command register stands for.
    fn send(&mut self, destination: u32) -> ApicEffect {
        let command = self.command;
        let Some(delivery) = DeliveryMode::from_bits((command >> 8) as u8) else { return ApicEffect::None };
        let vector = command as u8;
        if delivery.carries_vector() && vector < FIRST_LEGAL_VECTOR {
            self.note_error(esr::SEND_ILLEGAL_VECTOR);
            return ApicEffect::None;
        }
        let deassert = command & (icr::LEVEL | icr::ASSERT) == icr::LEVEL;
        if delivery == DeliveryMode::ExtInt || delivery == DeliveryMode::Init && deassert {
            return ApicEffect::None;
        }
        let message = ApicMessage {
            destination,
            logical: command & icr::LOGICAL != 0,
            delivery,
            vector,
            level_triggered: false,
            assert: true,
            shorthand: Shorthand::from_bits((command >> 18) as u8),
            source: Some(self.config.apic_id),
        };
        if message.shorthand != Shorthand::SelfOnly {
            return ApicEffect::Send(message);
        }
        // To itself there are interrupts only.
        if delivery.carries_vector() || delivery == DeliveryMode::Nmi {
            self.deliver(&message);
        }
        ApicEffect::None
    }

    /// The x2APIC self-IPI register.
    pub(super) fn send_self(&mut self, vector: u8) {
        if vector < FIRST_LEGAL_VECTOR {
            self.note_error(esr::SEND_ILLEGAL_VECTOR);
        } else {
            self.deliver_vector(vector, false);
        }
    }
}
