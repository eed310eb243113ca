//! The tables as files of the firmware configuration device, with a script by which firmware puts them where it likes: it allocates
//! memory for a file, adds a file's place to pointers, makes checksums.
//!
//! Source: QEMU's documentation and source, `hw/acpi/bios-linker-loader.c`: "Linker/loader commands".

use alloc::vec::Vec;

use vcpu::Gpa;

use super::dsdt::BEFORE_GENERATION_ID;
use super::{AcpiConfig, AcpiError, TABLE_ALIGNMENT, build};

/// Names of the files.
pub const SCRIPT_FILE: &str = "etc/table-loader";
/// As [`SCRIPT_FILE`].
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// As [`SCRIPT_FILE`].
pub const RSDP_FILE: &str = "etc/acpi/rsdp";

/// Bytes of a command, and of a file's name in it.
const COMMAND_BYTES: usize = 128;
const NAME_BYTES: usize = 56;
mod command {
    pub(super) const ALLOCATE: u32 = 1;
    pub(super) const ADD_POINTER: u32 = 2;
    pub(super) const ADD_CHECKSUM: u32 = 3;
}
/// Where memory for a file is to be: anywhere, or where software searches for the root pointer.
const ZONE_HIGH: u8 = 1;
const ZONE_SEARCHED: u8 = 2;

/// The root pointer: its length, its pointer to the XSDT, its two checksums and what the first is of.
const RSDP_BYTES: usize = 36;
const RSDP_XSDT: usize = 24;
const RSDP_CHECKSUM: usize = 8;
const RSDP_FIRST_PART: usize = 20;
const RSDP_SECOND_CHECKSUM: usize = 32;
const RSDP_ALIGNMENT: u32 = 16;
/// A table: its length, its checksum, where it begins behind its header.
const TABLE_LENGTH: usize = 4;
const TABLE_CHECKSUM: usize = 9;
const TABLE_HEADER: usize = 36;
/// The FADT's pointers: 32 bits to FACS and DSDT, 64 bits to the same.
const FADT_DSDT: usize = 140;
const FADT_POINTERS: [(usize, u8); 4] = [(36, 4), (40, 4), (132, 8), (140, 8)];

/// The files.
#[derive(Clone, Debug)]
pub struct LoaderFiles {
    /// All tables; addresses are offsets in here.
    pub tables: Vec<u8>,
    /// The root pointer.
    pub rsdp: Vec<u8>,
    /// The script.
    pub script: Vec<u8>,
}

/// Makes the files.
///
/// # Errors
/// [`AcpiError`].
pub fn loader_files(config: &AcpiConfig) -> Result<LoaderFiles, AcpiError> {
    let tables = build(config, Gpa(0))?.bytes;
    let rsdp = tables.get(..RSDP_BYTES).unwrap_or_default().to_vec();
    let mut script = Script { bytes: Vec::new() };
    script.allocate(TABLES_FILE, TABLE_ALIGNMENT as u32, ZONE_HIGH);
    script.allocate(RSDP_FILE, RSDP_ALIGNMENT, ZONE_SEARCHED);
    let xsdt = number(&rsdp, RSDP_XSDT, 8) as usize;
    let mut entry = xsdt + TABLE_HEADER;
    while entry < xsdt + number(&tables, xsdt + TABLE_LENGTH, 4) as usize {
        let table = number(&tables, entry, 8) as usize;
        if tables.get(table..).is_some_and(|table| table.starts_with(b"FACP")) {
            for (at, bytes) in FADT_POINTERS {
                // Zero stands for none.
                if number(&tables, table + at, bytes) != 0 {
                    script.add_pointer(TABLES_FILE, table + at, bytes);
                }
            }
            script.add_table_checksum(&tables, table);
            let dsdt = number(&tables, table + FADT_DSDT, 8) as usize;
            if let Some(at) = generation_id(&tables, dsdt) {
                script.add_pointer(TABLES_FILE, at, 4);
                script.add_table_checksum(&tables, dsdt);
            }
        }
        script.add_pointer(TABLES_FILE, entry, 8);
        entry += 8;
    }
    script.add_table_checksum(&tables, xsdt);
    script.add_pointer(RSDP_FILE, RSDP_XSDT, 8);
    script.add_checksum(RSDP_FILE, RSDP_CHECKSUM, 0, RSDP_FIRST_PART);
    script.add_checksum(RSDP_FILE, RSDP_SECOND_CHECKSUM, 0, RSDP_BYTES);
    Ok(LoaderFiles { tables, rsdp, script: script.bytes })
}

