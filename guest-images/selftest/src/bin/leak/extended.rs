//! The registers of XSAVE: x87, SSE and whatever else CPUID offers, as images in memory.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use selftest::cpu::{self, cr4};
use selftest::platform::{features, has};
use selftest::{memory, probe, smp};

use super::IS_MARKER;
use super::state::{EXTENDED, Found};

/// Pages for one image.
const PAGES: u64 = 4;
const BYTES: u64 = PAGES * memory::PAGE;
/// The legacy area's registers: MXCSR, eight of 16 bytes (10 used) and sixteen of 16 bytes.
const MXCSR: u64 = 24;
const MXCSR_AT_POWER_UP: u32 = 0x1f80;
const X87: u64 = 32;
const XMM: u64 = 160;
const LEGACY_END: u64 = 416;
/// The header's word that says which components the image has.
const PRESENT: u64 = 512;
/// The component that is one word of 32 bits: protection keys.
const PKRU: u32 = 9;
/// Components with reserved bits, which cannot be anything: bounds configuration.
const NOT_MARKED: u64 = 1 << 4;

/// Where the images of all processors begin: what should be, then what is.
static IMAGES: AtomicU64 = AtomicU64::new(0);

fn expected() -> u64 {
    IMAGES.load(SeqCst) + smp::current() as u64 * 2 * BYTES
}

fn seen() -> u64 {
    expected() + BYTES
}

/// XCR0 bits that CPUID offers and whose image fits.
fn components() -> u64 {
    let leaf = cpu::cpuid(0xd, 0);
    let offered = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
    let fits = |component: &u32| {
        let place = cpu::cpuid(0xd, *component);
        u64::from(place.ebx) + u64::from(place.eax) <= BYTES
    };
    (2..63)
        .filter(|component| offered >> component & 1 != 0 && !fits(component))
        .fold(offered, |all, big| all & !(1 << big))
}

/// Takes the memory, after memory was looked at. For the first processor.
pub(crate) fn prepare() {
    IMAGES.store(memory::pages(2 * PAGES * smp::count() as u64), SeqCst);
}

/// Switches everything on that there is, on the calling processor.
pub(crate) fn enable() {
    cpu::write_cr4(cpu::read_cr4() | cr4::OSFXSR | cr4::OSXMMEXCPT);
    if has(features::XSAVE) {
        cpu::write_cr4(cpu::read_cr4() | cr4::OSXSAVE);
        cpu::xsetbv(0, components());
    }
    save(expected());
    if !IS_MARKER.load(SeqCst) {
        // What the manuals say of power-up.
        let image = expected();
        each_byte(|offset| cpu::write8(image + offset, 0));
        cpu::write32(image + MXCSR, MXCSR_AT_POWER_UP);
    }
}

fn save(to: u64) {
    if has(features::XSAVE) {
        probe!("xsave64 [{}]", in(reg) to, in("eax") u32::MAX, in("edx") u32::MAX);
    } else {
        probe!("fxsave64 [{}]", in(reg) to);
    }
}

fn restore(from: u64) {
    if has(features::XSAVE) {
        probe!("xrstor64 [{}]", in(reg) from, in("eax") u32::MAX, in("edx") u32::MAX);
    } else {
        probe!("fxrstor64 [{}]", in(reg) from);
    }
}

/// The bytes of an image that hold registers.
fn each_byte(mut with: impl FnMut(u64)) {
    for register in (X87..XMM).step_by(16) {
        (register..register + 10).for_each(&mut with);
    }
    (MXCSR..MXCSR + 4).chain(XMM..LEGACY_END).for_each(&mut with);
    if !has(features::XSAVE) {
        return;
    }
    let offered = components() & !NOT_MARKED;
    for component in (2..63).filter(|component| offered >> component & 1 != 0) {
        let place = cpu::cpuid(0xd, component);
        let size = if component == PKRU { 4 } else { place.eax };
        let start = u64::from(place.ebx);
        (start..start + u64::from(size)).for_each(&mut with);
    }
}

/// Fills all registers with the mark.
pub(crate) fn mark(mark: u64) {
    let image = expected();
    each_byte(|offset| {
        // Not every bit of MXCSR may be set.
        if !(MXCSR..MXCSR + 4).contains(&offset) {
            let byte = mark.rotate_left((offset % 8) as u32 * 8) as u8 ^ (offset / 8) as u8;
            cpu::write8(image + offset, byte);
        }
    });
    // Exceptions masked, and a rounding of the mark's.
    cpu::write32(image + MXCSR, MXCSR_AT_POWER_UP | (mark as u32 & 3) << 13);
    if has(features::XSAVE) {
        cpu::write64(image + PRESENT, components() & !NOT_MARKED);
    }
    restore(image);
}

/// The first byte that is not what it was, or, where nothing was marked, what it is after power-up.
pub(crate) fn compare() -> Option<Found> {
    let (expected, seen) = (expected(), seen());
    save(seen);
    let mut found = None;
    each_byte(|offset| {
        let (value, wanted) = (cpu::read8(seen + offset), cpu::read8(expected + offset));
        if value != wanted && found.is_none() {
            found = Some(Found {
                register: EXTENDED,
                value: offset << 8 | u64::from(value),
                expected: wanted.into(),
            });
        }
    });
    found
}
