//! The bits of the baseline `basalt-1`, leaf by leaf. A bit that is missing here is never shown.

use crate::paravirtual::Features;

/// Leaf 1 EAX: family, model and stepping.
pub(super) const EAX1_SIGNATURE: u32 = 0x0fff_3fff;

pub(super) const ECX1_PCID: u32 = 1 << 17;
pub(super) const ECX1_XSAVE: u32 = 1 << 26;
pub(super) const ECX1_OSXSAVE: u32 = 1 << 27;
pub(super) const ECX1_FMA: u32 = 1 << 12;
pub(super) const ECX1_AVX: u32 = 1 << 28;
pub(super) const ECX1_F16C: u32 = 1 << 29;
/// Leaf 1 ECX, where the host has it.
pub(super) const ECX1: u32 = 1 << 0 // SSE3
    | 1 << 1 // PCLMULQDQ
    | 1 << 9 // SSSE3
    | ECX1_FMA
    | 1 << 13 // CMPXCHG16B
    | ECX1_PCID
    | 1 << 19 // SSE4.1
    | 1 << 20 // SSE4.2
    | 1 << 22 // MOVBE
    | 1 << 23 // POPCNT
    | 1 << 25 // AESNI
    | ECX1_XSAVE
    | ECX1_AVX
    | ECX1_F16C
    | 1 << 30; // RDRAND
/// Leaf 1 ECX, made by the hypervisor.
pub(super) const ECX1_EMULATED: u32 = 1 << 21 // x2APIC
    | 1 << 31; // hypervisor present
/// Leaf 1 ECX, made by the hypervisor where the TSC is steady: TSC deadline.
pub(super) const ECX1_TSC_DEADLINE: u32 = 1 << 24;

pub(super) const EDX1_VME: u32 = 1 << 1;
pub(super) const EDX1_DE: u32 = 1 << 2;
/// Leaf 1 EDX, where the host has it.
pub(super) const EDX1: u32 = 1 << 0 // FPU
    | EDX1_VME
    | EDX1_DE
    | 1 << 3 // PSE
    | 1 << 4 // TSC
    | 1 << 5 // MSR
    | 1 << 6 // PAE
    | 1 << 8 // CMPXCHG8B
    | 1 << 11 // SYSENTER
    | 1 << 13 // PGE
    | 1 << 15 // CMOV
    | 1 << 16 // PAT
    | 1 << 17 // PSE-36
    | 1 << 19 // CLFLUSH
    | 1 << 23 // MMX
    | 1 << 24 // FXSAVE
    | 1 << 25 // SSE
    | 1 << 26 // SSE2
    | 1 << 27; // self snoop
pub(super) const EDX1_APIC: u32 = 1 << 9;
/// Leaf 1 EDX: there is room for more than one logical processor.
pub(super) const EDX1_HTT: u32 = 1 << 28;
/// Leaf 1 EDX, made by the hypervisor: machine-check exception, APIC, MTRRs, machine-check architecture.
pub(super) const EDX1_EMULATED: u32 = 1 << 7 | EDX1_APIC | 1 << 12 | 1 << 14;

/// Leaf 4 EAX: the cache's type.
pub(super) const EAX4_TYPE: u32 = 0x1f;
/// Leaf 4 EAX: type, level and properties, without how many share it.
pub(super) const EAX4_CACHE: u32 = 0x0000_03ff;

/// Leaf 6 EAX: the APIC timer never stops.
pub(super) const EAX6_ARAT: u32 = 1 << 2;

pub(super) const EBX7_FSGSBASE: u32 = 1 << 0;
pub(super) const EBX7_AVX2: u32 = 1 << 5;
pub(super) const EBX7_SMEP: u32 = 1 << 7;
pub(super) const EBX7_SMAP: u32 = 1 << 20;
/// AVX-512 F, DQ, IFMA, CD, BW and VL.
pub(super) const EBX7_AVX512: u32 = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31;
/// Leaf 7 EBX, where the host has it.
pub(super) const EBX7: u32 = EBX7_FSGSBASE
    | 1 << 3 // BMI1
    | EBX7_AVX2
    | EBX7_SMEP
    | 1 << 8 // BMI2
    | 1 << 9 // ERMS
    | 1 << 10 // INVPCID
    | 1 << 18 // RDSEED
    | 1 << 19 // ADX
    | EBX7_SMAP
    | 1 << 23 // CLFLUSHOPT
    | 1 << 24 // CLWB
    | 1 << 29 // SHA
    | 1 << 6 // x87 data pointer only at exceptions
    | 1 << 13 // FCS and FDS are zero
    | EBX7_AVX512;
/// Leaf 7 EBX, made by the hypervisor: TSC_ADJUST.
pub(super) const EBX7_EMULATED: u32 = 1 << 1;

pub(super) const ECX7_UMIP: u32 = 1 << 2;
pub(super) const ECX7_PKU: u32 = 1 << 3;
pub(super) const ECX7_OSPKE: u32 = 1 << 4;
pub(super) const ECX7_LA57: u32 = 1 << 16;
pub(super) const ECX7_RDPID: u32 = 1 << 22;
/// VAES and VPCLMULQDQ.
pub(super) const ECX7_AVX: u32 = 1 << 9 | 1 << 10;
/// AVX-512 VBMI, VBMI2, VNNI, BITALG and VPOPCNTDQ.
pub(super) const ECX7_AVX512: u32 = 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14;
/// Leaf 7 ECX, where the host has it.
pub(super) const ECX7: u32 = ECX7_UMIP
    | ECX7_PKU
    | 1 << 8 // GFNI
    | ECX7_AVX
    | ECX7_AVX512
    | ECX7_LA57
    | ECX7_RDPID;
