//! The few instructions around VMRUN: the only assembly on AMD's exit path.

// UNSAFETY: enters the guest and comes back with its registers in the CPU.
#![allow(unsafe_code)]

use core::arch::global_asm;

use vcpu::{Hpa, Registers};

// VMRUN keeps RAX, RSP, RIP, RFLAGS, control registers and CS, SS, DS, ES of the host in the host
// save area. FS, GS, TR, LDTR and the system-call MSRs travel by VMLOAD and VMSAVE: the kernel's go back
// at once, because the IDT's stacks need TR and per-CPU data needs GS. Interrupts are held by GIF; IF is
// set during VMRUN, so that the host's interrupts end the run.
global_asm!(
    ".global basalt_svm_enter",
    "basalt_svm_enter:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdx",
    "push rdi",
    "push rsi",
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
    "pop rax",
    "clgi",
    "sti",
    "vmload rax",
    "vmrun rax",
    "vmsave rax",
    "cli",
    "xchg rdi, [rsp]",
    "mov rax, [rsp + 8]",
    "vmload rax",
    "stgi",
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
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
);

unsafe extern "sysv64" {
    fn basalt_svm_enter(registers: *mut Registers, guest: u64, host: u64);
}

/// Enters the guest of a VMCB until its next exit. RAX and RSP travel in the VMCB.
///
/// # Safety
/// 1. `guest` is the VMCB of a vCPU that runs on no other CPU, with sound intercepts and nested paging.
/// 2. `host` is this CPU's frame of VMSAVE state, saved since the kernel last changed that state.
/// 3. SVM is on, with the host save area set; interrupts are off.
#[inline]
pub(crate) unsafe fn enter(registers: &mut Registers, guest: Hpa, host: Hpa) {
    // SAFETY: by the caller; the function keeps the System V ABI's callee-saved registers.
    unsafe { basalt_svm_enter(registers, guest.0, host.0) };
}
