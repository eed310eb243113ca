//! The VMX instructions.
//!
//! Source: Intel SDM vol. 3, "VMX Instruction Reference".

// UNSAFETY: VMX instructions change the CPU's mode and memory it holds by physical address.
#![allow(unsafe_code)]

use core::arch::asm;

use vcpu::Hpa;

use super::field::{Field, Width};

/// A VMX instruction reported failure (CF or ZF set).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct VmFail;

macro_rules! with_address {
    ($(#[$doc:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$doc])*
        pub(crate) unsafe fn $name(region: Hpa) -> Result<(), VmFail> {
            let failed: u8;
            // SAFETY: by the caller.
            unsafe {
                asm!(
                    concat!($mnemonic, " qword ptr [{}]"), "setbe {}",
                    in(reg) &raw const region.0, out(reg_byte) failed, options(nostack)
                );
            }
            if failed == 0 { Ok(()) } else { Err(VmFail) }
        }
    };
}

with_address!(
    /// Enters VMX operation.
    ///
    /// # Safety
    /// 1. CR4.VMXE is set and IA32_FEATURE_CONTROL allows VMX.
    /// 2. `region` is a frame of the VMX code's own, with the revision identifier in it.
    vmxon, "vmxon"
);
with_address!(
    /// Writes a VMCS back to memory and makes it inactive and clear.
    ///
    /// # Safety
    /// VMX is on; `region` is a VMCS region of the VMX code's own.
    vmclear, "vmclear"
);
with_address!(
    /// Makes a VMCS current.
    ///
    /// # Safety
    /// VMX is on; `region` is a VMCS region of the VMX code's own that is active on no other CPU.
    vmptrld, "vmptrld"
);

/// Reads a field of the current VMCS. A field that the CPU does not have reads as zero.
///
/// # Safety
/// A VMCS is current on this CPU.
#[inline(always)]
pub(crate) unsafe fn vmread<T: Width>(field: Field<T>) -> T {
    let mut value: u64 = 0;
    // SAFETY: by the caller; VMREAD of an unsupported field only sets ZF.
    unsafe {
        asm!(
            "vmread {}, {}",
            inout(reg) value, in(reg) u64::from(field.encoding()), options(nostack, nomem)
        );
    }
    T::from_raw(value)
}

/// Writes a field of the current VMCS. Writing a field that the CPU does not have has no effect.
///
/// # Safety
/// 1. A VMCS is current on this CPU.
/// 2. The value keeps the kernel safe: physical addresses are frames of the VMX code's own, host fields are
///    this CPU's.
#[inline(always)]
pub(crate) unsafe fn vmwrite<T: Width>(field: Field<T>, value: T) {
    // SAFETY: by the caller; VMWRITE of an unsupported field only sets ZF.
    unsafe {
        asm!(
            "vmwrite {}, {}",
            in(reg) u64::from(field.encoding()), in(reg) value.to_raw(), options(nostack, nomem)
        );
    }
}

/// INVEPT types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum InvEpt {
    /// Translations of one EPT pointer.
    Single(u64),
    /// All.
    All,
}

/// Drops translations derived from EPT. Affects only what is cached, so it is safe wherever VMX is on.
pub(crate) fn invept(what: InvEpt) {
    let (kind, pointer) = match what {
        InvEpt::Single(pointer) => (1u64, pointer),
        InvEpt::All => (2, 0),
    };
    let descriptor = [pointer, 0];
    // SAFETY: INVEPT only drops cached translations. This is reached only through a `Vmx`, so VMX is on.
    unsafe {
        asm!("invept {}, xmmword ptr [{}]", in(reg) kind, in(reg) &raw const descriptor, options(nostack));
    }
}

/// Drops a VPID's translations, all contexts of it.
pub(crate) fn invvpid(vpid: u16) {
    /// Single-context.
    const SINGLE: u64 = 1;
    let descriptor = [u64::from(vpid), 0];
    // SAFETY: INVVPID only drops cached translations. VMX is on, as for `invept`.
    unsafe {
        asm!("invvpid {}, xmmword ptr [{}]", in(reg) SINGLE, in(reg) &raw const descriptor, options(nostack));
    }
}

/// The current VMCS, if any.
///
/// # Safety
/// VMX is on.
pub(crate) unsafe fn current_vmcs() -> Option<Hpa> {
    let mut address = 0u64;
    // SAFETY: by the caller; VMPTRST only stores the pointer.
    unsafe { asm!("vmptrst qword ptr [{}]", in(reg) &raw mut address, options(nostack)) };
    (address != u64::MAX).then_some(Hpa(address))
}

/// VMX instructions on our own regions fail only if the kernel's bookkeeping is broken.
#[track_caller]
pub(crate) fn expect(result: Result<(), VmFail>, what: &'static str) {
    assert!(result.is_ok(), "{what} failed: the kernel's VMCS bookkeeping is broken");
}
