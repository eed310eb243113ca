//! The devices of the VM that is made next.

use abi::{DeviceKind, Refusal};
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use virtio::block::SECTOR;
use vswitch::port::{Mac, is_group};

use super::{Refused, refused};
use crate::config::{BlankDisk, Description, MAX_DISKS, MAX_NICS, Nic};

/// What was added so far.
#[derive(Default)]
pub(super) struct Draft {
    disks: ArrayVec<BlankDisk, MAX_DISKS>,
    nics: Vec<Nic>,
    console: bool,
    rng: bool,
    balloon: bool,
    firmware: Option<u64>,
    debug_console: bool,
    text_screen: bool,
}

type Done = Result<abi::Answer<'static>, Refused>;

impl Draft {
    /// One device more.
    pub(super) fn add(&mut self, kind: DeviceKind, first: u64, second: u64) -> Done {
        match kind {
            DeviceKind::Console => self.console = true,
            DeviceKind::Entropy => self.rng = true,
            DeviceKind::Balloon => self.balloon = true,
            DeviceKind::Firmware => self.firmware = Some(first),
            DeviceKind::DebugConsole => self.debug_console = true,
            DeviceKind::TextScreen => self.text_screen = true,
            DeviceKind::MemoryDisk | DeviceKind::ServedDisk => {
                let served = kind == DeviceKind::ServedDisk;
                // What is too large for numbers is too large for disks.
                let disk =
                    BlankDisk { size: first.saturating_mul(SECTOR), read_only: second & 1 != 0, served };
                if self.disks.try_push(disk).is_err() {
                    return Err(refused(Refusal::TooMany, MAX_DISKS as u64, 0));
                }
            }
        }
        Ok(abi::Answer::Done {})
    }

    /// A network device more.
    pub(super) fn add_network(&mut self, network: &str, mac: u64) -> Done {
        if self.nics.len() >= MAX_NICS {
            return Err(refused(Refusal::TooMany, MAX_NICS as u64, 0));
        }
        if self.nics.try_reserve(1).is_err() {
            return Err(refused(Refusal::NoMemory, size_of::<Nic>() as u64, 0));
        }
        let [address @ .., high, higher] = mac.to_le_bytes();
        let chosen: Mac = address;
        if (high, higher) != (0, 0) || is_group(&chosen) {
            return Err(refused(Refusal::Range, mac, 0));
        }
        let mac = (mac != 0).then_some(chosen);
        let mut nic = Nic::on(network);
        nic.mac = mac;
        self.nics.push(nic);
        Ok(abi::Answer::Done {})
    }

    /// A VM with these devices; the next one begins with none.
    pub(super) fn take(&mut self, name: &str, cpus: u16, memory: u64) -> Description {
        let Self { disks, nics, console, rng, balloon, firmware, debug_console, text_screen } =
            core::mem::take(self);
        let mut description = Description { cpus: cpus.into(), memory, ..Description::new(name) };
        description.devices.virtio_console = console;
        description.devices.debug_console = debug_console;
        description.devices.vga_text = text_screen;
        Description { disks, nics, rng, balloon, firmware, ..description }
    }
}
