/* The first instructions of a processor that a start-up message reaches. The first part is copied to a page below 1 MiB,
   where CS says which; what it finds in CR0 goes to Rust. */

    .section .rodata.secondary, "a"
    .balign 16
    .code16
    .global secondary_trampoline
secondary_trampoline:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    mov %cr0, %eax
    mov %eax, %ebp
    lgdtl 1f - secondary_trampoline
    or $1, %eax
    mov %eax, %cr0
    ljmpl $0x18, $secondary_start32
    .balign 4
1:  .short {gdt_limit}
    .long {gdt}
    .global secondary_trampoline_end
secondary_trampoline_end:

    .section .text.secondary, "ax"
    .code32
secondary_start32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
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
    ljmpl $0x08, $secondary_start64

    .code64
secondary_start64:
    mov $1, %eax                 /* the initial APIC id tells which processor this is */
    cpuid
    shr $24, %ebx
    movzbl {numbers}(%rbx), %edi
    test %edi, %edi
    jz 2f
    lea 1(%rdi), %eax
    imul ${stack_size}, %rax, %rax   /* where its stack ends */
    lea {stacks}(%rax), %rsp
    mov %ebp, %esi
    xor %ebp, %ebp
    call {main}
2:  cli
    hlt
    jmp 2b
