//! Instructions that have no spelling in Rust. Any of them may raise an exception, which the surrounding
//! [`crate::catch`] gets.

use core::arch::asm;

/// Inline assembly of a test.
///
/// It may raise any exception (the test's guard catches it) and must declare every register it writes; memory it
/// writes belongs to the test.
#[macro_export]
macro_rules! probe {
    ($($body:tt)*) => {{
        // SAFETY: by the rule above; an exception leaves through the guard, which restores the preserved registers.
        unsafe { ::core::arch::asm!($($body)*) }
    }};
}

/// RFLAGS bits.
pub mod flag {
    /// Carry.
    pub const CF: u64 = 1;
    /// Always one.
    pub const ONE: u64 = 1 << 1;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Auxiliary carry.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Single step.
    pub const TF: u64 = 1 << 8;
    /// Interrupts enabled.
    pub const IF: u64 = 1 << 9;
    /// Direction.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// I/O privilege level 3.
    pub const IOPL3: u64 = 3 << 12;
    /// Resume: no instruction breakpoint on the next instruction.
    pub const RF: u64 = 1 << 16;
    /// Alignment check.
    pub const AC: u64 = 1 << 18;
    /// The six arithmetic flags.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
}

/// CR0 bits.
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// Emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type, always one.
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
    /// What the framework runs with.
    pub const BASELINE: u64 = PG | WP | NE | ET | MP | PE;
}

/// CR4 bits.
pub mod cr4 {
    /// Time-stamp disable.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// Page-size extensions.
    pub const PSE: u64 = 1 << 4;
    /// Physical-address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine check.
    pub const MCE: u64 = 1 << 6;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// Performance counters for user code.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE and SSE.
    pub const OSFXSR: u64 = 1 << 9;
    /// SIMD exceptions as #XM.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// 57-bit linear addresses.
    pub const LA57: u64 = 1 << 12;
    /// VMX.
    pub const VMXE: u64 = 1 << 13;
    /// SMX.
    pub const SMXE: u64 = 1 << 14;
    /// RDFSBASE and its kin.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Process-context identifiers.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE.
    pub const OSXSAVE: u64 = 1 << 18;
    /// No supervisor execution of user pages.
    pub const SMEP: u64 = 1 << 20;
    /// No supervisor access to user pages.
    pub const SMAP: u64 = 1 << 21;
    /// What the framework runs with.
    pub const BASELINE: u64 = PAE;
}

/// Model-specific registers by their manual names.
#[expect(missing_docs, reason = "the manuals' names")]
pub mod msr {
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const MTRRCAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const FLUSH_CMD: u32 = 0x10b;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC_FIRST: u32 = 0x800;
    pub const XSS: u32 = 0xda0;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// EFER bits.
pub mod efer {
    /// SYSCALL.
    pub const SCE: u64 = 1;
    /// Long mode enabled.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute pages.
    pub const NXE: u64 = 1 << 11;
    /// SVM.
    pub const SVME: u64 = 1 << 12;
    /// What the framework runs with.
    pub const BASELINE: u64 = SCE | LME | LMA | NXE;
}

/// What CPUID returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the four registers")]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let mut result = CpuidResult::default();
    let rbx: u64;
    probe!(
        "mov {rbx}, rbx", "cpuid", "xchg {rbx}, rbx", rbx = out(reg) rbx,
        inout("eax") leaf => result.eax, inout("ecx") subleaf => result.ecx, out("edx") result.edx, options(nostack)
    );
    result.ebx = rbx as u32;
    result
}

/// RDMSR.
pub fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    probe!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nostack));
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR.
pub fn wrmsr(index: u32, value: u64) {
    probe!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
}

/// RDTSC.
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    probe!("rdtsc", out("eax") low, out("edx") high, options(nostack, nomem));
    u64::from(high) << 32 | u64::from(low)
}

/// XGETBV.
pub fn xgetbv(index: u32) -> u64 {
    let (low, high): (u32, u32);
    probe!("xgetbv", in("ecx") index, out("eax") low, out("edx") high, options(nostack));
    u64::from(high) << 32 | u64::from(low)
}

