//! What the calling CPU tells of itself. No MSR is read that CPUID does not name.

// UNSAFETY: reads an MSR.
#![allow(unsafe_code)]

use super::decide::Cpu;
use crate::registers::cpuid;
use crate::{cpu, registers};

/// CPUID leaf 7 EDX: IA32_ARCH_CAPABILITIES.
pub(super) const ARCH_CAPABILITIES: u32 = 1 << 29;
const EXTENDED: u32 = 0x8000_0000;
/// The leaf of how threads and cores are numbered.
const TOPOLOGY: u32 = 0xb;

pub(super) fn this_cpu() -> Cpu {
    let last = [cpuid(0, 0).eax, cpuid(EXTENDED, 0).eax];
    let known = |leaf: u32| leaf <= last[usize::from(leaf >= EXTENDED)];
    let read = |leaf, subleaf| if known(leaf) { cpuid(leaf, subleaf) } else { Default::default() };
    let (signature, leaf7, leaf8021) = (cpuid(1, 0).eax, read(7, 0), read(0x8000_0021, 0));
    let (family, model) = (signature >> 8 & 0xf, signature >> 4 & 0xf);
    // The extended family counts where the family is full, and the extended model of these and of family 6.
    let extended = matches!(family, 6 | 0xf);
    let capabilities = if leaf7.edx & ARCH_CAPABILITIES != 0 {
        // SAFETY: CPUID says that the CPU has it; reading it has no effect.
        unsafe { registers::read_msr(super::ARCH_CAPABILITIES) }
    } else {
        0
    };
    Cpu {
        vendor: cpu::features().vendor,
        family: if family == 0xf { family + (signature >> 20 & 0xff) } else { family },
        model: if extended { model | signature >> 12 & 0xf0 } else { model },
        threads: read(TOPOLOGY, 0).ebx & 0xffff > 1,
        leaf7_ebx: leaf7.ebx,
        leaf7_edx: leaf7.edx,
        // EAX of the leaf is its last subleaf.
        leaf7_2_edx: if leaf7.eax >= 2 { read(7, 2).edx } else { 0 },
        leaf88_ebx: read(0x8000_0008, 0).ebx,
        leaf8021_eax: leaf8021.eax,
        leaf8021_ecx: leaf8021.ecx,
        capabilities,
    }
}
