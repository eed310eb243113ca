//! The ACPI tables that describe the machine: RSDP, XSDT, FADT, FACS, MADT, MCFG and DSDT in one block of memory.
//!
//! Source: ACPI specification 6.5, "ACPI Software Programming Model" and "ACPI Data Tables and Table Definition Language".
//! The tables are made once for each VM; this is the only part of the crate that allocates.

mod aml;
mod dsdt;
mod fadt;
mod madt;
mod mcfg;
pub mod table_loader;
#[cfg(test)]
mod tests;

use crate::pci::Ecam;
use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use alloc::vec::Vec;
use vcpu::Gpa;

const OEM_ID: [u8; 6] = *b"BASALT";
const OEM_TABLE_ID: [u8; 8] = *b"BASALTPC";
const OEM_REVISION: u32 = 1;

/// Tables start at multiples of this; the FACS must.
const TABLE_ALIGNMENT: usize = 64;
/// What the RSDP's place must be a multiple of for software that searches for it.
const RSDP_ALIGNMENT: u64 = 16;

/// A range of guest-physical addresses, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
}

/// What the tables say of the machine.
#[derive(Clone, Copy, Debug)]
pub struct AcpiConfig<'a> {
    /// x2APIC ids of the processors, the bootstrap processor's first.
    pub apic_ids: &'a [u32],
    /// Where PCI functions may have 32-bit memory BARs; not over [`Ecam`].
    pub pci_memory: Window,
    /// Where they may have 64-bit ones.
    pub pci_memory_64: Option<Window>,
    /// What tells a guest that it is not the continuation of an earlier one; `None` for no such device.
    pub generation_id: Option<[u8; 16]>,
}

/// Why no tables can be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// No processor, or more than [`AcpiTables::MAX_PROCESSORS`].
    ProcessorCount(usize),
    /// The tables' place is not a multiple of 16 or not below 4 GiB with room for them.
    Base(Gpa),
    /// A PCI window is empty, holds the configuration window or, for 32-bit BARs, is not below 4 GiB.
    PciWindow(Window),
}

/// The tables, ready to be copied into guest memory.
#[derive(Clone, Debug)]
pub struct AcpiTables {
    /// Where the bytes belong; the RSDP comes first.
    pub base: Gpa,
    /// All tables.
    pub bytes: Vec<u8>,
}

impl AcpiTables {
    /// Processors that can be described.
    pub const MAX_PROCESSORS: usize = 1024;

    /// Address of the RSDP, for boot protocols that pass it on. Software that searches finds it when the base lies
    /// between 0xe_0000 and 0xf_ffff.
    pub const fn rsdp(&self) -> Gpa {
        self.base
    }
}

/// Builds the tables for memory at `base`.
pub fn build(config: &AcpiConfig, base: Gpa) -> Result<AcpiTables, AcpiError> {
    check(config, base)?;
    let mut tables = Block { base: base.0, bytes: Vec::new() };
    // The RSDP's place; it is written when everything it leads to has one.
    tables.append(&alloc::vec![0; Rsdp::len()]);
    let facs = tables.append_table(&FACS::new());
    let generation_id = config.generation_id.map(|id| tables.append(&id) as u32);
    let dsdt = tables.append(dsdt::build(config, generation_id).as_slice());
    let fadt = tables.append_table(&fadt::build(facs as u32, dsdt as u32));
    let madt = tables.append(madt::build(config.apic_ids).as_slice());
    let mcfg = tables.append_table(&mcfg::build());
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    xsdt.add_entry(mcfg);
    let xsdt = tables.append_table(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    tables.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    if tables.base + tables.bytes.len() as u64 > 1 << 32 {
        return Err(AcpiError::Base(base));
    }
    Ok(AcpiTables { base, bytes: tables.bytes })
}

fn check(config: &AcpiConfig, base: Gpa) -> Result<(), AcpiError> {
    let count = config.apic_ids.len();
    if count == 0 || count > AcpiTables::MAX_PROCESSORS {
        return Err(AcpiError::ProcessorCount(count));
    }
    if !base.0.is_multiple_of(RSDP_ALIGNMENT) || base.0 >= 1 << 32 {
        return Err(AcpiError::Base(base));
    }
    for window in [Some(config.pci_memory), config.pci_memory_64].into_iter().flatten() {
        let over_ecam = window.first < Ecam::BASE.0 + Ecam::SIZE && Ecam::BASE.0 <= window.last;
        if window.first > window.last || over_ecam {
            return Err(AcpiError::PciWindow(window));
        }
    }
    if config.pci_memory.last >= 1 << 32 {
        return Err(AcpiError::PciWindow(config.pci_memory));
    }
    Ok(())
}

struct Block {
    base: u64,
    bytes: Vec<u8>,
}

impl Block {
    /// Appends a table at the next aligned address, which it returns.
    fn append(&mut self, table: &[u8]) -> u64 {
        let end = self.base as usize + self.bytes.len();
        let start = end.next_multiple_of(TABLE_ALIGNMENT) - self.base as usize;
        // The RSDP itself needs no more than the base's alignment.
        let start = if self.bytes.is_empty() { 0 } else { start };
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(table);
        self.base + start as u64
    }

    fn append_table(&mut self, table: &dyn Aml) -> u64 {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        self.append(&bytes)
    }
}

/// The tables of a machine whose own firmware describes it, for a guest that has its devices: that firmware's tables at `others`, and which
/// processors and interrupt controllers the guest has in place of the machine's. `overrides` are the sixteen ISA interrupts: global system
/// interrupt, level-triggered, active low.
///
/// # Errors
/// As [`build`].
pub fn machine_tables(
    processors: u32,
    overrides: &[(u32, bool, bool); 16],
    others: impl Iterator<Item = u64>,
    base: Gpa,
) -> Result<AcpiTables, AcpiError> {
    if processors == 0 || processors as usize > AcpiTables::MAX_PROCESSORS {
        return Err(AcpiError::ProcessorCount(processors as usize));
    }
    if !base.0.is_multiple_of(RSDP_ALIGNMENT) || base.0 >= 1 << 32 {
        return Err(AcpiError::Base(base));
    }
    let mut tables = Block { base: base.0, bytes: Vec::new() };
    tables.append(&alloc::vec![0; Rsdp::len()]);
    let apic_ids: Vec<u32> = (0..processors).collect();
    let madt = tables.append(madt::build_with(&apic_ids, overrides).as_slice());
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    others.chain([madt]).for_each(|table| xsdt.add_entry(table));
    let xsdt = tables.append_table(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    tables.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    if tables.base + tables.bytes.len() as u64 > 1 << 32 {
        return Err(AcpiError::Base(base));
    }
    Ok(AcpiTables { base, bytes: tables.bytes })
}
