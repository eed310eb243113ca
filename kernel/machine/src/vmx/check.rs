//! Finds the guest-state field that made an entry fail, by walking through the manual's list of checks.
//!
//! Source: Intel SDM vol. 3, "Checking and Loading Guest State". Not exhaustive: what it does not know, it
//! does not blame.

use vcpu::{SegmentAccess, SegmentName, cr0, cr4, efer, rflags};

use super::capability::{Controls, entry};
use super::field::{self, Field};
use super::reason::interruption;

/// Reads fields of the VMCS that failed.
pub(super) trait Reader {
    fn natural(&self, field: Field<u64>) -> u64;
    fn word(&self, field: Field<u32>) -> u32;
}

/// Names the first field found wrong.
pub(super) fn guest_state(vmcs: &impl Reader, controls: &Controls) -> Option<&'static str> {
    registers(vmcs, controls).or_else(|| segments(vmcs)).or_else(|| non_register(vmcs))
}

/// Whether the CPU takes an address: by the widest that it supports, whatever CR4.LA57 is.
const fn canonical(address: u64, controls: &Controls) -> bool {
    let five_levels = controls.cr4_fixed.1 & cr4::LA57 != 0;
    let unused = if five_levels { 64 - 57 } else { 64 - 48 };
    ((address << unused) as i64 >> unused) as u64 == address
}

fn registers(vmcs: &impl Reader, controls: &Controls) -> Option<&'static str> {
    let value0 = vmcs.natural(field::GUEST_CR0);
    let value4 = vmcs.natural(field::GUEST_CR4);
    let guest_efer = vmcs.natural(field::GUEST_EFER);
    let long = vmcs.word(field::ENTRY_CONTROLS) & entry::IA32E_MODE_GUEST != 0;
    let paging = value0 & cr0::PG != 0;
    let (must0, may0) = controls.cr0_fixed;
    let (must4, may4) = controls.cr4_fixed;
    if value0 & must0 != must0 || value0 & !may0 != 0 {
        return Some("CR0: a bit that VMX operation fixes");
    }
    if paging && value0 & cr0::PE == 0 {
        return Some("CR0.PG without CR0.PE");
    }
    if value4 & must4 != must4 || value4 & !may4 != 0 {
        return Some("CR4: a bit that VMX operation fixes or the CPU does not have");
    }
    if long && !(paging && value4 & cr4::PAE != 0) {
        return Some("IA-32e mode without CR0.PG or CR4.PAE");
    }
    if !long && value4 & cr4::PCIDE != 0 {
        return Some("CR4.PCIDE outside IA-32e mode");
    }
    if (guest_efer & efer::LMA != 0) != long {
        return Some("EFER.LMA differs from the IA-32e mode control");
    }
    if paging && (guest_efer & efer::LME != 0) != long {
        return Some("EFER.LME differs from EFER.LMA with paging on");
    }
    for (field, name) in [
        (field::GUEST_SYSENTER_ESP, "IA32_SYSENTER_ESP is not canonical"),
        (field::GUEST_SYSENTER_EIP, "IA32_SYSENTER_EIP is not canonical"),
        (field::GUEST_FS_BASE, "FS base is not canonical"),
        (field::GUEST_GS_BASE, "GS base is not canonical"),
        (field::GUEST_GDTR_BASE, "GDTR base is not canonical"),
        (field::GUEST_IDTR_BASE, "IDTR base is not canonical"),
    ] {
        if !canonical(vmcs.natural(field), controls) {
            return Some(name);
        }
    }
    if vmcs.natural(field::GUEST_DR7) >> 32 != 0 {
        return Some("DR7: upper half");
    }
    if vmcs.natural(field::GUEST_PAT).to_le_bytes().iter().any(|kind| matches!(kind, 2 | 3 | 8..)) {
        return Some("IA32_PAT: a memory type that does not exist");
    }
    None
}

