//! The first instructions: four ways in, one long-mode state out, then [`rust_start`].
//!
//! - `start`, the ELF file's entry, in 64-bit mode: RSI = boot_params (The Linux/x86 Boot Protocol, "64-bit Boot Protocol").
//! - `start` in 32-bit protected mode without paging: EAX = magic, EBX = boot information (Multiboot, "I386 machine
//!   state").
//! - `start_pvh`: 32-bit protected mode without paging, EBX = hvm_start_info (Xen, "x86/HVM direct boot ABI").
//! - `start_multiboot2`: the same state, EAX = magic, EBX = boot information (Multiboot2, "I386 machine state").

use core::arch::global_asm;

use crate::boot::{self, EntryRegisters};
use crate::{descriptor, runner};

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4                      /* length of the name */
    .long 8                      /* length of the value */
    .long 18                     /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad start_pvh

    .section .multiboot2, "a"
    .balign 8
    .long 0x1badb002             /* Multiboot: modules on pages, memory information */
    .long 3
    .long 0x100000000 - (0x1badb002 + 3)
    .balign 8
10: .long 0xe85250d6
    .long 0                      /* i386 */
    .long 11f - 10b
    .long 0x100000000 - (0xe85250d6 + (11f - 10b))
    .short 3, 0                  /* entry address, overrides the ELF entry */
    .long 12
    .long start_multiboot2
    .long 0
    .short 0, 0
    .long 8
11:

    .section .data.boot_tables, "aw"
    .balign 4096
    .global boot_pml4
boot_pml4:
    .quad boot_pdpt + 3
    .fill 511, 8, 0
boot_pdpt:
    .quad boot_pd + 3
    .quad boot_pd + 0x1003
    .quad boot_pd + 0x2003
    .quad boot_pd + 0x3003
    .fill 508, 8, 0
    .global boot_pd
boot_pd:                         /* 4 GiB in 2 MiB pages, the last one uncached */
    .set entry, 0
    .rept 1536
    .quad (entry << 21) | 0x83
    .set entry, entry + 1
    .endr
    .rept 512
    .quad (entry << 21) | 0x9b
    .set entry, entry + 1
    .endr

    .section .bss.boot_stack, "aw", @nobits
    .balign 4096
    .fill 65536
boot_stack_top:

    .section .data.boot_gdt_pointer, "aw"
boot_gdt_pointer:
    .short {gdt_limit}
    .quad {gdt}

    .section .data.entry_registers, "aw"
    .balign 4
    .global entry_registers
entry_registers:
    .fill {entry_registers}, 4, 0

    .section .data.entry_tsc, "aw"
    .balign 8
    .global entry_tsc
entry_tsc:
    .quad 0

    .section .text.start, "ax"
    .code32
    .global start
start:                           /* bytes that tell 32-bit from 64-bit mode; EBX, ESI and ECX = EAX survive */
    mov %eax, %ecx
    xor %eax, %eax
    inc %eax                     /* in 64-bit mode the prefix REX, */
    nop                          /* which means nothing here */
    test %eax, %eax
    jz start_linux
    mov %ecx, %eax
    mov $3, %ebp
    jmp 1f
start_multiboot2:
    mov $2, %ebp
    jmp 1f
start_pvh:
    mov $1, %ebp
1:  mov %eax, entry_registers    /* in the order of `EntryRegisters` */
    mov %ebx, entry_registers+4
    rdtsc
    mov %eax, entry_tsc
    mov %edx, entry_tsc+4
    mov %cr0, %eax
    mov %eax, entry_registers+8
    mov %cr4, %eax
    mov %eax, entry_registers+12
    mov $0xc0000080, %ecx
    rdmsr
    mov %eax, entry_registers+16
    mov $boot_stack_top, %esp
    pushf
    pop %eax
    mov %eax, entry_registers+20
    mov %cs, entry_registers+24
    mov %ds, entry_registers+28
    mov %es, entry_registers+32
    mov %ss, entry_registers+36
    mov %fs, entry_registers+40
    mov %gs, entry_registers+44
    cli
    cld
    mov %ebx, %esi
    lgdt boot_gdt_pointer
    mov $0x20, %eax              /* CR4.PAE */
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx        /* EFER.SCE, LME, NXE */
    mov $0x901, %eax
    xor %edx, %edx
    wrmsr
    mov $0x80010033, %eax        /* CR0.PG, WP, NE, ET, MP, PE */
    mov %eax, %cr0
    ljmpl $0x08, $start_long

    .code64
start_linux:
    cli
    cld
    rdtsc
    mov %eax, entry_tsc
    mov %edx, entry_tsc+4
    xor %ebp, %ebp
    mov $boot_stack_top, %rsp
    lgdt boot_gdt_pointer
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax
    wrmsr
    mov $boot_pml4, %eax
    mov %rax, %cr3
    mov $0x20, %eax
    mov %rax, %cr4
    mov $0x80010033, %eax
    mov %rax, %cr0
    pushq $0x08
    pushq $start_long
    lretq
start_long:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    lldt %ax
    mov $boot_stack_top, %rsp
    mov %ebp, %edi               /* which protocol; RSI still holds its pointer */
    mov %esi, %esi
    xor %ebp, %ebp
    call {start}
    ud2
"#,
    gdt = sym descriptor::GDT,
    gdt_limit = const descriptor::GDT_LIMIT,
    start = sym rust_start,
    entry_registers = const size_of::<EntryRegisters>() / 4,
    options(att_syntax)
);

unsafe extern "C" {
    safe fn selftest_main() -> !;
    static entry_registers: EntryRegisters;
    static entry_tsc: u64;
}

/// In long mode, on the boot stack. `protocol`: 0 Linux, 1 PVH, 2 Multiboot2, 3 Multiboot; `pointer`: its structure.
extern "C" fn rust_start(protocol: u32, pointer: u64) -> ! {
    // SAFETY: both written by the entry code before any Rust code ran.
    let (registers, tsc) = unsafe { (entry_registers, entry_tsc) };
    boot::read(protocol, pointer, registers, tsc);
    runner::bring_up();
    selftest_main()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    crate::exception::escape_from_panic(info)
}
