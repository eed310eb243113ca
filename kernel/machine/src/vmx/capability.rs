//! What this CPU's VMX can do, from the capability MSRs, and the execution controls chosen from it. No
//! control is assumed: each wanted bit is checked against what the CPU allows.
//!
//! Source: Intel SDM vol. 3, appendix "VMX Capability Reporting Facility".

use core::fmt;

use super::apic::ApicAbilities;
use super::instruction::InvEpt;
use crate::without::Without;

/// The capability MSRs, read once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct CapabilityMsrs {
    /// IA32_VMX_BASIC.
    pub(crate) basic: u64,
    /// IA32_VMX_(TRUE_)PINBASED_CTLS: allowed-0 low, allowed-1 high.
    pub(crate) pin: u64,
    /// IA32_VMX_(TRUE_)PROCBASED_CTLS.
    pub(crate) processor: u64,
    /// IA32_VMX_PROCBASED_CTLS2, 0 where there are no secondary controls.
    pub(crate) secondary: u64,
    /// IA32_VMX_(TRUE_)EXIT_CTLS.
    pub(crate) exit: u64,
    /// IA32_VMX_(TRUE_)ENTRY_CTLS.
    pub(crate) entry: u64,
    /// IA32_VMX_EPT_VPID_CAP, 0 where the CPU has neither.
    pub(crate) ept_vpid: u64,
    /// IA32_VMX_MISC.
    pub(crate) misc: u64,
    /// IA32_VMX_CR0_FIXED0 and FIXED1.
    pub(crate) cr0_fixed: (u64, u64),
    /// IA32_VMX_CR4_FIXED0 and FIXED1.
    pub(crate) cr4_fixed: (u64, u64),
}

/// Pin-based controls.
pub(crate) mod pin {
    pub(crate) const EXTERNAL_INTERRUPT_EXITING: u32 = 1 << 0;
    pub(crate) const NMI_EXITING: u32 = 1 << 3;
    pub(crate) const VIRTUAL_NMIS: u32 = 1 << 5;
    pub(crate) const PREEMPTION_TIMER: u32 = 1 << 6;
}

/// Primary processor-based controls.
pub(crate) mod processor {
    pub(crate) const INTERRUPT_WINDOW_EXITING: u32 = 1 << 2;
    pub(crate) const USE_TSC_OFFSETTING: u32 = 1 << 3;
    pub(crate) const HLT_EXITING: u32 = 1 << 7;
    pub(crate) const MWAIT_EXITING: u32 = 1 << 10;
    pub(crate) const RDPMC_EXITING: u32 = 1 << 11;
    pub(crate) const CR3_LOAD_EXITING: u32 = 1 << 15;
    pub(crate) const CR3_STORE_EXITING: u32 = 1 << 16;
    pub(crate) const CR8_LOAD_EXITING: u32 = 1 << 19;
    pub(crate) const CR8_STORE_EXITING: u32 = 1 << 20;
    pub(crate) const USE_TPR_SHADOW: u32 = 1 << 21;
    pub(crate) const NMI_WINDOW_EXITING: u32 = 1 << 22;
    pub(crate) const USE_IO_BITMAPS: u32 = 1 << 25;
    pub(crate) const USE_MSR_BITMAPS: u32 = 1 << 28;
    pub(crate) const MONITOR_EXITING: u32 = 1 << 29;
    pub(crate) const SECONDARY: u32 = 1 << 31;
}

/// Secondary processor-based controls.
pub(crate) mod secondary {
    pub(crate) const VIRTUALIZE_APIC_ACCESSES: u32 = 1 << 0;
    pub(crate) const ENABLE_EPT: u32 = 1 << 1;
    pub(crate) const ENABLE_RDTSCP: u32 = 1 << 3;
    pub(crate) const VIRTUALIZE_X2APIC: u32 = 1 << 4;
    pub(crate) const ENABLE_VPID: u32 = 1 << 5;
    pub(crate) const WBINVD_EXITING: u32 = 1 << 6;
    pub(crate) const UNRESTRICTED_GUEST: u32 = 1 << 7;
    pub(crate) const APIC_REGISTER_VIRTUALIZATION: u32 = 1 << 8;
    pub(crate) const VIRTUAL_INTERRUPT_DELIVERY: u32 = 1 << 9;
    pub(crate) const PAUSE_LOOP_EXITING: u32 = 1 << 10;
    pub(crate) const ENABLE_INVPCID: u32 = 1 << 12;
    pub(crate) const ENCLS_EXITING: u32 = 1 << 15;
    pub(crate) const USE_TSC_SCALING: u32 = 1 << 25;
}

