// The first code of a CPU that is being started: from 16-bit real mode, at the start of a page below 1 MiB to which
// this is copied, to the kernel in 64-bit mode. It uses no stack before the kernel's and writes only into its
// parameters, before paging is on. `machine::smp::Parameters` says what they are; they begin at {parameters}.

.set SEGMENT_DATA, 0x18
.set TICKET_OFFERED, {offered}
.set TICKET_TAKEN, {taken}
.set TRAMPOLINE_CPUID_EXTENDED, 0x80000000
.set TRAMPOLINE_CPUID_FEATURES, 0x80000001
.set TRAMPOLINE_LONG_MODE_BIT, 29
.set TRAMPOLINE_NO_EXECUTE_BIT, 20
.set TRAMPOLINE_EFER, 0xc0000080
.set EFER_LME_NXE, 0x900
.set TRAMPOLINE_CR4_PAE, 0x20
.set TRAMPOLINE_CR0, 0x80010033    // PG, WP, NE, ET, MP, PE; caching on

.section .rodata.trampoline, "a"
.balign 16
.code16
trampoline_start:
    .byte 0xeb, trampoline_16 - trampoline_start - 2           // jmp short
    .balign {parameters}
    .skip {parameters_bytes}
trampoline_16:
    cli
    cld
    mov ax, cs
    mov ds, ax
    xor ebp, ebp
    mov bp, ax
    shl ebp, 4                 // the page's address
    // Whoever comes when nobody is waited for, or second, stays here.
    xor bx, bx
    mov eax, TICKET_OFFERED
    mov ecx, TICKET_TAKEN
    lock cmpxchg dword ptr [bx + {ticket}], ecx
    jne trampoline_stay_16
    lgdt [bx + {gdt_pointer}]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xff, 0x6f, {far_32}                           // jmp far dword ptr [bx + far_32]
trampoline_stay_16:
    hlt
    jmp trampoline_stay_16

.code32
trampoline_32:
    mov ax, SEGMENT_DATA
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, TRAMPOLINE_CPUID_EXTENDED
    cpuid
    cmp eax, TRAMPOLINE_CPUID_FEATURES
    jb trampoline_unfit
    mov eax, TRAMPOLINE_CPUID_FEATURES
    cpuid
    bt edx, TRAMPOLINE_LONG_MODE_BIT
    jnc trampoline_unfit
    bt edx, TRAMPOLINE_NO_EXECUTE_BIT
    jnc trampoline_unfit
    mov eax, TRAMPOLINE_CR4_PAE
    mov cr4, eax
    mov eax, [ebp + {root}]
    mov cr3, eax
    mov ecx, TRAMPOLINE_EFER
    rdmsr
    or eax, EFER_LME_NXE
    wrmsr
    mov eax, TRAMPOLINE_CR0
    mov cr0, eax
    .byte 0xff, 0x6d, {far_64}                                 // jmp far dword ptr [ebp + far_64]
trampoline_unfit:
    mov dword ptr [ebp + {ticket}], {unfit}
trampoline_stay_32:
    hlt
    jmp trampoline_stay_32

.code64
trampoline_64:
    mov ebp, ebp
    mov rsp, [rbp + {stack}]
    mov rdi, [rbp + {argument}]
    mov rax, [rbp + {entry}]
    xor ebp, ebp               // ends the chain of frames
    call rax
    ud2
trampoline_end:

// Where its 32-bit and its 64-bit code begin, in bytes from the start.
.balign 4
trampoline_entries:
    .long trampoline_32 - trampoline_start
    .long trampoline_64 - trampoline_start

.text
