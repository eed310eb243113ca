// The Multiboot2 header, the PVH note and the way to long mode. Runs at its physical address with paging off.
//
// A boot loader that starts this kernel by another protocol needs only its own few lines that load EDI with
// its magic number and ESI with the address of its information, and jump to boot_long_mode_checks.

.set MULTIBOOT2_HEADER_MAGIC, 0xe85250d6
.set MULTIBOOT2_LOADER_MAGIC, 0x36d76289
.set COM1, 0x3f8
.set CPUID_EXTENDED, 0x80000000
.set CPUID_EXTENDED_FEATURES, 0x80000001
.set CPUID_LONG_MODE_BIT, 29
.set IA32_EFER, 0xc0000080
.set EFER_LME, 0x100
.set CR4_PAE, 0x20
.set CR0_PG_WP_NE_ET_MP_PE, 0x80010033
.set RFLAGS_FIXED, 0x2
.set TABLE, 0x3            // present, writable
.set LARGE_PAGE, 0x83      // present, writable, 2 MiB
.set LARGE_PAGE_BYTES, 0x200000
.set VGA_TEXT, 0xb8000

.section .boot.header, "a"
.balign 8
boot_header:
    .long MULTIBOOT2_HEADER_MAGIC
    .long 0                                    // 32-bit protected mode of i386
    .long boot_header_end - boot_header
    .long 0x100000000 - (MULTIBOOT2_HEADER_MAGIC + (boot_header_end - boot_header))
    .balign 8
    .short 3, 0                                // entry address
    .long 12
    .long boot_entry
    .balign 8
    .short 6, 0                                // modules on page boundaries
    .long 8
    .balign 8
    .short 5, 1                                // framebuffer, optional
    .long 20
    .long 0, 0, 0                              // whatever width, height and depth suit the screen
    .balign 8
    .short 0, 0                                // end
    .long 8
boot_header_end:

// Tells loaders of the PVH protocol where to enter. Eight bytes, as some read the address as that of ELF64.
.set XEN_ELFNOTE_PHYS32_ENTRY, 18
.section .note.Xen, "a", @note
.balign 4
    .long pvh_name_end - pvh_name
    .long pvh_address_end - pvh_address
    .long XEN_ELFNOTE_PHYS32_ENTRY
pvh_name:
    .asciz "Xen"
pvh_name_end:
    .balign 4
pvh_address:
    .quad pvh_entry
pvh_address_end:

.section .boot.text, "ax"
.code32
.global boot_entry
boot_entry:
    cli
    mov esp, offset boot_stack32_end
    push RFLAGS_FIXED          // direction up, no nested task, no alignment checks
    popfd
    mov edi, eax
    mov esi, ebx
    rdtsc
    mov [boot_entered], eax
    mov [boot_entered + 4], edx
    cmp edi, MULTIBOOT2_LOADER_MAGIC
    mov ebp, offset boot_text_no_multiboot2
    jne boot_refuse
    jmp boot_long_mode_checks

// Entered by the PVH protocol: as above, but with EBX alone telling of the information, and with a stack segment
// that nobody promises.
pvh_entry:
    cli
    lgdt [boot_gdt_pointer]
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, offset boot_stack32_end
    push RFLAGS_FIXED
    popfd
    mov edi, {pvh_magic}
    mov esi, ebx
    rdtsc
    mov [boot_entered], eax
    mov [boot_entered + 4], edx

