//! What firmware says about the machine: processors, interrupt controllers, power.
//!
//! Tables are found, mapped read-only and checked here; the submodules read their bytes and never touch
//! memory themselves. AML is not interpreted.
//!
//! Source: ACPI Specification, "ACPI Software Programming Model".

// UNSAFETY: tables are found by physical address, on firmware's word.
#![allow(unsafe_code)]

mod fadt;
mod hpet;
mod madt;
mod sleep;
mod table;

use core::fmt;
use core::slice;

use vcpu::Hpa;

pub(crate) use self::fadt::{Fadt, PmTimer, Register};
pub(crate) use self::madt::{IoApicInfo, IsaInterrupt, MAX_IO_APICS, Madt};
pub(crate) use self::sleep::SoftOff;
use self::table::{HEADER_BYTES, Root, Signature};
use crate::boot_info::BootInfo;
use crate::fault::{self, Fault, lies};
use crate::memory::map_firmware;

const MADT: Signature = *b"APIC";
const FADT: Signature = *b"FACP";
const HPET: Signature = *b"HPET";
/// Tables that are looked at.
const MAX_TABLES: usize = 128;
/// A table that claims more is broken.
const MAX_TABLE_BYTES: usize = 8 << 20;
/// Where BIOS machines keep the root pointer.
const BIOS_AREA: Hpa = Hpa(0xe_0000);
const BIOS_AREA_BYTES: usize = 0x2_0000;
/// The word that holds the extended BIOS data area's segment.
const EBDA_SEGMENT: usize = 0x40e;
/// The part of that area where the root pointer may be.
const EBDA_BYTES: usize = 1024;
/// The first MiB, where such an area can be.
const LOW_MEMORY: u64 = 0x10_0000;

/// Why ACPI is of no use on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// There is no root pointer.
    NoRootPointer,
    /// A table's bytes do not add up.
    BadChecksum {
        /// The table.
        signature: [u8; 4],
    },
    /// A table's address or length is absurd.
    Unreadable {
        /// Address of the table.
        at: Hpa,
    },
    /// A table that the kernel needs is missing.
    Missing {
        /// The table.
        signature: [u8; 4],
    },
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRootPointer => f.write_str("firmware gives no ACPI root pointer"),
            Self::BadChecksum { signature } => {
                write!(f, "the checksum of ACPI table {} is wrong", signature.escape_ascii())
            }
            Self::Unreadable { at } => write!(f, "the ACPI table at {at} cannot be read"),
            Self::Missing { signature } => write!(f, "there is no ACPI table {}", signature.escape_ascii()),
        }
    }
}

/// What the kernel uses of ACPI. Only [`read`] makes one: the addresses in it are written to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acpi {
    /// Processors and interrupt controllers.
    pub(crate) madt: Madt,
    /// Power-management registers.
    pub(crate) fadt: Fadt,
    /// Registers of the high precision event timer.
    pub(crate) hpet: Option<Hpa>,
    /// How to switch off.
    pub(crate) soft_off: Option<SoftOff>,
}

impl Acpi {
    /// Processors that may be started.
    pub fn processors(&self) -> usize {
        self.madt.processors.len()
    }

    /// I/O APICs.
    pub fn io_apics(&self) -> usize {
        self.madt.io_apics.len()
    }
}

/// Reads firmware's tables. Physical memory must be up.
pub fn read(boot: &BootInfo) -> Result<Acpi, AcpiError> {
    let root = match &boot.rsdp {
        Some(bytes) => Root::parse(bytes)?,
        None => search_memory().ok_or(AcpiError::NoRootPointer)?,
    };
    let (Root::Extended(at) | Root::Plain(at)) = root;
    let root_table = table(at)?;
    let mut madt = None;
    let mut fadt = None;
    let mut hpet = None;
    for at in root.pointers(root_table).take(MAX_TABLES) {
        // A pointer to nowhere costs only that table.
        match header(at) {
            Ok((MADT, _)) => madt = madt.or(Some(Madt::parse(table(at)?))),
            Ok((FADT, _)) => fadt = fadt.or(Some(Fadt::parse(table(at)?))),
            // A broken one costs only that timer.
            Ok((HPET, _)) => hpet = hpet.or_else(|| table(at).ok().and_then(hpet::parse)),
            _ => {}
        }
    }
    let madt = madt.ok_or(AcpiError::Missing { signature: MADT })?;
    let fadt = fadt.unwrap_or_default();
    // A DSDT that cannot be read costs the power switch, not the machine.
    let dsdt = fadt.dsdt.and_then(|at| table(at).ok());
    let soft_off = dsdt.and_then(SoftOff::find);
    Ok(Acpi { madt, fadt, hpet, soft_off })
}

/// A table's bytes, checked.
fn table(at: Hpa) -> Result<&'static [u8], AcpiError> {
    let (signature, length) = header(at)?;
    if !(HEADER_BYTES..=MAX_TABLE_BYTES).contains(&length) {
        return Err(AcpiError::Unreadable { at });
    }
    let bytes = bytes(at, length)?;
    let bytes = lies::acpi_table(signature, bytes);
    table::check(bytes, signature)?;
    Ok(bytes)
}

fn header(at: Hpa) -> Result<(Signature, usize), AcpiError> {
    let (signature, length) = table::header(bytes(at, HEADER_BYTES)?).ok_or(AcpiError::Unreadable { at })?;
    Ok((lies::acpi_signature(signature), length))
}

fn bytes(at: Hpa, length: usize) -> Result<&'static [u8], AcpiError> {
    let start = map_firmware(at, length as u64).map_err(|_| AcpiError::Unreadable { at })?;
    // SAFETY: the bytes were just mapped for good. Memory that firmware names in a table's place is not given
    // out by the frame allocator (its map calls it ACPI or reserved), and firmware is done writing it.
    Ok(unsafe { slice::from_raw_parts(start.as_ptr(), length) })
}

/// Looks where BIOS machines keep the root pointer.
fn search_memory() -> Option<Root> {
    if fault::is(Fault::NoRootPointer) {
        return None;
    }
    let low = bytes(Hpa(0), EBDA_SEGMENT + 2).ok()?;
    let segment = table::word(low, EBDA_SEGMENT)?;
    let ebda = Hpa(u64::from(segment) << 4);
    let in_ebda = (ebda.0 != 0 && ebda.0 + (EBDA_BYTES as u64) <= LOW_MEMORY)
        .then(|| bytes(ebda, EBDA_BYTES).ok())
        .flatten()
        .and_then(Root::search);
    in_ebda.or_else(|| bytes(BIOS_AREA, BIOS_AREA_BYTES).ok().and_then(Root::search))
}
