//! BARs and windows.

use super::*;

#[test]
fn sizing_with_decoding_off_and_on() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    assert_eq!(driver.size(NET, 0x10), 0xfffe_0000, "the BAR never left its place");
    assert_eq!(driver.size(NET, 0x30) & !1, 0xffff_0000);
    assert_eq!(driver.size(NET, 0x18), 0, "no such BAR");
    assert_eq!((driver.size(DISK, 0x10), driver.size(DISK, 0x14)), (0xffff_c004, u32::MAX));
    driver.write(NET, COMMAND, Word, 0);
    assert_eq!(driver.size(NET, 0x10), 0xfffe_0000);
    driver.write(NET, COMMAND, Word, 2);
    assert_eq!(driver.read(NET, COMMAND, Word), 2);
    assert_eq!(driver.filter.refused(), Refused::default());
}

#[test]
fn a_bar_over_memory_is_held_until_it_is_harmless() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(NET, 0x10, Dword, 0x10_0000);
    assert_eq!(driver.read(NET, 0x10, Dword), 0x10_0000);
    assert_eq!(hardware.with(NET, |net| net.read(0x10, 4)), Some(NET_BAR as u32));
    assert_eq!(driver.filter.refused().ranges, 1);
    driver.write(NET, COMMAND, Word, 0);
    assert_eq!(hardware.with(NET, |net| net.read(0x10, 4)), Some(0x10_0000), "it decodes nothing");
    driver.write(NET, COMMAND, Word, 6);
    assert_eq!(driver.read(NET, COMMAND, Word), 4);
    assert_eq!(driver.filter.refused().decode, 1);
    driver.write(NET, 0x10, Dword, 0xa000_0000);
    driver.write(NET, COMMAND, Word, 6);
    assert_eq!(driver.read(NET, COMMAND, Word), 6);
    driver.write(NET, 0x13, Byte, 0xb0);
    assert_eq!(hardware.with(NET, |net| net.read(0x10, 4)), Some(0xb000_0000));
}

#[test]
fn the_kernels_registers_are_no_place_for_a_bar() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    assert!(driver.filter.protect(Hpa(0xfec0_0000), 0x1000));
    for place in [0xfec0_0000, 0xfee0_0000, 0xfeee_0000] {
        driver.write(NET, 0x10, Dword, place);
        assert_eq!(hardware.with(NET, |net| net.read(0x10, 4)), Some(NET_BAR as u32));
    }
    driver.write(NET, 0x30, Dword, 1);
    assert_eq!(driver.read(NET, 0x30, Dword), 1);
    assert_eq!(hardware.with(NET, |net| net.read(0x30, 4)), Some(0), "a ROM at 0");
    assert_eq!(driver.filter.refused().ranges, 4);
}

#[test]
fn a_wide_bar_moves_by_two_writes() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.read(DISK, 0, Dword);
    assert_eq!(driver.withdrawn, [Pages { start: Hpa(DISK_BAR + 0x2000), bytes: 0x1000 }]);
    // At first it would be over RAM.
    driver.write(DISK, 0x14, Dword, 1);
    assert_eq!(hardware.with(DISK, |disk| disk.read(0x14, 4)), Some(0x10));
    driver.write(DISK, 0x10, Dword, 0xc000_0000);
    assert_eq!(hardware.with(DISK, |disk| disk.read(0x14, 4)), Some(1));
    assert_eq!(hardware.with(DISK, |disk| disk.decoded()), Some(vec![(0, 0x1_c000_0000, 0x1_c000_3fff)]));
    let table = Pages { start: Hpa(0x1_c000_2000), bytes: 0x1000 };
    assert_eq!(driver.withdrawn.last(), Some(&table));
    assert_eq!(driver.filter.tables().collect::<Vec<_>>(), [table]);
    assert_eq!(driver.filter.table_at(Hpa(DISK_BAR + 0x2000)), None);
    assert_eq!(driver.filter.table_at(Hpa(0x1_c000_2fff)), Some(DISK));
}

