//! The PCI bus of a chipset with virtio functions on it.

use arbitrary::{Result, Unstructured};
use devices::pci::FunctionAddress;
use devices::{ApicBus, ApicMessage, Chipset, ChipsetConfig, ConsoleSink, MemorySize, Outside, Width};
use spin::Mutex;
use vcpu::Nanos;
use vcpu::fake::{FakeImage, FakeRandom};
use virtio::block::Block;
use virtio::pci::{BAR_BYTES, configured};
use virtio::{Function, Kind, Signals};

/// Nobody hears what it says.
struct Nobody;

impl ApicBus for Nobody {
    fn deliver(&mut self, _message: ApicMessage) {}
}

impl Outside for Nobody {}

impl ConsoleSink for Nobody {
    fn put(&mut self, _byte: u8) -> bool {
        true
    }
}

struct Wires<'a, 'm> {
    at: FunctionAddress,
    chipset: &'a mut Chipset<'m>,
}

impl Signals for Wires<'_, '_> {
    fn message(&mut self, address: u64, data: u32) {
        let _ = devices::msi(address, data);
    }

    fn line(&mut self, high: bool) {
        self.chipset.drive_pci(self.at, high, &mut Nobody);
    }
}

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const VENDOR: u32 = 0x1af4;

fn attempt(input: &mut Unstructured<'_>) -> Result<()> {
    let memory = MemorySize { below_4_gib: 64 << 20, above_4_gib: 0 };
    let mut chipset = Chipset::new(&ChipsetConfig { memory, wall_clock: 0, now: Nanos(0), outside: false });
    let disk = Block::new(FakeImage::new(&[0; 4096]), false, "");
    let functions = [
        Function::<FakeImage>::new(Kind::Block(disk), 2).expect("memory"),
        Function::new(Kind::Entropy(Mutex::new(Box::new(FakeRandom::default()))), 1).expect("memory"),
    ];
    let at = |index: usize| FunctionAddress::new(0, 1 + index as u8, 0);
    for (index, function) in functions.iter().enumerate() {
        let _ = chipset.add_pci_function(at(index), function.config_space());
    }
    while !input.is_empty() {
        let width = *input.choose(&[Width::Byte, Width::Word, Width::Dword])?;
        match input.int_in_range(0_u8..=5)? {
            0 => {
                let device = input.int_in_range(0_u32..=3)?;
                let register = u32::from(input.arbitrary::<u8>()?) & 0xfc;
                let enabled = u32::from(input.ratio(15_u8, 16_u8)?) << 31;
                let address = enabled | device << 11 | register;
                chipset.port_write(ADDRESS, Width::Dword, address, Nanos(0), &mut Nobody);
            }
            1 => chipset.port_write(
                DATA + input.int_in_range(0_u16..=3)?,
                width,
                input.arbitrary()?,
                Nanos(0),
                &mut Nobody,
            ),
            2 => {
                let value =
                    chipset.port_read(DATA + input.int_in_range(0_u16..=3)?, width, Nanos(0), &mut Nobody);
                assert!(u64::from(value) <= width.mask());
            }
            3 => {
                let offset = u64::from(input.arbitrary::<u32>()? & 0x1_ffff);
                let _ = chipset.pci().ecam_write(offset, width, input.arbitrary()?);
            }
            4 => {
                let offset = u64::from(input.arbitrary::<u32>()? & 0x1_ffff);
                let _ = chipset.pci().ecam_read(offset, width);
            }
            _ => {
                let function = functions.get(input.int_in_range(0..=1)?).expect("there are two");
                let (offset, value) = (u64::from(input.arbitrary::<u16>()? & 0x7fff), input.arbitrary()?);
                let wires = &mut Wires { at: at(0), chipset: &mut chipset };
                function.write(offset, width, value, wires);
                let _ = function.read(offset, width, wires);
            }
        }
        look_at(&mut chipset, &functions, at);
    }
    Ok(())
}

/// What the bus says now is what the functions do, and their identity stays.
fn look_at(
    chipset: &mut Chipset<'_>,
    functions: &[Function<FakeImage>],
    at: impl Fn(usize) -> FunctionAddress,
) {
    for (index, function) in functions.iter().enumerate() {
        let space = chipset.pci().function(at(index)).expect("it is still there").clone();
        assert_eq!(space.read(0, Width::Word), VENDOR, "its vendor");
        assert_eq!(space.read(0x34, Width::Byte), 0x40, "where its capabilities begin");
        let now = configured(&space);
        function.configure(&now, &mut Wires { at: at(index), chipset });
        if let Some(base) = now.base {
            assert!(base.is_multiple_of(BAR_BYTES.into()));
            assert_eq!(function.offset(base), Some(0));
            assert_eq!(function.offset(base + u64::from(BAR_BYTES)), None);
        } else {
            assert_eq!(function.offset(0xc000_0000), None);
        }
    }
}

pub(crate) fn run(bytes: &[u8]) {
    // As for a queue.
    let _ = attempt(&mut Unstructured::new(bytes));
}
