//! What the entry code of both vendors does in the same way: the kernel's registers that a System V function keeps go to
//! the stack, the guest's come from [`vcpu::Registers`], and back. The macros give assembly (Intel syntax) for
//! `global_asm!`, so that each vendor's code stands in one piece.

/// Pushes the registers that a System V function keeps.
macro_rules! push_kept_registers {
    () => {
        "push rbp\npush rbx\npush r12\npush r13\npush r14\npush r15"
    };
}

/// Pops them.
macro_rules! pop_kept_registers {
    () => {
        "pop r15\npop r14\npop r13\npop r12\npop rbx\npop rbp"
    };
}

/// Loads all of a guest's registers but RAX and RSP from the [`vcpu::Registers`] at RDI; RDI comes last. Changes no flags.
macro_rules! load_guest_registers {
    () => {
        "mov rcx, [rdi + 8]
         mov rdx, [rdi + 16]
         mov rbx, [rdi + 24]
         mov rbp, [rdi + 40]
         mov rsi, [rdi + 48]
         mov r8, [rdi + 64]
         mov r9, [rdi + 72]
         mov r10, [rdi + 80]
         mov r11, [rdi + 88]
         mov r12, [rdi + 96]
         mov r13, [rdi + 104]
         mov r14, [rdi + 112]
         mov r15, [rdi + 120]
         mov rdi, [rdi + 56]"
    };
}

/// Stores them into the [`vcpu::Registers`] at RDI; the guest's RDI is on top of the stack, and is popped.
macro_rules! store_guest_registers {
    () => {
        "mov [rdi + 8], rcx
         mov [rdi + 16], rdx
         mov [rdi + 24], rbx
         mov [rdi + 40], rbp
         mov [rdi + 48], rsi
         mov [rdi + 64], r8
         mov [rdi + 72], r9
         mov [rdi + 80], r10
         mov [rdi + 88], r11
         mov [rdi + 96], r12
         mov [rdi + 104], r13
         mov [rdi + 112], r14
         mov [rdi + 120], r15
         pop qword ptr [rdi + 56]"
    };
}

pub(crate) use {load_guest_registers, pop_kept_registers, push_kept_registers, store_guest_registers};

/// The offsets above are [`vcpu::Gpr`] numbers times eight.
const _: () = {
    use vcpu::Gpr;
    assert!(core::mem::size_of::<vcpu::Registers>() == 128);
    assert!(Gpr::Rcx as u8 == 1 && Gpr::Rdx as u8 == 2 && Gpr::Rbx as u8 == 3);
    assert!(Gpr::Rbp as u8 == 5 && Gpr::Rsi as u8 == 6 && Gpr::Rdi as u8 == 7);
    assert!(Gpr::R8 as u8 == 8 && Gpr::R15 as u8 == 15);
};
