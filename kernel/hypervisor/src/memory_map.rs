//! Where a guest's memory lies.
//!
//! | guest-physical        | what                                                            |
//! |-----------------------|-----------------------------------------------------------------|
//! | 0 … 640 KiB           | RAM; its last KiB reserved, as firmware's data area would be    |
//! | 640 … 768 KiB         | nothing; with a VGA adapter its text memory from 736 KiB         |
//! | 768 KiB … 1 MiB       | RAM, not told to the guest as such; ACPI tables from 896 KiB    |
//! | 1 MiB … 3 GiB at most | RAM                                                             |
//! | 3 … 4 GiB             | devices; the PCI configuration window reserved; at its end the  |
//! |                       | ROM of a VM that starts with firmware of its own                |
//! | from 4 GiB            | the rest of the RAM                                             |
//!
//! Sources: ACPI specification, "System Address Map Interfaces"; the PC's tradition.

use alloc::vec::Vec;

use devices::acpi::Window;
use devices::pci::Ecam;
use devices::{MemorySize, Vga};
use loader::{E820Entry, MemoryKind};
use vcpu::{Gpa, HostMemory, HostRange};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const LOW_END: u64 = 640 * KIB;
const FIRMWARE_DATA: u64 = LOW_END - KIB;
const SHADOW: u64 = 768 * KIB;
pub(crate) const HIGH: u64 = MIB;
/// RAM below this; devices above, up to 4 GiB.
const DEVICES: u64 = 3 * GIB;
/// Bytes for the ACPI tables of the guest that has the machine's devices.
const MACHINE_TABLES_SIZE: u64 = 8 * KIB;
const ABOVE_DEVICES: u64 = 4 * GIB;

/// Where the ACPI tables lie: software searches for the root pointer from here on.
pub const ACPI_TABLES: Gpa = Gpa(0xe_0000);
/// Bytes for them.
pub const ACPI_TABLES_SIZE: u64 = HIGH - ACPI_TABLES.0;
/// Where PCI functions may have their memory: behind their configuration window, up to the I/O APIC. Firmware puts it at the
/// upper end.
pub const PCI_MEMORY: Window = Window { first: Ecam::BASE.0 + Ecam::SIZE, last: 0xfebf_ffff };
/// Where devices are and never any RAM or firmware: configuration space, PCI memory, I/O APIC and local APICs.
pub const DEVICE_MEMORY: Window = Window { first: Ecam::BASE.0, last: 0xfeef_ffff };

/// Where a ROM of so many bytes begins: it ends with 32 bits.
pub(crate) const fn rom_start(bytes: u64) -> u64 {
    ABOVE_DEVICES - bytes
}

/// A range of RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRange {
    /// First address.
    pub start: Gpa,
    /// Bytes.
    pub length: u64,
}

/// Ranges of either kind that a guest has at most, with a screen's memory and a ROM: as many as there is room for from the beginning.
const RANGES: usize = 6;

/// One guest's memory map.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    /// RAM, lowest first.
    pub ram: Vec<RamRange>,
    /// What the guest is told.
    pub e820: Vec<E820Entry>,
    /// What the guest's CMOS says.
    pub size: MemorySize,
}

impl MemoryMap {
    /// The map of a guest with `memory` bytes, a number of whole pages from [`crate::config::MIN_MEMORY`] up. `None` where there is no memory for the map
    /// itself.
    pub fn new(memory: u64) -> Option<Self> {
        let below = memory.min(DEVICES);
        let above = memory - below;
        let (mut ram, mut e820) = (Vec::new(), Vec::new());
        ram.try_reserve_exact(RANGES).ok()?;
        e820.try_reserve_exact(RANGES).ok()?;
        for (start, end) in
            [(0, LOW_END), (SHADOW, HIGH), (HIGH, below), (ABOVE_DEVICES, ABOVE_DEVICES + above)]
        {
            if start < end {
                ram.push(RamRange { start: Gpa(start), length: end - start });
            }
        }
        for (start, end, kind) in [
            (0, FIRMWARE_DATA, MemoryKind::RAM),
            (FIRMWARE_DATA, LOW_END, MemoryKind::RESERVED),
            (ACPI_TABLES.0, HIGH, MemoryKind::RESERVED),
            (HIGH, below, MemoryKind::RAM),
            (Ecam::BASE.0, Ecam::BASE.0 + Ecam::SIZE, MemoryKind::RESERVED),
            (ABOVE_DEVICES, ABOVE_DEVICES + above, MemoryKind::RAM),
        ] {
            if start < end {
                e820.push(E820Entry { base: Gpa(start), length: end - start, kind });
            }
        }
        Some(Self { ram, e820, size: MemorySize { below_4_gib: below, above_4_gib: above } })
    }

