//! A vCPU's registers, named as the manuals name them (SDM vol. 1, "Basic Program Execution Registers";
//! vol. 3, "System Architecture Overview").

use bitflags::bitflags;

/// A general-purpose register, numbered as ModRM and REX number it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Gpr {
    /// Accumulator.
    Rax,
    /// Counter.
    Rcx,
    /// Data.
    Rdx,
    /// Base.
    Rbx,
    /// Stack pointer; kept by the backend, see [`crate::Vcpu::rsp`].
    Rsp,
    /// Frame pointer.
    Rbp,
    /// Source index.
    Rsi,
    /// Destination index.
    Rdi,
    /// R8.
    R8,
    /// R9.
    R9,
    /// R10.
    R10,
    /// R11.
    R11,
    /// R12.
    R12,
    /// R13.
    R13,
    /// R14.
    R14,
    /// R15.
    R15,
}

impl Gpr {
    /// All sixteen, in number order.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// The register with this number; only the low four bits count.
    #[inline]
    pub const fn from_number(number: u8) -> Self {
        Self::ALL[(number & 15) as usize]
    }
}

/// The general-purpose registers of a vCPU. The entry code saves and loads them here at every exit, so the
/// layout is fixed: sixteen quadwords in [`Gpr`] order. The slot of RSP is not live: RSP belongs to the
/// backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Registers {
    /// Values by [`Gpr`] number.
    pub values: [u64; 16],
}

macro_rules! gpr_accessors {
    ($($get:ident $set:ident $gpr:ident;)*) => { $(
        #[doc = concat!("The value of ", stringify!($gpr), ".")]
        #[inline]
        pub const fn $get(&self) -> u64 {
            self.values[Gpr::$gpr as usize]
        }
        #[doc = concat!("Sets ", stringify!($gpr), ".")]
        #[inline]
        pub const fn $set(&mut self, value: u64) {
            self.values[Gpr::$gpr as usize] = value;
        }
    )* };
}

impl Registers {
    gpr_accessors! {
        rax set_rax Rax;
        rbx set_rbx Rbx;
        rcx set_rcx Rcx;
        rdx set_rdx Rdx;
        rsi set_rsi Rsi;
        rdi set_rdi Rdi;
    }

    /// EDX:EAX, as RDMSR, WRMSR and XSETBV use it.
    #[inline]
    pub const fn edx_eax(&self) -> u64 {
        (self.rdx() << 32) | (self.rax() & 0xffff_ffff)
    }

    /// Sets EDX:EAX and clears the upper halves, as RDMSR does in 64-bit mode.
    #[inline]
    pub const fn set_edx_eax(&mut self, value: u64) {
        self.set_rax(value & 0xffff_ffff);
        self.set_rdx(value >> 32);
    }
}

/// A register that the backend keeps: control, debug and extended-control registers, and the MSRs that
/// hold a vCPU's own state and have no side effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SystemRegister {
    /// CR0 as the guest reads it.
    Cr0,
    /// Page-fault linear address.
    Cr2,
    /// Root of the guest's own page tables.
    Cr3,
    /// CR4 as the guest reads it.
    Cr4,
    /// IA32_EFER as the guest reads it.
    Efer,
    /// Debug address registers DR0 to DR3.
    Dr0,
    /// DR1.
    Dr1,
    /// DR2.
    Dr2,
    /// DR3.
    Dr3,
    /// Debug status.
    Dr6,
    /// Debug control.
    Dr7,
    /// Extended control register 0: enabled XSAVE components.
    Xcr0,
    /// IA32_FS_BASE.
    FsBase,
    /// IA32_GS_BASE.
    GsBase,
    /// IA32_KERNEL_GS_BASE.
    KernelGsBase,
    /// IA32_STAR.
    Star,
    /// IA32_LSTAR.
    Lstar,
    /// IA32_CSTAR.
    Cstar,
    /// IA32_FMASK.
    Sfmask,
    /// IA32_SYSENTER_CS.
    SysenterCs,
    /// IA32_SYSENTER_ESP.
    SysenterEsp,
    /// IA32_SYSENTER_EIP.
    SysenterEip,
    /// IA32_PAT.
    Pat,
    /// IA32_TSC_AUX.
    TscAux,
}

/// A segment register, numbered as ModRM numbers them, then the two system segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SegmentName {
    /// Extra.
    Es,
    /// Code.
    Cs,
    /// Stack.
    Ss,
    /// Data.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
    /// Local descriptor table.
    Ldtr,
    /// Task register.
    Tr,
}

impl SegmentName {
    /// All eight, in number order.
    pub const ALL: [Self; 8] =
        [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs, Self::Ldtr, Self::Tr];
}

bitflags! {
    /// A segment's attributes in the layout of the VMCS access-rights field (SDM vol. 3, "Guest Register
    /// State"): a descriptor's bits 8 to 15 and 20 to 23, and bit 16 for "unusable".
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct SegmentAccess: u32 {
        /// Segment type, four bits.
        const TYPE = 0xf;
        /// Code or data (not system).
        const CODE_OR_DATA = 1 << 4;
        /// Descriptor privilege level, two bits.
        const DPL = 3 << 5;
        /// Present.
        const PRESENT = 1 << 7;
        /// Available for software.
        const AVAILABLE = 1 << 12;
        /// 64-bit code.
        const LONG = 1 << 13;
        /// Default operation size 32 (D/B).
        const DEFAULT_BIG = 1 << 14;
        /// Limit in pages.
        const GRANULARITY = 1 << 15;
        /// Unusable (a null selector was loaded).
        const UNUSABLE = 1 << 16;
    }
}

