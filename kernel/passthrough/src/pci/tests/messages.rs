//! Message interrupts, as Linux uses them.

use super::*;
use devices::{ApicMessage, DeliveryMode};

const ADDRESS: u32 = 0xfee0_3000;
const ENABLE: u32 = 0x8000;
const MASK_ALL: u32 = 0x4000;

#[test]
fn msi_as_linux_enables_and_disables_it() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    assert_eq!(driver.read(NET, MSI + 2, Word), 0x0180, "one vector");
    driver.write(NET, MSI + 0x10, Dword, 0xf);
    driver.write(NET, MSI + 4, Dword, ADDRESS);
    driver.write(NET, MSI + 8, Dword, 0);
    driver.write(NET, MSI + 12, Word, 0x41);
    driver.write(NET, MSI + 2, Word, 0x01f1);
    assert_eq!(driver.read(NET, MSI + 2, Word), 0x0181);
    let [(source, message)] = hardware.open()[..] else { panic!("one is open") };
    assert_eq!(hardware.with(NET, |net| net.armed()), Some(vec![message]));
    driver.write(NET, MSI + 0x10, Dword, 0);
    assert_eq!(hardware.with(NET, |net| net.read(0x60, 4)), Some(0));
    assert_eq!(driver.filter.deliver(source), Some(ApicMessage::fixed(3, 0x41)));

    // It moves to another CPU.
    driver.write(NET, MSI + 4, Dword, ADDRESS + 0x2004);
    driver.write(NET, MSI + 12, Word, 0x0142);
    let moved = driver.filter.deliver(source).expect("it is set");
    assert_eq!((moved.destination, moved.logical, moved.vector), (5, true, 0x42));
    assert_eq!(moved.delivery, DeliveryMode::LowestPriority);
    assert_eq!((driver.read(NET, MSI + 4, Dword), driver.read(NET, MSI + 12, Word)), (0xfee0_5004, 0x0142));

    driver.write(NET, MSI + 2, Word, 0x0180);
    assert_eq!(hardware.open(), []);
    assert_eq!(driver.filter.deliver(source), None);
    assert_eq!(driver.read(NET, MSI + 4, Dword), 0xfee0_5004);
}

#[test]
fn msi_of_32_bits() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(DISK, MSI + 4, Dword, ADDRESS);
    driver.write(DISK, MSI + 8, Dword, 0xffff_0051);
    driver.write(DISK, MSI, Dword, 0x0001_0000);
    assert_eq!(driver.read(DISK, MSI + 8, Dword), 0x51);
    let [(source, _)] = hardware.open()[..] else { panic!("one is open") };
    assert_eq!(driver.filter.deliver(source), Some(ApicMessage::fixed(3, 0x51)));
}

#[test]
fn an_address_that_is_no_interrupt_delivers_nothing() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(NET, MSI + 4, Dword, 0x10_0000);
    driver.write(NET, MSI + 2, Word, 1);
    let [(source, _)] = hardware.open()[..] else { panic!("one is open") };
    assert_eq!(driver.filter.deliver(source), None);
}

#[test]
fn firmwares_messages_are_switched_off() {
    let hardware = machine();
    hardware.with(NET, |net| net.write(0x52, 2, 1));
    hardware.with(DISK, |disk| disk.write(0x72, 2, ENABLE));
    let mut driver = Driver::new(&hardware);
    assert_eq!(driver.read(NET, MSI + 2, Word) & 1, 0);
    assert_eq!(driver.read(DISK, MSIX + 2, Word) & ENABLE, 0);
}

/// As Linux does it: enabled and masked first, then entries, then unmasked.
fn enable_msix(driver: &mut Driver<'_>, count: u64) {
    driver.write(DISK, COMMAND, Word, 6);
    driver.write(DISK, MSIX + 2, Word, ENABLE | MASK_ALL);
    for index in 0..u64::from(ENTRIES) {
        let control = driver.entry(index, 3);
        driver.set_entry(index, 3, control | 1);
    }
    for index in 0..count {
        driver.set_entry(index, 0, ADDRESS);
        driver.set_entry(index, 1, 0);
        driver.set_entry(index, 2, 0x60 + index as u32);
    }
    driver.write(DISK, MSIX + 2, Word, ENABLE);
    for index in 0..count {
        driver.set_entry(index, 3, 0);
    }
}

#[test]
fn msix_as_linux_enables_and_disables_it() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    enable_msix(&mut driver, 3);
    let open = hardware.open();
    assert_eq!(open.len(), 3);
    let armed = hardware.with(DISK, |disk| disk.armed());
    assert_eq!(armed, Some(open.iter().map(|(_, message)| *message).collect()));
    for (index, (source, _)) in open.iter().enumerate() {
        assert_eq!(driver.filter.deliver(*source), Some(ApicMessage::fixed(3, 0x60 + index as u8)));
    }
    assert_eq!(driver.entry(1, 2), 0x61);
    assert_eq!(driver.filter.table_read(Hpa(DISK_BAR + TABLE + 16), Width::Qword), ADDRESS.into());
    assert_eq!(driver.filter.table_read(Hpa(DISK_BAR + TABLE + 25), Byte), 0);

    driver.set_entry(1, 3, 1);
    assert_eq!(hardware.with(DISK, |disk| disk.entry(1, 3)), Some(1));
    assert_eq!(hardware.open().len(), 3, "it comes again");

    driver.write(DISK, MSIX + 2, Word, 0);
    assert_eq!(hardware.open(), []);
    assert_eq!((driver.entry(0, 0), driver.entry(0, 3), driver.entry(1, 3)), (ADDRESS, 0, 1));
    // What is unmasked is armed again before the function may send.
    driver.write(DISK, MSIX + 2, Word, ENABLE);
    assert_eq!(hardware.open().len(), 2);
}

