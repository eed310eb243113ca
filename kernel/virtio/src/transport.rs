//! The registers by which a driver takes a device into use.
//!
//! Source: VIRTIO 1.2, "Common configuration structure layout", "Device Status Field", "Device Initialization".

use arrayvec::ArrayVec;
use devices::Width;
use vcpu::Gpa;

use crate::MAX_QUEUES;
use crate::interrupts::{NO_VECTOR, valid};
use crate::queue::{Abilities, Layout, MAX_SIZE};

/// Device status.
pub mod status {
    /// The guest has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// It has a driver.
    pub const DRIVER: u8 = 2;
    /// The driver works.
    pub const DRIVER_OK: u8 = 4;
    /// Features are settled.
    pub const FEATURES_OK: u8 = 8;
    /// The device is broken until it is reset.
    pub const NEEDS_RESET: u8 = 0x40;
    /// The driver has given up.
    pub const FAILED: u8 = 0x80;
    /// What a driver can write.
    pub(super) const WRITABLE: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// Features of every device.
pub mod feature {
    /// Descriptors in tables of their own.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Events have an index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device is as virtio 1.0 and later say.
    pub const VERSION_1: u64 = 1 << 32;
    /// All of these.
    pub(crate) const COMMON: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// Offsets of registers.
pub(crate) mod register {
    pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(crate) const DEVICE_FEATURE: u64 = 0x04;
    pub(crate) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
    pub(crate) const CONFIGURATION_VECTOR: u64 = 0x10;
    pub(crate) const QUEUES: u64 = 0x12;
    pub(crate) const STATUS: u64 = 0x14;
    pub(crate) const GENERATION: u64 = 0x15;
    pub(crate) const QUEUE_SELECT: u64 = 0x16;
    pub(crate) const QUEUE_SIZE: u64 = 0x18;
    pub(crate) const QUEUE_VECTOR: u64 = 0x1a;
    pub(crate) const QUEUE_ENABLE: u64 = 0x1c;
    pub(crate) const QUEUE_NOTIFY: u64 = 0x1e;
    /// Three addresses: those of the driver's and of the device's ring follow.
    pub(crate) const QUEUE_DESCRIPTORS: u64 = 0x20;
    pub(crate) const END: u64 = 0x38;
}

/// What a queue's registers hold before it is enabled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct QueueRegisters {
    layout: Layout,
    vector: u16,
    enabled: bool,
}

const QUEUE_RESET: QueueRegisters = QueueRegisters {
    layout: Layout { size: MAX_SIZE, descriptors: Gpa(0), driver: Gpa(0), device: Gpa(0) },
    vector: NO_VECTOR,
    enabled: false,
};

/// What a write asks of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    None,
    /// Everything is forgotten.
    Reset,
    /// Requests are served from now on.
    Live,
    /// A queue is taken into use.
    Enable {
        queue: usize,
        layout: Layout,
        abilities: Abilities,
    },
    /// A queue's interrupts have this vector.
    Vector {
        queue: usize,
        vector: u16,
    },
    /// Changes of the configuration have this vector.
    ConfigurationVector(u16),
}

/// The registers.
#[derive(Debug)]
pub(crate) struct Registers {
    offered: u64,
    accepted: u64,
    device_select: u32,
    driver_select: u32,
    status: u8,
    queue_select: u16,
    queues: ArrayVec<QueueRegisters, MAX_QUEUES>,
}

impl Registers {
    /// Those of a device with these features and so many queues.
    pub(crate) fn new(offered: u64, queues: usize) -> Self {
        Self {
            offered,
            accepted: 0,
            device_select: 0,
            driver_select: 0,
            status: 0,
            queue_select: 0,
            queues: (0..queues.min(MAX_QUEUES)).map(|_| QUEUE_RESET).collect(),
        }
    }

    fn reset(&mut self) {
        *self = Self::new(self.offered, self.queues.len());
    }