impl SegmentAccess {
    /// Flat 64-bit code, ring 0, accessed.
    pub const CODE64: Self = Self::from_bits_retain(0xa09b);
    /// Flat 32-bit code, ring 0, accessed.
    pub const CODE32: Self = Self::from_bits_retain(0xc09b);
    /// Flat writable data, ring 0, accessed.
    pub const DATA32: Self = Self::from_bits_retain(0xc093);
    /// Real-mode code.
    pub const CODE16: Self = Self::from_bits_retain(0x9b);
    /// Real-mode data.
    pub const DATA16: Self = Self::from_bits_retain(0x93);
    /// A busy 64-bit (or 32-bit) task-state segment.
    pub const BUSY_TSS: Self = Self::from_bits_retain(0x8b);
    /// A local descriptor table.
    pub const LDT: Self = Self::from_bits_retain(0x82);

    /// The descriptor privilege level, 0 to 3.
    #[inline]
    pub const fn dpl(self) -> u8 {
        ((self.bits() >> 5) & 3) as u8
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Base, linear address.
    pub base: u64,
    /// Limit in bytes, the last valid offset.
    pub limit: u32,
    /// Attributes.
    pub access: SegmentAccess,
}

impl Segment {
    /// The segment after power-up (SDM vol. 3, "Processor State After Reset").
    pub const fn at_power_up(name: SegmentName) -> Self {
        let (selector, base, access) = match name {
            SegmentName::Cs => (0xf000, 0xffff_0000, SegmentAccess::CODE16),
            SegmentName::Ldtr => (0, 0, SegmentAccess::LDT),
            SegmentName::Tr => (0, 0, SegmentAccess::BUSY_TSS),
            _ => (0, 0, SegmentAccess::DATA16),
        };
        Self { selector, base, limit: 0xffff, access }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DescriptorTable {
    /// Base, linear address.
    pub base: u64,
    /// Limit in bytes, the last valid offset.
    pub limit: u16,
}

/// Which descriptor table is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DescriptorTableName {
    /// Global.
    Gdtr,
    /// Interrupt.
    Idtr,
}

/// CR0 bits (SDM vol. 3, "Control Registers").
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1 << 0;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// Emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type, reads as one.
    pub const ET: u64 = 1 << 4;
    /// Numeric error.
    pub const NE: u64 = 1 << 5;
    /// Write protect.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
    /// All bits that are defined.
    pub const DEFINED: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// CR4 bits (SDM vol. 3, "Control Registers").
pub mod cr4 {
    /// Virtual-8086 extensions.
    pub const VME: u64 = 1 << 0;
    /// Protected-mode virtual interrupts.
    pub const PVI: u64 = 1 << 1;
    /// Time-stamp disable.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// Page-size extensions.
    pub const PSE: u64 = 1 << 4;
    /// Physical-address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine-check enable.
    pub const MCE: u64 = 1 << 6;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// RDPMC outside ring 0.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE and SSE enabled.
    pub const OSFXSR: u64 = 1 << 9;
    /// SIMD floating-point exceptions enabled.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// 57-bit linear addresses.
    pub const LA57: u64 = 1 << 12;
    /// VMX enable.
    pub const VMXE: u64 = 1 << 13;
    /// SMX enable.
    pub const SMXE: u64 = 1 << 14;
    /// RDFSBASE and friends.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Process-context identifiers.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE enabled.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Supervisor-mode execution prevention.
    pub const SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const SMAP: u64 = 1 << 21;
    /// Protection keys for user pages.
    pub const PKE: u64 = 1 << 22;
    /// Control-flow enforcement.
    pub const CET: u64 = 1 << 23;
    /// Protection keys for supervisor pages.
    pub const PKS: u64 = 1 << 24;
}

/// IA32_EFER bits (SDM vol. 3, "Extended Feature Enable Register"; APM vol. 2, same title).
pub mod efer {
    /// System-call extensions.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute enable.
    pub const NXE: u64 = 1 << 11;
    /// Secure virtual machine enable (AMD).
    pub const SVME: u64 = 1 << 12;
    /// Fast FXSAVE/FXRSTOR (AMD).
    pub const FFXSR: u64 = 1 << 14;
}

/// RFLAGS bits (SDM vol. 1, "EFLAGS Register").
pub mod rflags {
    /// Carry.
    pub const CF: u64 = 1 << 0;
    /// Always one.
    pub const FIXED: u64 = 1 << 1;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Trap.
    pub const TF: u64 = 1 << 8;
    /// Interrupt enable.
    pub const IF: u64 = 1 << 9;
    /// Direction.
    pub const DF: u64 = 1 << 10;
    /// Resume.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check.
    pub const AC: u64 = 1 << 18;
}
