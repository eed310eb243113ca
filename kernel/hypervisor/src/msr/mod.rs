//! The model-specific registers that are plain storage or constants: what firmware sets up and guests look at early. Deny
//! by default: what is not named here, or by the exit handler in [`crate::dispatch`], is #GP(0).
//!
//! Not here: registers with an effect (APIC, time, EFER) and those that the backend keeps.
//!
//! Sources: Intel SDM vol. 4, "IA-32 Architectural MSRs"; AMD APM vol. 2, "MSR Cross-Reference", and the Processor
//! Programming Reference for family 17h, "MSR Registers".

pub(crate) mod mtrr;
pub(crate) mod number;
#[cfg(test)]
mod tests;

use mtrr::Mtrrs;

use crate::cpuid::Permissions;

/// IA32_MISC_ENABLE: fast strings.
const MISC_FAST_STRINGS: u64 = 1 << 0;
/// IA32_MISC_ENABLE: no branch trace storage, no processor event-based sampling.
const MISC_NO_BTS: u64 = 1 << 11;
const MISC_NO_PEBS: u64 = 1 << 12;
/// IA32_MISC_ENABLE bits that a guest may write: fast strings, automatic thermal control, SpeedStep, limited CPUID.
const MISC_WRITABLE: u64 = MISC_FAST_STRINGS | 1 << 3 | 1 << 16 | 1 << 22;
/// IA32_FEATURE_CONTROL: locked, with VMX off.
const FEATURE_CONTROL_LOCKED: u64 = 1;
/// A microcode revision above all that guests look for to trust an erratum fixed.
const MICROCODE_REVISION: u64 = 0x7fff_ffff;
/// HWCR: the TSC counts at the P0 frequency. Linux calls a BIOS that says otherwise broken.
const HWCR_TSC_FREQUENCY: u64 = 1 << 24;
/// VM_CR: SVM is disabled, and locked so.
const VM_CR_LOCKED_OFF: u64 = 0x18;
/// IA32_DEBUGCTL bits that a guest may write; they have no effect.
const DEBUGCTL_WRITABLE: u64 = 0b11;
/// IA32_MCG_STATUS bits.
const MCG_STATUS_DEFINED: u64 = 0b111;

/// A register's number, and how it can be accessed, is not in the policy, or the value is not one: #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Denied;

/// The storage of one vCPU.
#[derive(Clone, Debug)]
pub(crate) struct Msrs {
    mtrrs: Mtrrs,
    misc_enable: u64,
    mcg_status: u64,
    debug_control: u64,
    /// AMD: HWCR, DE_CFG, NB_CFG.
    hardware_configuration: u64,
    decode_configuration: u64,
    northbridge_configuration: u64,
}

impl Msrs {
    /// What firmware would leave.
    pub(crate) fn new(permissions: &Permissions) -> Self {
        Self {
            mtrrs: Mtrrs::new(permissions.physical_bits),
            misc_enable: MISC_FAST_STRINGS | MISC_NO_BTS | MISC_NO_PEBS,
            mcg_status: 0,
            debug_control: 0,
            hardware_configuration: HWCR_TSC_FREQUENCY,
            decode_configuration: 0,
            northbridge_configuration: 0,
        }
    }

    /// RDMSR.
    pub(crate) fn read(&self, msr: u32, permissions: &Permissions) -> Result<u64, Denied> {
        if let Some(value) = self.mtrrs.read(msr) {
            return Ok(value);
        }
        Ok(match msr {
            number::P5_MC_ADDR | number::P5_MC_TYPE => 0,
            // No banks: there is nothing to report.
            number::MCG_CAP => 0,
            number::MCG_STATUS => self.mcg_status,
            number::DEBUGCTL => self.debug_control,
            number::BIOS_SIGN_ID if permissions.intel => MICROCODE_REVISION << 32,
            number::BIOS_SIGN_ID => MICROCODE_REVISION,
            _ if permissions.intel => self.read_intel(msr)?,
            _ => self.read_amd(msr)?,
        })
    }

    fn read_intel(&self, msr: u32) -> Result<u64, Denied> {
        Ok(match msr {
            number::PLATFORM_ID | number::PLATFORM_INFO | number::MISC_FEATURES_ENABLES => 0,
            number::FEATURE_CONTROL => FEATURE_CONTROL_LOCKED,
            number::MISC_ENABLE => self.misc_enable,
            _ => return Err(Denied),
        })
    }

    fn read_amd(&self, msr: u32) -> Result<u64, Denied> {
        Ok(match msr {
            number::AMD_SYSCFG | number::AMD_INT_PENDING => 0,
            number::AMD_HWCR => self.hardware_configuration,
            number::AMD_NB_CFG => self.northbridge_configuration,
            number::AMD_DE_CFG => self.decode_configuration,
            number::AMD_VM_CR => VM_CR_LOCKED_OFF,
            _ => return Err(Denied),
        })
    }

    /// WRMSR.
    pub(crate) fn write(&mut self, msr: u32, value: u64, permissions: &Permissions) -> Result<(), Denied> {
        if let Some(result) = self.mtrrs.write(msr, value) {
            return result;
        }
        match msr {
            number::P5_MC_ADDR | number::P5_MC_TYPE if value == 0 => Ok(()),
            number::MCG_STATUS => store(&mut self.mcg_status, value, MCG_STATUS_DEFINED),
            number::DEBUGCTL => store(&mut self.debug_control, value, DEBUGCTL_WRITABLE),
            // Software writes 0 before it reads the revision.
            number::BIOS_SIGN_ID if permissions.intel => Ok(()),
            _ if permissions.intel => self.write_intel(msr, value),
            _ => self.write_amd(msr, value),
        }
    }

    fn write_intel(&mut self, msr: u32, value: u64) -> Result<(), Denied> {
        match msr {
            number::MISC_ENABLE => {
                let keep = self.misc_enable & !MISC_WRITABLE;
                if value & !MISC_WRITABLE != keep {
                    return Err(Denied);
                }
                self.misc_enable = value;
                Ok(())
            }
            number::MISC_FEATURES_ENABLES if value == 0 => Ok(()),
            _ => Err(Denied),
        }
    }

    /// The configuration registers take any value and have no effect: operating systems set bits that work around errata.
    fn write_amd(&mut self, msr: u32, value: u64) -> Result<(), Denied> {
        match msr {
            number::AMD_SYSCFG | number::AMD_INT_PENDING => {}
            number::AMD_HWCR => self.hardware_configuration = value | HWCR_TSC_FREQUENCY,
            number::AMD_NB_CFG => self.northbridge_configuration = value,
            number::AMD_DE_CFG => self.decode_configuration = value,
            _ => return Err(Denied),
        }
        Ok(())
    }
}

fn store(register: &mut u64, value: u64, defined: u64) -> Result<(), Denied> {
    if value & !defined != 0 {
        return Err(Denied);
    }
    *register = value;
    Ok(())
}

/// True where every byte is a memory type that the page-attribute table takes (SDM vol. 3, "Memory Types That Can Be
/// Encoded With PAT").
pub(crate) fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// True where the bits from the highest of a linear address of `bits` bits on are equal: what registers that hold a linear
/// address take. CPUs go by the widest address that they support, not by CR4.LA57 as it is now.
pub(crate) fn is_canonical(value: u64, bits: u8) -> bool {
    let unused = u64::BITS.saturating_sub(bits.into());
    ((value << unused) as i64 >> unused) as u64 == value
}