/// VM-exit controls.
pub(crate) mod exit {
    pub(crate) const SAVE_DEBUG_CONTROLS: u32 = 1 << 2;
    pub(crate) const HOST_64_BIT: u32 = 1 << 9;
    pub(crate) const SAVE_PAT: u32 = 1 << 18;
    pub(crate) const LOAD_PAT: u32 = 1 << 19;
    pub(crate) const SAVE_EFER: u32 = 1 << 20;
    pub(crate) const LOAD_EFER: u32 = 1 << 21;
    pub(crate) const SAVE_PREEMPTION_TIMER: u32 = 1 << 22;
}

/// VM-entry controls.
pub(crate) mod entry {
    pub(crate) const LOAD_DEBUG_CONTROLS: u32 = 1 << 2;
    pub(crate) const IA32E_MODE_GUEST: u32 = 1 << 9;
    pub(crate) const LOAD_PAT: u32 = 1 << 14;
    pub(crate) const LOAD_EFER: u32 = 1 << 15;
}

/// IA32_VMX_EPT_VPID_CAP.
mod ept_vpid {
    pub(crate) const WALK_LENGTH_4: u64 = 1 << 6;
    pub(crate) const WRITE_BACK: u64 = 1 << 14;
    pub(crate) const PAGE_2M: u64 = 1 << 16;
    pub(crate) const PAGE_1G: u64 = 1 << 17;
    pub(crate) const INVEPT: u64 = 1 << 20;
    pub(crate) const ACCESSED_DIRTY: u64 = 1 << 21;
    pub(crate) const INVEPT_SINGLE: u64 = 1 << 25;
    pub(crate) const INVEPT_ALL: u64 = 1 << 26;
    pub(crate) const INVVPID: u64 = 1 << 32;
    pub(crate) const INVVPID_SINGLE: u64 = 1 << 41;
}

/// IA32_VMX_BASIC: VMX regions use write-back memory; the TRUE control MSRs exist.
const BASIC_MEMORY_TYPE_SHIFT: u32 = 50;
pub(crate) const BASIC_TRUE_CONTROLS: u64 = 1 << 55;
/// IA32_VMX_MISC: the preemption timer's rate.
const MISC_PREEMPTION_RATE: u64 = 0x1f;
/// Memory type write-back.
const WRITE_BACK: u64 = 6;

/// Something the CPU does not have and Basalt cannot do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Missing(pub(crate) &'static str);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The controls every vCPU starts with, and the abilities that depend on the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Controls {
    pub(crate) pin: u32,
    pub(crate) processor: u32,
    pub(crate) secondary: u32,
    pub(crate) exit: u32,
    pub(crate) entry: u32,
    pub(crate) vpid: bool,
    pub(crate) rdtscp: bool,
    pub(crate) invpcid: bool,
    pub(crate) page_2m: bool,
    pub(crate) page_1g: bool,
    pub(crate) accessed_dirty: bool,
    invept_single: bool,
    /// The preemption timer counts down once in 2^this TSC ticks; `None` where there is none.
    pub(crate) preemption_shift: Option<u8>,
    /// An exit saves what is left of it, and the next entry goes on with that.
    pub(crate) preemption_goes_on: bool,
    /// Loops with PAUSE exit.
    pub(crate) pause_loop: bool,
    pub(crate) invept_all: bool,
    /// A guest's TSC can have another rate.
    pub(crate) tsc_scaling: bool,
    /// What the CPU can do of local APICs.
    pub(crate) apic: ApicAbilities,
    /// CR0 bits that must be one and may be one in VMX operation; PE and PG are the guest's own.
    pub(crate) cr0_fixed: (u64, u64),
    /// The same of CR4, and machine checks on: with CR4.MCE clear one would reset the machine.
    pub(crate) cr4_fixed: (u64, u64),
}

