//! The few instructions around VMLAUNCH and VMRESUME: the only assembly on Intel's exit path.

// UNSAFETY: enters the guest and comes back at HOST_RIP with the guest's registers in the CPU.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::mem::offset_of;

use vcpu::Registers;

use super::field::HOST_RSP_ENCODING;
use crate::guest_registers::{
    load_guest_registers, pop_kept_registers, push_kept_registers, store_guest_registers,
};

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
    push_kept_registers!(),
    "push rdi",
    "cmp rsp, [rdi + 128]",
    "je 2f",
    "mov [rdi + 128], rsp",
    "mov eax, {host_rsp}",
    "vmwrite rax, rsp",
    "2:",
    "cmp qword ptr [rdi + 136], 0",
    "mov rax, [rdi]",
    load_guest_registers!(),
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
    store_guest_registers!(),
    "xor eax, eax",
    "5:",
    pop_kept_registers!(),
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
