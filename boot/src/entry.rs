//! From the boot loader to Rust: 32-bit entry, temporary page tables, long mode.

// UNSAFETY: entry code in assembly, symbols of the linker script, and the boot loader's word for what is
// in memory.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::mem::offset_of;
use core::panic::PanicInfo;
use core::slice;

use machine::boot_info::{self, BootInfo, KernelImage};
use machine::smp::{self, Trampoline};
use machine::stacks;

global_asm!(
    include_str!("entry.s"),
    pvh_magic = const boot_info::PVH_MAGIC,
    stack = sym stacks::BOOT_STACK,
    stack_bytes = const stacks::BOOT_STACK_BYTES,
    rust_entry = sym rust_entry,
);

global_asm!(
    include_str!("trampoline.s"),
    parameters = const smp::PARAMETERS_OFFSET,
    parameters_bytes = const size_of::<smp::Parameters>(),
    offered = const smp::TICKET_OFFERED,
    taken = const smp::TICKET_TAKEN,
    unfit = const smp::TICKET_UNFIT,
    ticket = const smp::PARAMETERS_OFFSET + offset_of!(smp::Parameters, ticket),
    gdt_pointer = const smp::PARAMETERS_OFFSET + offset_of!(smp::Parameters, gdt_pointer),
    far_32 = const smp::PARAMETERS_OFFSET + offset_of!(smp::Parameters, far_32),
    far_64 = const smp::PARAMETERS_OFFSET + offset_of!(smp::Parameters, far_64),
    root = const smp::PARAMETERS_OFFSET + offset_of!(smp::Parameters, root),
    stack = const smp::PARAMETERS_OFFSET + offset_of!(smp::Parameters, stack),
    entry = const smp::PARAMETERS_OFFSET + offset_of!(smp::Parameters, entry),
    argument = const smp::PARAMETERS_OFFSET + offset_of!(smp::Parameters, argument),
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_entries: [u32; 2];
    static image_physical_start: u8;
    static image_physical_end: u8;
    static text_start: u8;
    static text_end: u8;
    static rodata_start: u8;
    static rodata_end: u8;
    static data_start: u8;
    static data_end: u8;
}

/// The first Rust code. `magic` names the boot protocol: what a Multiboot2 loader left in EAX, or
/// [`boot_info::PVH_MAGIC`]. `information` is what the loader left in EBX: the physical address of the protocol's
/// information. `entered` is what the TSC showed when the loader jumped to the kernel.
extern "C" fn rust_entry(magic: u32, information: u32, entered: u64) -> ! {
    machine::begin(entered);
    let image = KernelImage {
        physical: address(&raw const image_physical_start)..address(&raw const image_physical_end),
        text: address(&raw const text_start)..address(&raw const text_end),
        rodata: address(&raw const rodata_start)..address(&raw const rodata_end),
        data: address(&raw const data_start)..address(&raw const data_end),
        trampoline: trampoline(),
    };
    // SAFETY: the entry code mapped the first 4 GiB where the direct map will be, a loader of the protocol that
    // `magic` names points to its information, and this runs once.
    let boot = unsafe {
        match magic {
            boot_info::PVH_MAGIC => BootInfo::from_pvh(information, image),
            _ => BootInfo::from_multiboot2(magic, information, image),
        }
    };
    match boot {
        Ok(boot) => basalt::run(boot),
        Err(error) => basalt::refuse_boot(error),
    }
}

/// The code with which other CPUs start.
fn trampoline() -> Trampoline {
    let (start, end) = (&raw const trampoline_start, &raw const trampoline_end);
    // SAFETY: `trampoline.s` puts the bytes and the two words among the kernel's constants, which are mapped from
    // the entry code on for good.
    unsafe {
        let [entry_32, entry_64] = (&raw const trampoline_entries).read();
        Trampoline { code: slice::from_raw_parts(start, end.offset_from_unsigned(start)), entry_32, entry_64 }
    }
}

fn address(symbol: *const u8) -> u64 {
    symbol as u64
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    machine::panic::epitaph(info)
}
