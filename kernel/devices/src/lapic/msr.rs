//! The model-specific registers: IA32_APIC_BASE and the x2APIC register range.
//!
//! Source: Intel SDM volume 3, "Local APIC Status and Location", "x2APIC State Transitions", "x2APIC Register Address
//! Space" and "Reserved Bit Checking".

use super::registers::index;
use super::{ApicEffect, LocalApic, LocalInterrupt, icr, svr};
use vcpu::Nanos;

/// The base-address register.
pub const IA32_APIC_BASE: u32 = 0x1b;
/// The TSC deadline; see [`LocalApic::write_tsc_deadline`].
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// First register of the x2APIC range.
pub const X2APIC_MSR_FIRST: u32 = 0x800;
/// Last register of the x2APIC range.
pub const X2APIC_MSR_LAST: u32 = 0x8ff;

const BASE_BOOTSTRAP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
/// The page's address.
pub(super) const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const BASE_DEFAULT: u64 = 0xfee0_0000;

/// Value of the base register after power-up.
pub(super) const fn reset_base(bootstrap: bool) -> u64 {
    BASE_DEFAULT | BASE_ENABLE | if bootstrap { BASE_BOOTSTRAP } else { 0 }
}

/// Bits of the divide configuration register.
const DIVIDE_DEFINED: u32 = 0b1011;

/// What the base register makes of the APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicMode {
    /// There is no APIC.
    Disabled,
    /// Registers in a page of memory.
    XApic,
    /// Registers in MSRs.
    X2Apic,
}

/// Why an access to an MSR is #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrError {
    /// No such register, or none that can be read (written), in this mode.
    NoRegister {
        /// The register.
        msr: u32,
    },
    /// Reserved bits are set.
    Reserved {
        /// The register.
        msr: u32,
        /// The value written.
        value: u64,
    },
    /// The mode cannot be reached from the present one.
    Transition {
        /// The present mode.
        from: ApicMode,
        /// The value written to the base register.
        value: u64,
    },
}

impl LocalApic {
    /// The mode.
    #[inline]
    pub const fn mode(&self) -> ApicMode {
        self.mode
    }

    /// Reads IA32_APIC_BASE.
    #[inline]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE. Leaving x2APIC mode leads only to the disabled APIC, and disabling loses all state.
    pub fn write_base(&mut self, value: u64) -> Result<(), MsrError> {
        let address = BASE_ADDRESS & ((1 << self.config.physical_address_bits.min(52)) - 1);
        if value & !(address | BASE_BOOTSTRAP | BASE_X2APIC | BASE_ENABLE) != 0 {
            return Err(MsrError::Reserved { msr: IA32_APIC_BASE, value });
        }
        let refused = MsrError::Transition { from: self.mode, value };
        let mode = match (value & BASE_ENABLE != 0, value & BASE_X2APIC != 0) {
            (false, false) => ApicMode::Disabled,
            (true, false) => ApicMode::XApic,
            (true, true) => ApicMode::X2Apic,
            (false, true) => return Err(refused),
        };
        match (self.mode, mode) {
            (ApicMode::Disabled, ApicMode::X2Apic) | (ApicMode::X2Apic, ApicMode::XApic) => {
                return Err(refused);
            }
            (ApicMode::XApic, ApicMode::X2Apic) => self.command &= u64::from(u32::MAX),
            (_, ApicMode::Disabled) => self.init(),
            _ => {}
        }
        (self.base, self.mode) = (value, mode);
        Ok(())
    }

    /// Reads a register of the x2APIC range ([`X2APIC_MSR_FIRST`] to [`X2APIC_MSR_LAST`]).
    #[inline]
    pub fn msr_read(&self, msr: u32, now: Nanos) -> Result<u64, MsrError> {
        let absent = MsrError::NoRegister { msr };
        let index = self.x2apic_index(msr).ok_or(absent)?;
        Ok(match index {
            index::ID => self.config.apic_id.into(),
            index::LOGICAL_DESTINATION => self.routing().x2apic_logical_id().into(),
            index::COMMAND => self.command,
            _ => self.read_register(index, now).ok_or(absent)?.into(),
        })
    }

    /// Writes a register of the x2APIC range.
    #[inline]
    pub fn msr_write(&mut self, msr: u32, value: u64, now: Nanos) -> Result<ApicEffect, MsrError> {
        let absent = MsrError::NoRegister { msr };
        let index = self.x2apic_index(msr).ok_or(absent)?;
        let defined = defined_bits(index).ok_or(absent)?;
        if value & !defined != 0 {
            return Err(MsrError::Reserved { msr, value });
        }
        match index {
            index::COMMAND => Ok(self.send_x2apic_command(value)),
            index::SELF_IPI => {
                self.send_self(value as u8);
                Ok(ApicEffect::None)
            }
            _ => self.write_register(index, value as u32, now).ok_or(absent),
        }
    }

    /// Whether this write is of the EOI register, and is right: of all writes the most frequent.
    #[inline(always)]
    pub fn is_end(&self, msr: u32, value: u64) -> bool {
        msr == X2APIC_MSR_FIRST + u32::from(index::EOI) && value == 0 && self.mode == ApicMode::X2Apic
    }

    /// Whether this write is of the register for interrupts to itself, and is right.
    #[inline(always)]
    pub fn is_self_interrupt(&self, msr: u32, value: u64) -> bool {
        let is_it = msr == X2APIC_MSR_FIRST + u32::from(index::SELF_IPI);
        is_it && value >> 8 == 0 && self.mode == ApicMode::X2Apic
    }

    /// Does what a write of that register does.
    #[inline]
    pub fn interrupt_itself(&mut self, vector: u8) {
        self.send_self(vector);
    }

    /// Whether a write of this register changes nothing of this APIC's own interrupts, but goes to other APICs. (To this one it
    /// may come back as a message.)
    #[inline]
    pub const fn write_is_for_others(msr: u32, value: u64) -> bool {
        const SHORTHAND: u64 = 3 << 18;
        const SELF: u64 = 1 << 18;
        msr == X2APIC_MSR_FIRST + index::COMMAND as u32
            && value & SHORTHAND != SELF
            && value as u8 >= super::FIRST_LEGAL_VECTOR
    }

    #[inline]
    fn x2apic_index(&self, msr: u32) -> Option<u16> {
        let in_range = self.mode == ApicMode::X2Apic && (X2APIC_MSR_FIRST..=X2APIC_MSR_LAST).contains(&msr);
        in_range.then(|| (msr - X2APIC_MSR_FIRST) as u16)
    }
}

/// Bits that software may have set in a write of an x2APIC register; `None` when it cannot be written.
#[inline]
fn defined_bits(index: u16) -> Option<u64> {
    Some(match index {
        index::EOI | index::ERROR_STATUS => 0,
        index::COMMAND => icr::WRITABLE | icr::DELIVERY_STATUS | !u64::from(u32::MAX),
        index::TASK_PRIORITY | index::SELF_IPI => 0xff,
        index::SPURIOUS => svr::WRITABLE.into(),
        index::LOCAL_VECTOR..=index::LOCAL_VECTOR_LAST => {
            LocalInterrupt::from_index(index - index::LOCAL_VECTOR)?.defined().into()
        }
        index::INITIAL_COUNT => u32::MAX.into(),
        index::DIVIDE => DIVIDE_DEFINED.into(),
        _ => return None,
    })
}
