//! Privileged registers of the calling CPU, for the virtualization extensions: MSRs, control registers and
//! CPUID.
//!
//! Sources: Intel SDM vol. 4, "Model-Specific Registers"; vol. 3, "Control Registers".

// UNSAFETY: MSRs and control registers are privileged, and wrong values break the kernel.
#![allow(unsafe_code)]

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use vcpu::CpuidResult;

use crate::fault::lies;

/// IA32_PAT and IA32_EFER.
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
/// IA32_PAT as the kernel's page tables use it: write-back, write-combining (after power-up: write-through),
/// uncached with MTRRs' leave, uncached, and again.
const KERNEL_PAT: u64 = 0x0007_0106_0007_0106;

/// CPUID of this CPU.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let result = __cpuid_count(leaf, subleaf);
    lies::cpuid(leaf, CpuidResult { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx })
}

/// Reads an MSR.
///
/// # Safety
/// The CPU has this MSR, and reading it has no effect the kernel does not expect.
#[inline]
pub(crate) unsafe fn read_msr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: by the caller.
    unsafe {
        asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    lies::msr(number, u64::from(high) << 32 | u64::from(low))
}

/// Writes an MSR.
///
/// # Safety
/// The CPU has this MSR and accepts the value, and the kernel stays sound with it.
#[inline]
pub(crate) unsafe fn write_msr(number: u32, value: u64) {
    // SAFETY: by the caller.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags)
        );
    }
}

/// The registers of the kernel that an exit restores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostRegisters {
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
    pub(crate) pat: u64,
}

/// This CPU's registers now.
pub(crate) fn host_registers() -> HostRegisters {
    let (cr0, cr3, cr4): (u64, u64, u64);
    // SAFETY: reading control registers, IA32_EFER and IA32_PAT, which every 64-bit CPU has, has no effect.
    unsafe {
        asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack, preserves_flags));
        asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags));
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
        HostRegisters { cr0, cr3, cr4, efer: read_msr(EFER), pat: read_msr(PAT) }
    }
}

/// Gives IA32_PAT the value that the kernel's page tables are written for.
///
/// # Safety
/// Translations are flushed before memory types count: before device registers are mapped.
pub(crate) unsafe fn set_pat() {
    // SAFETY: every 64-bit CPU has IA32_PAT; what is in the caches under another type is written back first.
    unsafe {
        if read_msr(PAT) != KERNEL_PAT {
            asm!("wbinvd", options(nostack, preserves_flags));
            write_msr(PAT, KERNEL_PAT);
        }
    }
}

/// Gives CR0 and CR4 the bits that VMX operation fixes; pairs of must-be-one and may-be-one.
///
/// # Safety
/// The pairs are the CPU's own, from its VMX capability MSRs.
pub(crate) unsafe fn set_vmx_fixed_bits(cr0_fixed: (u64, u64), cr4_fixed: (u64, u64)) {
    let host = host_registers();
    let cr0 = (host.cr0 | cr0_fixed.0) & cr0_fixed.1;
    let cr4 = (host.cr4 | cr4_fixed.0) & cr4_fixed.1;
    // SAFETY: by the caller: in practice CR0.NE and CR4.VMXE are set and nothing is cleared.
    unsafe {
        asm!("mov cr0, {}", in(reg) cr0, options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
    }
}

/// Sets bits of IA32_EFER.
///
/// # Safety
/// The CPU has these bits and the kernel stays sound with them.
pub(crate) unsafe fn set_efer(bits: u64) {
    // SAFETY: by the caller; every 64-bit CPU has IA32_EFER.
    unsafe { write_msr(EFER, read_msr(EFER) | bits) };
}

/// Lets the interrupts that are pending be served, then goes on with interrupts off.
#[inline]
pub(crate) fn serve_interrupts() {
    // SAFETY: the handlers keep all registers; the caller holds no lock that a handler takes. The NOP takes
    // the place of STI's shadow.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}
