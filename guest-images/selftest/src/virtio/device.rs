//! A device: found by configuration mechanism 1, its registers, and how it is taken into use.

use super::queue::{Layout, Queue};
use crate::cpu::{read8, read16, read32, write8, write16, write32};
use crate::{pci, tsc};

/// Device types.
#[expect(missing_docs, reason = "the specification's names")]
pub mod kind {
    pub const NET: u16 = 1;
    pub const BLOCK: u16 = 2;
    pub const CONSOLE: u16 = 3;
    pub const ENTROPY: u16 = 4;
    pub const BALLOON: u16 = 5;
}

/// Features of every device.
#[expect(missing_docs, reason = "the specification's names")]
pub mod feature {
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
}

/// Device status.
#[expect(missing_docs, reason = "the specification's names")]
pub mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 0x40;
    pub const FAILED: u8 = 0x80;
}

/// Offsets of the common configuration's registers.
#[expect(missing_docs, reason = "the specification's names")]
pub mod register {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIGURATION_VECTOR: u64 = 0x10;
    pub const QUEUES: u64 = 0x12;
    pub const STATUS: u64 = 0x14;
    pub const GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY: u64 = 0x1e;
    pub const QUEUE_DESCRIPTORS: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
    pub const END: u64 = 0x38;
}

const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
const COMMAND: u8 = 0x04;
/// Command: memory decoding, bus mastering.
const MEMORY: u32 = 1 << 1;
const MASTER: u32 = 1 << 2;
const HAS_CAPABILITIES: u32 = 1 << 20;
const BAR_0: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
const VENDOR_SPECIFIC: u8 = 0x09;
const MSIX: u8 = 0x11;
/// How long a device may take for its reset.
const PATIENCE_US: u64 = 1_000_000;

/// A device. The addresses are those of its registers' groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Device {
    /// Its number on PCI bus 0; it is function 0.
    pub number: u8,
    /// Its type, of [`kind`].
    pub kind: u16,
    /// Its first BAR.
    pub bar: u64,
    /// The common configuration.
    pub common: u64,
    /// The ISR status.
    pub isr: u64,
    /// The device's own configuration.
    pub configuration: u64,
    /// The first doorbell.
    pub doorbells: u64,
    /// Bytes from one doorbell's offset to the next one's.
    pub stride: u32,
    /// The table of MSI-X.
    pub table: u64,
    /// The pending bits of MSI-X.
    pub pending: u64,
    /// Entries of the table; 0 where there is no MSI-X.
    pub vectors: u16,
    /// Where in configuration space MSI-X' capability is.
    pub msix_at: u8,
    /// Where in configuration space the window on the BAR is; 0 where there is none.
    pub window_at: u8,
}

