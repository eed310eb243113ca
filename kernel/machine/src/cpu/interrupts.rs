//! Entry stubs for all 256 vectors and the way from there to a handler.

// UNSAFETY: the stubs are assembly that saves and restores the interrupted registers.
#![allow(unsafe_code)]

use core::arch::naked_asm;

use spin::Once;

use super::exceptions;
use crate::apic::local;
use crate::hardware;

/// Vectors of the IDT.
pub(super) const VECTORS: usize = 256;
/// Distance of two stubs in bytes.
pub(super) const STUB_BYTES: usize = 8;
/// The first vector that is not an exception.
const FIRST_INTERRUPT: usize = 32;

/// The interrupted state as the stubs put it on the stack.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct InterruptFrame {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rbp: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rbx: u64,
    pub(crate) rax: u64,
    pub(crate) vector: u64,
    pub(crate) error_code: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

impl InterruptFrame {
    /// General registers with their names, for a dump.
    pub(crate) const fn general_registers(&self) -> [(&'static str, u64); 15] {
        [
            ("rax", self.rax),
            ("rbx", self.rbx),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("rsi", self.rsi),
            ("rdi", self.rdi),
            ("rbp", self.rbp),
            ("r8", self.r8),
            ("r9", self.r9),
            ("r10", self.r10),
            ("r11", self.r11),
            ("r12", self.r12),
            ("r13", self.r13),
            ("r14", self.r14),
            ("r15", self.r15),
        ]
    }
}

/// Handlers by vector, from [`FIRST_INTERRUPT`] on. A handler ends its interrupt at the controller itself.
static HANDLERS: [Once<fn()>; VECTORS - FIRST_INTERRUPT] = [const { Once::new() }; VECTORS - FIRST_INTERRUPT];

/// Gives `vector` a handler, which runs with interrupts off. The first one stays; exceptions take none.
pub(crate) fn set_handler(vector: u8, handler: fn()) {
    if let Some(slot) = usize::from(vector).checked_sub(FIRST_INTERRUPT).and_then(|index| HANDLERS.get(index))
    {
        slot.call_once(|| handler);
    }
}

/// Address of the stub of vector 0.
pub(super) fn stubs() -> u64 {
    let first = entry_stubs as *const () as u64;
    assert!(first.is_multiple_of(STUB_BYTES as u64), "the stubs must start where a stub may");
    first
}

/// 256 stubs, [`STUB_BYTES`] apart. Each leaves its vector on the stack, with its uppermost bit in all bits above.
#[unsafe(naked)]
extern "C" fn entry_stubs() {
    naked_asm!(
        ".set vector, 0",
        ".rept 256",
        ".balign {bytes}",
        ".byte 0x6a, vector", // push imm8
        // Vectors whose exception pushes an error code: 8, 10 to 14, 17, 21, 29, 30. (An immediate jump of 5 bytes, whatever the distance.)
        ".byte 0xe9",
        ".if vector > 31",
        ".long {without_code} - . - 4",
        ".elseif ((0x60227d00 >> vector) & 1) == 0",
        ".long {without_code} - . - 4",
        ".else",
        ".long {common} - . - 4",
        ".endif",
        ".set vector, vector + 1",
        ".endr",
        bytes = const STUB_BYTES,
        without_code = sym entry_without_code,
        common = sym entry_common,
    )
}

/// Puts the zero under the vector that stands for an error code where the CPU has pushed none.
#[unsafe(naked)]
extern "C" fn entry_without_code() {
    naked_asm!("push [rsp]", "mov qword ptr [rsp + 8], 0", "jmp {common}", common = sym entry_common)
}

/// Saves the interrupted registers, calls [`interrupt_entry`] and returns from the interrupt. The CPU has
/// aligned the stack before it pushed, so the call is aligned too. The frame pointer is left as it was, so a
/// backtrace goes on through the interrupt.
#[unsafe(naked)]
extern "C" fn entry_common() {
    naked_asm!(
        "push rax",
        "movzx eax, byte ptr [rsp + 8]",
        "mov [rsp + 8], rax",
        "push rbx",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push rbp",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        "call {entry}",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rbp",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rbx",
        "pop rax",
        "add rsp, 16",
        "iretq",
        entry = sym interrupt_entry,
    )
}

/// Where all vectors meet.
extern "C" fn interrupt_entry(frame: &mut InterruptFrame) {
    let Some(index) = (frame.vector as usize).checked_sub(FIRST_INTERRUPT) else {
        exceptions::handle(frame);
        return;
    };
    match HANDLERS.get(index).and_then(Once::get) {
        Some(handler) => handler(),
        None if hardware::interrupts::came(frame.vector as u8) => {}
        None => local::end_unexpected(frame.vector as u8),
    }
}
