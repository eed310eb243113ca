extern crate std;
use std::vec;

use proptest::prelude::*;
use vcpu::fake::FakeSpace;
use vcpu::{AddressSpace, Gpa, GuestMemory};

use super::*;

const RAM: u64 = 1 << 20;
const DESCRIPTION: u64 = 0x100;
const TARGET: u64 = 0x1000;

fn memory() -> FakeSpace {
    let mut space = FakeSpace::with_memory(RAM);
    space.grow_all(Gpa(0), RAM).unwrap();
    space.write(Gpa(0), &vec![0xa5; RAM as usize]).unwrap();
    space
}

fn bytes(memory: &FakeSpace, gpa: u64, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    memory.read(Gpa(gpa), &mut buffer).unwrap();
    buffer
}

fn shelf<'a>() -> FwCfg<'a> {
    let mut device = FwCfg::new();
    device.add_file("opt/first", Cow::Borrowed(b"the first file")).unwrap();
    device.add_file("etc/second", Cow::Owned(vec![7; 200_000])).unwrap();
    device
}

fn select(device: &mut FwCfg<'_>, key: u16) {
    device.write(0, Width::Word, key.into()).unwrap();
}

fn read(device: &mut FwCfg<'_>, length: usize) -> Vec<u8> {
    (0..length).map(|_| device.read(1).unwrap()).collect()
}

/// Writes a description and starts the transfer; carries it out. Gives the steps it took and the control field.
fn transfer(
    device: &mut FwCfg<'_>,
    memory: &FakeSpace,
    control: u32,
    length: u32,
    address: u64,
) -> (u32, u32) {
    let mut description = control.to_be_bytes().to_vec();
    description.extend(length.to_be_bytes());
    description.extend(address.to_be_bytes());
    memory.write(Gpa(DESCRIPTION), &description).unwrap();
    device.write_dma(0, Width::Dword, 0).unwrap();
    device.write_dma(4, Width::Dword, (DESCRIPTION as u32).swap_bytes()).unwrap();
    let mut steps = 0;
    while device.is_busy() {
        device.step(memory);
        steps += 1;
        assert!(steps < 100_000);
    }
    (steps, u32::from_be_bytes(bytes(memory, DESCRIPTION, 4).try_into().unwrap()))
}

#[test]
fn items_are_read_byte_by_byte() {
    let mut device = shelf();
    assert_eq!(read(&mut device, 6), b"QEMU\0\0", "zeros behind the end");
    select(&mut device, key::ID);
    assert_eq!(read(&mut device, 4), [3, 0, 0, 0]);
    select(&mut device, 0x20);
    assert_eq!(read(&mut device, 9), b"the first");
    select(&mut device, 0x4020);
    assert_eq!(read(&mut device, 3), b"the", "the write bit is not part of the number");
    select(&mut device, 0x1234);
    assert_eq!(read(&mut device, 2), [0, 0], "no such item");
    assert!(device.write(1, Width::Byte, 1).is_err() && device.read(0).is_err());
}

#[test]
fn the_directory_lists_files() {
    let mut device = shelf();
    select(&mut device, key::FILE_DIR);
    assert_eq!(read(&mut device, 4), [0, 0, 0, 2]);
    for (size, key, name) in [(14_u32, 0x20_u16, "opt/first"), (200_000, 0x21, "etc/second")] {
        assert_eq!(read(&mut device, 4), size.to_be_bytes());
        assert_eq!(read(&mut device, 4), [0, key as u8, 0, 0]);
        let field = read(&mut device, 56);
        assert_eq!(&field[..name.len()], name.as_bytes());
        assert!(field[name.len()..].iter().all(|byte| *byte == 0));
    }
    assert_eq!(read(&mut device, 4), [0; 4]);
}