    /// The map of the guest that has the machine's devices: memory where the machine has it. Its ACPI tables go where low memory ends; `None` where it
    /// has none of that.
    pub fn of_machine(ranges: &[HostRange]) -> Option<(Self, Gpa)> {
        let own = || ranges.iter().filter(|range| range.kind == HostMemory::Own);
        let low = own().filter(|range| range.start.0 < LOW_END).max_by_key(|range| range.length)?;
        let tables = Gpa((low.start.0 + low.length).checked_sub(MACHINE_TABLES_SIZE)?);
        let (mut ram, mut e820) = (Vec::with_capacity(ranges.len()), Vec::with_capacity(ranges.len() + 1));
        for range in ranges {
            let (base, mut length) = (Gpa(range.start.0), range.length);
            let kind = match range.kind {
                HostMemory::Own => MemoryKind::RAM,
                HostMemory::Kept | HostMemory::Firmware => MemoryKind::RESERVED,
                HostMemory::AcpiTables => MemoryKind::ACPI,
                HostMemory::AcpiNvs => MemoryKind::NVS,
            };
            if range.kind == HostMemory::Own {
                ram.push(RamRange { start: base, length });
            }
            if range == low {
                length -= MACHINE_TABLES_SIZE;
            }
            e820.push(E820Entry { base, length, kind });
            if range == low {
                e820.push(E820Entry { base: tables, length: MACHINE_TABLES_SIZE, kind: MemoryKind::ACPI });
            }
        }
        let above: u64 =
            ram.iter().filter(|range| range.start.0 >= ABOVE_DEVICES).map(|range| range.length).sum();
        let all: u64 = ram.iter().map(|range| range.length).sum();
        let size = MemorySize { below_4_gib: all - above, above_4_gib: above };
        Some((Self { ram, e820, size }, tables))
    }

    /// Where a kernel can be, in whole 2 MiB: at the start of the largest range.
    pub fn kernel_place(&self) -> Option<Gpa> {
        let largest = self.ram.iter().max_by_key(|range| range.length)?;
        Some(Gpa(largest.start.0.next_multiple_of(2 * MIB)))
    }

    /// Where so many bytes of low memory are.
    pub fn low_place(&self, bytes: u64) -> Option<Gpa> {
        let low = self.e820.iter().filter(|range| range.kind == MemoryKind::RAM && range.base.0 < LOW_END);
        low.filter(|range| range.length >= bytes).map(|range| range.base).next()
    }

    /// The same with a ROM of so many bytes, and told to the firmware in it: all memory, without what firmware itself reserves.
    pub fn with_rom(mut self, bytes: u64) -> Self {
        let start = rom_start(bytes);
        let before = self.ram.iter().take_while(|range| range.start.0 < start).count();
        self.ram.insert(before, RamRange { start: Gpa(start), length: bytes });
        let told = [
            (0, self.size.below_4_gib, MemoryKind::RAM),
            (Ecam::BASE.0, Ecam::SIZE, MemoryKind::RESERVED),
            (ABOVE_DEVICES, self.size.above_4_gib, MemoryKind::RAM),
        ];
        let entries = told.into_iter().filter(|(_, length, _)| *length > 0);
        self.e820.clear();
        self.e820.extend(entries.map(|(base, length, kind)| E820Entry { base: Gpa(base), length, kind }));
        self
    }

    /// The same with a VGA adapter's text memory, which is not told to the guest.
    pub fn with_text_memory(mut self) -> Self {
        // After conventional memory.
        self.ram.insert(1, RamRange { start: Vga::TEXT, length: Vga::TEXT_SIZE });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map_of(memory: u64) -> MemoryMap {
        MemoryMap::new(memory).expect("memory")
    }

    #[test]
    fn memory_above_3_gib_moves_past_the_devices() {
        let map = map_of(5 * GIB);
        assert_eq!(map.ram[2], RamRange { start: Gpa(MIB), length: 3 * GIB - MIB });
        assert_eq!(map.ram[3], RamRange { start: Gpa(4 * GIB), length: 2 * GIB });
        assert_eq!(map_of(256 * MIB).ram.len(), 3);
        let with_screen = map_of(5 * GIB).with_text_memory();
        assert_eq!((with_screen.ram.len(), with_screen.ram[1].start), (5, Gpa(0xb_8000)));
        let with_rom = with_screen.with_rom(256 * KIB);
        assert_eq!((with_rom.ram.len(), with_rom.ram[4].start), (6, Gpa(0xfffc_0000)));
        assert!(with_rom.ram.windows(2).all(|pair| pair[0].start < pair[1].start));
        assert_eq!(with_rom.e820[0].length, 3 * GIB);
    }

    proptest! {
        #[test]
        fn entries_ascend_and_lie_in_ram_or_reserve_devices(pages in 4096u64..1 << 22) {
            let map = map_of(pages * vcpu::PAGE_SIZE);
            let mut end = 0;
            for entry in &map.e820 {
                prop_assert!(entry.base.0 >= end && entry.length > 0);
                end = entry.base.0 + entry.length;
                let inside = map.ram.iter().any(|ram| ram.start <= entry.base && end <= ram.start.0 + ram.length);
                let devices = (DEVICES..ABOVE_DEVICES).contains(&entry.base.0) && end <= ABOVE_DEVICES;
                let reserved = devices && entry.kind == MemoryKind::RESERVED;
                prop_assert!(inside || reserved, "{entry:?} is not RAM");
            }
            prop_assert_eq!(map.size.below_4_gib + map.size.above_4_gib, pages * vcpu::PAGE_SIZE);
        }
    }
}
