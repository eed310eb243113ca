//! PCI configuration mechanism 1.

use selftest::cpu::{inb, inl, inw, outb, outl, outw};
use selftest::pci::{ADDRESS, DATA, ENABLE, address, read, write};
use selftest::{Test, TestResult, check, check_eq, need, tests};

pub(crate) const TESTS: &[Test] = tests![
    pci_address_register_round_trip,
    pci_host_bridge,
    pci_missing_functions_read_all_ones,
    pci_narrow_reads,
    pci_identity_is_read_only,
    pci_command_register,
    pci_disabled_window,
    pci_narrow_address_writes,
    pci_all_functions_are_consistent,
    pci_bar_sizes,
];

/// Reset control register, inside the address register's dword.
const RESET_CONTROL: u16 = 0xcf9;

fn pci_address_register_round_trip() -> TestResult {
    for value in [ENABLE, address(0, 31, 7, 0xfc), address(255, 0, 0, 0x40), 0] {
        outl(ADDRESS, value);
        check_eq!(inl(ADDRESS), value, "address register");
    }
    Ok(())
}

fn pci_host_bridge() -> TestResult {
    let identity = read(0, 0, 0, 0);
    check!(identity != u32::MAX && identity & 0xffff != 0, "identity {identity:#x}");
    check_eq!(read(0, 0, 0, 8) >> 16, 0x0600, "class: host bridge");
    check_eq!(read(0, 0, 0, 0x0c) >> 16 & 0x7f, 0, "header type");
    Ok(())
}

fn pci_missing_functions_read_all_ones() -> TestResult {
    for bus in [1, 0x42, 0xff] {
        check_eq!(read(bus, 0, 0, 0), u32::MAX, "identity on bus {bus:#x}");
        check_eq!(read(bus, 31, 7, 0x3c), u32::MAX, "register 3CH on bus {bus:#x}");
    }
    // Writes there are dropped.
    write(0x42, 0, 0, 4, 0xffff);
    check_eq!(read(0x42, 0, 0, 4), u32::MAX, "command of nobody");
    Ok(())
}

fn pci_narrow_reads() -> TestResult {
    for register in [0, 8] {
        let whole = read(0, 0, 0, register);
        outl(ADDRESS, address(0, 0, 0, register));
        for byte in 0..4_u16 {
            check_eq!(inb(DATA + byte), (whole >> (8 * byte)) as u8, "byte {byte} of register {register}");
        }
        check_eq!(inw(DATA), whole as u16, "low word of register {register}");
        check_eq!(inw(DATA + 2), (whole >> 16) as u16, "high word of register {register}");
    }
    Ok(())
}

fn pci_identity_is_read_only() -> TestResult {
    for register in [0, 8] {
        let before = read(0, 0, 0, register);
        write(0, 0, 0, register, !before);
        check_eq!(read(0, 0, 0, register), before, "register {register}");
    }
    Ok(())
}

fn pci_command_register() -> TestResult {
    let before = read(0, 0, 0, 4);
    outl(ADDRESS, address(0, 0, 0, 4));
    outw(DATA, 0);
    let low = inw(DATA);
    outw(DATA, 0xffff);
    let high = inw(DATA);
    outw(DATA, before as u16);
    check_eq!(low & high & 0xf800, 0, "reserved command bits");
    Ok(())
}

fn pci_disabled_window() -> TestResult {
    outl(ADDRESS, address(0, 0, 0, 0) & !ENABLE);
    check_eq!(inl(DATA), u32::MAX, "data window without the enable bit");
    Ok(())
}

fn pci_narrow_address_writes() -> TestResult {
    // Only a dword access reaches the address register. (Byte 1 is the reset register: left alone.)
    let value = address(0, 3, 1, 0x10);
    outl(ADDRESS, value);
    outb(ADDRESS, 0xff);
    outb(ADDRESS + 2, 0xff);
    check_eq!(inl(ADDRESS), value, "address register after byte writes");
    check_eq!(inb(RESET_CONTROL) & 0x04, 0, "reset control");
    Ok(())
}

fn pci_all_functions_are_consistent() -> TestResult {
    let mut found = 0;
    for device in 0..32 {
        for function in 0..8 {
            let identity = read(0, device, function, 0);
            if identity == u32::MAX {
                continue;
            }
            found += 1;
            check!(identity & 0xffff != 0 && identity & 0xffff != 0xffff, "vendor of {device}.{function}");
            let header = read(0, device, function, 0x0c) >> 16 & 0x7f;
            check!(header <= 2, "header type {header:#x} of {device}.{function}");
            check_eq!(read(0, device, function, 0), identity, "identity of {device}.{function} read again");
        }
    }
    check!(found >= 1, "no function at all");
    Ok(())
}

fn pci_bar_sizes() -> TestResult {
    let mut sized = 0;
    for device in 1..32 {
        if read(0, device, 0, 0) == u32::MAX || read(0, device, 0, 0x0c) >> 16 & 0x7f != 0 {
            continue;
        }
        for register in (0x10..0x28).step_by(4) {
            let before = read(0, device, 0, register);
            if before == 0 {
                continue;
            }
            let command = read(0, device, 0, 4);
            write(0, device, 0, 4, command & 0xfc);
            write(0, device, 0, register, u32::MAX);
            let mask = read(0, device, 0, register);
            write(0, device, 0, register, before);
            write(0, device, 0, 4, command & 0xffff);
            check_eq!(read(0, device, 0, register), before, "BAR {register:#x} of device {device}");
            let size_mask = if mask & 1 != 0 { mask & !3 | 0xffff_0000 } else { mask & !15 };
            check!(
                size_mask == 0 || size_mask.wrapping_neg().is_power_of_two(),
                "BAR {register:#x} of device {device} answers {mask:#x}"
            );
            sized += 1;
        }
    }
    need!(sized > 0, "no function with a BAR");
    Ok(())
}