fn segments(vmcs: &impl Reader) -> Option<&'static str> {
    if vmcs.natural(field::GUEST_RFLAGS) & rflags::VM != 0 {
        return None;
    }
    let access = |name| SegmentAccess::from_bits_retain(vmcs.word(field::segment(name).access));
    let (cs, tr) = (access(SegmentName::Cs), access(SegmentName::Tr));
    if tr.contains(SegmentAccess::UNUSABLE) || !matches!(tr.bits() & 0xf, 3 | 11) {
        return Some("TR is not a busy task-state segment");
    }
    if !matches!(cs.bits() & 0xf, 3 | 9 | 11 | 13 | 15) {
        return Some("CS is not an accessed code segment");
    }
    if cs.contains(SegmentAccess::LONG) && cs.contains(SegmentAccess::DEFAULT_BIG) {
        return Some("CS has both L and D set");
    }
    let names = [
        (SegmentName::Cs, "CS access rights or limit"),
        (SegmentName::Ss, "SS access rights or limit"),
        (SegmentName::Ds, "DS access rights or limit"),
        (SegmentName::Es, "ES access rights or limit"),
        (SegmentName::Fs, "FS access rights or limit"),
        (SegmentName::Gs, "GS access rights or limit"),
    ];
    for (name, culprit) in names {
        let rights = access(name);
        if rights.contains(SegmentAccess::UNUSABLE) {
            continue;
        }
        let limit = vmcs.word(field::segment(name).limit);
        let granular = rights.contains(SegmentAccess::GRANULARITY);
        let limit_wrong = granular && limit & 0xfff != 0xfff || !granular && limit >> 20 != 0;
        let needed = SegmentAccess::CODE_OR_DATA | SegmentAccess::PRESENT;
        if limit_wrong || !rights.contains(needed) || rights.bits() & 1 == 0 {
            return Some(culprit);
        }
    }
    None
}