#[test]
fn tables_are_withdrawn_before_they_are_decoded() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(DISK, COMMAND, Word, 0);
    let generation = driver.filter.generation();
    assert_eq!(driver.filter.tables().count(), 0);
    driver.size(DISK, 0x10);
    driver.write(DISK, 0x14, Dword, 0x20);
    assert_eq!(driver.filter.generation(), generation);
    let mut seen = Vec::new();
    driver.filter.write(DISK, COMMAND, Word, 2, &mut |pages| {
        seen.push((pages, hardware.with(DISK, |disk| disk.read(4, 2))));
    });
    assert_eq!(seen, [(Pages { start: Hpa(0x20_0000_2000), bytes: 0x1000 }, Some(0))]);
    assert_ne!(driver.filter.generation(), generation);
}

#[test]
fn what_firmware_placed_stays_where_it_is() {
    // It is in a range that firmware keeps, and was there before us.
    let mut memory = memory();
    memory.insert(2, HostRange { start: Hpa(NET_BAR), length: 0x1000_0000, kind: HostMemory::Kept });
    let hardware = FakeHardware::new(memory, 4);
    hardware.add(NET, net());
    hardware.add(DISK, net().decoding());
    let mut driver = Driver::new(&hardware);
    driver.write(NET, COMMAND, Word, 2);
    assert_eq!(driver.read(NET, COMMAND, Word), 0, "it did not decode when we came");
    assert_eq!(driver.filter.refused().decode, 1);
    assert_eq!(driver.size(DISK, 0x10), 0xfffe_0000);
    driver.write(DISK, COMMAND, Word, 0);
    driver.write(DISK, COMMAND, Word, 2);
    assert_eq!(driver.read(DISK, COMMAND, Word), 2);
    driver.write(DISK, 0x10, Dword, NET_BAR as u32 + 0x2_0000);
    assert_eq!(hardware.with(DISK, |disk| disk.read(0x10, 4)), Some(NET_BAR as u32));
}

#[test]
fn windows_are_like_bars() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(BRIDGE, 0x20, Dword, 0x9010_9000);
    assert_eq!(hardware.with(BRIDGE, |bridge| bridge.read(0x20, 4)), Some(0x9010_9000));
    driver.write(BRIDGE, 0x20, Dword, 0x9010_7000);
    assert_eq!(driver.read(BRIDGE, 0x20, Dword), 0x9010_7000);
    assert_eq!(hardware.with(BRIDGE, |bridge| bridge.read(0x20, 4)), Some(0x9010_9000));
    assert_eq!(driver.filter.refused().ranges, 1);
    driver.write(BRIDGE, 0x20, Dword, 0x0000_fff0);
    // As Linux opens the prefetchable one above 4 GiB; in between it would be below.
    driver.write(BRIDGE, 0x2c, Dword, 0);
    driver.write(BRIDGE, 0x24, Dword, 0x1ff0_1000);
    driver.write(BRIDGE, 0x28, Dword, 0x38);
    driver.write(BRIDGE, 0x2c, Dword, 0x38);
    let window = (8, 0x38_1000_0000, 0x38_1fff_ffff);
    assert_eq!(hardware.with(BRIDGE, |bridge| bridge.decoded()), Some(vec![window]));
    assert_eq!(driver.read(BRIDGE, 0x24, Dword), 0x1ff1_1001);
}

#[test]
fn linux_asks_whether_there_is_a_prefetchable_window() {
    let hardware = machine();
    let mut driver = Driver::new(&hardware);
    driver.write(BRIDGE, 0x24, Dword, 0xffe0_fff0);
    assert_eq!(driver.read(BRIDGE, 0x24, Dword), 0xffe1_fff1);
    driver.write(BRIDGE, 0x24, Dword, 0);
    assert_eq!(driver.read(BRIDGE, 0x24, Dword), 0x1_0001);
    assert_eq!(hardware.with(BRIDGE, |bridge| bridge.decoded()), Some(vec![]));
}
