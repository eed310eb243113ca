//! The few instructions around VMLAUNCH and VMRESUME: the only assembly on Intel's exit path.

// UNSAFETY: enters the guest and comes back at HOST_RIP with the guest's registers in the CPU.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::mem::offset_of;

use vcpu::Registers;

use super::field::HOST_RSP_ENCODING;

/// What the entry code needs, in a fixed layout.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct EntryBlock {
    /// The guest's registers between runs.
    pub(crate) registers: Registers,
    /// HOST_RSP as the VMCS holds it; written again only where it changes.
    pub(crate) host_rsp: u64,
    /// Whether VMRESUME must be used.
    pub(crate) launched: u64,
}

impl EntryBlock {
    pub(crate) const fn new() -> Self {
        Self { registers: Registers { values: [0; 16] }, host_rsp: 0, launched: 0 }
    }
}

const _: () = assert!(offset_of!(EntryBlock, registers) == 0);
const _: () = assert!(offset_of!(EntryBlock, host_rsp) == 128);
const _: () = assert!(offset_of!(EntryBlock, launched) == 136);

global_asm!(
    ".global basalt_vmx_enter",
    ".global basalt_vmx_exit",
    "basalt_vmx_enter:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "cmp rsp, [rdi + 128]",
    "je 2f",
    "mov [rdi + 128], rsp",
    "mov eax, {host_rsp}",
    "vmwrite rax, rsp",
    "2:",
    "cmp qword ptr [rdi + 136], 0",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rbp, [rdi + 40]",
    "mov rsi, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rdi, [rdi + 56]",
    "je 3f",
    "vmresume",
    "jmp 4f",
    "3:",
    "vmlaunch",
    "4:",
    "add rsp, 8",
    "mov eax, 1",
    "jmp 5f",
    "basalt_vmx_exit:",
    "xchg rdi, [rsp]",
    "mov [rdi], rax",
    "mov [rdi + 8], rcx",
    "mov [rdi + 16], rdx",
    "mov [rdi + 24], rbx",
    "mov [rdi + 40], rbp",
    "mov [rdi + 48], rsi",
    "mov [rdi + 64], r8",
    "mov [rdi + 72], r9",
    "mov [rdi + 80], r10",
    "mov [rdi + 88], r11",
    "mov [rdi + 96], r12",
    "mov [rdi + 104], r13",
    "mov [rdi + 112], r14",
    "mov [rdi + 120], r15",
    "pop qword ptr [rdi + 56]",
    "xor eax, eax",
    "5:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    host_rsp = const HOST_RSP_ENCODING,
);

unsafe extern "sysv64" {
    fn basalt_vmx_enter(block: *mut EntryBlock) -> u32;
    fn basalt_vmx_exit();
}

/// The address for HOST_RIP.
pub(crate) fn exit_address() -> u64 {
    basalt_vmx_exit as *const () as u64
}

/// Enters the guest of the current VMCS until its next exit. False where VMLAUNCH or VMRESUME itself failed.
///
/// # Safety
/// 1. The current VMCS is this block's, its host state is this CPU's with HOST_RIP at [`exit_address`].
/// 2. Interrupts are off.
#[inline]
pub(crate) unsafe fn enter(block: &mut EntryBlock) -> bool {
    // SAFETY: by the caller; the function keeps the System V ABI's callee-saved registers.
    unsafe { basalt_vmx_enter(block) == 0 }
}
