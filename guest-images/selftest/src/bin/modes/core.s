/* The way out of long mode and back, and the exceptions on the other side. See trampoline.rs. */
    .section .rodata.trampoline, "a"
    .balign 16
    .set LOW, {low}
    .set F_RSP, LOW + {rsp}
    .set F_IDT64, LOW + {idt64}
    .set F_IDT32, LOW + {idt32}
    .set F_CR0, LOW + {cr0}
    .set F_CR3, LOW + {cr3}
    .set F_CR4, LOW + {cr4}
    .set F_EFER, LOW + {efer}
    .set F_COMPATIBILITY, LOW + {compatibility}
    .set F_PAYLOAD, LOW + {payload}
    .set F_LONG_CR3, LOW + {long_cr3}
    .set F_ARGUMENT, LOW + {argument}
    .set F_RESUME, LOW + {resume}
    .set F_EXCEPTION, LOW + {exception}
    .set F_INTERRUPTS, LOW + {interrupts}
    .set F_NEXT, LOW + {next_result}
    .set F_RESULTS, LOW + {results}
    .set STACK32, LOW - 0x400

    /* Stores EAX as the next result; changes nothing else. */
    .macro result
    pushl %edi
    movl F_NEXT, %edi
    movl %eax, (%edi)
    addl $4, F_NEXT
    popl %edi
    .endm

    .global trampoline
trampoline:
    .fill {size}

    .code64
    .global trampoline_enter
trampoline_enter:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, F_RSP
    sidt F_IDT64
    pushq $0x18
    pushq $(LOW + enter32 - trampoline)
    lretq

    .code32
enter32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $STACK32, %esp
    cmpl $0, F_COMPATIBILITY
    jne 1f
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    rdmsr
    result                       /* first result: EFER right after paging went off */
    mov F_EFER, %eax
    xor %edx, %edx
    wrmsr
    mov F_CR4, %eax
    mov %eax, %cr4
    mov F_CR3, %eax
    mov %eax, %cr3
    mov F_CR0, %eax
    mov %eax, %cr0
    jmp 2f
2:  lidt F_IDT32
1:  call *F_PAYLOAD
    cli
    cld
    cmpl $0, F_COMPATIBILITY
    jne 3f
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0x20, %eax
    mov %eax, %cr4
    mov F_LONG_CR3, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    mov $0x901, %eax
    xor %edx, %edx
    wrmsr
    mov $0x80010033, %eax
    mov %eax, %cr0
3:  ljmpl $0x08, $(LOW + leave64 - trampoline)

    .code64
leave64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    lidt F_IDT64
    mov F_RSP, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    /* Exceptions of 32-bit protected mode: note them, then go on at F_RESUME. */
    .code32
    .global trampoline_stub_ud
trampoline_stub_ud:
    push $0
    push $6
    jmp exception32
    .global trampoline_stub_bp
trampoline_stub_bp:
    push $0
    push $3
    jmp exception32
    .global trampoline_stub_gp
trampoline_stub_gp:
    push $13
    jmp exception32
    .global trampoline_stub_pf
trampoline_stub_pf:
    push $14
exception32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    popl F_EXCEPTION
    popl F_EXCEPTION + 4
    popl F_EXCEPTION + 8
    popl F_EXCEPTION + 12
    popl F_EXCEPTION + 16
    mov %cr2, %eax
    mov %eax, F_EXCEPTION + 20
    mov F_RESUME + 4, %esp
    jmp *F_RESUME

    .global trampoline_stub_irq
trampoline_stub_irq:
    push %eax
    incl F_INTERRUPTS
    mov $0x20, %al
    out %al, $0x20
    pop %eax
    iretl