impl Device {
    /// All devices on bus 0, in their order there. Each is made to answer and may reach memory.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..32).filter_map(Self::at)
    }

    /// The first device of a type.
    pub fn find(kind: u16) -> Option<Self> {
        Self::all().find(|device| device.kind == kind)
    }

    fn at(number: u8) -> Option<Self> {
        let identity = pci::read(0, number, 0, 0);
        let kind = (identity >> 16).checked_sub(FIRST_DEVICE.into())? as u16;
        if identity as u16 != VENDOR || pci::read(0, number, 0, COMMAND) & HAS_CAPABILITIES == 0 {
            return None;
        }
        let mut device = Self { number, kind, ..Self::default() };
        device.set_command(MEMORY | MASTER);
        device.bar = device.bar_at(0);
        let mut at = device.config_byte(CAPABILITIES) & !3;
        while at != 0 {
            device.take_capability(at);
            at = device.config_byte(at + 1) & !3;
        }
        (device.common != 0 && device.doorbells != 0).then_some(device)
    }

    fn take_capability(&mut self, at: u8) {
        match self.config_byte(at) {
            MSIX => {
                let place = |word: u32| self.bar_at((word & 7) as u8) + u64::from(word & !7);
                (self.table, self.pending) = (place(self.config(at + 4)), place(self.config(at + 8)));
                self.vectors = (self.config(at) >> 16 & 0x7ff) as u16 + 1;
                self.msix_at = at;
            }
            VENDOR_SPECIFIC => {
                let address = self.bar_at(self.config_byte(at + 4)) + u64::from(self.config(at + 8));
                match self.config_byte(at + 3) {
                    1 => self.common = address,
                    2 => (self.doorbells, self.stride) = (address, self.config(at + 16)),
                    3 => self.isr = address,
                    4 => self.configuration = address,
                    5 => self.window_at = at,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn bar_at(&self, bar: u8) -> u64 {
        u64::from(self.config(BAR_0 + 4 * (bar % 6)) & !0xf)
    }

    /// Reads 32 bits of configuration space.
    pub fn config(&self, register: u8) -> u32 {
        pci::read(0, self.number, 0, register)
    }

    /// Writes 32 bits of configuration space.
    pub fn set_config(&self, register: u8, value: u32) {
        pci::write(0, self.number, 0, register, value);
    }

    fn config_byte(&self, register: u8) -> u8 {
        (self.config(register) >> (8 * (register & 3))) as u8
    }

    /// Writes the command register.
    pub fn set_command(&self, command: u32) {
        self.set_config(COMMAND, command);
    }

    /// The device answers, and may reach memory; or either not.
    pub fn enable(&self, answers: bool, masters: bool) {
        self.set_command(if answers { MEMORY } else { 0 } | if masters { MASTER } else { 0 });
    }

    /// Moves its BAR. This value goes on to say where the registers were.
    pub fn move_bar(&self, to: u32) {
        self.set_config(BAR_0, to);
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        read8(self.common + register::STATUS)
    }

    /// Writes the device status.
    pub fn set_status(&self, status: u8) {
        write8(self.common + register::STATUS, status);
    }

    /// Resets the device. False where that does not come to an end.
    pub fn reset(&self) -> bool {
        self.set_status(0);
        tsc::wait_us(PATIENCE_US, || self.status() == 0)
    }

    /// The features that it offers.
    pub fn features(&self) -> u64 {
        let half = |select| {
            write32(self.common + register::DEVICE_FEATURE_SELECT, select);
            u64::from(read32(self.common + register::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    /// Writes the driver's features.
    pub fn set_features(&self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            write32(self.common + register::DRIVER_FEATURE_SELECT, select);
            write32(self.common + register::DRIVER_FEATURE, half);
        }
    }

    /// Resets the device and agrees on what it offers of `wanted`, VERSION_1 in any case. `None` where it refuses.
    pub fn begin(&self, wanted: u64) -> Option<u64> {
        if !self.reset() {
            return None;
        }
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let features = self.features() & (wanted | feature::VERSION_1);
        self.set_features(features);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        (self.status() & status::FEATURES_OK != 0).then_some(features)
    }

    /// The driver is ready.
    pub fn go(&self) {
        use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// The first bytes of its own configuration.
    pub fn bytes_of_config<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        for (byte, at) in bytes.iter_mut().zip(0..) {
            *byte = read8(self.configuration + at);
        }
        bytes
    }

    /// Its number of queues.
    pub fn queues(&self) -> u16 {
        read16(self.common + register::QUEUES)
    }

    /// Selects a queue and says how large it is, or can be; 0 where it has none of that number.
    pub fn select(&self, queue: u16) -> u16 {
        write16(self.common + register::QUEUE_SELECT, queue);
        read16(self.common + register::QUEUE_SIZE)
    }

    /// Writes one of the three addresses of the selected queue.
    pub fn set_address(&self, register: u64, address: u64) {
        write32(self.common + register, address as u32);
        write32(self.common + register + 4, (address >> 32) as u32);
    }

    /// Lays the selected queue out, as it is said, and enables it.
    pub fn place(&self, layout: &Layout) {
        write16(self.common + register::QUEUE_SIZE, layout.size);
        self.set_address(register::QUEUE_DESCRIPTORS, layout.descriptors);
        self.set_address(register::QUEUE_DRIVER, layout.driver);
        self.set_address(register::QUEUE_DEVICE, layout.device);
        write16(self.common + register::QUEUE_ENABLE, 1);
    }

    /// Where a queue's doorbell is.
    pub fn doorbell(&self, queue: u16) -> u64 {
        write16(self.common + register::QUEUE_SELECT, queue);
        let offset = read16(self.common + register::QUEUE_NOTIFY);
        self.doorbells + u64::from(offset) * u64::from(self.stride)
    }

    /// A queue of so many entries at most, in fresh pages, enabled. `None` where the device has none of that number. Features
    /// are settled.
    pub fn queue(&self, index: u16, most: u16, features: u64) -> Option<Queue> {
        let size = self.select(index).min(most);
        if size == 0 {
            return None;
        }
        let layout = Layout::fresh(size);
        self.place(&layout);
        Some(Queue::new(layout, index, self.doorbell(index), features & feature::EVENT_IDX != 0))
    }
}
