//! GDT, IDT and TSS (SDM vol. 3, "Protected-Mode Memory Management", "Interrupt and Exception Handling").

use core::arch::{asm, global_asm};

use crate::smp::{self, MAX_CPUS};
use crate::{Global, PerCpu};

/// Selector of 64-bit kernel code.
pub const KERNEL_CODE: u16 = 0x08;
/// Selector of flat kernel data.
pub const KERNEL_DATA: u16 = 0x10;
/// Selector of flat 32-bit kernel code.
pub const KERNEL_CODE32: u16 = 0x18;
/// Selector of flat 32-bit user code.
pub const USER_CODE32: u16 = 0x20 | 3;
/// Selector of flat user data.
pub const USER_DATA: u16 = 0x28 | 3;
/// Selector of 64-bit user code.
pub const USER_CODE: u16 = 0x30 | 3;
/// Selector of 16-bit kernel code with base 0.
pub const KERNEL_CODE16: u16 = 0x38;
/// Selector of 16-bit kernel data with base 0 and limit 64 KiB.
pub const KERNEL_DATA16: u16 = 0x40;
/// Selector of the TSS (two entries).
pub const TSS: u16 = 0x48;
/// Selector of the first of four entries that tests may write.
pub const SCRATCH: u16 = 0x58;
/// A selector beyond the GDT's limit.
pub const BEYOND_LIMIT: u16 = 0x78;

/// Bytes of the GDT, less one.
pub const GDT_LIMIT: u16 = 15 * 8 - 1;

/// Flat 64-bit code, DPL 0.
pub const CODE64: u64 = 0x00af_9b00_0000_ffff;
/// Flat data, DPL 0.
pub const DATA: u64 = 0x00cf_9300_0000_ffff;
/// Flat 32-bit code, DPL 0.
pub const CODE32: u64 = 0x00cf_9b00_0000_ffff;
/// The present bit of a descriptor.
pub const PRESENT: u64 = 1 << 47;
/// DPL 3 in a descriptor.
pub const DPL3: u64 = 3 << 45;

/// The GDT, written by [`install`] (TSS) and by tests (scratch entries).
pub static GDT: Global<[u64; 15]> = Global::new([
    0,
    CODE64,
    DATA,
    CODE32,
    CODE32 | DPL3,
    DATA | DPL3,
    CODE64 | DPL3,
    0x0000_9b00_0000_ffff,
    0x0000_9300_0000_ffff,
    0,
    0,
    0,
    0,
    0,
    0,
]);

/// Interrupt-stack-table slot of #DF.
pub const IST_DOUBLE_FAULT: u8 = 1;
/// Interrupt-stack-table slot of NMI.
pub const IST_NMI: u8 = 2;
/// Interrupt-stack-table slot of #MC.
pub const IST_MACHINE_CHECK: u8 = 3;
/// Interrupt-stack-table slot for tests.
pub const IST_SCRATCH: u8 = 4;

const TSS_WORDS: usize = 26;
const IST_STACK_SIZE: usize = 8192;
const IST_STACKS: usize = 5;
/// Value of the I/O map base that lies beyond the TSS limit: no bitmap.
const NO_IO_MAP: u32 = 104 << 16;

#[repr(C, align(16))]
struct Stack([u8; IST_STACK_SIZE]);

static TSS_STORE: Global<[u32; TSS_WORDS]> = Global::new([0; TSS_WORDS]);
static STACKS: Global<[Stack; IST_STACKS]> = Global::new([const { Stack([0; IST_STACK_SIZE]) }; IST_STACKS]);
static IDT: Global<[[u64; 2]; 256]> = Global::new([[0; 2]; 256]);

