/* Payloads of 32-bit modes. Each is a near function that may change every register but ESP. */

    .code32
    /* Exits of each kind. Arguments: a buffer of 16 bytes, the local APIC's page (both linear).
       Results: EFER without paging, CPUID's EAX and EBX, IN AL, IN AX, ECX and bytes moved by REP INSB, the buffer,
       the byte that OUTSB wrote, IA32_APIC_BASE, APIC version, APIC count after ADD, CR0, CR3, CR4, CS, EFER. */
    .global payload_exits32
payload_exits32:
    xor %eax, %eax
    cpuid
    result
    mov %ebx, %eax
    result
    mov $0x3ff, %edx
    mov $0x5d, %al
    out %al, %dx
    xor %eax, %eax
    in %dx, %al
    result
    mov $0x12345678, %eax
    mov $0x0e50, %edx
    in %dx, %ax
    result
    mov F_ARGUMENT, %edi
    mov $3, %ecx
    mov $0x3ff, %edx
    rep insb
    mov %ecx, %eax
    result
    mov %edi, %eax
    sub F_ARGUMENT, %eax
    result
    mov F_ARGUMENT, %esi
    mov (%esi), %eax
    result
    movb $0x66, (%esi)
    outsb
    xor %eax, %eax
    in %dx, %al
    result
    mov $0x1b, %ecx
    rdmsr
    result
    mov F_ARGUMENT + 4, %esi
    mov 0x30(%esi), %eax
    result
    movl $0x1234, 0x380(%esi)
    addl $0x10000, 0x380(%esi)
    mov 0x380(%esi), %eax
    result
    cmpl $0, F_COMPATIBILITY
    jne 1f
    mov %cr0, %eax
    result
    mov %cr3, %eax
    result
    mov %cr4, %eax
    result
1:  xor %eax, %eax
    mov %cs, %eax
    result
    mov $0xc0000080, %ecx
    rdmsr
    result
    ret

    /* For a visited mode that is long mode: goes on in 64-bit code with the IDT and on the stack from before the visit.
       Argument: a C function. */
    .global payload_long64
payload_long64:
    mov %esp, %ebx
    ljmpl $0x08, $(LOW + 1f - trampoline)
    .code64
1:  mov F_RSP, %rsp
    and $-16, %rsp
    lidt F_IDT64
    mov F_ARGUMENT, %eax
    call *%rax
    cli
    pushq $0x18
    pushq $(LOW + 1f - trampoline)
    lretq
    .code32
1:  mov $0x10, %eax
    mov %eax, %ss
    mov %ebx, %esp
    lidt F_IDT32
    ret

    /* Notes the vector, the error code, EIP relative to the faulting instruction at 8:, and CR2. */
    .macro fault_results
    mov F_EXCEPTION, %eax
    result
    mov F_EXCEPTION + 4, %eax
    result
    mov F_EXCEPTION + 8, %eax
    sub $(LOW + 8b - trampoline), %eax
    result
    mov F_EXCEPTION + 20, %eax
    result
    movl $0xff, F_EXCEPTION
    .endm

    .macro resume_at_9
    movl $(LOW + 9f - trampoline), F_RESUME
    mov %esp, F_RESUME + 4
    .endm

    /* #UD, #GP with a selector, then a read of the first argument's address and a write to the second's. */
    .global payload_faults32
payload_faults32:
    movl $0xff, F_EXCEPTION
    resume_at_9
8:  ud2
9:  fault_results
    resume_at_9
    mov $0x78, %edx
8:  mov %edx, %ds
9:  fault_results
    resume_at_9
    mov F_ARGUMENT, %edx
8:  mov (%edx), %edx
9:  fault_results
    resume_at_9
    mov F_ARGUMENT + 4, %edx
8:  mov %edx, (%edx)
9:  fault_results
    ret

    /* Three timer interrupts in HLT. */
    .global payload_interrupts32
payload_interrupts32:
1:  sti
    hlt
    cli
    cmpl $3, F_INTERRUPTS
    jb 1b
    ret

    /* Code with base LOW (selector 58H), data with the APIC's base (60H). Results: CPUID's EAX, IN AL, APIC version. */
    .global payload_segments32
payload_segments32:
    lcall $0x58, $(based - trampoline)
    ret
based:
    xor %eax, %eax
    cpuid
    result
    mov $0x3ff, %edx
    mov $0x3a, %al
    out %al, %dx
    xor %eax, %eax
    in %dx, %al
    result
    mov $0x60, %eax
    mov %eax, %fs
    mov %fs:0x30, %eax
    result
    lretl

    /* 16-bit code segment (38H) in protected mode. Results: CPUID's EAX, IN AL, IN AX, APIC version. */
    .global payload_protected16
payload_protected16:
    ljmpl $0x38, $(LOW + protected16 - trampoline)
    .code16
protected16:
    xor %eax, %eax
    cpuid
    result
    mov $0x3ff, %dx
    mov $0x4b, %al
    out %al, %dx
    xor %eax, %eax
    in %dx, %al
    result
    mov $0x12345678, %eax
    in $0xe4, %ax
    result
    mov $0xfee00030, %esi
    mov (%esi), %eax
    result
    ljmpl $0x18, $(LOW + protected16_end - trampoline)
    .code32
protected16_end:
    ret

    /* Virtual-8086 mode, with the 32-bit TSS of selector 58H. Results: what CPUID returned there, the vector, error
       code and flags that ended it (INT3), then the same for OUT, which the missing I/O map forbids. */
    .global payload_virtual8086
payload_virtual8086:
    mov $0x58, %eax
    ltr %ax
    mov $(LOW + virtual_cpuid - trampoline), %ebx
    call enter_virtual
    mov $(LOW + virtual_out - trampoline), %ebx
    call enter_virtual
    ret
enter_virtual:
    movl $0xff, F_EXCEPTION
    resume_at_9
    pushl $0
    pushl $0
    pushl $0
    pushl $0
    pushl $0
    pushl $(LOW - 0x800)
    pushl $0x23002
    pushl $0
    pushl %ebx
    iretl
9:  mov F_EXCEPTION, %eax
    result
    mov F_EXCEPTION + 4, %eax
    result
    mov F_EXCEPTION + 16, %eax
    result
    ret
    .code16
virtual_cpuid:
    xor %eax, %eax
    cpuid
    result
    int3
virtual_out:
    out %al, $0x80
    int3

    /* INTO, which only 32-bit code has. */
    .code32
    .global payload_into
payload_into:
    mov $0x7f, %al
    add $1, %al
    into
    mov $0x600d, %eax
    result
    ret
