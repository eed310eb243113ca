//! What the loader said: command line, memory map, RSDP, modules. Everything is copied out, since the loader's structures lie
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
const MODULES: usize = 4;

/// Which protocol started the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// The Linux 64-bit boot protocol.
    Linux,
    /// PVH.
    Pvh,
    /// Multiboot2.
    Multiboot2,
    /// Multiboot, the first version.
    Multiboot,
}

/// The beginning of a text or a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    bytes: [u8; HEAD_SIZE],
    length: usize,
}

const HEAD_SIZE: usize = 32;

impl Head {
    fn copy(start: u64, length: u64) -> Self {
        let mut head = Self { length: HEAD_SIZE.min(length as usize), ..Self::default() };
        for index in 0..head.length {
            head.bytes[index] = read8(start + index as u64);
        }
        head
    }

    /// Up to a zero.
    fn text(start: u64) -> Self {
        let length = (0..HEAD_SIZE as u64).take_while(|index| read8(start + index) != 0).count();
        if start == 0 { Self::default() } else { Self::copy(start, length as u64) }
    }

    /// As text, "" where it is none.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
    }
}

/// A file that the loader brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Module {
    /// Where it lay.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// How it begins.
    pub content: Head,
    /// How its command line begins.
    pub command_line: Head,
}

/// The registers with which a 32-bit protocol entered the image; all zero after a 64-bit entry.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "registers")]
pub struct EntryRegisters {
    pub eax: u32,
    pub ebx: u32,
    pub cr0: u32,
    pub cr4: u32,
    pub efer: u32,
    pub eflags: u32,
    /// CS, DS, ES, SS, FS, GS; the upper halves are open.
    pub segments: [u32; 6],
}

#[derive(Clone, Copy)]
struct Boot {
    protocol: Protocol,
    registers: EntryRegisters,
    /// The time-stamp counter then.
    tsc: u64,
    command_line: [u8; COMMAND_LINE_SIZE],
    command_line_length: usize,
    regions: [Region; REGIONS],
    region_count: usize,
    rsdp: u64,
    modules: [Module; MODULES],
    module_count: usize,
    lower_kib: u32,
    upper_kib: u32,
}

static BOOT: Global<Boot> = Global::new(Boot {
    protocol: Protocol::Linux,
    registers: EntryRegisters { eax: 0, ebx: 0, cr0: 0, cr4: 0, efer: 0, eflags: 0, segments: [0; 6] },
    tsc: 0,
    command_line: [0; COMMAND_LINE_SIZE],
    command_line_length: 0,
    regions: [Region { start: 0, end: 0, kind: 0 }; REGIONS],
    region_count: 0,
    rsdp: 0,
    modules: [Module {
        start: 0,
        length: 0,
        content: Head { bytes: [0; HEAD_SIZE], length: 0 },
        command_line: Head { bytes: [0; HEAD_SIZE], length: 0 },
    }; MODULES],
    module_count: 0,
    lower_kib: 0,
    upper_kib: 0,
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

/// The files that the loader brought, the initial file system first.
pub fn modules() -> &'static [Module] {
    &boot().modules[..boot().module_count]
}

/// Multiboot's KiB of lower and of upper memory.
pub fn multiboot_memory() -> (u32, u32) {
    (boot().lower_kib, boot().upper_kib)
}

/// How the image was entered.
pub fn registers() -> EntryRegisters {
    boot().registers
}

/// The time-stamp counter at the entry, a few instructions behind the first one.
pub fn entry_tsc() -> u64 {
    boot().tsc
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

    fn add_module(&mut self, start: u64, length: u64, command_line: u64) {
        if self.module_count < MODULES {
            self.modules[self.module_count] = Module {
                start,
                length,
                content: Head::copy(start, length),
                command_line: Head::text(command_line),
            };
            self.module_count += 1;
        }
    }

    /// The Linux/x86 Boot Protocol, "struct boot_params": the zero page.
    fn read_linux(&mut self, zero_page: u64) {
        const EXT_CMD_LINE_PTR: u64 = 0x0c8;
        const ACPI_RSDP_ADDR: u64 = 0x070;
        const E820_ENTRIES: u64 = 0x1e8;
        const RAMDISK_IMAGE: u64 = 0x218;
        const RAMDISK_SIZE: u64 = 0x21c;
        const CMD_LINE_PTR: u64 = 0x228;
        const E820_TABLE: u64 = 0x2d0;
        let high = u64::from(read32(zero_page + EXT_CMD_LINE_PTR)) << 32;
        self.set_command_line(high | u64::from(read32(zero_page + CMD_LINE_PTR)));
        self.rsdp = read64(zero_page + ACPI_RSDP_ADDR);
        for entry in 0..u64::from(read8(zero_page + E820_ENTRIES)) {
            let entry = zero_page + E820_TABLE + 20 * entry;
            self.add_region(read64(entry), read64(entry + 8), read32(entry + 16));
        }
        let initrd = u64::from(read32(zero_page + RAMDISK_IMAGE));
        if initrd != 0 {
            self.add_module(initrd, read32(zero_page + RAMDISK_SIZE).into(), 0);
        }
    }

    /// Xen, "x86/HVM direct boot ABI": struct hvm_start_info.
    fn read_pvh(&mut self, info: u64) {
        self.set_command_line(read64(info + 24));
        self.rsdp = read64(info + 32);
        for module in 0..u64::from(read32(info + 12)) {
            let module = read64(info + 16) + 32 * module;
            self.add_module(read64(module), read64(module + 8), read64(module + 16));
        }
        if read32(info + 4) >= 1 {
            let table = read64(info + 40);
            for entry in 0..u64::from(read32(info + 48)) {
                let entry = table + 24 * entry;
                self.add_region(read64(entry), read64(entry + 8), read32(entry + 16));
            }
        }
    }

    /// Multiboot Specification, "Boot information format".
    fn read_multiboot(&mut self, info: u64) {
        let field = |offset| u64::from(read32(info + offset));
        (self.lower_kib, self.upper_kib) = (field(4) as u32, field(8) as u32);
        self.set_command_line(field(16));
        for module in 0..field(20) {
            let module = field(24) + 16 * module;
            let (start, end) = (read32(module), read32(module + 4));
            self.add_module(start.into(), (end - start).into(), read32(module + 8).into());
        }
        let (mut entry, end) = (field(48), field(48) + field(44));
        while entry < end {
            self.add_region(read64(entry + 4), read64(entry + 12), read32(entry + 20));
            entry += u64::from(read32(entry)) + 4;
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

/// Copies out what the loader's structure says, and how the image was entered.
pub fn read(protocol: u32, pointer: u64, registers: EntryRegisters, tsc: u64) {
    BOOT.with(|boot| (boot.registers, boot.tsc) = (registers, tsc));
    BOOT.with(|boot| match protocol {
        0 => {
            boot.protocol = Protocol::Linux;
            boot.read_linux(pointer);
        }
        1 => {
            boot.protocol = Protocol::Pvh;
            boot.read_pvh(pointer);
        }
        2 => {
            boot.protocol = Protocol::Multiboot2;
            boot.read_multiboot2(pointer);
        }
        _ => {
            boot.protocol = Protocol::Multiboot;
            boot.read_multiboot(pointer);
        }
    });
}
