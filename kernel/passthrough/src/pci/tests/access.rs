//! What passes, what is hidden, ports.

use super::*;

fn port_read(driver: &mut Driver<'_>, port: u16, width: Width) -> Option<u32> {
    match driver.filter.port_read(port, width, &mut |_| {}) {
        Some(Answer::Done(value)) => Some(value),
        Some(Answer::Other { .. }) => panic!("no function of the kernel's"),
        None => None,
    }
}

#[test]
fn ports_lead_to_registers() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    assert_eq!(port_read(&mut driver, 0xcfc, Dword), Some(u32::MAX), "not enabled");
    let address = 0x8000_0000 | u32::from(NET.0) << 8;
    assert_eq!(
        driver.filter.port_write(0xcf8, Dword, address | 0x7f00_0003, &mut |_| {}),
        Some(Answer::Done(()))
    );
    assert_eq!(port_read(&mut driver, 0xcf8, Dword), Some(address));
    assert_eq!(port_read(&mut driver, 0xcfc, Dword), Some(0x100e_8086));
    assert_eq!(port_read(&mut driver, 0xcfe, Word), Some(0x100e));
    assert_eq!(port_read(&mut driver, 0xcfd, Word), Some(0x0e80));
    assert_eq!(port_read(&mut driver, 0xcff, Byte), Some(0x10));
    assert_eq!(port_read(&mut driver, 0xcfe, Dword), Some(u32::MAX));
    assert_eq!(port_read(&mut driver, 0xcf9, Byte), None, "the reset register's");
    assert_eq!(port_read(&mut driver, 0xcf8, Word), None);
    assert_eq!(port_read(&mut driver, 0xcfa, Dword), Some(u32::MAX), "it would reach the data register");
    assert_eq!(port_read(&mut driver, 0xd00, Byte), None);
}

#[test]
fn what_is_not_special_passes() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(NET, COMMAND, Word, 0x0407);
    assert_eq!(hardware.with(NET, |net| net.read(4, 2)), Some(0x0407));
    driver.write(NET, 0x44, Byte, 3);
    assert_eq!(driver.read(NET, 0x44, Word), 3);
    driver.write(NET, 0x14, Dword, 0xd001);
    assert_eq!(driver.read(NET, 0x14, Dword), 0xd001);
    assert_eq!(driver.filter.refused(), Refused::default());
}

#[test]
fn hidden_functions_are_absent_and_not_touched() {
    let hardware = machine();
    hardware.leave_alone(DISK);
    let mut driver = Driver::new(&hardware);
    assert!(driver.filter.hide(DISK));
    assert_eq!(driver.filter.reserve_slots(2), 2);
    driver.write(DISK, COMMAND, Word, 7);
    assert_eq!(driver.read(DISK, 0, Dword), u32::MAX);
    assert_eq!(driver.read(IOMMU, 0, Dword), u32::MAX);
    driver.write(IOMMU, 0x40, Dword, 0);
    assert!(hardware.take_writes().is_empty());
}

#[test]
fn absent_functions_read_ones_and_may_come_later() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    let at = PciFunction::new(9, 1, 0);
    assert_eq!(driver.read(at, 0, Dword), u32::MAX);
    hardware.add(at, net());
    assert_eq!(driver.read(at, 0, Dword), 0x100e_8086);
    hardware.add(at, disk());
    driver.read(at, 0, Dword);
    driver.write(at, MSIX + 2, Word, 0xc000);
    assert_eq!(driver.filter.refused().messages, 1, "the disk is known as such, and decodes nothing");
}

#[test]
fn the_kernels_functions_are_in_free_slots() {
    let hardware = machine();
    hardware.add(PciFunction::new(0, 30, 3), net());
    let mut filter = Filter::new(&hardware);
    assert_eq!(filter.reserve_slots(3), 3);
    assert_eq!([0, 1, 2, 3].map(|index| filter.virtual_slot(index)), [Some(29), Some(28), Some(27), None]);
    let function = PciFunction::new(0, 28, 1);
    let other = Answer::Other { function, register: 0x10 };
    assert_eq!(filter.read(function, 0x10, Dword, &mut |_| {}), other);
}