#[test]
fn what_else_is_in_the_page_passes() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(DISK, COMMAND, Word, 6);
    let at = |offset| Hpa(DISK_BAR + 0x2000 + offset);
    driver.filter.table_write(at(0x10), Width::Qword, 0x1122_3344_5566_7788);
    driver.filter.table_write(at(0x11), Word, 0xabcd);
    assert_eq!(driver.filter.table_read(at(0x10), Width::Qword), 0x1122_3344_55ab_cd88);
    assert_eq!(driver.filter.table_read(at(0xffe), Dword), 0xffff_0000, "the next page is not for this");
    driver.filter.table_write(Hpa(NET_BAR), Dword, 1);
    assert_eq!(driver.filter.table_read(Hpa(NET_BAR), Dword), 0xffff_ffff, "no page of a table");
}

#[test]
fn a_reset_is_noticed() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    enable_msix(&mut driver, 2);
    hardware.with(DISK, FakeFunction::reset);
    assert_eq!(driver.read(DISK, MSIX + 2, Word) & ENABLE, 0);
    assert_eq!(hardware.open(), []);
    driver.write(DISK, 0x10, Dword, 0);
    driver.write(DISK, 0x14, Dword, 0x10);
    enable_msix(&mut driver, 2);
    assert_eq!(hardware.with(DISK, |disk| disk.armed().len()), Some(2));
}

#[test]
fn a_reset_that_nobody_sees_does_not_leave_a_bar_at_0() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(NET, 0x10, Dword, 0);
    hardware.with(NET, FakeFunction::reset);
    driver.write(NET, COMMAND, Word, 2);
    assert_eq!(driver.read(NET, COMMAND, Word), 0);
}

#[test]
fn a_function_that_is_pulled_out_gives_its_sources_back() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    enable_msix(&mut driver, 2);
    hardware.remove(DISK);
    assert_eq!(driver.read(DISK, 0, Dword), u32::MAX);
    assert_eq!(hardware.open(), []);
    assert_eq!(driver.filter.tables().count(), 0);
}

#[test]
fn messages_can_run_out() {
    let hardware = FakeHardware::new(memory(), 1);
    hardware.add(DISK, disk().decoding());
    let mut driver = Driver::new(&hardware);
    enable_msix(&mut driver, 3);
    assert_eq!(driver.filter.refused().messages, 2);
    assert_eq!(hardware.with(DISK, |disk| disk.armed().len()), Some(1));
    driver.write(DISK, MSI + 2, Word, 1);
    assert_eq!(driver.read(DISK, MSI + 2, Word) & 1, 0);
}

#[test]
fn capabilities_that_are_nonsense_vanish() {
    let hardware = machine();
    let at = PciFunction::new(1, 0, 0);
    hardware.add(at, FakeFunction::new(0x1111_1111, 0).msix(0x40, 7, 0, 1).msi(0xf4, true, false));
    let mut driver = Driver::new(&hardware);
    assert_eq!(driver.read(at, 0x40, Word), 0xf400);
    assert_eq!(driver.read(at, 0xf4, Word), 0);
    driver.write(at, 0x42, Word, ENABLE);
    assert_eq!(driver.read(at, 0x42, Word), 0);
}

#[test]
fn what_does_not_go_off_keeps_its_sources() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    enable_msix(&mut driver, 2);
    driver.write(NET, MSI + 2, Word, 1);
    hardware.with(DISK, |disk| disk.set(MSIX as usize + 2, &[4, 0x80], &[0, 0]));
    hardware.with(NET, |net| net.set(MSI as usize + 2, &[0x85], &[0]));
    driver.write(DISK, MSIX + 2, Word, 0);
    driver.write(NET, MSI + 2, Word, 0);
    assert_eq!(hardware.open().len(), 3);
}

#[test]
fn a_function_that_is_hidden_late_is_quiet() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    enable_msix(&mut driver, 2);
    driver.write(NET, MSI + 2, Word, 1);
    assert!(driver.filter.hide(DISK) && driver.filter.hide(NET));
    assert_eq!(hardware.open(), []);
    assert_eq!(hardware.with(DISK, |disk| disk.armed()), Some(vec![]));
    assert_eq!(driver.filter.tables().count(), 0);
}

#[test]
fn what_was_in_the_table_before_is_not_sent() {
    let hardware = machine();
    // By whoever had the page before the function was known.
    assert!(hardware.register_write(Hpa(DISK_BAR + TABLE + 16 + 12), 4, 0));
    let mut driver = Driver::new(&hardware);
    enable_msix(&mut driver, 1);
    driver.write(DISK, MSIX + 2, Word, 0);
    assert!(hardware.register_write(Hpa(DISK_BAR + TABLE + 32 + 12), 4, 0));
    driver.write(DISK, MSIX + 2, Word, ENABLE);
    assert_eq!(hardware.with(DISK, |disk| disk.armed().len()), Some(1));
}
