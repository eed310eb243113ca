//! What the loader said: command line, memory map, RSDP. Everything is copied out, since the loader's structures lie
//! in memory that tests use.

use crate::Global;
use crate::cpu::{read8, read32, read64};

/// One range of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// E820 type; 1 is RAM.
    pub kind: u32,
}

/// E820 type of usable RAM.
pub const RAM: u32 = 1;

const COMMAND_LINE_SIZE: usize = 256;
const REGIONS: usize = 32;

/// Which protocol started the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// The Linux 64-bit boot protocol.
    Linux,
    /// PVH.
    Pvh,
    /// Multiboot2.
    Multiboot2,
}

#[derive(Clone, Copy)]
struct Boot {
    protocol: Protocol,
    command_line: [u8; COMMAND_LINE_SIZE],
    command_line_length: usize,
    regions: [Region; REGIONS],
    region_count: usize,
    rsdp: u64,
}

static BOOT: Global<Boot> = Global::new(Boot {
    protocol: Protocol::Linux,
    command_line: [0; COMMAND_LINE_SIZE],
    command_line_length: 0,
    regions: [Region { start: 0, end: 0, kind: 0 }; REGIONS],
    region_count: 0,
    rsdp: 0,
});

fn boot() -> &'static Boot {
    // SAFETY: written once, by `read`, before anything else runs.
    unsafe { &*BOOT.as_ptr() }
}

/// The command line.
pub fn command_line() -> &'static str {
    core::str::from_utf8(&boot().command_line[..boot().command_line_length]).unwrap_or("")
}

/// The value of `name=value`, or "" for a bare `name`.
pub fn option(name: &str) -> Option<&'static str> {
    command_line().split_ascii_whitespace().find_map(|word| {
        let rest = word.strip_prefix(name)?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix('=') }
    })
}

/// The memory map as the loader gave it.
pub fn regions() -> &'static [Region] {
    &boot().regions[..boot().region_count]
}

/// Where the loader says the RSDP is; 0 when it does not.
pub fn rsdp() -> u64 {
    boot().rsdp
}

/// The protocol that started the image.
pub fn protocol() -> Protocol {
    boot().protocol
}

impl Boot {
    fn set_command_line(&mut self, address: u64) {
        if address == 0 {
            return;
        }
        while self.command_line_length < COMMAND_LINE_SIZE {
            let byte = read8(address + self.command_line_length as u64);
            if byte == 0 {
                break;
            }
            self.command_line[self.command_line_length] = byte;
            self.command_line_length += 1;
        }
    }

    fn add_region(&mut self, start: u64, size: u64, kind: u32) {
        if self.region_count < REGIONS {
            self.regions[self.region_count] = Region { start, end: start.saturating_add(size), kind };
            self.region_count += 1;
        }
    }

    /// The Linux/x86 Boot Protocol, "struct boot_params": the zero page.
    fn read_linux(&mut self, zero_page: u64) {
        const EXT_CMD_LINE_PTR: u64 = 0x0c8;
        const ACPI_RSDP_ADDR: u64 = 0x070;
        const E820_ENTRIES: u64 = 0x1e8;
        const CMD_LINE_PTR: u64 = 0x228;
        const E820_TABLE: u64 = 0x2d0;
        let high = u64::from(read32(zero_page + EXT_CMD_LINE_PTR)) << 32;
        self.set_command_line(high | u64::from(read32(zero_page + CMD_LINE_PTR)));
        self.rsdp = read64(zero_page + ACPI_RSDP_ADDR);
        for entry in 0..u64::from(read8(zero_page + E820_ENTRIES)) {
            let entry = zero_page + E820_TABLE + 20 * entry;
            self.add_region(read64(entry), read64(entry + 8), read32(entry + 16));
        }
    }

    /// Xen, "x86/HVM direct boot ABI": struct hvm_start_info.
    fn read_pvh(&mut self, info: u64) {
        self.set_command_line(read64(info + 24));
        self.rsdp = read64(info + 32);
        if read32(info + 4) >= 1 {
            let table = read64(info + 40);
            for entry in 0..u64::from(read32(info + 48)) {
                let entry = table + 24 * entry;
                self.add_region(read64(entry), read64(entry + 8), read32(entry + 16));
            }
        }
    }

    /// Multiboot2 specification, "Boot information".
    fn read_multiboot2(&mut self, info: u64) {
        const COMMAND_LINE: u32 = 1;
        const MEMORY_MAP: u32 = 6;
        const ACPI_OLD: u32 = 14;
        const ACPI_NEW: u32 = 15;
        let end = info + u64::from(read32(info));
        let mut tag = info + 8;
        while tag < end && read32(tag) != 0 {
            let size = u64::from(read32(tag + 4));
            match read32(tag) {
                COMMAND_LINE => self.set_command_line(tag + 8),
                ACPI_OLD | ACPI_NEW => self.rsdp = tag + 8,
                MEMORY_MAP => {
                    let mut entry = tag + 16;
                    while entry < tag + size {
                        self.add_region(read64(entry), read64(entry + 8), read32(entry + 16));
                        entry += u64::from(read32(tag + 8));
                    }
                }
                _ => {}
            }
            tag += (size + 7) & !7;
        }
    }
}

/// Copies out what the loader's structure says.
pub fn read(protocol: u32, pointer: u64) {
    BOOT.with(|boot| match protocol {
        0 => {
            boot.protocol = Protocol::Linux;
            boot.read_linux(pointer);
        }
        1 => {
            boot.protocol = Protocol::Pvh;
            boot.read_pvh(pointer);
        }
        _ => {
            boot.protocol = Protocol::Multiboot2;
            boot.read_multiboot2(pointer);
        }
    });
}
