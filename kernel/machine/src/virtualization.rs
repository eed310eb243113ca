//! Which vendor's extensions this CPU has, what a machine is refused for, and what of the host's CPUID any
//! backend can pass on.
//!
//! Sources: Intel SDM vol. 3, "Discovering Support for VMX"; AMD APM vol. 2, "Enabling SVM"; SDM vol. 2,
//! "CPUID".

use core::fmt;

use vcpu::CpuidResult;

use crate::svm::Svm;
use crate::vmx::Vmx;
use crate::{extended, registers};

/// Whose extensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// Intel VMX.
    Vmx,
    /// AMD SVM.
    Svm,
}

/// Why guests cannot run on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// CPUID shows neither VMX nor SVM.
    NoExtensions,
    /// Firmware has locked the extensions off.
    LockedByFirmware,
    /// The extensions lack something Basalt needs.
    Missing {
        /// What.
        what: &'static str,
    },
    /// No memory for control structures.
    NoMemory,
    /// An instruction that must work did not.
    Failed {
        /// Which.
        what: &'static str,
    },
}

impl Refusal {
    /// What the user can do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NoExtensions => {
                "use a CPU with Intel VT-x or AMD-V; in a virtual machine, switch on nested virtualization"
            }
            Self::LockedByFirmware => {
                "switch on 'Intel Virtualization Technology' or 'SVM Mode' in the firmware's set-up, then power the machine off and on"
            }
            Self::Missing { .. } => {
                "use a newer CPU (Intel since 2010, AMD since 2008); in a virtual machine, let it pass the host's CPU through"
            }
            Self::NoMemory => "give the machine more memory",
            Self::Failed { .. } => "another hypervisor may own the CPU; otherwise report this with the log",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoExtensions => {
                f.write_str("this CPU has no hardware virtualization (neither VMX nor SVM)")
            }
            Self::LockedByFirmware => f.write_str("the firmware has locked hardware virtualization off"),
            Self::Missing { what } => write!(f, "this CPU's hardware virtualization lacks {what}"),
            Self::NoMemory => f.write_str("there is not enough memory for virtualization structures"),
            Self::Failed { what } => write!(f, "{what} failed"),
        }
    }
}

/// The extensions that CPUID shows.
pub fn vendor() -> Result<Vendor, Refusal> {
    if Vmx::present() {
        Ok(Vendor::Vmx)
    } else if Svm::present() {
        Ok(Vendor::Svm)
    } else {
        Err(Refusal::NoExtensions)
    }
}

/// CPUID bits that depend on a backend or are no guest's.
pub(crate) mod features {
    pub(crate) const LEAF1_ECX_MONITOR: u32 = 1 << 3;
    pub(crate) const LEAF1_ECX_VMX: u32 = 1 << 5;
    pub(crate) const LEAF1_ECX_SMX: u32 = 1 << 6;
    pub(crate) const LEAF7_EBX_SGX: u32 = 1 << 2;
    pub(crate) const LEAF7_EBX_INVPCID: u32 = 1 << 10;
    pub(crate) const LEAF7_EBX_MPX: u32 = 1 << 14;
    pub(crate) const LEAF7_EBX_PROCESSOR_TRACE: u32 = 1 << 25;
    pub(crate) const LEAF7_ECX_WAITPKG: u32 = 1 << 5;
    pub(crate) const LEAF7_ECX_CET_SS: u32 = 1 << 7;
    pub(crate) const LEAF7_ECX_LA57: u32 = 1 << 16;
    pub(crate) const LEAF7_ECX_RDPID: u32 = 1 << 22;
    pub(crate) const LEAF7_ECX_KEY_LOCKER: u32 = 1 << 23;
    pub(crate) const LEAF7_ECX_PKS: u32 = 1 << 31;
    pub(crate) const LEAF7_EDX_UINTR: u32 = 1 << 5;
    pub(crate) const LEAF7_EDX_PCONFIG: u32 = 1 << 18;
    pub(crate) const LEAF7_EDX_CET_IBT: u32 = 1 << 20;
    /// XSAVES, XGETBV with ECX=1 and XFD: supervisor state is not switched.
    pub(crate) const LEAF_D1_EAX_XSAVEC: u32 = 1 << 1;
    pub(crate) const LEAF_D1_EAX_XSAVES_XFD: u32 = 1 << 3 | 1 << 4;
    pub(crate) const EXTENDED_ECX_SVM: u32 = 1 << 2;
    pub(crate) const EXTENDED_ECX_SKINIT: u32 = 1 << 12;
    pub(crate) const EXTENDED_ECX_MONITORX: u32 = 1 << 29;
    pub(crate) const EXTENDED_EDX_RDTSCP: u32 = 1 << 27;
}

/// The host's CPUID without what neither backend lets a guest use: virtualization itself, waiting
/// instructions, state that is not switched between vCPUs.
pub(crate) fn guest_cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    use features as f;
    let mut result = registers::cpuid(leaf, subleaf);
    match (leaf, subleaf) {
        (1, _) => result.ecx &= !(f::LEAF1_ECX_MONITOR | f::LEAF1_ECX_VMX | f::LEAF1_ECX_SMX),
        (7, 0) => {
            result.ebx &= !(f::LEAF7_EBX_SGX | f::LEAF7_EBX_MPX | f::LEAF7_EBX_PROCESSOR_TRACE);
            result.ecx &=
                !(f::LEAF7_ECX_WAITPKG | f::LEAF7_ECX_CET_SS | f::LEAF7_ECX_KEY_LOCKER | f::LEAF7_ECX_PKS);
            result.edx &= !(f::LEAF7_EDX_UINTR | f::LEAF7_EDX_PCONFIG | f::LEAF7_EDX_CET_IBT);
        }
        (0xd, 1) => {
            result.eax &= !f::LEAF_D1_EAX_XSAVES_XFD;
            if !extended::compacts() {
                result.eax &= !f::LEAF_D1_EAX_XSAVEC;
            }
            result.ecx = 0;
            result.edx = 0;
        }
        (0x8000_0001, _) => {
            result.ecx &= !(f::EXTENDED_ECX_SVM | f::EXTENDED_ECX_SKINIT | f::EXTENDED_ECX_MONITORX);
        }
        (0x8000_000a, _) => result = CpuidResult::default(),
        _ => {}
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_guest_is_offered_virtualization() {
        assert_eq!(guest_cpuid(1, 0).ecx & (features::LEAF1_ECX_VMX | features::LEAF1_ECX_MONITOR), 0);
        assert_eq!(guest_cpuid(0x8000_0001, 0).ecx & features::EXTENDED_ECX_SVM, 0);
        assert_eq!(guest_cpuid(0x8000_000a, 0), CpuidResult::default());
    }

    #[test]
    fn every_refusal_says_what_and_what_to_do() {
        for refusal in [
            Refusal::NoExtensions,
            Refusal::LockedByFirmware,
            Refusal::Missing { what: "EPT" },
            Refusal::NoMemory,
            Refusal::Failed { what: "VMXON" },
        ] {
            assert!(!std::format!("{refusal}").is_empty() && !refusal.advice().is_empty());
        }
    }
}
