//! What a virtio device shows on the PCI bus: identity, one memory BAR, and the capabilities that say where in it things are.
//!
//! Sources: VIRTIO 1.2, "Virtio Over PCI Bus"; PCI Local Bus Specification 3.0, "MSI-X Capability and Table Structures",
//! "Base Addresses".

use devices::Width;
use devices::pci::{ConfigSpace, Header, register};

use crate::interrupts::{Switches, VECTORS};

/// Bytes of a function's BAR.
pub const BAR_BYTES: u32 = 0x8000;

/// The BAR's parts, a page each.
pub(crate) mod page {
    pub(crate) const COMMON: u64 = 0;
    pub(crate) const ISR: u64 = 1;
    pub(crate) const DEVICE: u64 = 2;
    pub(crate) const NOTIFY: u64 = 3;
    pub(crate) const TABLE: u64 = 4;
    pub(crate) const PENDING: u64 = 5;
}
/// Bytes of a part, as a shift.
pub(crate) const PAGE_SHIFT: u32 = 12;
/// Between the doorbells of two queues.
pub(crate) const NOTIFY_STRIDE: u64 = 4;

/// The queue whose doorbell is at this offset into the BAR.
#[inline]
pub const fn doorbell(offset: u64) -> Option<usize> {
    if offset >> PAGE_SHIFT != page::NOTIFY {
        return None;
    }
    Some(((offset & ((1 << PAGE_SHIFT) - 1)) / NOTIFY_STRIDE) as usize)
}

const VENDOR: u16 = 0x1af4;
/// Device identifiers begin here, with the device type added; a revision of 1 says that there is no older way in.
const FIRST_DEVICE: u16 = 0x1040;
const REVISION: u8 = 1;

const STATUS: u8 = 0x06;
const STATUS_CAPABILITIES: u32 = 1 << 4;
const BAR_0: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT_PIN: u8 = 0x3d;
const PIN_A: u32 = 1;

const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_NO_LINE: u32 = 1 << 10;

/// Where the capabilities begin, and the bytes between two of them.
const FIRST_CAPABILITY: u8 = 0x40;
const CAPABILITY_STRIDE: u8 = 0x14;
const VENDOR_SPECIFIC: u32 = 0x09;
const MSIX: u32 = 0x11;
/// Structures that vendor-specific capabilities point to.
const COMMON: u32 = 1;
const NOTIFY: u32 = 2;
const ISR: u32 = 3;
const DEVICE: u32 = 4;
const WINDOW: u32 = 5;
/// Message control of MSI-X: on, all masked.
const MSIX_ENABLE: u32 = 1 << 15;
const MSIX_MASK: u32 = 1 << 14;

/// Where MSI-X' capability is: the last one.
const MSIX_AT: u8 = FIRST_CAPABILITY + 5 * CAPABILITY_STRIDE;
/// Where that of the window is, by which the BAR can be reached without memory accesses, and in it: which BAR, offset, length,
/// data.
const WINDOW_AT: u8 = FIRST_CAPABILITY + 4 * CAPABILITY_STRIDE;
const WINDOW_BAR: u8 = WINDOW_AT + 4;
const WINDOW_OFFSET: u8 = WINDOW_AT + 8;
const WINDOW_LENGTH: u8 = WINDOW_AT + 12;
const WINDOW_DATA: u8 = WINDOW_AT + 16;

/// What the configuration space says that matters to the function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Configured {
    /// Where the BAR is; `None` while the function does not answer to memory accesses.
    pub base: Option<u64>,
    /// It may reach memory by itself.
    pub(crate) master: bool,
    pub(crate) switches: Switches,
}