/// XSETBV.
pub fn xsetbv(index: u32, value: u64) {
    probe!("xsetbv", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
}

macro_rules! registers {
    ($($read:ident, $write:ident, $name:literal;)*) => {$(
        #[doc = concat!("Reads ", $name, ".")]
        pub fn $read() -> u64 {
            let value: u64;
            probe!(concat!("mov {}, ", $name), out(reg) value, options(nostack));
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        pub fn $write(value: u64) {
            probe!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack));
        }
    )*};
}

registers! {
    read_cr0, write_cr0, "cr0";
    read_cr2, write_cr2, "cr2";
    read_cr3, write_cr3, "cr3";
    read_cr4, write_cr4, "cr4";
    read_cr8, write_cr8, "cr8";
    read_dr0, write_dr0, "dr0";
    read_dr1, write_dr1, "dr1";
    read_dr2, write_dr2, "dr2";
    read_dr3, write_dr3, "dr3";
    read_dr4, write_dr4, "dr4";
    read_dr5, write_dr5, "dr5";
    read_dr6, write_dr6, "dr6";
    read_dr7, write_dr7, "dr7";
}

macro_rules! ports {
    ($($input:ident, $output:ident, $type:ty, $register:tt;)*) => {$(
        #[doc = concat!("IN ", $register, ", DX.")]
        pub fn $input(port: u16) -> $type {
            let value: $type;
            probe!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nostack));
            value
        }

        #[doc = concat!("OUT DX, ", $register, ".")]
        pub fn $output(port: u16, value: $type) {
            probe!(concat!("out dx, ", $register), in("dx") port, in($register) value, options(nostack));
        }
    )*};
}

ports! {
    inb, outb, u8, "al";
    inw, outw, u16, "ax";
    inl, outl, u32, "eax";
}

/// One 8-bit load by MOV.
pub fn read8(address: u64) -> u8 {
    let value: u8;
    probe!("mov {}, [{}]", out(reg_byte) value, in(reg) address, options(nostack));
    value
}

/// One 8-bit store by MOV.
pub fn write8(address: u64, value: u8) {
    probe!("mov [{}], {}", in(reg) address, in(reg_byte) value, options(nostack));
}

/// One 16-bit load by MOV.
pub fn read16(address: u64) -> u16 {
    let value: u16;
    probe!("mov {:x}, [{}]", out(reg) value, in(reg) address, options(nostack));
    value
}

/// One 16-bit store by MOV.
pub fn write16(address: u64, value: u16) {
    probe!("mov [{}], {:x}", in(reg) address, in(reg) value, options(nostack));
}

/// One 32-bit load by MOV.
pub fn read32(address: u64) -> u32 {
    let value: u32;
    probe!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack));
    value
}

/// One 32-bit store by MOV.
pub fn write32(address: u64, value: u32) {
    probe!("mov [{}], {:e}", in(reg) address, in(reg) value, options(nostack));
}

/// One 64-bit load by MOV.
pub fn read64(address: u64) -> u64 {
    let value: u64;
    probe!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack));
    value
}

/// One 64-bit store by MOV.
pub fn write64(address: u64, value: u64) {
    probe!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack));
}

/// RFLAGS.
pub fn rflags() -> u64 {
    let value: u64;
    probe!("pushfq", "pop {}", out(reg) value);
    value
}

/// STI. Takes effect after the next instruction.
pub fn sti() {
    probe!("sti", options(nostack));
}

/// CLI.
pub fn cli() {
    probe!("cli", options(nostack));
}

/// STI; HLT; CLI: waits for one interrupt. With none to come it waits for ever.
pub fn wait_for_interrupt() {
    probe!("sti", "hlt", "cli", options(nostack));
}

/// STI; NOP; CLI: takes every interrupt that is pending.
pub fn take_interrupts() {
    probe!("sti", "nop", "nop", "cli", options(nostack));
}

/// INVLPG.
pub fn invlpg(address: u64) {
    probe!("invlpg [{}]", in(reg) address, options(nostack));
}

/// PAUSE.
pub fn pause() {
    core::hint::spin_loop();
}

/// Stops for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: touches nothing.
        unsafe { asm!("cli", "hlt", options(nostack, nomem)) };
    }
}
