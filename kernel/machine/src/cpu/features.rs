//! What the CPU says it can do, read once.
//!
//! Source: Intel SDM vol. 2, "CPUID"; AMD APM vol. 3, "Obtaining Processor Information Via the CPUID
//! Instruction".

use raw_cpuid::{CpuId, CpuIdReader};
use spin::Once;

use crate::fault::lies;

/// Who made the CPU, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD, or Hygon, whose CPUs are AMD's in all that matters here.
    Amd,
    /// Any other.
    Other,
}

/// What the kernel itself uses or must know. The virtualization extensions look for theirs on their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Maker.
    pub vendor: Vendor,
    /// VMX.
    pub vmx: bool,
    /// SVM.
    pub svm: bool,
    /// No-execute pages.
    pub no_execute: bool,
    /// 1 GiB pages.
    pub gib_pages: bool,
    /// Machine-check exceptions.
    pub machine_checks: bool,
    /// Global pages.
    pub global_pages: bool,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// User-mode instruction prevention.
    pub umip: bool,
    /// A local APIC.
    pub apic: bool,
    /// x2APIC mode.
    pub x2apic: bool,
    /// TSC-deadline mode of the local APIC's timer.
    pub tsc_deadline: bool,
    /// The TSC runs at one rate in all states.
    pub invariant_tsc: bool,
    /// Running below another hypervisor.
    pub hypervisor: bool,
    /// Bits of a physical address.
    pub physical_bits: u8,
}

impl Features {
    /// One past the last physical address.
    pub(crate) fn reach(&self) -> u64 {
        1_u64.checked_shl(u32::from(self.physical_bits)).unwrap_or(u64::MAX)
    }
}

/// Bits of a physical address where the CPU does not say.
const DEFAULT_PHYSICAL_BITS: u8 = 36;

static FEATURES: Once<Features> = Once::new();

/// What this machine's CPU can do.
pub fn features() -> &'static Features {
    FEATURES.call_once(|| lies::features(read(&CpuId::new())))
}

fn read<R: CpuIdReader>(cpuid: &CpuId<R>) -> Features {
    let vendor = cpuid.get_vendor_info();
    let vendor = match vendor.as_ref().map(raw_cpuid::VendorInfo::as_str) {
        Some("GenuineIntel") => Vendor::Intel,
        Some("AuthenticAMD" | "HygonGenuine") => Vendor::Amd,
        _ => Vendor::Other,
    };
    let basic = cpuid.get_feature_info();
    let basic = basic.as_ref();
    let structured = cpuid.get_extended_feature_info();
    let structured = structured.as_ref();
    let extended = cpuid.get_extended_processor_and_feature_identifiers();
    let extended = extended.as_ref();
    Features {
        vendor,
        vmx: basic.is_some_and(raw_cpuid::FeatureInfo::has_vmx),
        svm: extended.is_some_and(raw_cpuid::ExtendedProcessorFeatureIdentifiers::has_svm),
        no_execute: extended.is_some_and(raw_cpuid::ExtendedProcessorFeatureIdentifiers::has_execute_disable),
        gib_pages: extended.is_some_and(raw_cpuid::ExtendedProcessorFeatureIdentifiers::has_1gib_pages),
        machine_checks: basic.is_some_and(raw_cpuid::FeatureInfo::has_mce),
        global_pages: basic.is_some_and(raw_cpuid::FeatureInfo::has_pge),
        smep: structured.is_some_and(raw_cpuid::ExtendedFeatures::has_smep),
        smap: structured.is_some_and(raw_cpuid::ExtendedFeatures::has_smap),
        umip: structured.is_some_and(raw_cpuid::ExtendedFeatures::has_umip),
        apic: basic.is_some_and(raw_cpuid::FeatureInfo::has_apic),
        x2apic: basic.is_some_and(raw_cpuid::FeatureInfo::has_x2apic),
        tsc_deadline: basic.is_some_and(raw_cpuid::FeatureInfo::has_tsc_deadline),
        invariant_tsc: cpuid.get_advanced_power_mgmt_info().is_some_and(|info| info.has_invariant_tsc()),
        hypervisor: basic.is_some_and(raw_cpuid::FeatureInfo::has_hypervisor),
        physical_bits: cpuid
            .get_processor_capacity_feature_info()
            .map_or(DEFAULT_PHYSICAL_BITS, |info| info.physical_address_bits()),
    }
}