/// The configuration space of a device of this type. `class` is base class, subclass and interface.
pub fn config_space(device_type: u16, class: u32) -> ConfigSpace {
    let mut space = ConfigSpace::new(&Header {
        vendor: VENDOR,
        device: FIRST_DEVICE + device_type,
        revision: REVISION,
        class,
        subsystem_vendor: VENDOR,
        subsystem: FIRST_DEVICE + device_type,
    });
    space.set(STATUS, Width::Word, STATUS_CAPABILITIES, 0);
    // 32 bits of memory, not prefetchable.
    space.set(BAR_0, Width::Dword, 0, !(BAR_BYTES - 1));
    space.set(INTERRUPT_PIN, Width::Byte, PIN_A, 0);
    space.set(CAPABILITIES, Width::Byte, FIRST_CAPABILITY.into(), 0);
    let structures = [
        (COMMON, page::COMMON, 16),
        (NOTIFY, page::NOTIFY, 20),
        (ISR, page::ISR, 16),
        (DEVICE, page::DEVICE, 16),
        (WINDOW, page::COMMON, 20),
    ];
    let mut at = FIRST_CAPABILITY;
    for (kind, page, length) in structures {
        let next = u32::from(at + CAPABILITY_STRIDE);
        space.set(at, Width::Dword, kind << 24 | length << 16 | next << 8 | VENDOR_SPECIFIC, 0);
        // BAR 0. The window's fields are the driver's.
        let (bar, all, length) = if kind == WINDOW { (0xff, u32::MAX, 0) } else { (0, 0, 1 << PAGE_SHIFT) };
        space.set(at + 4, Width::Dword, 0, bar);
        space.set(at + 8, Width::Dword, (page << PAGE_SHIFT) as u32, all);
        space.set(at + 12, Width::Dword, length, all);
        if kind == NOTIFY {
            space.set(at + 16, Width::Dword, NOTIFY_STRIDE as u32, 0);
        }
        at += CAPABILITY_STRIDE;
    }
    let control = (VECTORS as u32 - 1) << 16 | MSIX;
    space.set(MSIX_AT, Width::Dword, control, (MSIX_ENABLE | MSIX_MASK) << 16);
    space.set(MSIX_AT + 4, Width::Dword, (page::TABLE << PAGE_SHIFT) as u32, 0);
    space.set(MSIX_AT + 8, Width::Dword, (page::PENDING << PAGE_SHIFT) as u32, 0);
    space
}

/// Whether this register is the window's data: an access to it is one to the BAR.
#[inline]
pub const fn is_window(register: u8) -> bool {
    register == WINDOW_DATA
}

/// What of the BAR the window shows: an offset, and how many bytes. `None` where that is nothing in it.
pub fn window(space: &ConfigSpace) -> Option<(u64, Width)> {
    let offset = space.read(WINDOW_OFFSET, Width::Dword);
    let width = match space.read(WINDOW_LENGTH, Width::Dword) {
        1 => Width::Byte,
        2 => Width::Word,
        4 => Width::Dword,
        _ => return None,
    };
    let inside = offset < BAR_BYTES && offset.is_multiple_of(width.bytes().into());
    (inside && space.read(WINDOW_BAR, Width::Byte) == 0).then_some((offset.into(), width))
}

/// Puts the BAR there, and tells the driver at which IRQ of the 8259s its line arrives, as firmware does.
pub fn place(space: &mut ConfigSpace, base: u32, irq: u8) {
    space.write(BAR_0, Width::Dword, base);
    space.write(register::INTERRUPT_LINE, Width::Byte, irq.into());
}

/// There is no pin: the function sends messages alone.
pub fn without_line(space: &mut ConfigSpace) {
    space.set(INTERRUPT_PIN, Width::Byte, 0, 0);
}

/// What it says now.
pub fn configured(space: &ConfigSpace) -> Configured {
    let command = space.read(register::COMMAND, Width::Word);
    let control = space.read(MSIX_AT + 2, Width::Word);
    let base = u64::from(space.read(BAR_0, Width::Dword) & !0xf);
    Configured {
        base: (command & COMMAND_MEMORY != 0).then_some(base),
        master: command & COMMAND_MASTER != 0,
        switches: Switches {
            messages: control & MSIX_ENABLE != 0,
            masked: control & MSIX_MASK != 0,
            no_line: command & COMMAND_NO_LINE != 0,
        },
    }
}
