//! The entry code of other processors.

use core::arch::global_asm;

use super::{NUMBERS, STACK_SIZE, STACKS, secondary};
use crate::descriptor;

global_asm!(
    include_str!("start.s"),
    gdt = sym descriptor::GDT,
    gdt_limit = const descriptor::GDT_LIMIT,
    numbers = sym NUMBERS,
    stacks = sym STACKS,
    stack_size = const STACK_SIZE,
    main = sym secondary,
    options(att_syntax)
);

unsafe extern "C" {
    static secondary_trampoline: u8;
    static secondary_trampoline_end: u8;
}

/// The part that goes below 1 MiB.
pub(super) fn trampoline() -> &'static [u8] {
    let (start, end) = (&raw const secondary_trampoline, &raw const secondary_trampoline_end);
    // SAFETY: both bound constants of the image.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}
