//! Memory-type range registers as storage. The memory types that count are those of the nested page tables; guests want to
//! see registers as sane firmware leaves them, and Linux wants them at all before it uses the page-attribute table.
//!
//! Source: Intel SDM vol. 3, "Memory Type Range Registers (MTRRs)".

use super::{Denied, number};

/// Pairs of base and mask.
const VARIABLE: usize = 8;
/// One 64 KiB register, two 16 KiB ones, eight 4 KiB ones.
const FIXED: usize = 11;

const UNCACHEABLE: u64 = 0;
const WRITE_BACK: u64 = 6;
/// IA32_MTRRCAP: fixed ranges, write-combining.
const CAP_FIXED: u64 = 1 << 8;
const CAP_WRITE_COMBINING: u64 = 1 << 10;
/// IA32_MTRR_DEF_TYPE: enable fixed ranges, enable all.
const DEF_FIXED: u64 = 1 << 10;
const DEF_ENABLE: u64 = 1 << 11;
const TYPE: u64 = 0xff;
/// IA32_MTRR_PHYSMASKn: the pair counts.
const MASK_VALID: u64 = 1 << 11;
/// Where RAM below 4 GiB ends at most and devices begin, and how much that is.
const DEVICES: u64 = 3 << 30;
const DEVICES_SIZE: u64 = 1 << 30;
/// One memory type for all eight ranges of a fixed register.
const fn all(kind: u64) -> u64 {
    kind * 0x0101_0101_0101_0101
}
/// Fixed registers of the display adapter's window at 640 KiB.
const FIXED_A0000: usize = 2;

#[derive(Clone, Debug)]
pub(super) struct Mtrrs {
    fixed: [u64; FIXED],
    /// Base, mask, base, mask, …
    variable: [u64; 2 * VARIABLE],
    default: u64,
    physical_bits: u8,
}

impl Mtrrs {
    /// RAM write-back, the device windows uncacheable.
    pub(super) fn new(physical_bits: u8) -> Self {
        let mut fixed = [all(WRITE_BACK); FIXED];
        fixed[FIXED_A0000] = all(UNCACHEABLE);
        let mut variable = [0; 2 * VARIABLE];
        let addresses = (1 << physical_bits.min(52)) - 1;
        variable[0] = DEVICES | UNCACHEABLE;
        variable[1] = addresses & !(DEVICES_SIZE - 1) | MASK_VALID;
        Self { fixed, variable, default: DEF_ENABLE | DEF_FIXED | WRITE_BACK, physical_bits }
    }

    pub(super) fn read(&self, msr: u32) -> Option<u64> {
        match msr {
            number::MTRRCAP => Some(VARIABLE as u64 | CAP_FIXED | CAP_WRITE_COMBINING),
            number::MTRR_DEF_TYPE => Some(self.default),
            _ => fixed_index(msr)
                .and_then(|index| self.fixed.get(index))
                .or_else(|| self.variable.get(variable_index(msr)?))
                .copied(),
        }
    }

    /// `None` where this is no memory-type register.
    pub(super) fn write(&mut self, msr: u32, value: u64) -> Option<Result<(), Denied>> {
        let (slot, valid) = if msr == number::MTRR_DEF_TYPE {
            let defined = TYPE | DEF_FIXED | DEF_ENABLE;
            (&mut self.default, value & !defined == 0 && is_type(value & TYPE))
        } else if msr == number::MTRRCAP {
            return Some(Err(Denied));
        } else if let Some(index) = fixed_index(msr) {
            (self.fixed.get_mut(index)?, value.to_le_bytes().iter().all(|kind| is_type((*kind).into())))
        } else {
            let index = variable_index(msr)?;
            let beyond = !((1 << self.physical_bits.min(52)) - 1);
            let is_mask = index % 2 == 1;
            let reserved = if is_mask { MASK_VALID - 1 } else { 0xf00 };
            let valid = value & (beyond | reserved) == 0 && (is_mask || is_type(value & TYPE));
            (self.variable.get_mut(index)?, valid)
        };
        if !valid {
            return Some(Err(Denied));
        }
        *slot = value;
        Some(Ok(()))
    }
}

const fn is_type(kind: u64) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

fn fixed_index(msr: u32) -> Option<usize> {
    Some(match msr {
        number::MTRR_FIX64K_00000 => 0,
        number::MTRR_FIX16K_80000 => 1,
        number::MTRR_FIX16K_A0000 => FIXED_A0000,
        number::MTRR_FIX4K_C0000..=number::MTRR_FIX4K_F8000 => {
            FIXED_A0000 + 1 + (msr - number::MTRR_FIX4K_C0000) as usize
        }
        _ => return None,
    })
}

fn variable_index(msr: u32) -> Option<usize> {
    let index = msr.checked_sub(number::MTRR_PHYSBASE0)? as usize;
    (index < 2 * VARIABLE).then_some(index)
}