#[test]
fn host_bridges_keep_their_registers() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(HOST, 0x44, Dword, 0x1234_5678);
    driver.write(HOST, COMMAND, Word, 0x0406);
    assert_eq!(driver.read(HOST, 0x44, Dword), 0);
    assert_eq!(driver.read(HOST, COMMAND, Word), 0x0400);
    assert_eq!(driver.filter.refused().host_bridge, 2);
}

#[test]
fn guarded_registers_are_read_only() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    assert!(driver.filter.guard(NET, 0x45..0x46));
    driver.write(NET, 0x44, Dword, 0x0303);
    assert_eq!(driver.read(NET, 0x44, Dword), 0);
    assert_eq!(driver.filter.refused().guarded, 1);
}

#[test]
fn capabilities_that_decode_memory_are_null() {
    let hardware = machine();
    let mut card = net().capability(0x80, 0x14, &[0; 6], &[0xff; 6]).capability(0x90, 9, &[0; 2], &[0xff; 2]);
    card.set(0x100, &0x1401_0001_u32.to_le_bytes(), &[]);
    card.set(0x140, &0x0001_0010_u32.to_le_bytes(), &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let at = PciFunction::new(1, 0, 0);
    hardware.add(at, card);
    let mut driver = Driver::new(&hardware);
    assert_eq!(driver.read(at, 0x80, Word), 0x9000);
    driver.write(at, 0x84, Dword, 1);
    driver.write(at, 0x92, Word, 0x55);
    assert_eq!((driver.read(at, 0x84, Dword), driver.read(at, 0x92, Word)), (0, 0x55));
    assert_eq!(driver.read(at, 0x140, Dword), 0x0001_0000);
    driver.write(at, 0x144, Dword, u32::MAX);
    assert_eq!(driver.read(at, 0x144, Dword), 0);
    assert_eq!(driver.read(at, 0x100, Dword), 0x1401_0001);
}

#[test]
fn lists_of_capabilities_that_go_round_end() {
    let hardware = machine();
    let mut card = net();
    card.set(0x51, &[0x40], &[]);
    card.set(0x100, &0x1001_0010_u32.to_le_bytes(), &[]);
    let at = PciFunction::new(1, 0, 0);
    hardware.add(at, card);
    let mut driver = Driver::new(&hardware);
    assert_eq!(driver.read(at, MSI, Word), 0x4005);
    assert_eq!(driver.read(at, 0x100, Dword), 0x1001_0000);
}

#[test]
fn new_bus_numbers_forget_what_is_behind_and_keep_what_is_hidden() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(BEHIND, MSI + 2, Word, 1);
    assert_eq!(hardware.open().len(), 1);
    driver.write(BRIDGE, 0x19, Byte, 6);
    assert_eq!(hardware.open().len(), 0);
    assert_eq!(driver.read(BRIDGE, 0x18, Dword) & 0xff_ffff, 0x06_06_00);

    assert!(driver.filter.hide(PciFunction::new(6, 3, 0)));
    driver.write(BRIDGE, 0x18, Dword, 0x07_07_00);
    assert_eq!(driver.read(BRIDGE, 0x18, Dword) & 0xff_ffff, 0x06_06_00);
    assert_eq!(driver.filter.refused().buses, 1);
}

#[test]
fn a_device_that_is_not_ready_is_waited_for() {
    let hardware = machine();
    let at = PciFunction::new(1, 0, 0);
    hardware.add(at, FakeFunction::new(0xffff_0001, u32::MAX));
    let mut driver = Driver::new(&hardware);
    assert_eq!(driver.read(at, 0, Dword), 0xffff_0001);
    driver.write(at, COMMAND, Word, 2);
    assert!(hardware.take_writes().is_empty());
    hardware.add(at, disk().decoding());
    driver.write(at, MSIX + 2, Word, 0x8000);
    assert_eq!(driver.read(at, MSIX + 2, Word) & 0x8000, 0x8000);
}