/// AVX-512 VP2INTERSECT; never shown, but it goes with the others.
pub(super) const EDX7_AVX512: u32 = 1 << 8;
/// Leaf 7 EDX, where the host has it: fast short REP MOV, and what software protects itself with from what the CPU does ahead.
pub(super) const EDX7: u32 = 1 << 4
    | 1 << 10 // VERW clears buffers
    | 1 << 26 // IBRS, IBPB
    | 1 << 27 // STIBP
    | 1 << 28 // L1D flush
    | 1 << 29 // IA32_ARCH_CAPABILITIES
    | 1 << 31; // SSBD
/// Leaf 7 subleaf 2 EDX, where the host has it: PSFD, IPRED_CTRL, RRSBA_CTRL, DDPD_U, BHI_CTRL, MCDT_NO.
pub(super) const EDX72: u32 = 0b11_1111;

/// Leaf 0DH subleaf 1 EAX: XSAVEOPT, XSAVEC, XGETBV with ECX = 1. No XSAVES: there is no IA32_XSS.
pub(super) const EAXD1: u32 = 1 << 0 | 1 << 1 | 1 << 2;
pub(super) const EAXD1_XSAVEC: u32 = 1 << 1;

/// Leaf 16H ECX: the bus clock that Intel's CPUs tell.
pub(super) const BUS_MHZ: u32 = 100;

/// Leaf 8000_0001H ECX: HTT means cores, not threads.
pub(super) const ECX81_CMP_LEGACY: u32 = 1 << 1;
/// Leaf 8000_0001H ECX, where the host has it.
pub(super) const ECX81: u32 = 1 << 0 // LAHF in 64-bit mode
    | 1 << 5 // LZCNT
    | 1 << 6 // SSE4A
    | 1 << 7 // misaligned SSE
    | 1 << 8; // PREFETCHW

pub(super) const EDX81_SYSCALL: u32 = 1 << 11;
pub(super) const EDX81_NX: u32 = 1 << 20;
pub(super) const EDX81_RDTSCP: u32 = 1 << 27;
pub(super) const EDX81_LM: u32 = 1 << 29;
/// Leaf 8000_0001H EDX, where the host has it.
pub(super) const EDX81: u32 = EDX81_SYSCALL
    | EDX81_NX
    | 1 << 22 // MMX extensions
    | 1 << 26 // 1 GiB pages
    | EDX81_RDTSCP
    | EDX81_LM;
/// AMD's copies of leaf 1 EDX, where the host has them.
pub(super) const EDX81_COPIES: u32 = EDX1 & 0x0183_f1ff & !(1 << 11);
/// AMD's copies of what the hypervisor makes.
pub(super) const EDX81_EMULATED_COPIES: u32 = EDX1_EMULATED;

/// Leaf 8000_0007H EDX: the TSC's rate never changes and it never stops.
pub(super) const EDX87_INVARIANT_TSC: u32 = 1 << 8;
/// Leaf 8000_0008H EAX: bits of a physical address, and what they are where the host has no such leaf.
pub(super) const EAX88_PHYSICAL: u32 = 0xff;
pub(super) const PHYSICAL_BITS_DEFAULT: u32 = 36;
/// Leaf 8000_0008H EAX: where the bits of a linear address are told; how many there are with four levels of tables,
/// which every 64-bit CPU has, and with five.
pub(super) const EAX88_LINEAR_SHIFT: u32 = 8;
pub(super) const LINEAR_BITS: u32 = 48;
pub(super) const LINEAR_BITS_LA57: u32 = 57;
/// Leaf 8000_0008H EBX: CLZERO, that FXSAVE always saves error pointers, and what AMD has of leaf 7 EDX.
pub(super) const EBX88: u32 = 1 << 0
    | 1 << 2
    | 1 << 12 // IBPB
    | 0b1_1111 << 14 // IBRS, STIBP; each always on; IBRS preferred
    | 1 << 24 // SSBD
    | 1 << 26 // SSB_NO
    | 0b111 << 28; // PSFD, BTC_NO, IBPB_RET
/// Leaf 4000_0001H EAX: no I/O delay.
pub(super) const KVM_NO_IO_DELAY: u32 = 1 << 1;
/// Leaf 4000_0001H EAX: the bits of each paravirtual feature. The clock is told by its new MSRs, and never goes back between
/// vCPUs.
pub(super) const KVM_FEATURES: [(Features, u32); 8] = [
    (Features::CLOCK, 1 << 3 | 1 << 24),
    (Features::STEAL_TIME, 1 << 5),
    (Features::EOI, 1 << 6),
    (Features::UNHALT, 1 << 7),
    (Features::TLB_FLUSH, 1 << 9),
    (Features::IPI, 1 << 11),
    (Features::POLL_CONTROL, 1 << 12),
    (Features::YIELD, 1 << 13),
];