boot_long_mode_checks:
    mov ebp, offset boot_text_no_long_mode
    mov eax, CPUID_EXTENDED
    cpuid
    cmp eax, CPUID_EXTENDED_FEATURES
    jb boot_refuse
    mov eax, CPUID_EXTENDED_FEATURES
    cpuid
    bt edx, CPUID_LONG_MODE_BIT
    jnc boot_refuse

    // The first 4 GiB in 2 MiB pages, three times: where they are, at the direct map
    // (0xffff800000000000), and the first GiB at the kernel's 0xffffffff80000000. The loader has zeroed
    // the tables.
    mov eax, offset boot_pdpt_low
    or eax, TABLE
    mov [boot_pml4], eax
    mov [boot_pml4 + 256 * 8], eax
    mov eax, offset boot_pdpt_high
    or eax, TABLE
    mov [boot_pml4 + 511 * 8], eax
    mov eax, offset boot_pd
    or eax, TABLE
    mov [boot_pdpt_high + 510 * 8], eax
    xor ecx, ecx
2:  mov [boot_pdpt_low + ecx * 8], eax
    add eax, 4096
    inc ecx
    cmp ecx, 4
    jb 2b
    mov eax, LARGE_PAGE
    xor ecx, ecx
3:  mov [boot_pd + ecx * 8], eax
    add eax, LARGE_PAGE_BYTES
    inc ecx
    cmp ecx, 4 * 512
    jb 3b

    mov eax, offset boot_pml4
    mov cr3, eax
    // Not what firmware left: with 57-bit addresses still on, say, four levels of tables would not do.
    mov eax, CR4_PAE
    mov cr4, eax
    mov ecx, IA32_EFER
    rdmsr
    or eax, EFER_LME
    wrmsr
    mov eax, CR0_PG_WP_NE_ET_MP_PE
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 0x08
    mov eax, offset boot_long
    push eax
    retf

// Says the text at EBP on COM1 and on the VGA text screen, and stops.
boot_refuse:
    mov dx, COM1 + 3
    mov al, 0x80               // divisor latch
    out dx, al
    mov dx, COM1
    mov al, 1                  // 115200 baud
    out dx, al
    mov dx, COM1 + 1
    mov al, 0
    out dx, al
    mov dx, COM1 + 3
    mov al, 3                  // eight bits, no parity, one stop bit
    out dx, al
    mov dx, COM1 + 1
    mov al, 0
    out dx, al
    mov ebx, VGA_TEXT
4:  mov al, [ebp]
    inc ebp
    test al, al
    jz 7f
    cmp al, ' '
    jb 8f
    mov [ebx], al
    mov byte ptr [ebx + 1], 0x4f
    add ebx, 2
8:  mov ah, al
    mov ecx, 1000000           // a UART that is not there must not hold us
    mov dx, COM1 + 5
5:  in al, dx
    test al, 0x20
    jnz 6f
    dec ecx
    jnz 5b
6:  mov dx, COM1
    mov al, ah
    out dx, al
    jmp 4b
7:  hlt
    jmp 7b

.code64
boot_long:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    movabs rsp, offset {stack} + {stack_bytes}
    xor ebp, ebp               // ends the chain of frames
    mov edi, edi
    mov esi, esi
    mov rdx, [boot_entered]
    movabs rax, offset {rust_entry}
    call rax
    ud2

.section .boot.rodata, "a"
.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff   // 64-bit code
    .quad 0x00cf92000000ffff   // data
boot_gdt_end:
boot_gdt_pointer:
    .short boot_gdt_end - boot_gdt - 1
    .long boot_gdt
boot_text_no_long_mode:
    .asciz "BASALT CANNOT RUN HERE: this CPU has no 64-bit mode. What to do: use a 64-bit PC with Intel VT-x or AMD-V.\r\n"
boot_text_no_multiboot2:
    .asciz "BASALT CANNOT RUN HERE: the boot loader speaks neither Multiboot2 nor PVH. What to do: load it with GRUB's multiboot2 command.\r\n"

.section .boot.bss, "aw", @nobits
.balign 4096
boot_pml4:
    .skip 4096
boot_pdpt_low:
    .skip 4096
boot_pdpt_high:
    .skip 4096
boot_pd:
    .skip 4 * 4096
boot_stack32:
    .skip 4096
boot_stack32_end:
boot_entered:                  // the TSC when the loader jumped here
    .skip 8

.text
