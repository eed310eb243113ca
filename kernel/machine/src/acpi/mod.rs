//! What firmware says about the machine: processors, interrupt controllers, power.
//!
//! Tables are mapped read-only here; the submodules find them, check them and read their bytes, and never touch
//! memory themselves. AML is not interpreted.
//!
//! Source: ACPI Specification, "ACPI Software Programming Model".

// UNSAFETY: tables are found by physical address, on firmware's word.
#![allow(unsafe_code)]

mod fadt;
mod find;
mod hpet;
mod madt;
mod sleep;
mod table;
mod windows;

use core::fmt;
use core::ops::Range;
use core::slice;

use arrayvec::ArrayVec;
use vcpu::Hpa;

pub(crate) use self::fadt::{Fadt, PmTimer, Register};
pub(crate) use self::find::MAX_TABLES;
use self::find::find;
pub(crate) use self::madt::{IoApicInfo, IsaInterrupt, MAX_IO_APICS, Madt};
pub(crate) use self::sleep::SoftOff;
pub(crate) use self::windows::MAX_WINDOWS;
use crate::boot_info::{BootInfo, RSDP_BYTES};
use crate::memory::map_firmware;

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
    /// The tables that the root leads to: signature and address.
    pub(crate) tables: ArrayVec<([u8; 4], Hpa), MAX_TABLES>,
    /// Registers in memory that are the kernel's: configuration space, and IOMMUs.
    pub(crate) windows: ArrayVec<Range<u64>, MAX_WINDOWS>,
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
    /// Processors that may be started, those beyond what is kept included.
    pub fn processors(&self) -> usize {
        self.madt.processors.len() + self.madt.dropped
    }

    /// Processors that are listed but may not be started, such as empty sockets.
    pub fn places(&self) -> usize {
        self.madt.disabled
    }

    /// I/O APICs.
    pub fn io_apics(&self) -> usize {
        self.madt.io_apics.len()
    }
}

/// Reads firmware's tables. Physical memory must be up.
pub fn read(boot: &BootInfo) -> Result<Acpi, AcpiError> {
    find(boot.rsdp.as_ref().map(<[u8; RSDP_BYTES]>::as_slice), &mapped)
}

/// Bytes of physical memory, mapped for good. `None` where they cannot be.
fn mapped(at: Hpa, length: usize) -> Option<&'static [u8]> {
    let start = map_firmware(at, length as u64).ok()?;
    // SAFETY: the bytes were just mapped for good. Memory that firmware names in a table's place is not given
    // out by the frame allocator (its map calls it ACPI or reserved), and firmware is done writing it.
    Some(unsafe { slice::from_raw_parts(start.as_ptr(), length) })
}
