//! The machine's own devices, as the management domain reaches them: by ports, by PCI configuration space, by registers in memory, and by
//! their interrupts.
//!
//! What may be reached at all is decided above, by what [`Hardware::kept`] says and the PCI filter; what is here does as it is told, but for memory:
//! no register access and no mapping ever reaches memory that is somebody's.
//!
//! Sources: PCI Local Bus Specification 3.0, "Configuration Mechanism", "Message Signaled Interrupts"; Intel 82093AA data sheet.

use core::ops::Range;

use crate::Hpa;

/// A PCI function of the machine: bus, device and function as the configuration address has them (8, 5 and 3 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PciFunction(pub u16);

impl PciFunction {
    /// The function with these numbers, of which what does not fit is left out.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | (device as u16 & 0x1f) << 3 | function as u16 & 7)
    }

    /// The bus.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device on the bus.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    /// The function of the device.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }
}

/// An interrupt that the machine's devices have been given. What it stands for is known to who asked for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SourceId(pub u16);

/// How a pin of an I/O APIC is wired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinMode {
    /// Level-triggered: the pin is masked by the machine when its interrupt comes, until [`Hardware::unmask_pin`].
    pub level: bool,
    /// The line is low when asserted.
    pub active_low: bool,
}

/// What a device has to write, and where, so that an interrupt comes (PCI 3.0, "Message Address", "Message Data").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The address.
    pub address: u64,
    /// The data.
    pub data: u32,
}

/// A kind of what lies in a range of the machine's memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostMemory {
    /// RAM that was set aside for the management domain.
    Own,
    /// RAM of the kernel's or of guests'.
    Kept,
    /// What firmware keeps for itself, be it RAM or device memory.
    Firmware,
    /// ACPI tables.
    AcpiTables,
    /// What ACPI firmware keeps across sleep.
    AcpiNvs,
}

/// A range of the machine's memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostRange {
    /// The first address.
    pub start: Hpa,
    /// Bytes.
    pub length: u64,
    /// What is there.
    pub kind: HostMemory,
}

/// A register of ACPI's that software must not write as it likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PowerPorts {
    /// PM1a and PM1b control; 0 where there is none.
    pub pm1_control: [u16; 2],
    /// The reset register, where it is a port other than CF9H; 0 where it is none.
    pub reset: u16,
}

/// A linear framebuffer: rows of pixels of 15 to 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Framebuffer {
    /// The upper left pixel.
    pub address: u64,
    /// Bytes from a row to the next.
    pub pitch: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bits that a pixel takes.
    pub bits: u8,
    /// Red, green and blue: the lowest bit of each in a pixel, and how many it has.
    pub fields: [(u8, u8); 3],
}

/// The machine's screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostScreen {
    /// There is none, or none that is known.
    None,
    /// VGA text.
    Text {
        /// Characters in a row.
        columns: u8,
        /// Rows.
        rows: u8,
    },
    /// Pixels.
    Pixels(Framebuffer),
}

/// The machine's devices. All may be called by any CPU.
pub trait Hardware: Sync {
    /// The machine's memory map for the management domain, in ascending order. Device memory is not in it.
    fn memory_map(&self) -> &[HostRange];

    /// Ranges of the machine's addresses that are neither memory nor a device's that may be given away: registers of the kernel's.
    fn kept(&self) -> &[Range<u64>] {
        &[]
    }

    /// Firmware's ACPI tables that the root tables lead to: signature and address.
    fn acpi_tables(&self) -> &[([u8; 4], Hpa)];

    /// Source overrides of the MADT: ISA interrupt, its global system interrupt, and how it is wired.
    fn overrides(&self) -> [(u32, PinMode); 16];

    /// The screen, as the boot loader has left it.
    fn screen(&self) -> HostScreen {
        HostScreen::None
    }

    /// The kernel draws nothing on the screen from here on, but for its last words; or it does again.
    fn lend_screen(&self, _lent: bool) {}

    /// Where power is switched.
    fn power_ports(&self) -> PowerPorts;

    /// Reads a port; `size` is 1, 2 or 4 bytes.
    fn port_read(&self, port: u16, size: u8) -> u32;

    /// Writes a port.
    fn port_write(&self, port: u16, size: u8, value: u32);

    /// Reads a register of configuration space, aligned to its size of 1, 2 or 4 bytes. All ones where no function is.
    fn config_read(&self, function: PciFunction, register: u16, size: u8) -> u32;

    /// Writes one.
    fn config_write(&self, function: PciFunction, register: u16, size: u8, value: u32);

    /// Reads a device's register in memory, aligned to its size of 1, 2, 4 or 8 bytes. `None` where it is no device's.
    fn register_read(&self, at: Hpa, size: u8) -> Option<u64>;

    /// Writes one. False where it is no device's.
    fn register_write(&self, at: Hpa, size: u8, value: u64) -> bool;

    /// Wires a pin: its interrupt comes as this source from now on. `None` where no I/O APIC has the pin, it is the kernel's own, or no interrupt
    /// is left.
    fn open_pin(&self, gsi: u32, mode: PinMode) -> Option<SourceId>;

    /// Lets a level-triggered pin's interrupt come again.
    fn unmask_pin(&self, gsi: u32);

    /// The pin's interrupt does not come any more.
    fn close_pin(&self, gsi: u32);

    /// An interrupt that a device sends by a message. `None` where none is left.
    fn open_message(&self) -> Option<(SourceId, Message)>;

    /// That interrupt is free again: the device no longer sends it.
    fn close_message(&self, source: SourceId);

    /// Whether [`Self::take_interrupts`] has some. Cheap.
    fn has_interrupts(&self) -> bool;

    /// The sources whose interrupts have come since the last call, each once.
    fn take_interrupts(&self, each: &mut dyn FnMut(SourceId));
}
