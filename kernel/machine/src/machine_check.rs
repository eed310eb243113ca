//! Machine checks: errors that the hardware itself finds. What an earlier run left behind is told at the start; a new one that
//! cannot be corrected ends the kernel, with what its banks say.
//!
//! Sources: Intel SDM vol. 3, "Machine-Check Architecture"; AMD APM vol. 2, "Machine Check Architecture".

// UNSAFETY: reads and writes the machine-check MSRs.
#![allow(unsafe_code)]

use core::fmt::{self, Write};

use crate::cpu::{self, features};
use crate::registers;

/// IA32_MCG_CAP, IA32_MCG_CTL, and the four MSRs of the first bank; each bank has four.
const MCG_CAP: u32 = 0x179;
const MCG_CTL: u32 = 0x17b;
const MC0_CTL: u32 = 0x400;
const MSRS_A_BANK: u32 = 4;
const STATUS: u32 = 1;
const ADDRESS: u32 = 2;
/// IA32_MCG_CAP: how many banks there are, and that IA32_MCG_CTL exists.
const CAP_BANKS: u64 = 0xff;
const CAP_CONTROL: u64 = 1 << 8;
/// Banks that the architecture has MSRs for.
const MOST_BANKS: u32 = 32;

/// IA32_MCi_STATUS.
mod status {
    pub(super) const VALID: u64 = 1 << 63;
    pub(super) const OVERFLOW: u64 = 1 << 62;
    pub(super) const UNCORRECTED: u64 = 1 << 61;
    pub(super) const ADDRESS_VALID: u64 = 1 << 58;
    pub(super) const CONTEXT_CORRUPT: u64 = 1 << 57;
    pub(super) const CODE: u64 = 0xffff;
}

/// What a bank says of an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Finding {
    bank: u32,
    status: u64,
    address: Option<u64>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |bit| self.status & bit != 0;
        let kind = if has(status::UNCORRECTED) { "uncorrected" } else { "corrected" };
        write!(f, "bank {}: {kind} error {:#06x}", self.bank, self.status & status::CODE)?;
        if has(status::CONTEXT_CORRUPT) {
            f.write_str(", the processor's state is lost")?;
        }
        if has(status::OVERFLOW) {
            f.write_str(", and more of them")?;
        }
        if let Some(address) = self.address {
            write!(f, ", at {address:#x}")?;
        }
        write!(f, " (status {:#018x})", self.status)
    }
}

/// Banks of the calling CPU; none where it has no machine-check architecture.
fn banks() -> u32 {
    if !features().machine_checks || registers::cpuid(1, 0).edx & MACHINE_CHECK_ARCHITECTURE == 0 {
        return 0;
    }
    // SAFETY: CPUID says that the CPU has the MSR.
    let capabilities = unsafe { registers::read_msr(MCG_CAP) };
    ((capabilities & CAP_BANKS) as u32).min(MOST_BANKS)
}

/// CPUID leaf 1 EDX.
const MACHINE_CHECK_ARCHITECTURE: u32 = 1 << 14;

/// The errors in the calling CPU's banks.
fn findings() -> impl Iterator<Item = Finding> {
    (0..banks()).filter_map(|bank| {
        let first = MC0_CTL + bank * MSRS_A_BANK;
        // SAFETY: the CPU says that it has this bank; the address is there where its status says so.
        let (status, address) = unsafe {
            let status = registers::read_msr(first + STATUS);
            let told = status & status::VALID != 0 && status & status::ADDRESS_VALID != 0;
            (status, if told { Some(registers::read_msr(first + ADDRESS)) } else { None })
        };
        (status & status::VALID != 0).then_some(Finding { bank, status, address })
    })
}

/// Tells what an earlier run has left in the calling CPU's banks, forgets it, and has all errors reported from now on.
pub fn start() {
    for finding in findings() {
        log::warn!(
            "machine check before the start, CPU {}: {finding}; if it comes again, look after memory, cooling and power",
            cpu::current()
        );
    }
    let count = banks();
    if count == 0 {
        return;
    }
    // SAFETY: the CPU says that it has these MSRs; all ones switch reports on, zero forgets an error.
    unsafe {
        if registers::read_msr(MCG_CAP) & CAP_CONTROL != 0 {
            registers::write_msr(MCG_CTL, u64::MAX);
        }
        for bank in 0..count {
            let first = MC0_CTL + bank * MSRS_A_BANK;
            registers::write_msr(first, u64::MAX);
            registers::write_msr(first + STATUS, 0);
        }
    }
}

/// Tells what the banks say, as last words.
pub(crate) fn report(out: &mut impl Write) {
    let mut found = false;
    for finding in findings() {
        found = true;
        let _ = writeln!(out, "{finding}");
    }
    if !found {
        let _ = writeln!(out, "no bank has an error: the report came from elsewhere");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_finding_says_how_bad_it_is_and_where() {
        let finding = Finding { bank: 4, status: 0xbe00_0000_0001_0151, address: Some(0x1234_5000) };
        assert_eq!(
            finding.to_string(),
            "bank 4: uncorrected error 0x0151, the processor's state is lost, at 0x12345000 (status 0xbe00000000010151)"
        );
        let corrected = Finding { bank: 0, status: 0xc000_0000_0000_0e0b, address: None };
        assert_eq!(
            corrected.to_string(),
            "bank 0: corrected error 0x0e0b, and more of them (status 0xc000000000000e0b)"
        );
    }
}
