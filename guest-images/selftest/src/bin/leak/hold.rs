//! All general registers at once.

use selftest::probe;

use super::state::{Found, GENERAL};

/// RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
const COUNT: usize = 15;

/// What is done while the registers hold their values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    /// Counts down.
    Spin,
    /// The same with PAUSE.
    Pause,
    /// Once: sleeps until an interrupt.
    Sleep,
}

/// Holds values of the mark in all general registers while it loops so many times. The first one that is another then.
///
/// # Errors
/// A register has changed.
pub(crate) fn registers(mark: u64, kind: Loop, times: u64) -> Result<(), Found> {
    let mut values = [0; COUNT];
    for (index, value) in values.iter_mut().enumerate() {
        *value = mark.rotate_left(index as u32 * 4) ^ index as u64;
    }
    let mut seen = [0_u64; COUNT];
    hold(&values, &mut seen, kind, times.max(1));
    for (value, expected) in seen.into_iter().zip(values) {
        if value != expected {
            return Err(Found { register: GENERAL, value, expected });
        }
    }
    Ok(())
}

/// On the stack while the registers are full: the count, and the address for what was seen.
fn hold(values: &[u64; COUNT], seen: &mut [u64; COUNT], kind: Loop, times: u64) {
    macro_rules! hold {
        ($($body:literal),+) => {
            probe!(
                "push rbx", "push rbp", "push rsi", "push rdx",
                "mov rax, [rdi]", "mov rbx, [rdi + 8]", "mov rcx, [rdi + 16]", "mov rdx, [rdi + 24]",
                "mov rsi, [rdi + 32]", "mov rbp, [rdi + 48]", "mov r8, [rdi + 56]", "mov r9, [rdi + 64]",
                "mov r10, [rdi + 72]", "mov r11, [rdi + 80]", "mov r12, [rdi + 88]", "mov r13, [rdi + 96]",
                "mov r14, [rdi + 104]", "mov r15, [rdi + 112]", "mov rdi, [rdi + 40]",
                $($body),+,
                "xchg rdi, [rsp + 8]",
                "mov [rdi], rax", "mov [rdi + 8], rbx", "mov [rdi + 16], rcx", "mov [rdi + 24], rdx",
                "mov [rdi + 32], rsi", "mov [rdi + 48], rbp", "mov [rdi + 56], r8", "mov [rdi + 64], r9",
                "mov [rdi + 72], r10", "mov [rdi + 80], r11", "mov [rdi + 88], r12", "mov [rdi + 96], r13",
                "mov [rdi + 104], r14", "mov [rdi + 112], r15", "mov rax, [rsp + 8]", "mov [rdi + 40], rax",
                "add rsp, 16", "pop rbp", "pop rbx",
                inout("rdi") values.as_ptr() => _, inout("rsi") seen.as_mut_ptr() => _, inout("rdx") times => _,
                out("rax") _, out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
                out("r13") _, out("r14") _, out("r15") _
            )
        };
    }
    match kind {
        Loop::Spin => hold!("2: dec qword ptr [rsp]", "jnz 2b"),
        Loop::Pause => hold!("2: pause", "dec qword ptr [rsp]", "jnz 2b"),
        Loop::Sleep => hold!("sti", "hlt", "cli"),
    }
}
