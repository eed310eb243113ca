//! The filter between the management domain and the machine's PCI functions.
//!
//! The made-up machine asserts what must never be: a device that can send a message which is not the kernel's, decodes memory that is somebody's, or is
//! touched though it is hidden. Here is the rest: the pages of tables are withdrawn before they are there.

use arbitrary::{Result, Unstructured};
use devices::Width;
use passthrough::pci::{Answer, Filter, Pages};
use vcpu::fake::{FakeBar, FakeFunction, FakeHardware};
use vcpu::{HostMemory, HostRange, Hpa, PciFunction};

use crate::acts::width;

const BRIDGE: PciFunction = PciFunction::new(0, 4, 0);
/// A card with MSI, a disk with MSI-X in a 64-bit BAR, one with both and its table at the end of a page, a bridge, what is behind it, a host bridge.
const FUNCTIONS: [PciFunction; 6] = [
    PciFunction::new(0, 2, 0),
    PciFunction::new(0, 3, 0),
    PciFunction::new(0, 3, 1),
    BRIDGE,
    PciFunction::new(5, 0, 0),
    PciFunction::new(0, 0, 0),
];
const HIDDEN: PciFunction = PciFunction::new(0, 6, 0);
const MSI: u8 = 0x50;
const MSIX: u8 = 0x70;
/// Registers that do something.
const SPECIAL: [u16; 8] = [0x04, 0x10, 0x14, 0x20, 0x30, 0x18, MSI as u16 + 2, MSIX as u16 + 2];
const VALUES: [u32; 10] = [
    0x8000,
    0xc000,
    0x9000_0000,
    0xa000_0000,
    0xfec0_0000,
    0xfee0_0000,
    0x8000_0000,
    0xc000_0000,
    0x7000_9000,
    0x9ff0_9000,
];

fn memory() -> Vec<HostRange> {
    let range = |start, length, kind| HostRange { start: Hpa(start), length, kind };
    vec![
        range(0, 0xa_0000, HostMemory::Own),
        range(0x10_0000, 0x7ff0_0000, HostMemory::Kept),
        range(0x1_0000_0000, 0x8000_0000, HostMemory::Own),
    ]
}

fn card() -> FakeFunction {
    FakeFunction::new(0x100e_8086, 0x02_00_00)
        .bar(0, FakeBar::Memory, 0x2_0000, 0x9000_0000)
        .bar(1, FakeBar::Io, 0x40, 0xc000)
        .bar(6, FakeBar::Rom, 0x1_0000, 0)
        .msi(MSI, true, true)
}

fn function(index: usize) -> FakeFunction {
    match index {
        1 => FakeFunction::new(0x0953_8086, 0x01_08_02)
            .bar(0, FakeBar::Wide, 0x4000, 0x10_0000_0000)
            .msi(MSI, false, false)
            .msix(MSIX, 0, 0x2800, 5),
        2 => card().bar(2, FakeBar::Memory, 0x4000, 0xb000_0000).msix(MSIX, 2, 0xfe8, 3),
        3 => FakeFunction::bridge(0x1c10_8086, 5, 6),
        5 => FakeFunction::new(0x1237_8086, 0x06_00_00).capability(0x40, 9, &[0; 8], &[0xff; 8]),
        _ => card(),
    }
}

struct Bench<'m> {
    hardware: &'m FakeHardware,
    filter: Filter<'m>,
    withdrawn: Vec<Pages>,
}

fn register(input: &mut Unstructured<'_>) -> Result<u16> {
    match input.int_in_range(0_u8..=3)? {
        0 => Ok(*input.choose(&SPECIAL)?),
        1 => input.int_in_range(0x10..=0x3f),
        2 => input.int_in_range(0x50..=0x7f),
        _ => input.int_in_range(0..=0x1010),
    }
}

fn value(input: &mut Unstructured<'_>) -> Result<u32> {
    match input.int_in_range(0_u8..=3)? {
        0 => input.int_in_range(0..=0x1f),
        1 => Ok(u32::MAX),
        2 => Ok(*input.choose(&VALUES)?),
        _ => input.arbitrary(),
    }
}