#[test]
fn files_that_cannot_be() {
    let mut device = shelf();
    let mut add = |name: &str| device.add_file(name, Cow::Borrowed(b""));
    assert_eq!(add("opt/first"), Err(FileError::Twice));
    assert_eq!(add("pt/first"), Ok(()), "the end of another name");
    for name in ["", "a b", "ä", &"x".repeat(MAX_FILE_NAME + 1)] {
        assert_eq!(add(name), Err(FileError::BadName), "{name}");
    }
    assert_eq!(add(&"x".repeat(MAX_FILE_NAME)), Ok(()));
    for index in 4..MAX_FILES {
        add(&std::format!("file{index}")).unwrap();
    }
    assert_eq!(add("one-more"), Err(FileError::TooMany));
}

#[test]
fn transfers_go_in_bounded_steps() {
    let (mut device, memory) = (shelf(), memory());
    let signature = |at| FwCfg::read_dma(at, Width::Byte).unwrap() as u8;
    assert_eq!((0..8).map(signature).collect::<Vec<_>>(), b"QEMU CFG");
    assert_eq!(FwCfg::read_dma(4, Width::Dword).unwrap().to_le_bytes(), *b" CFG");
    assert!(FwCfg::read_dma(7, Width::Word).is_err());
    // Select the second file and read all of it, and a bit more.
    let (steps, control) = transfer(&mut device, &memory, 0x21 << 16 | 0xa, 200_010, TARGET);
    assert_eq!((steps, control), (1 + 4 + 1, 0));
    assert_eq!(bytes(&memory, TARGET, 200_000), vec![7; 200_000]);
    assert_eq!(bytes(&memory, TARGET + 200_000, 11), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa5]);
    // Select alone, skip, read from there; the ports go on where the transfer ended.
    assert_eq!(transfer(&mut device, &memory, 0x20 << 16 | 8, 99, TARGET), (1, 0));
    assert_eq!(transfer(&mut device, &memory, 4, 4, 0), (2, 0));
    assert_eq!(transfer(&mut device, &memory, 2, 5, TARGET), (2, 0));
    assert_eq!(bytes(&memory, TARGET, 6), b"first\x07");
    assert_eq!(read(&mut device, 5), b" file");
    assert_eq!(transfer(&mut device, &memory, 4, u32::MAX, 0), (2, 0), "far behind the end");
    assert_eq!(read(&mut device, 1), [0]);
}

#[test]
fn transfers_that_cannot_be() {
    let (mut device, memory) = (shelf(), memory());
    assert_eq!(transfer(&mut device, &memory, 0x20 << 16 | 0x18, 4, TARGET).1, 1, "write");
    assert_eq!(transfer(&mut device, &memory, 0x21 << 16 | 0xa, 100, RAM - 99).1, 1, "past the RAM");
    assert_eq!(transfer(&mut device, &memory, 2, 100, u64::MAX - 4).1, 1, "past everything");
    // A description that is not in RAM: nothing happens, and the next one is served.
    device.write_dma(0, Width::Dword, 1).unwrap();
    device.write_dma(4, Width::Dword, 0).unwrap();
    assert!(device.write_dma(4, Width::Dword, 0).is_err(), "one at a time");
    device.step(&memory);
    assert!(!device.is_busy());
    assert_eq!(transfer(&mut device, &memory, 0x20 << 16 | 0xa, 3, TARGET).1, 0);
    device.write_dma(4, Width::Dword, 0).unwrap();
    device.reset();
    assert!(!device.is_busy());
}

proptest! {
    /// Whatever is asked for: it ends, in a number of steps that follows from the length, and the ports still work.
    #[test]
    fn any_transfers_end(
        requests in prop::collection::vec((any::<u32>(), any::<u32>(), 0..2 * RAM, 0_u32..12, any::<bool>()), 1..6),
    ) {
        let (mut device, memory) = (shelf(), memory());
        for (control, length, address, shift, file) in requests {
            let length = length >> shift;
            let control = if file { control & 0xffff | 0x21 << 16 } else { control };
            let (steps, result) = transfer(&mut device, &memory, control, length, address);
            prop_assert!(u64::from(steps) <= 3 + u64::from(length) / STEP);
            // The description may have been overwritten by what it asked for.
            prop_assert!(result <= 1 || address <= DESCRIPTION);
            device.read(1).unwrap();
        }
    }
}