fn non_register(vmcs: &impl Reader) -> Option<&'static str> {
    let flags = vmcs.natural(field::GUEST_RFLAGS);
    if flags & rflags::FIXED == 0 || flags & !0x3f_7fd7 != 0 {
        return Some("RFLAGS: a reserved bit");
    }
    if flags & rflags::VM != 0 && vmcs.word(field::ENTRY_CONTROLS) & entry::IA32E_MODE_GUEST != 0 {
        return Some("RFLAGS.VM in IA-32e mode");
    }
    let info = vmcs.word(field::ENTRY_INTERRUPTION_INFO);
    let external = info & interruption::VALID != 0 && interruption::kind(info) == interruption::EXTERNAL;
    let blocked = vmcs.word(field::GUEST_INTERRUPTIBILITY);
    if external && flags & rflags::IF == 0 {
        return Some("RFLAGS.IF is clear while an interrupt is injected");
    }
    if external && blocked & 3 != 0 {
        return Some("interruptibility: blocking by STI or MOV SS while an interrupt is injected");
    }
    if blocked & 3 == 3 || blocked >> 5 != 0 || (blocked & 1 != 0 && flags & rflags::IF == 0) {
        return Some("interruptibility state");
    }
    if blocked & 3 != 0
        && (flags & rflags::TF != 0) != (vmcs.natural(field::GUEST_PENDING_DEBUG) >> 14 & 1 != 0)
    {
        return Some("pending debug exceptions: BS differs from RFLAGS.TF in a shadow");
    }
    if vmcs.natural(field::VMCS_LINK_POINTER) != u64::MAX {
        return Some("VMCS link pointer");
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::without::Without;
    use std::collections::HashMap;

    use super::super::capability::tests::generous;
    use super::*;

    struct Vmcs(HashMap<u32, u64>);

    impl Reader for Vmcs {
        fn natural(&self, field: Field<u64>) -> u64 {
            self.0.get(&field.encoding()).copied().unwrap_or(0)
        }
        fn word(&self, field: Field<u32>) -> u32 {
            self.0.get(&field.encoding()).copied().unwrap_or(0) as u32
        }
    }

    /// A 64-bit guest that any CPU would enter.
    fn good() -> Vmcs {
        let mut fields = HashMap::from([
            (field::GUEST_CR0.encoding(), cr0::PE | cr0::PG | cr0::NE),
            (field::GUEST_CR4.encoding(), cr4::PAE | cr4::VMXE | cr4::MCE),
            (field::GUEST_EFER.encoding(), efer::LME | efer::LMA),
            (field::ENTRY_CONTROLS.encoding(), u64::from(entry::IA32E_MODE_GUEST)),
            (field::GUEST_RFLAGS.encoding(), rflags::FIXED),
            (field::GUEST_PAT.encoding(), 0x0007_0406_0007_0406),
            (field::VMCS_LINK_POINTER.encoding(), u64::MAX),
        ]);
        for name in SegmentName::ALL {
            let access = match name {
                SegmentName::Cs => SegmentAccess::CODE64,
                SegmentName::Tr => SegmentAccess::BUSY_TSS,
                SegmentName::Ldtr => SegmentAccess::UNUSABLE,
                _ => SegmentAccess::DATA32,
            };
            fields.insert(field::segment(name).access.encoding(), u64::from(access.bits()));
            fields.insert(field::segment(name).limit.encoding(), 0xffff_ffff);
        }
        Vmcs(fields)
    }

    fn blame(change: impl FnOnce(&mut HashMap<u32, u64>)) -> Option<&'static str> {
        let mut vmcs = good();
        change(&mut vmcs.0);
        guest_state(&vmcs, &Controls::choose(&generous(), Without::empty()).unwrap())
    }

    #[test]
    fn a_good_state_is_not_blamed() {
        assert_eq!(blame(|_| ()), None);
    }

    #[test]
    fn each_wrong_field_is_named() {
        let set = |encoding: u32, value: u64| {
            move |fields: &mut HashMap<u32, u64>| {
                fields.insert(encoding, value);
            }
        };
        assert_eq!(blame(set(field::GUEST_CR0.encoding(), cr0::PG | cr0::NE)), Some("CR0.PG without CR0.PE"));
        assert_eq!(
            blame(set(field::GUEST_EFER.encoding(), 0)),
            Some("EFER.LMA differs from the IA-32e mode control")
        );
        assert_eq!(blame(set(field::GUEST_RFLAGS.encoding(), 0)), Some("RFLAGS: a reserved bit"));
        assert_eq!(
            blame(set(field::segment(SegmentName::Tr).access.encoding(), 0x89)),
            Some("TR is not a busy task-state segment")
        );
        assert_eq!(
            blame(set(field::segment(SegmentName::Ss).limit.encoding(), 0x1234_5678)),
            Some("SS access rights or limit")
        );
        assert_eq!(
            blame(set(field::ENTRY_INTERRUPTION_INFO.encoding(), 0x8000_0030)),
            Some("RFLAGS.IF is clear while an interrupt is injected")
        );
        assert_eq!(blame(set(field::GUEST_FS_BASE.encoding(), 1 << 63)), Some("FS base is not canonical"));
    }

    #[test]
    fn with_five_levels_addresses_are_wider() {
        let mut msrs = generous();
        let blame = |msrs, address| {
            let mut vmcs = good();
            vmcs.0.insert(field::GUEST_GS_BASE.encoding(), address);
            guest_state(&vmcs, &Controls::choose(&msrs, Without::empty()).unwrap())
        };
        assert_eq!(blame(msrs, 0x00ff_ffff_ffff_ffff), Some("GS base is not canonical"));
        msrs.cr4_fixed.1 |= cr4::LA57;
        assert_eq!(blame(msrs, 0x00ff_ffff_ffff_ffff), None);
        assert_eq!(blame(msrs, 0xff00_0000_0000_0000), None);
        assert_eq!(blame(msrs, 0x0100_0000_0000_0000), Some("GS base is not canonical"));
    }
}