/// Where in the DSDT the address of the generation identifier is, where there is one.
fn generation_id(tables: &[u8], dsdt: usize) -> Option<usize> {
    let before = BEFORE_GENERATION_ID;
    let found = tables.get(dsdt..)?.windows(before.len()).position(|part| part == before)?;
    Some(dsdt + found + before.len())
}

/// A little-endian number; what is not there is zero.
fn number(bytes: &[u8], at: usize, length: u8) -> u64 {
    let part = bytes.get(at..at + usize::from(length)).unwrap_or_default();
    part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

struct Script {
    bytes: Vec<u8>,
}

impl Script {
    fn command(&mut self, command: u32, parts: &[&[u8]]) {
        let end = self.bytes.len() + COMMAND_BYTES;
        self.bytes.extend(command.to_le_bytes());
        parts.iter().for_each(|part| self.bytes.extend(*part));
        self.bytes.resize(end, 0);
    }

    fn allocate(&mut self, file: &str, alignment: u32, zone: u8) {
        self.command(command::ALLOCATE, &[&name(file), &alignment.to_le_bytes(), &[zone]]);
    }

    /// A pointer into the tables.
    fn add_pointer(&mut self, file: &str, at: usize, bytes: u8) {
        let place = (at as u32).to_le_bytes();
        self.command(command::ADD_POINTER, &[&name(file), &name(TABLES_FILE), &place, &[bytes]]);
    }

    fn add_checksum(&mut self, file: &str, at: usize, start: usize, length: usize) {
        let [at, start, length] = [at, start, length].map(|number| (number as u32).to_le_bytes());
        self.command(command::ADD_CHECKSUM, &[&name(file), &at, &start, &length]);
    }

    fn add_table_checksum(&mut self, tables: &[u8], table: usize) {
        let length = number(tables, table + TABLE_LENGTH, 4) as usize;
        self.add_checksum(TABLES_FILE, table + TABLE_CHECKSUM, table, length);
    }
}

fn name(file: &str) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    name.iter_mut().zip(file.bytes()).for_each(|(place, byte)| *place = byte);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::Window;
    use crate::pci::Ecam;

    /// Does what firmware does with the script, with the tables at `base`.
    fn execute(files: &LoaderFiles, base: u64) -> (Vec<u8>, Vec<u8>) {
        let (mut tables, mut rsdp) = (files.tables.clone(), files.rsdp.clone());
        let mut allocated = 0;
        for command in files.script.chunks(COMMAND_BYTES) {
            let file = if command[4..].starts_with(TABLES_FILE.as_bytes()) { &mut tables } else { &mut rsdp };
            let word = |at: usize| number(command, at, 4) as usize;
            match number(command, 0, 4) as u32 {
                command::ALLOCATE => {
                    allocated += 1;
                    assert!(word(60).is_power_of_two());
                }
                command::ADD_POINTER => {
                    assert!(command[60..].starts_with(TABLES_FILE.as_bytes()));
                    let (at, bytes) = (word(116), command[120]);
                    let value = number(file, at, bytes) + base;
                    file[at..at + usize::from(bytes)].copy_from_slice(&value.to_le_bytes()[..bytes.into()]);
                }
                command::ADD_CHECKSUM => {
                    let (at, start, length) = (word(60), word(64), word(68));
                    file[at] = 0;
                    let sum =
                        file[start..start + length].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                    file[at] = sum.wrapping_neg();
                }
                other => panic!("command {other}"),
            }
        }
        assert_eq!(allocated, 2);
        (tables, rsdp)
    }

    #[test]
    fn firmware_makes_of_them_what_is_made_for_that_place() {
        let window = Window { first: Ecam::BASE.0 + Ecam::SIZE, last: 0xfebf_ffff };
        let generation_id = Some([7; 16]);
        let config =
            AcpiConfig { apic_ids: &[0, 1, 2], pci_memory: window, pci_memory_64: None, generation_id };
        let files = loader_files(&config).expect("tables");
        let base = 0x7ffe_0000;
        let (tables, rsdp) = execute(&files, base);
        let wanted = build(&config, Gpa(base)).expect("tables").bytes;
        assert_eq!(tables[RSDP_BYTES..], wanted[RSDP_BYTES..]);
        assert_eq!(rsdp, wanted[..RSDP_BYTES]);
    }
}
