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
use crate::mitigations::guard::{Guard, guard_entry, guard_exit};

/// What the entry code needs, in a fixed layout.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct EntryBlock {
    /// The guest's registers between runs.
    pub(crate) registers: Registers,
    /// HOST_RSP as the VMCS holds it; written again only where it changes.
    pub(crate) host_rsp: u64,
    /// [`LAUNCHED`] and [`GUARDED`]. With the first alone, VMRESUME is all there is to do.
    pub(crate) state: u64,
    pub(crate) guard: Guard,
}

/// VMRESUME must be used.
pub(crate) const LAUNCHED: u64 = 1 << 0;
/// There is something to do for the [`Guard`].
pub(crate) const GUARDED: u64 = 1 << 1;

impl EntryBlock {
    pub(crate) fn new() -> Self {
        let guard = Guard::new();
        let state = if guard.is_needed() { GUARDED } else { 0 };
        Self { registers: Registers { values: [0; 16] }, host_rsp: 0, state, guard }
    }
}

const _: () = assert!(offset_of!(EntryBlock, registers) == 0);
const _: () = assert!(offset_of!(EntryBlock, host_rsp) == 128);
const _: () = assert!(offset_of!(EntryBlock, state) == 136);
const _: () = assert!(offset_of!(EntryBlock, guard) == 144);

global_asm!(
    ".global basalt_vmx_enter",
    ".global basalt_vmx_exit",
    ".global basalt_vmx_exit_guarded",
    "basalt_vmx_enter:",
    push_kept_registers!(),
    "push rdi",
    "cmp rsp, [rdi + 128]",
    "je 2f",
    "mov [rdi + 128], rsp",
    "mov eax, {host_rsp}",
    "vmwrite rax, rsp",
    "2:",
    "cmp qword ptr [rdi + 136], {launched}",
    "jne 3f",
    "mov rax, [rdi]",
    load_guest_registers!(),
    "vmresume",
    "jmp 4f",
    "3:",
    "lea rsi, [rdi + 144]",
    guard_entry!(),
    "test qword ptr [rdi + 136], {launched}",
    "mov rax, [rdi]",
    load_guest_registers!(),
    "jz 6f",
    "vmresume",
    "jmp 4f",
    "6:",
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
    "basalt_vmx_exit_guarded:",
    "xchg rdi, [rsp]",
    "mov [rdi], rax",
    store_guest_registers!(),
    "lea rsi, [rdi + 144]",
    guard_exit!(),
    "jmp 5b",
    host_rsp = const HOST_RSP_ENCODING,
    launched = const LAUNCHED,
);

unsafe extern "sysv64" {
    fn basalt_vmx_enter(block: *mut EntryBlock) -> u32;
    fn basalt_vmx_exit();
    fn basalt_vmx_exit_guarded();
}

/// The address for HOST_RIP, which has the guard's work at exits, or none.
pub(crate) fn exit_address(block: &EntryBlock) -> u64 {
    let guarded = block.guard.is_needed();
    (if guarded { basalt_vmx_exit_guarded as *const () } else { basalt_vmx_exit as *const () }) as u64
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
