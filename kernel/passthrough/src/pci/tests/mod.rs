//! A made-up machine, and a driver that sees it through the filter.

mod access;
mod messages;
mod properties;
mod ranges;

use super::*;
use devices::Width::{Byte, Dword, Word};
use vcpu::fake::{FakeBar, FakeFunction, FakeHardware};
use vcpu::{HostMemory, HostRange};

/// RAM below 4 GiB, with a hole of devices behind it, and above.
const RAM: u64 = 0x8000_0000;
const NET: PciFunction = PciFunction::new(0, 2, 0);
const DISK: PciFunction = PciFunction::new(0, 3, 0);
const BRIDGE: PciFunction = PciFunction::new(0, 4, 0);
const BEHIND: PciFunction = PciFunction::new(5, 0, 0);
const HOST: PciFunction = PciFunction::new(0, 0, 0);
const IOMMU: PciFunction = PciFunction::new(0, 0, 2);

const COMMAND: u16 = 4;
const MSI: u16 = 0x50;
const MSIX: u16 = 0x70;
const NET_BAR: u64 = 0x9000_0000;
const DISK_BAR: u64 = 0x10_0000_0000;
/// Where the disk's table is in its BAR, in the middle of a page.
const TABLE: u64 = 0x2800;
const ENTRIES: u16 = 5;

fn memory() -> Vec<HostRange> {
    let range = |start, length, kind| HostRange { start: Hpa(start), length, kind };
    vec![
        range(0, 0xa_0000, HostMemory::Own),
        range(0xf_0000, RAM - 0xf_0000, HostMemory::Kept),
        range(0x1_0000_0000, 0x8000_0000, HostMemory::Own),
    ]
}

/// A network card with MSI and a 32-bit BAR, a disk with MSI-X and a 64-bit BAR, a bridge with another card behind it, a host bridge, an IOMMU.
fn machine() -> FakeHardware {
    let hardware = FakeHardware::new(memory(), 32);
    hardware.add(HOST, FakeFunction::new(0x1237_8086, 0x06_00_00).capability(0x40, 9, &[0; 8], &[0xff; 8]));
    let header = [0; 2].into_iter().chain([0; 12]).collect::<Vec<_>>();
    let mut iommu = FakeFunction::new(0x1419_1022, 0x08_06_00).capability(0x40, 0xf, &header, &[]);
    iommu.set(0x42, &[3], &[]);
    hardware.add(IOMMU, iommu);
    hardware.add(NET, net().decoding());
    hardware.add(DISK, disk().decoding());
    hardware.add(BRIDGE, FakeFunction::bridge(0x1c10_8086, 5, 6).decoding());
    hardware.add(BEHIND, net());
    hardware
}

fn net() -> FakeFunction {
    FakeFunction::new(0x100e_8086, 0x02_00_00)
        .bar(0, FakeBar::Memory, 0x2_0000, NET_BAR)
        .bar(1, FakeBar::Io, 0x40, 0xc000)
        .bar(6, FakeBar::Rom, 0x1_0000, 0)
        .capability(0x40, 1, &[0; 6], &[0, 0, 3])
        .msi(MSI as u8, true, true)
}

fn disk() -> FakeFunction {
    FakeFunction::new(0x0953_8086, 0x01_08_02)
        .bar(0, FakeBar::Wide, 0x4000, DISK_BAR)
        .msi(MSI as u8, false, false)
        .msix(MSIX as u8, 0, TABLE as u32, ENTRIES)
}

/// A driver.
struct Driver<'m> {
    filter: Filter<'m>,
    withdrawn: Vec<Pages>,
}

impl<'m> Driver<'m> {
    fn new(hardware: &'m FakeHardware) -> Self {
        Self { filter: Filter::new(hardware), withdrawn: Vec::new() }
    }

    fn read(&mut self, at: PciFunction, register: u16, width: Width) -> u32 {
        let withdrawn = &mut self.withdrawn;
        match self.filter.read(at, register, width, &mut |pages| withdrawn.push(pages)) {
            Answer::Done(value) => value,
            Answer::Other { .. } => panic!("{at:?} is the kernel's"),
        }
    }

    fn write(&mut self, at: PciFunction, register: u16, width: Width, value: u32) {
        let withdrawn = &mut self.withdrawn;
        let answer = self.filter.write(at, register, width, value, &mut |pages| withdrawn.push(pages));
        assert_eq!(answer, Answer::Done(()));
    }

    /// Writes all ones as Linux sizes a BAR, and says what came of that.
    fn size(&mut self, at: PciFunction, register: u16) -> u32 {
        let before = self.read(at, register, Dword);
        self.write(at, register, Dword, u32::MAX);
        let size = self.read(at, register, Dword);
        self.write(at, register, Dword, before);
        assert_eq!(self.read(at, register, Dword), before);
        size
    }

    fn entry(&mut self, index: u64, part: u64) -> u32 {
        self.filter.table_read(Hpa(DISK_BAR + TABLE + 16 * index + 4 * part), Dword) as u32
    }

    fn set_entry(&mut self, index: u64, part: u64, value: u32) {
        self.filter.table_write(Hpa(DISK_BAR + TABLE + 16 * index + 4 * part), Dword, value.into());
    }
}
