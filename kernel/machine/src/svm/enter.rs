//! The few instructions around VMRUN: the only assembly on AMD's exit path.

// UNSAFETY: enters the guest and comes back with its registers in the CPU.
#![allow(unsafe_code)]

use core::arch::global_asm;

use vcpu::{Hpa, Registers};

use crate::guest_registers::{
    load_guest_registers, pop_kept_registers, push_kept_registers, store_guest_registers,
};
use crate::mitigations::guard::{Guard, guard_entry, guard_exit};

// VMRUN keeps RAX, RSP, RIP, RFLAGS, control registers and CS, SS, DS, ES of the host in the host
// save area. FS, GS, TR, LDTR and the system-call MSRs travel by VMLOAD and VMSAVE: the kernel's go back
// at once, because the IDT's stacks need TR and per-CPU data needs GS. Interrupts are held by GIF; IF is
// set during VMRUN, so that the host's interrupts end the run.
// Expects the VMCB's address, the registers' and the host state's on the stack, from its top on; the last two are there still, the registers' also in RDI.
macro_rules! run_guest {
    () => {
        concat!(
            load_guest_registers!(),
            "
             pop rax
             clgi
             sti
             vmload rax
             vmrun rax
             vmsave rax
             cli
             xchg rdi, [rsp]
             mov rax, [rsp + 8]
             vmload rax"
        )
    };
}

global_asm!(
    ".global basalt_svm_enter",
    ".global basalt_svm_open",
    ".global basalt_svm_enter_guarded",
    ".global basalt_svm_open_guarded",
    "basalt_svm_enter:",
    push_kept_registers!(),
    "push rdx",
    "push rdi",
    "push rsi",
    run_guest!(),
    "basalt_svm_open:",
    "stgi",
    store_guest_registers!(),
    "add rsp, 8",
    pop_kept_registers!(),
    "ret",
    // The same with the guard's work: before interrupts are let in, whose handlers are the kernel's.
    "basalt_svm_enter_guarded:",
    push_kept_registers!(),
    "push rcx",
    "push rdx",
    "push rdi",
    "push rsi",
    "mov rsi, rcx",
    guard_entry!(),
    run_guest!(),
    store_guest_registers!(),
    "pop rdx",
    "pop rsi",
    guard_exit!(),
    "basalt_svm_open_guarded:",
    "stgi",
    pop_kept_registers!(),
    "ret",
);

unsafe extern "sysv64" {
    fn basalt_svm_enter(registers: *mut Registers, guest: u64, host: u64);
    fn basalt_svm_open();
    fn basalt_svm_enter_guarded(registers: *mut Registers, guest: u64, host: u64, guard: *mut Guard);
    fn basalt_svm_open_guarded();
}

/// Bytes of STGI.
const STGI_BYTES: u64 = 3;

/// Whether an NMI that came at this address ended a guest's run, or came while the guest ran: such a one is taken at STGI.
pub(crate) fn ended_by_nmi(rip: u64) -> bool {
    [basalt_svm_open as *const (), basalt_svm_open_guarded as *const ()]
        .into_iter()
        .any(|open| rip.wrapping_sub(open as u64) <= STGI_BYTES)
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

/// The same for a vCPU with something to do at entries and exits.
///
/// # Safety
/// As for [`enter`].
pub(crate) unsafe fn enter_guarded(registers: &mut Registers, guest: Hpa, host: Hpa, guard: &mut Guard) {
    // SAFETY: by the caller; the function keeps the System V ABI's callee-saved registers.
    unsafe { basalt_svm_enter_guarded(registers, guest.0, host.0, guard) };
}