/// Picks the bits of one control word.
struct Choice {
    allowed_0: u32,
    allowed_1: u32,
    value: u32,
}

impl Choice {
    const fn new(msr: u64) -> Self {
        Self { allowed_0: msr as u32, allowed_1: (msr >> 32) as u32, value: msr as u32 }
    }

    fn require(&mut self, bit: u32, name: &'static str) -> Result<(), Missing> {
        if self.want(bit) { Ok(()) } else { Err(Missing(name)) }
    }

    const fn want(&mut self, bit: u32) -> bool {
        if self.allowed_1 & bit == bit {
            self.value |= bit;
            true
        } else {
            false
        }
    }

    /// For a control that is switched on now and then.
    const fn allow(&self, bit: u32, name: &'static str) -> Result<(), Missing> {
        if self.allowed_1 & bit == bit { Ok(()) } else { Err(Missing(name)) }
    }

    const fn refuse(&self, bit: u32, name: &'static str) -> Result<(), Missing> {
        if self.allowed_0 & bit == 0 { Ok(()) } else { Err(Missing(name)) }
    }
}

impl Controls {
    /// Chooses the controls, or names the first ability that is missing.
    pub(crate) fn choose(msrs: &CapabilityMsrs, without: Without) -> Result<Self, Missing> {
        if msrs.basic >> BASIC_MEMORY_TYPE_SHIFT & 0xf != WRITE_BACK {
            return Err(Missing("write-back VMCS memory"));
        }
        let mut pin_based = Choice::new(msrs.pin);
        pin_based.require(pin::EXTERNAL_INTERRUPT_EXITING, "external-interrupt exiting")?;
        pin_based.require(pin::NMI_EXITING, "NMI exiting")?;
        pin_based.require(pin::VIRTUAL_NMIS, "virtual NMIs")?;
        let preemption_shift =
            pin_based.want(pin::PREEMPTION_TIMER).then_some((msrs.misc & MISC_PREEMPTION_RATE) as u8);

        let mut primary = Choice::new(msrs.processor);
        for (bit, name) in [
            (processor::USE_TSC_OFFSETTING, "TSC offsetting"),
            (processor::HLT_EXITING, "HLT exiting"),
            (processor::MWAIT_EXITING, "MWAIT exiting"),
            (processor::RDPMC_EXITING, "RDPMC exiting"),
            (processor::CR8_LOAD_EXITING, "CR8-load exiting"),
            (processor::CR8_STORE_EXITING, "CR8-store exiting"),
            (processor::USE_IO_BITMAPS, "I/O bitmaps"),
            (processor::USE_MSR_BITMAPS, "MSR bitmaps"),
            (processor::MONITOR_EXITING, "MONITOR exiting"),
            (processor::SECONDARY, "secondary processor-based controls"),
        ] {
            primary.require(bit, name)?;
        }
        primary.allow(processor::INTERRUPT_WINDOW_EXITING, "interrupt-window exiting")?;
        primary.allow(processor::NMI_WINDOW_EXITING, "NMI-window exiting")?;
        primary.refuse(processor::CR3_LOAD_EXITING, "guest CR3 loads without exits")?;
        primary.refuse(processor::CR3_STORE_EXITING, "guest CR3 stores without exits")?;

        let mut second = Choice::new(msrs.secondary);
        second.require(secondary::ENABLE_EPT, "EPT (extended page tables)")?;
        second.require(secondary::UNRESTRICTED_GUEST, "unrestricted guest")?;
        let rdtscp = second.want(secondary::ENABLE_RDTSCP);
        let invpcid = second.want(secondary::ENABLE_INVPCID);
        let pause_loop = second.want(secondary::PAUSE_LOOP_EXITING);
        second.want(secondary::WBINVD_EXITING);
        second.want(secondary::ENCLS_EXITING);

        for (bit, name) in [
            (ept_vpid::WALK_LENGTH_4, "EPT with four levels"),
            (ept_vpid::WRITE_BACK, "EPT structures in write-back memory"),
            (ept_vpid::INVEPT, "INVEPT"),
        ] {
            if msrs.ept_vpid & bit == 0 {
                return Err(Missing(name));
            }
        }
        let invept_single = msrs.ept_vpid & ept_vpid::INVEPT_SINGLE != 0;
        let invept_all = msrs.ept_vpid & ept_vpid::INVEPT_ALL != 0;
        if !invept_single && !invept_all {
            return Err(Missing("INVEPT of one or of all contexts"));
        }
        let vpid_flush = ept_vpid::INVVPID | ept_vpid::INVVPID_SINGLE;
        let vpid = msrs.ept_vpid & vpid_flush == vpid_flush && second.want(secondary::ENABLE_VPID);

        let apic = ApicAbilities::found(primary.allowed_1, second.allowed_1, without);
        let (exit, entry) = Self::transitions(msrs)?;
        Ok(Self {
            pin: pin_based.value,
            processor: primary.value,
            secondary: second.value,
            exit,
            entry,
            vpid,
            rdtscp,
            invpcid,
            page_2m: msrs.ept_vpid & ept_vpid::PAGE_2M != 0,
            page_1g: msrs.ept_vpid & ept_vpid::PAGE_1G != 0,
            accessed_dirty: msrs.ept_vpid & ept_vpid::ACCESSED_DIRTY != 0,
            invept_single,
            preemption_shift,
            preemption_goes_on: exit & exit::SAVE_PREEMPTION_TIMER != 0,
            pause_loop,
            invept_all,
            tsc_scaling: second.allowed_1 & secondary::USE_TSC_SCALING != 0
                && !without.contains(Without::TSC_SCALING),
            apic,
            cr0_fixed: (msrs.cr0_fixed.0 & !(vcpu::cr0::PE | vcpu::cr0::PG), msrs.cr0_fixed.1),
            cr4_fixed: (msrs.cr4_fixed.0 | vcpu::cr4::MCE & msrs.cr4_fixed.1, msrs.cr4_fixed.1),
        })
    }

