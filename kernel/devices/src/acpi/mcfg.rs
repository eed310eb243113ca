//! The table of memory-mapped PCI configuration windows.
//!
//! Source: PCI Firmware Specification, "MCFG Table Description".

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::pci::Ecam;
use acpi_tables::mcfg::MCFG;

/// The table: one segment group, whose host bridge decodes the buses that the window holds.
pub(super) fn build() -> MCFG {
    let mut table = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.add_ecam(Ecam::BASE.0, Ecam::SEGMENT, 0, Ecam::LAST_BUS);
    table
}