    /// The features that the driver has accepted, once they are settled.
    pub(crate) const fn features(&self) -> u64 {
        if self.status & status::FEATURES_OK != 0 { self.accepted } else { 0 }
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            indirect: self.features() & feature::INDIRECT_DESC != 0,
            event_index: self.features() & feature::EVENT_IDX != 0,
        }
    }

    fn queue(&mut self) -> Option<(usize, &mut QueueRegisters)> {
        let index = usize::from(self.queue_select);
        Some((index, self.queues.get_mut(index)?))
    }

    /// Reads; `None` where no register is read that way. `configuration_vector` is kept elsewhere.
    pub(crate) fn read(&self, offset: u64, width: Width, configuration_vector: u16) -> Option<u64> {
        let queue = self.queues.get(usize::from(self.queue_select));
        let half = |features: u64, select: u32| match select {
            0 => features & 0xffff_ffff,
            1 => features >> 32,
            _ => 0,
        };
        let value = match (offset, width) {
            (register::DEVICE_FEATURE_SELECT, Width::Dword) => self.device_select.into(),
            (register::DEVICE_FEATURE, Width::Dword) => half(self.offered, self.device_select),
            (register::DRIVER_FEATURE_SELECT, Width::Dword) => self.driver_select.into(),
            (register::DRIVER_FEATURE, Width::Dword) => half(self.accepted, self.driver_select),
            (register::CONFIGURATION_VECTOR, Width::Word) => configuration_vector.into(),
            (register::QUEUES, Width::Word) => self.queues.len() as u64,
            (register::STATUS, Width::Byte) => self.status.into(),
            (register::GENERATION, Width::Byte) => 0,
            (register::QUEUE_SELECT, Width::Word) => self.queue_select.into(),
            // A queue that there is not has size zero.
            (register::QUEUE_SIZE, Width::Word) => queue.map_or(0, |queue| queue.layout.size.into()),
            (register::QUEUE_VECTOR, Width::Word) => queue.map_or(NO_VECTOR, |queue| queue.vector).into(),
            (register::QUEUE_ENABLE, Width::Word) => queue.is_some_and(|queue| queue.enabled).into(),
            (register::QUEUE_NOTIFY, Width::Word) => self.queue_select.into(),
            (register::QUEUE_DESCRIPTORS..register::END, _) => {
                let queue = queue?;
                let address = [queue.layout.descriptors, queue.layout.driver, queue.layout.device]
                    .get(((offset - register::QUEUE_DESCRIPTORS) / 8) as usize)?
                    .0;
                match (offset % 8, width) {
                    (0, Width::Qword) => address,
                    (0, Width::Dword) => address & 0xffff_ffff,
                    (4, Width::Dword) => address >> 32,
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some(value)
    }

    /// Writes; `None` where no register is written that way. What an enabled queue is made of does not change.
    pub(crate) fn write(&mut self, offset: u64, width: Width, value: u64) -> Option<Effect> {
        match (offset, width) {
            (register::DEVICE_FEATURE_SELECT, Width::Dword) => self.device_select = value as u32,
            (register::DRIVER_FEATURE_SELECT, Width::Dword) => self.driver_select = value as u32,
            (register::DRIVER_FEATURE, Width::Dword) => self.accept(value),
            (register::CONFIGURATION_VECTOR, Width::Word) => {
                return Some(Effect::ConfigurationVector(value as u16));
            }
            (register::STATUS, Width::Byte) => return Some(self.write_status(value as u8)),
            (register::QUEUE_SELECT, Width::Word) => self.queue_select = value as u16,
            (register::QUEUE_VECTOR, Width::Word) => {
                let (index, queue) = self.queue()?;
                queue.vector = valid(value as u16);
                return Some(Effect::Vector { queue: index, vector: queue.vector });
            }
            (register::QUEUE_ENABLE, Width::Word) => return Some(self.enable(value)),
            (register::QUEUE_SIZE, Width::Word) => {
                let (_, queue) = self.queue()?;
                if !queue.enabled {
                    queue.layout.size = value as u16;
                }
            }
            (register::QUEUE_DESCRIPTORS..register::END, _) => {
                return self.write_address(offset, width, value);
            }
            _ => return None,
        }
        Some(Effect::None)
    }

    fn accept(&mut self, value: u64) {
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        match self.driver_select {
            0 => self.accepted = self.accepted & !0xffff_ffff | value & 0xffff_ffff,
            1 => self.accepted = self.accepted & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    fn write_status(&mut self, value: u8) -> Effect {
        if value == 0 {
            self.reset();
            return Effect::Reset;
        }
        // Bits are only ever added.
        let mut added = value & status::WRITABLE & !self.status;
        let settled = self.accepted & !self.offered == 0 && self.accepted & feature::VERSION_1 != 0;
        if !settled {
            added &= !status::FEATURES_OK;
        }
        self.status |= added & !status::DRIVER_OK;
        if added & status::DRIVER_OK != 0 && self.status & status::FEATURES_OK != 0 {
            self.status |= status::DRIVER_OK;
            return Effect::Live;
        }
        Effect::None
    }

    fn enable(&mut self, value: u64) -> Effect {
        let (ready, abilities) = (self.status & status::FEATURES_OK != 0, self.abilities());
        match self.queue() {
            Some((index, queue)) if ready && value == 1 && !queue.enabled => {
                queue.enabled = true;
                Effect::Enable { queue: index, layout: queue.layout, abilities }
            }
            _ => Effect::None,
        }
    }

    fn write_address(&mut self, offset: u64, width: Width, value: u64) -> Option<Effect> {
        let (_, queue) = self.queue()?;
        let enabled = queue.enabled;
        let Layout { descriptors, driver, device, .. } = &mut queue.layout;
        let [Gpa(first), Gpa(second), Gpa(third)] = [descriptors, driver, device];
        let address = match (offset - register::QUEUE_DESCRIPTORS) / 8 {
            0 => first,
            1 => second,
            _ => third,
        };
        let changed = match (offset % 8, width) {
            (0, Width::Qword) => value,
            (0, Width::Dword) => *address & !0xffff_ffff | value & 0xffff_ffff,
            (4, Width::Dword) => *address & 0xffff_ffff | value << 32,
            _ => return None,
        };
        if !enabled {
            *address = changed;
        }
        Some(Effect::None)
    }
}