impl Bench<'_> {
    fn target(input: &mut Unstructured<'_>) -> Result<PciFunction> {
        let index = input.int_in_range(0..=FUNCTIONS.len())?;
        Ok(FUNCTIONS.get(index).copied().unwrap_or(HIDDEN))
    }

    fn act(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let withdrawn = &mut self.withdrawn;
        let mut withdraw = |pages| withdrawn.push(pages);
        match input.int_in_range(0_u8..=9)? {
            0..=3 => {
                let (at, register, width) = (Self::target(input)?, register(input)?, width(input)?);
                self.filter.write(at, register, width, value(input)?, &mut withdraw);
            }
            4 => {
                let (at, register, width) = (Self::target(input)?, register(input)?, width(input)?);
                if let Answer::Done(value) = self.filter.read(at, register, width, &mut withdraw) {
                    assert!(u64::from(value) <= width.mask());
                    assert!(at != HIDDEN || u64::from(value) == width.mask() & u64::from(u32::MAX));
                }
            }
            5 => {
                let (at, register) = (Self::target(input)?, register(input)?);
                let address = 0x8000_0000 | u32::from(at.0) << 8 | u32::from(register);
                self.filter.port_write(0xcf8, Width::Dword, address, &mut withdraw);
                let port = input.int_in_range(0xcf8..=0xd00)?;
                let width = *input.choose(&[Width::Byte, Width::Word, Width::Dword])?;
                self.filter.port_write(port, width, value(input)?, &mut withdraw);
                self.filter.port_read(port, width, &mut withdraw);
            }
            6 | 7 => self.table(input)?,
            8 => {
                let at = Self::target(input)?;
                self.hardware.with(at, FakeFunction::reset);
            }
            _ => {
                let index = input.int_in_range(0..=FUNCTIONS.len() - 1)?;
                if let Some(at) = FUNCTIONS.get(index).copied() {
                    let _ = self.hardware.remove(at);
                    self.filter.read(at, 0, Width::Dword, &mut withdraw);
                    self.hardware.add(at, function(index));
                }
            }
        }
        Ok(())
    }

    fn table(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let tables: Vec<Pages> = self.filter.tables().collect();
        if tables.is_empty() {
            return Ok(());
        }
        let pages = *input.choose(&tables)?;
        let offset = match input.int_in_range(0_u8..=2)? {
            // The disk's table and the other's.
            0 => 0x800 + u64::from(input.int_in_range(0_u8..=0x4f)?),
            1 => 0xfe8 + u64::from(input.int_in_range(0_u8..=0x2f)?),
            _ => input.int_in_range(0..=pages.bytes - 1)?,
        };
        let (at, width) = (Hpa(pages.start.0 + offset), width(input)?);
        self.filter.table_write(at, width, value(input)?.into());
        assert!(self.filter.table_read(at, width) <= width.mask());
        Ok(())
    }
}

fn attempt(input: &mut Unstructured<'_>) -> Result<()> {
    let hardware = FakeHardware::new(memory(), input.int_in_range(0..=12)?);
    for (index, at) in FUNCTIONS.into_iter().enumerate() {
        let function = function(index);
        hardware.add(at, if input.arbitrary()? { function.decoding() } else { function });
    }
    hardware.add(HIDDEN, card());
    hardware.leave_alone(HIDDEN);
    let mut filter = Filter::new(&hardware);
    assert!(filter.hide(HIDDEN) && filter.protect(Hpa(0xfec0_0000), 0x1000));
    assert_eq!(filter.reserve_slots(3), 3);
    let mut bench = Bench { hardware: &hardware, filter, withdrawn: Vec::new() };
    while !input.is_empty() {
        let before: Vec<Pages> = bench.filter.tables().collect();
        let generation = bench.filter.generation();
        bench.withdrawn.clear();
        let end = bench.act(input);
        let now: Vec<Pages> = bench.filter.tables().collect();
        assert!(now == before || bench.filter.generation() != generation);
        for pages in now.iter().filter(|pages| !before.contains(pages)) {
            assert!(bench.withdrawn.contains(pages), "{pages:x?} were not withdrawn");
        }
        for (source, _) in hardware.open() {
            let _ = bench.filter.deliver(source);
        }
        end?;
    }
    Ok(())
}

pub(crate) fn run(bytes: &[u8]) {
    // Where the input ends in the middle of an act, there are no more.
    let _ = attempt(&mut Unstructured::new(bytes));
}
