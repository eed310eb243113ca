//! The code that leaves long mode. It is copied to [`LOW`], where real mode can reach it, and called there; so every
//! absolute address in it is written as `LOW + (label - trampoline)`.
//!
//! It starts with [`Fields`] that Rust fills in and reads back; then `enter` (64-bit, a C function) goes down to the
//! payload that a field names, and `leave` comes back.

use core::arch::global_asm;

/// Where the trampoline runs: below 64 KiB, above what firmware keeps there.
pub(crate) const LOW: u64 = 0x8000;

/// Number of results.
pub(crate) const RESULTS: usize = 24;

/// What Rust and the trampoline share, at its start.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    /// RSP of the caller.
    pub(crate) rsp: u64,
    /// The 64-bit IDT, as SIDT stored it.
    pub(crate) idt64: [u16; 8],
    /// Limit and base of the IDT of the visited mode.
    pub(crate) idt32: [u16; 4],
    /// CR0 of the visited mode.
    pub(crate) cr0: u32,
    /// CR3 of the visited mode.
    pub(crate) cr3: u32,
    /// CR4 of the visited mode.
    pub(crate) cr4: u32,
    /// EFER of the visited mode.
    pub(crate) efer: u32,
    /// Not zero: the payload runs in compatibility mode, and nothing else changes.
    pub(crate) compatibility: u32,
    /// Address of the payload.
    pub(crate) payload: u32,
    /// CR3 of long mode.
    pub(crate) long_cr3: u32,
    /// Two arguments of the payload.
    pub(crate) argument: [u32; 2],
    /// Where the next exception of the visited mode goes on, and its stack pointer.
    pub(crate) resume: [u32; 2],
    /// The last exception: vector, error code, EIP, CS, EFLAGS, CR2.
    pub(crate) exception: [u32; 6],
    /// Interrupts taken.
    pub(crate) interrupts: u32,
    /// Where a payload puts its next result.
    pub(crate) next_result: u32,
    /// What the payload saw.
    pub(crate) results: [u32; RESULTS],
}

/// Offsets of the fields, for the assembly.
macro_rules! offset {
    ($field:ident) => {
        core::mem::offset_of!(Fields, $field)
    };
}

unsafe extern "C" {
    /// First byte of the trampoline.
    pub(crate) static trampoline: u8;
    /// First byte behind it.
    pub(crate) static trampoline_end: u8;
    pub(crate) static trampoline_enter: u8;
    pub(crate) static payload_exits32: u8;
    pub(crate) static payload_faults32: u8;
    pub(crate) static payload_interrupts32: u8;
    pub(crate) static payload_segments32: u8;
    pub(crate) static payload_protected16: u8;
    pub(crate) static payload_virtual8086: u8;
    pub(crate) static payload_into: u8;
    pub(crate) static payload_long64: u8;
    pub(crate) static payload_real: u8;
    pub(crate) static real_exits: u8;
    pub(crate) static real_large_segments: u8;
    pub(crate) static real_interrupts: u8;
    pub(crate) static real_faults: u8;
    pub(crate) static real_vector_de: u8;
    pub(crate) static real_vector_ud: u8;
    pub(crate) static real_vector_gp: u8;
    pub(crate) static real_vector_irq: u8;
    pub(crate) static real_vector_software: u8;
    pub(crate) static trampoline_stub_ud: u8;
    pub(crate) static trampoline_stub_bp: u8;
    pub(crate) static trampoline_stub_gp: u8;
    pub(crate) static trampoline_stub_pf: u8;
    pub(crate) static trampoline_stub_irq: u8;
}

global_asm!(
    include_str!("core.s"),
    include_str!("protected.s"),
    include_str!("real.s"),
    low = const LOW,
    size = const size_of::<Fields>(),
    rsp = const offset!(rsp),
    idt64 = const offset!(idt64),
    idt32 = const offset!(idt32),
    cr0 = const offset!(cr0),
    cr3 = const offset!(cr3),
    cr4 = const offset!(cr4),
    efer = const offset!(efer),
    compatibility = const offset!(compatibility),
    payload = const offset!(payload),
    long_cr3 = const offset!(long_cr3),
    argument = const offset!(argument),
    resume = const offset!(resume),
    exception = const offset!(exception),
    interrupts = const offset!(interrupts),
    next_result = const offset!(next_result),
    results = const offset!(results),
    options(att_syntax)
);
