//! From the boot loader to Rust: 32-bit entry, temporary page tables, long mode.

// UNSAFETY: entry code in assembly, symbols of the linker script, and the boot loader's word for what is
// in memory.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::panic::PanicInfo;

use machine::boot_info::{self, BootInfo, KernelImage};
use machine::stacks;

global_asm!(
    include_str!("entry.s"),
    pvh_magic = const boot_info::PVH_MAGIC,
    stack = sym stacks::BOOT_STACK,
    stack_bytes = const stacks::BOOT_STACK_BYTES,
    rust_entry = sym rust_entry,
);

unsafe extern "C" {
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
/// information.
extern "C" fn rust_entry(magic: u32, information: u32) -> ! {
    machine::begin();
    let image = KernelImage {
        physical: address(&raw const image_physical_start)..address(&raw const image_physical_end),
        text: address(&raw const text_start)..address(&raw const text_end),
        rodata: address(&raw const rodata_start)..address(&raw const rodata_end),
        data: address(&raw const data_start)..address(&raw const data_end),
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

fn address(symbol: *const u8) -> u64 {
    symbol as u64
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    machine::panic::epitaph(info)
}
