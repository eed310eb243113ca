//! The I/O APICs: everything masked but what is routed.

// UNSAFETY: reads and writes device registers.
#![allow(unsafe_code)]

use arrayvec::ArrayVec;
use log::warn;
use spin::Mutex;
use vcpu::Hpa;

use crate::acpi::{IoApicInfo, IsaInterrupt, MAX_IO_APICS};
use crate::fault::{self, Fault};
use crate::memory::{MapError, map_mmio};

const REGISTERS_BYTES: u64 = 32;
const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const VERSION: u32 = 0x01;
const REDIRECTION: u32 = 0x10;
/// Bits of the version register with the number of the last pin.
const LAST_PIN_SHIFT: u32 = 16;
const LAST_PIN_MASK: u32 = 0xff;

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;
/// The destination's place in the upper half: physical mode, fixed delivery.
const DESTINATION_SHIFT: u32 = 24;
/// Without interrupt remapping an entry names eight bits of an APIC id, and all ones mean every CPU.
const LARGEST_DESTINATION: u32 = 0xfe;
/// Register numbers have eight bits, and an entry takes two of them.
const MOST_PINS: u32 = (0x100 - REDIRECTION) / 2;
/// What reads where nothing is.
const ABSENT: u32 = u32::MAX;
/// Delivery mode: system-management interrupt. Such a pin is firmware's.
const DELIVERY_MODE: u32 = 7 << 8;
const DELIVERY_SMI: u32 = 2 << 8;
/// Delivery mode: non-maskable interrupt, which has no vector.
const DELIVERY_NMI: u32 = 4 << 8;

/// An I/O APIC with its registers mapped.
struct IoApic {
    registers: *mut u8,
    gsi_base: u32,
    pins: u32,
    /// Pins that the kernel uses itself, a bit each.
    kept: u128,
}

// SAFETY: the pointer leads to device registers, which any CPU may use; the lock below orders that.
unsafe impl Send for IoApic {}

static IO_APICS: Mutex<ArrayVec<IoApic, MAX_IO_APICS>> = Mutex::new(ArrayVec::new_const());

impl IoApic {
    fn read(&mut self, register: u32) -> u32 {
        // SAFETY: `start` mapped the registers for good; `&mut self` keeps select and window together.
        unsafe {
            self.registers.add(SELECT).cast::<u32>().write_volatile(register);
            self.registers.add(WINDOW).cast::<u32>().read_volatile()
        }
    }

    /// # Safety
    ///
    /// An entry that is not masked must name a vector with a handler.
    unsafe fn write(&mut self, register: u32, value: u32) {
        // SAFETY: as in `read`; the caller answers for the value.
        unsafe {
            self.registers.add(SELECT).cast::<u32>().write_volatile(register);
            self.registers.add(WINDOW).cast::<u32>().write_volatile(value);
        }
    }
}

/// Maps an I/O APIC and masks all of its pins but firmware's.
pub(super) fn start(info: &IoApicInfo) -> Result<(), MapError> {
    let page = Hpa(info.address.0 & !3);
    let registers = map_mmio(page, REGISTERS_BYTES)?.as_ptr();
    let mut io_apic = IoApic { registers, gsi_base: info.gsi_base, pins: 0, kept: 0 };
    let version = io_apic.read(VERSION);
    if version == ABSENT || fault::is(Fault::NoIoApic) {
        warn!("no I/O APIC answers at {page:#x}");
        return Ok(());
    }
    io_apic.pins = (((version >> LAST_PIN_SHIFT) & LAST_PIN_MASK) + 1).min(MOST_PINS);
    for pin in 0..io_apic.pins {
        if io_apic.read(REDIRECTION + 2 * pin) & DELIVERY_MODE == DELIVERY_SMI {
            continue;
        }
        // SAFETY: a masked entry delivers nothing.
        unsafe { io_apic.write(REDIRECTION + 2 * pin, MASKED) };
    }
    // More than fit are left masked.
    let _ = IO_APICS.lock().try_push(io_apic);
    Ok(())
}

/// What a pin does with its interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delivery {
    /// An interrupt of this vector.
    Vector(u8),
    /// A non-maskable interrupt.
    Nmi,
}

/// The I/O APIC that has a pin, and the pin's number there.
fn find(io_apics: &mut [IoApic], gsi: u32) -> Option<(&mut IoApic, u32)> {
    io_apics.iter_mut().find_map(|io_apic| {
        let pin = gsi.checked_sub(io_apic.gsi_base)?;
        (pin < io_apic.pins).then_some((io_apic, pin))
    })
}

/// The kernel uses this pin itself.
pub(super) fn keep(gsi: u32) {
    if let Some((io_apic, pin)) = find(&mut IO_APICS.lock(), gsi) {
        io_apic.kept |= 1_u128.unbounded_shl(pin);
    }
}

/// Whether the kernel uses the pin itself.
pub(super) fn is_kept(gsi: u32) -> bool {
    find(&mut IO_APICS.lock(), gsi)
        .is_some_and(|(io_apic, pin)| io_apic.kept & 1_u128.unbounded_shl(pin) != 0)
}

/// Masks a pin, or lets its interrupt come again.
pub(super) fn mask(gsi: u32, masked: bool) {
    let mut io_apics = IO_APICS.lock();
    let Some((io_apic, pin)) = find(&mut io_apics, gsi) else { return };
    let low = io_apic.read(REDIRECTION + 2 * pin);
    // SAFETY: the entry is as it was wired, with a vector that has a handler.
    unsafe { io_apic.write(REDIRECTION + 2 * pin, if masked { low | MASKED } else { low & !MASKED }) };
}

/// Delivers an interrupt to the CPU with this APIC id. False where no I/O APIC serves it, the CPU is out of its reach, or it
/// is a level, which an NMI cannot be.
pub(super) fn route(interrupt: IsaInterrupt, delivery: Delivery, apic_id: u32) -> bool {
    let mut io_apics = IO_APICS.lock();
    let Some((io_apic, pin)) = find(&mut io_apics, interrupt.gsi) else { return false };
    if apic_id > LARGEST_DESTINATION || delivery == Delivery::Nmi && interrupt.level {
        return false;
    }
    let mut low = match delivery {
        Delivery::Vector(vector) => u32::from(vector),
        Delivery::Nmi => DELIVERY_NMI,
    };
    low |= if interrupt.level { LEVEL } else { 0 };
    low |= if interrupt.active_low { ACTIVE_LOW } else { 0 };
    // SAFETY: the caller has set a handler for the vector, and NMIs have one. The upper half comes first, while the entry is
    // masked.
    unsafe {
        io_apic.write(REDIRECTION + 2 * pin + 1, apic_id << DESTINATION_SHIFT);
        io_apic.write(REDIRECTION + 2 * pin, low);
    }
    true
}
