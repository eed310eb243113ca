//! Just enough ACPI: find tables, read FADT and MADT fields, the S5 sleep type (ACPI specification, "ACPI Software
//! Programming Model").

use crate::boot;
use crate::cpu::{read8, read16, read32, read64};

/// A table by its physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table(pub u64);

impl Table {
    /// Bytes, header included.
    pub fn length(self) -> u64 {
        u64::from(read32(self.0 + 4))
    }

    /// True when all bytes add up to zero.
    pub fn checksum_holds(self) -> bool {
        (0..self.length()).fold(0_u8, |sum, i| sum.wrapping_add(read8(self.0 + i))) == 0
    }

    /// The four letters.
    pub fn signature(self) -> [u8; 4] {
        read32(self.0).to_le_bytes()
    }
}

const RSDP_SIGNATURE: u64 = u64::from_le_bytes(*b"RSD PTR ");

/// The RSDP: where the loader says, else where PC software looks.
pub fn rsdp() -> Option<u64> {
    let given = boot::rsdp();
    if given != 0 && read64(given) == RSDP_SIGNATURE { Some(given) } else { rsdp_in_memory() }
}

/// The RSDP found by searching the BIOS read-only memory space.
pub fn rsdp_in_memory() -> Option<u64> {
    (0xe_0000_u64..0x10_0000).step_by(16).find(|&address| read64(address) == RSDP_SIGNATURE)
}

/// All tables that RSDT or XSDT lists, and the DSDT.
pub fn tables() -> impl Iterator<Item = Table> {
    let (root, size) = match rsdp() {
        None => (0, 4),
        Some(rsdp) => match if read8(rsdp + 15) >= 2 { read64(rsdp + 24) } else { 0 } {
            0 => (u64::from(read32(rsdp + 16)), 4),
            xsdt => (xsdt, 8),
        },
    };
    let count = if root == 0 { 0 } else { (Table(root).length() - 36) / size };
    let listed = (0..count).map(move |i| {
        let slot = root + 36 + i * size;
        Table(if size == 8 { read64(slot) } else { u64::from(read32(slot)) })
    });
    (root != 0).then_some(Table(root)).into_iter().chain(listed).filter(|table| table.0 != 0)
}

/// The first table with that signature.
pub fn find(signature: [u8; 4]) -> Option<Table> {
    tables().find(|table| table.signature() == signature)
}

/// The fixed ACPI description table's fields that tests use; ports are 0 where absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fadt {
    /// DSDT.
    pub dsdt: u64,
    /// Global system interrupt of the SCI.
    pub sci: u16,
    /// PM1a event block.
    pub pm1a_event: u16,
    /// PM1a control block.
    pub pm1a_control: u16,
    /// PM timer block.
    pub pm_timer: u16,
    /// Fixed feature flags.
    pub flags: u32,
    /// Address space and address of the reset register.
    pub reset: (u8, u64),
    /// What to write there.
    pub reset_value: u8,
}

/// FADT flag: the reset register works.
pub const RESET_SUPPORTED: u32 = 1 << 10;

/// Reads the FADT.
pub fn fadt() -> Option<Fadt> {
    let table = find(*b"FACP")?;
    let (base, length) = (table.0, table.length());
    let port = |legacy: u64, extended: u64| match read32(base + legacy) as u16 {
        0 if length >= extended + 12 => read64(base + extended + 4) as u16,
        port => port,
    };
    let mut fadt = Fadt {
        dsdt: u64::from(read32(base + 40)),
        sci: read16(base + 46),
        pm1a_event: port(56, 148),
        pm1a_control: port(64, 172),
        pm_timer: port(76, 208),
        flags: read32(base + 112),
        ..Fadt::default()
    };
    if length >= 129 {
        fadt.reset = (read8(base + 116), read64(base + 120));
        fadt.reset_value = read8(base + 128);
    }
    if length >= 148 && fadt.dsdt == 0 {
        fadt.dsdt = read64(base + 140);
    }
    Some(fadt)
}

/// SLP_TYPa of S5, out of the `_S5_` package in the DSDT or an SSDT.
pub fn s5_sleep_type() -> Option<u8> {
    let dsdt = fadt().map(|fadt| Table(fadt.dsdt));
    dsdt.into_iter().chain(tables().filter(|table| table.signature() == *b"SSDT")).find_map(s5_in)
}

fn s5_in(table: Table) -> Option<u8> {
    const PACKAGE_OP: u8 = 0x12;
    const BYTE_PREFIX: u8 = 0x0a;
    const ONE_OP: u8 = 0x01;
    let name = u32::from_le_bytes(*b"_S5_");
    let at = (36..table.length().saturating_sub(10))
        .map(|i| table.0 + i)
        .find(|&at| read32(at) == name && read8(at + 4) == PACKAGE_OP)?;
    let length_bytes = u64::from(read8(at + 5) >> 6) + 1;
    let first = at + 5 + length_bytes + 1;
    match read8(first) {
        BYTE_PREFIX => Some(read8(first + 1)),
        0 => Some(0),
        ONE_OP => Some(1),
        _ => None,
    }
}

/// The structures of the MADT: type and address.
pub fn madt_entries() -> impl Iterator<Item = (u8, u64)> {
    let table = find(*b"APIC");
    let mut at = table.map_or(0, |table| table.0 + 44);
    let end = table.map_or(0, |table| table.0 + table.length());
    core::iter::from_fn(move || {
        let length = if at + 2 <= end { u64::from(read8(at + 1)) } else { 0 };
        (length >= 2 && at + length <= end).then(|| {
            let entry = (read8(at), at);
            at += length;
            entry
        })
    })
}

/// The global system interrupt of an ISA line, by the MADT's source overrides.
pub fn isa_gsi(line: u8) -> u32 {
    const SOURCE_OVERRIDE: u8 = 2;
    madt_entries()
        .find(|&(kind, at)| kind == SOURCE_OVERRIDE && read8(at + 3) == line)
        .map_or(u32::from(line), |(_, at)| read32(at + 4))
}
