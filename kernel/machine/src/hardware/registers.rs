//! Device registers in memory, of pages that are mapped when they are first used.

// UNSAFETY: reads and writes device registers.
#![allow(unsafe_code)]

use arrayvec::ArrayVec;
use spin::Mutex;
use vcpu::{Hpa, PAGE_SIZE};

use super::keeps;
use crate::memory::map_mmio;

/// Pages that are mapped; they stay so, as what windows take of addresses is not given back.
const PAGES: usize = 256;

/// The page at an address of the machine's.
struct Page {
    at: u64,
    registers: *mut u8,
}

// SAFETY: the pointer leads to device registers, which any CPU may use.
unsafe impl Send for Page {}

static MAPPED: Mutex<ArrayVec<Page, PAGES>> = Mutex::new(ArrayVec::new_const());

/// Where a register is. `None` where the kernel keeps its page, it is not aligned, or no page more can be mapped.
fn place(at: Hpa, size: u8) -> Option<*mut u8> {
    let page = at.page().0;
    if !matches!(size, 1 | 2 | 4 | 8)
        || !at.0.is_multiple_of(u64::from(size))
        || keeps(&(page..page.checked_add(PAGE_SIZE)?))
    {
        return None;
    }
    let mut mapped = MAPPED.lock();
    let known = mapped.iter().find(|known| known.at == page).map(|known| known.registers);
    let registers = match known {
        Some(registers) => registers,
        None if mapped.is_full() => return None,
        None => {
            let registers = map_mmio(Hpa(page), PAGE_SIZE).ok()?.as_ptr();
            let _ = mapped.try_push(Page { at: page, registers });
            registers
        }
    };
    Some(registers.wrapping_add(at.page_offset() as usize))
}

pub(super) fn read(at: Hpa, size: u8) -> Option<u64> {
    let register = place(at, size)?;
    // SAFETY: the page is mapped for good, is no memory and none of the kernel's; the register is aligned.
    unsafe {
        Some(match size {
            1 => register.read_volatile().into(),
            2 => register.cast::<u16>().read_volatile().into(),
            4 => register.cast::<u32>().read_volatile().into(),
            _ => register.cast::<u64>().read_volatile(),
        })
    }
}

pub(super) fn write(at: Hpa, size: u8, value: u64) -> bool {
    let Some(register) = place(at, size) else { return false };
    // SAFETY: as above; what a device does with it is bounded by the filter above.
    unsafe {
        match size {
            1 => register.write_volatile(value as u8),
            2 => register.cast::<u16>().write_volatile(value as u16),
            4 => register.cast::<u32>().write_volatile(value as u32),
            _ => register.cast::<u64>().write_volatile(value),
        }
    }
    true
}
