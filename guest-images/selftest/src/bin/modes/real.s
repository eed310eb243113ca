/* Real mode: from 32-bit protected mode down, a 16-bit payload, and back. */

    .code32
    /* Arguments: the 16-bit payload; not zero for segments that keep a limit of 4 GiB. */
    .global payload_real
payload_real:
    mov %esp, LOW + real_esp - trampoline
    lidt LOW + real_idt - trampoline
    mov $0x40, %ebx
    cmpl $0, F_ARGUMENT + 4
    je 1f
    mov $0x10, %ebx
1:  ljmpl $0x38, $(LOW + real_leave_protected - trampoline)
real_back:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov LOW + real_esp - trampoline, %esp
    lidt F_IDT32
    ret

    .code16
real_leave_protected:
    mov %bx, %ds
    mov %bx, %es
    mov %bx, %ss
    mov %bx, %fs
    mov %bx, %gs
    mov %cr0, %eax
    and $0xfffffffe, %eax
    mov %eax, %cr0
    ljmpw $0, $(LOW + real_entered - trampoline)
real_entered:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $(LOW - 0x600), %sp
    callw *F_ARGUMENT
    cli
    cld
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $0x18, $(LOW + real_back - trampoline)

    /* Results: CPUID's EAX, IN AL, IN AX, CX and DI moved by REP INSB, the bytes, the byte that OUTSB wrote,
       IA32_APIC_BASE, how often INT 60H ran, CS, CR0. */
    .global real_exits
real_exits:
    xor %eax, %eax
    cpuid
    result
    mov $0x3ff, %dx
    mov $0x5d, %al
    out %al, %dx
    xor %eax, %eax
    in %dx, %al
    result
    mov $0x12345678, %eax
    in $0xe4, %ax
    result
    mov $(LOW >> 4), %ax
    mov %ax, %es
    mov $(real_buffer - trampoline), %di
    mov $3, %cx
    rep insb
    movzwl %cx, %eax
    result
    movzwl %di, %eax
    sub $(real_buffer - trampoline), %eax
    result
    mov LOW + real_buffer - trampoline, %eax
    result
    movb $0x66, LOW + real_buffer - trampoline + 2
    mov $(real_buffer - trampoline), %si
    mov $3, %cx
    rep outsb %es:(%si), %dx
    xor %eax, %eax
    mov %ax, %es
    in %dx, %al
    result
    mov $0x1b, %ecx
    rdmsr
    result
    int $0x60
    int $0x60
    mov F_INTERRUPTS, %eax
    result
    xor %eax, %eax
    mov %cs, %ax
    result
    mov %cr0, %eax
    result
    ret

    /* Result: the APIC's version through a segment of 4 GiB. */
    .global real_large_segments
real_large_segments:
    mov $0xfee00030, %esi
    mov (%esi), %eax
    result
    movl $0x4321, 0x350(%esi)
    mov 0x350(%esi), %eax
    result
    ret

    .global real_interrupts
real_interrupts:
1:  sti
    hlt
    cli
    cmpl $3, F_INTERRUPTS
    jb 1b
    ret

    .macro real_fault_results
    mov F_EXCEPTION, %eax
    result
    movzwl F_EXCEPTION + 8, %eax
    sub $(LOW + 8b - trampoline), %eax
    result
    movl $0xff, F_EXCEPTION
    .endm

    .macro real_resume_at_9
    movw $(LOW + 9f - trampoline), F_RESUME
    mov %sp, F_RESUME + 4
    .endm

    /* #DE, #UD, #GP by the segment limit: vector and IP relative to the instruction. */
    .global real_faults
real_faults:
    movl $0xff, F_EXCEPTION
    real_resume_at_9
    xor %cx, %cx
8:  div %cx
9:  real_fault_results
    real_resume_at_9
8:  ud2
9:  real_fault_results
    real_resume_at_9
    mov $0xffff, %bx
8:  mov (%bx), %ax
9:  real_fault_results
    ret

    .global real_vector_de
real_vector_de:
    movl $0, %cs:F_EXCEPTION
    jmp real_exception
    .global real_vector_ud
real_vector_ud:
    movl $6, %cs:F_EXCEPTION
    jmp real_exception
    .global real_vector_gp
real_vector_gp:
    movl $13, %cs:F_EXCEPTION
real_exception:
    popw F_EXCEPTION + 8
    mov F_RESUME + 4, %sp
    jmpw *F_RESUME

    .global real_vector_irq
real_vector_irq:
    push %ax
    mov $0x20, %al
    out %al, $0x20
    pop %ax
    .global real_vector_software
real_vector_software:
    incl %cs:F_INTERRUPTS
    iretw

    .balign 8
real_esp:
    .long 0
real_idt:
    .short 0x3ff
    .long 0
    .balign 8
real_buffer:
    .fill 16

    .global trampoline_end
trampoline_end:
    .code64
    .text