/// The stack that interrupt-stack-table slot `slot` (1..) points to; slot 0 is the stack for entries from CPL 3.
/// Start and end address.
pub fn ist_stack(slot: u8) -> (u64, u64) {
    let start = STACKS.as_ptr() as u64 + u64::from(slot) * IST_STACK_SIZE as u64;
    (start, start + IST_STACK_SIZE as u64)
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Writes TSS, GDT and IDT afresh and loads them. Tests may have changed each of them.
pub fn install() {
    let gdt = if smp::current() == 0 {
        TSS_STORE.with(|tss| write_tss(tss, |slot| ist_stack(slot).1));
        GDT.with(|gdt| write_gdt(gdt, TSS_STORE.as_ptr() as u64));
        for vector in 0..=255 {
            set_gate(vector, stub_address(vector), KERNEL_CODE, default_attributes(vector));
        }
        GDT.as_ptr() as u64
    } else {
        install_secondary()
    };
    load_idt(IDT.as_ptr() as u64, 4095);
    load_gdt(gdt);
}

/// GDT and TSS of a processor other than the first. The IDT is common to all.
#[derive(Clone, Copy)]
struct Tables {
    gdt: [u64; 15],
    tss: [u32; TSS_WORDS],
}

static TABLES: PerCpu<Tables> = PerCpu::new([Tables { gdt: [0; 15], tss: [0; TSS_WORDS] }; MAX_CPUS]);

fn install_secondary() -> u64 {
    TABLES.with(|tables| {
        write_tss(&mut tables.tss, smp::interrupt_stack);
        write_gdt(&mut tables.gdt, (&raw const tables.tss) as u64);
        (&raw const tables.gdt) as u64
    })
}

fn load_gdt(base: u64) {
    let gdt = Pointer { limit: GDT_LIMIT, base };
    // SAFETY: the GDT is static and holds the selectors that are loaded.
    unsafe {
        asm!(
            "lgdt [{gdt}]", "push {code}", "lea {scratch}, [rip + 2f]", "push {scratch}", "retfq", "2:",
            "mov ds, {data:e}", "mov es, {data:e}", "mov ss, {data:e}", "xor {data:e}, {data:e}", "mov fs, {data:e}",
            "mov gs, {data:e}", "ltr {tss:x}",
            gdt = in(reg) &raw const gdt, code = const KERNEL_CODE, data = inout(reg) u64::from(KERNEL_DATA) => _,
            tss = in(reg) TSS, scratch = out(reg) _,
        );
    }
}

/// `stack(slot)`: the end of the stack of a slot, as in [`ist_stack`].
fn write_tss(tss: &mut [u32; TSS_WORDS], stack: impl Fn(u8) -> u64) {
    *tss = [0; TSS_WORDS];
    let mut set = |word: usize, address: u64| {
        tss[word] = address as u32;
        tss[word + 1] = (address >> 32) as u32;
    };
    set(1, stack(0)); // RSP0
    for slot in 1..IST_STACKS as u8 {
        set(7 + 2 * usize::from(slot), stack(slot));
    }
    tss[25] = NO_IO_MAP;
}

fn write_gdt(gdt: &mut [u64; 15], tss: u64) {
    gdt[..9].copy_from_slice(&[
        0,
        CODE64,
        DATA,
        CODE32,
        CODE32 | DPL3,
        DATA | DPL3,
        CODE64 | DPL3,
        0x0000_9b00_0000_ffff,
        0x0000_9300_0000_ffff,
    ]);
    let limit = (TSS_WORDS * 4 - 1) as u64;
    gdt[9] = limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
    gdt[10] = tss >> 32;
    gdt[11..].fill(0);
}

/// Sets GDT entry `selector`, rounded down to its index.
pub fn set_descriptor(selector: u16, descriptor: u64) {
    GDT.with(|gdt| gdt[usize::from(selector / 8)] = descriptor);
}

/// Sets where entries from CPL 3 get their stack.
pub fn set_kernel_stack(address: u64) {
    TSS_STORE.with(|tss| {
        tss[1] = address as u32;
        tss[2] = (address >> 32) as u32;
    });
}

/// A gate's type and attribute bits: present 64-bit interrupt gate, DPL 0.
pub const INTERRUPT_GATE: u64 = 0x8e00 << 32;
/// Present 64-bit trap gate, DPL 0.
pub const TRAP_GATE: u64 = 0x8f00 << 32;

fn default_attributes(vector: u8) -> u64 {
    let ist = match vector {
        2 => IST_NMI,
        8 => IST_DOUBLE_FAULT,
        18 => IST_MACHINE_CHECK,
        _ => 0,
    };
    let dpl = if matches!(vector, 3 | 4 | crate::user::RETURN_VECTOR) { DPL3 } else { 0 };
    INTERRUPT_GATE | dpl | u64::from(ist) << 32
}

/// Sets an IDT gate: target, selector, and the high attribute bits of the gate's first half.
pub fn set_gate(vector: u8, target: u64, selector: u16, attributes: u64) {
    let low = target & 0xffff | u64::from(selector) << 16 | attributes | (target >> 16 & 0xffff) << 48;
    IDT.with(|idt| idt[usize::from(vector)] = [low, target >> 32]);
}

/// Changes the attributes of a gate and keeps its usual target.
pub fn set_gate_attributes(vector: u8, attributes: u64) {
    set_gate(vector, stub_address(vector), KERNEL_CODE, attributes);
}

/// LIDT.
pub fn load_idt(base: u64, limit: u16) {
    let pointer = Pointer { limit, base };
    // SAFETY: the caller's table is one the processor may use; a test's broken table is its subject.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack)) };
}

const STUB_SIZE: u64 = 16;

fn stub_address(vector: u8) -> u64 {
    &raw const interrupt_stubs as u64 + u64::from(vector) * STUB_SIZE
}

unsafe extern "C" {
    static interrupt_stubs: u8;
}

// One stub a vector; vectors without an error code push a zero in its place.
global_asm!(
    r#"
    .section .text.interrupt_stubs, "ax"
    .balign 16
    .global interrupt_stubs
interrupt_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector != 8) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30) && ((vector < 10) || (vector > 14))
    push 0
    .endif
    push vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr
interrupt_common:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    mov rbx, rsp
    and rsp, -16
    call {dispatch}
    mov rsp, rbx
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
"#,
    dispatch = sym crate::exception::dispatch,
);