    /// What drops the translations of an EPT pointer.
    pub(super) const fn invept(&self, eptp: u64) -> InvEpt {
        if self.invept_single { InvEpt::Single(eptp) } else { InvEpt::All }
    }

    fn transitions(msrs: &CapabilityMsrs) -> Result<(u32, u32), Missing> {
        let mut exit_word = Choice::new(msrs.exit);
        for (bit, name) in [
            (exit::SAVE_DEBUG_CONTROLS, "saving debug controls at exits"),
            (exit::HOST_64_BIT, "a 64-bit host"),
            (exit::SAVE_PAT, "saving IA32_PAT at exits"),
            (exit::LOAD_PAT, "loading IA32_PAT at exits"),
            (exit::SAVE_EFER, "saving IA32_EFER at exits"),
            (exit::LOAD_EFER, "loading IA32_EFER at exits"),
        ] {
            exit_word.require(bit, name)?;
        }
        if msrs.pin >> 32 & u64::from(pin::PREEMPTION_TIMER) != 0 {
            exit_word.want(exit::SAVE_PREEMPTION_TIMER);
        }
        let mut entry_word = Choice::new(msrs.entry);
        for (bit, name) in [
            (entry::LOAD_DEBUG_CONTROLS, "loading debug controls at entries"),
            (entry::LOAD_PAT, "loading IA32_PAT at entries"),
            (entry::LOAD_EFER, "loading IA32_EFER at entries"),
        ] {
            entry_word.require(bit, name)?;
        }
        if entry_word.allowed_1 & entry::IA32E_MODE_GUEST == 0 {
            return Err(Missing("64-bit guests"));
        }
        Ok((exit_word.value, entry_word.value))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A CPU that allows every control and demands only what all CPUs demand.
    pub(crate) fn generous() -> CapabilityMsrs {
        let all = 0xffff_ffff_0000_0000;
        CapabilityMsrs {
            basic: WRITE_BACK << BASIC_MEMORY_TYPE_SHIFT | BASIC_TRUE_CONTROLS,
            pin: all | 0x16,
            processor: all | 0x0400_6172,
            secondary: all,
            exit: all | 0x3_6dfb,
            entry: all | 0x11fb,
            ept_vpid: u64::MAX,
            misc: 5,
            cr0_fixed: (0x8000_0021, 0xffff_ffff),
            cr4_fixed: (0x2000, 0x37_27ff),
        }
    }

    #[test]
    fn a_full_cpu_gets_everything() {
        let controls = Controls::choose(&generous(), Without::empty()).unwrap();
        assert_eq!(controls.preemption_shift, Some(5));
        assert!(controls.vpid && controls.rdtscp && controls.page_1g && controls.accessed_dirty);
        assert_eq!(controls.processor & 0x0400_6172, 0x0400_6172, "demanded bits are kept");
        assert_eq!(controls.cr0_fixed.0, 0x20, "PE and PG are the guest's");
        assert_eq!(controls.entry & entry::IA32E_MODE_GUEST, 0, "set only for guests in long mode");
    }

    #[test]
    fn each_required_ability_is_named_when_missing() {
        let cut = |f: fn(&mut CapabilityMsrs)| {
            let mut msrs = generous();
            f(&mut msrs);
            Controls::choose(&msrs, Without::empty()).unwrap_err().0
        };
        assert_eq!(
            cut(|m| m.secondary &= !(u64::from(secondary::ENABLE_EPT) << 32)),
            "EPT (extended page tables)"
        );
        assert_eq!(
            cut(|m| m.secondary &= !(u64::from(secondary::UNRESTRICTED_GUEST) << 32)),
            "unrestricted guest"
        );
        assert_eq!(cut(|m| m.secondary = 0), "EPT (extended page tables)");
        assert_eq!(cut(|m| m.ept_vpid = 0), "EPT with four levels");
        assert_eq!(
            cut(|m| m.ept_vpid &= !(ept_vpid::INVEPT_SINGLE | ept_vpid::INVEPT_ALL)),
            "INVEPT of one or of all contexts"
        );
        assert_eq!(
            cut(|m| m.processor &= !(u64::from(processor::NMI_WINDOW_EXITING) << 32)),
            "NMI-window exiting"
        );
        assert_eq!(
            cut(|m| m.processor |= u64::from(processor::CR3_LOAD_EXITING)),
            "guest CR3 loads without exits"
        );
        assert_eq!(cut(|m| m.pin &= !(u64::from(pin::VIRTUAL_NMIS) << 32)), "virtual NMIs");
        assert_eq!(cut(|m| m.exit &= !(u64::from(exit::LOAD_EFER) << 32)), "loading IA32_EFER at exits");
        assert_eq!(cut(|m| m.basic = 0), "write-back VMCS memory");
    }

    #[test]
    fn optional_abilities_are_left_out_quietly() {
        let mut msrs = generous();
        msrs.secondary &= !(u64::from(secondary::ENABLE_VPID | secondary::ENABLE_RDTSCP) << 32);
        msrs.ept_vpid &= !(ept_vpid::PAGE_1G | ept_vpid::ACCESSED_DIRTY);
        let controls = Controls::choose(&msrs, Without::empty()).unwrap();
        assert!(!controls.vpid && !controls.rdtscp && !controls.page_1g && !controls.accessed_dirty);
        assert_eq!(controls.secondary & (secondary::ENABLE_VPID | secondary::ENABLE_RDTSCP), 0);
    }

    #[test]
    fn translations_are_dropped_by_what_the_cpu_has() {
        let mut msrs = generous();
        assert_eq!(Controls::choose(&msrs, Without::empty()).unwrap().invept(0x1000), InvEpt::Single(0x1000));
        msrs.ept_vpid &= !ept_vpid::INVEPT_SINGLE;
        assert_eq!(Controls::choose(&msrs, Without::empty()).unwrap().invept(0x1000), InvEpt::All);
    }

    #[test]
    fn machine_checks_stay_on_in_guests() {
        assert_ne!(Controls::choose(&generous(), Without::empty()).unwrap().cr4_fixed.0 & vcpu::cr4::MCE, 0);
    }

    #[test]
    fn vpid_is_not_used_without_a_way_to_flush_it() {
        let mut msrs = generous();
        msrs.ept_vpid &= !ept_vpid::INVVPID_SINGLE;
        assert!(!Controls::choose(&msrs, Without::empty()).unwrap().vpid);
    }
}
