//! The multiple APIC description table.
//!
//! Source: ACPI specification 6.5, "Multiple APIC Description Table (MADT)".

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::chipset::{TIMER_GSI, isa_line};
use crate::ioapic::IoApic;
use acpi_tables::sdt::Sdt;

const REVISION: u8 = 5;
const HEADER_LENGTH: u32 = 44;
const LOCAL_APIC_ADDRESS_OFFSET: usize = 36;
const FLAGS_OFFSET: usize = 40;

const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
/// The machine has 8259s too.
const FLAG_PCAT_COMPAT: u32 = 1;

/// Interrupt controller structure types.
mod structure {
    pub(super) const LOCAL_APIC: u8 = 0;
    pub(super) const IO_APIC: u8 = 1;
    pub(super) const SOURCE_OVERRIDE: u8 = 2;
    pub(super) const LOCAL_APIC_NMI: u8 = 4;
    pub(super) const LOCAL_X2APIC: u8 = 9;
    pub(super) const LOCAL_X2APIC_NMI: u8 = 10;
}

const PROCESSOR_ENABLED: u32 = 1;
const ALL_PROCESSORS: u8 = 0xff;
const ALL_X2APIC_PROCESSORS: u32 = u32::MAX;
const NMI_PIN: u8 = 1;

/// Polarity and trigger as the ISA bus has them.
const INTI_CONFORMS: u16 = 0x0000;
const INTI_ACTIVE_HIGH_LEVEL: u16 = INTI_ACTIVE_HIGH | INTI_LEVEL;
const INTI_ACTIVE_HIGH: u16 = 1;
const INTI_ACTIVE_LOW: u16 = 3;
const INTI_EDGE: u16 = 1 << 2;
const INTI_LEVEL: u16 = 3 << 2;

/// Processors with an id and a number from here on need the x2APIC structure.
const FIRST_X2APIC: u32 = 255;

/// The table for processors with these x2APIC ids; a processor's ACPI uid is its place in the list.
pub(super) fn build(apic_ids: &[u32]) -> Sdt {
    build_for(apic_ids, |table| {
        source_override(table, isa_line::TIMER, TIMER_GSI, INTI_CONFORMS);
        source_override(table, isa_line::SCI, isa_line::SCI, INTI_ACTIVE_HIGH_LEVEL);
    })
}

/// The same with the ISA interrupts as a machine has them: global system interrupt, level-triggered, active low. The timer is where this
/// chipset has it.
pub(super) fn build_with(apic_ids: &[u32], isa: &[(u32, bool, bool); 16]) -> Sdt {
    build_for(apic_ids, |table| {
        source_override(table, isa_line::TIMER, TIMER_GSI, INTI_CONFORMS);
        for (line, &(gsi, level, active_low)) in (0..).zip(isa).filter(|(line, _)| *line != isa_line::TIMER) {
            let Ok(pin) = u8::try_from(gsi) else { continue };
            if pin != line || level || active_low {
                let flags = if active_low { INTI_ACTIVE_LOW } else { INTI_ACTIVE_HIGH };
                source_override(table, line, pin, flags | if level { INTI_LEVEL } else { INTI_EDGE });
            }
        }
    })
}

fn build_for(apic_ids: &[u32], overrides: impl FnOnce(&mut Sdt)) -> Sdt {
    let mut table = Sdt::new(*b"APIC", HEADER_LENGTH, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.write_u32(LOCAL_APIC_ADDRESS_OFFSET, LOCAL_APIC_ADDRESS);
    table.write_u32(FLAGS_OFFSET, FLAG_PCAT_COMPAT);
    let mut large = false;
    for (uid, &id) in (0..).zip(apic_ids) {
        if id < FIRST_X2APIC && uid < FIRST_X2APIC {
            append(
                &mut table,
                structure::LOCAL_APIC,
                &[&[uid as u8, id as u8], &PROCESSOR_ENABLED.to_le_bytes()],
            );
        } else {
            large = true;
            let words = [id, PROCESSOR_ENABLED, uid].map(u32::to_le_bytes);
            append(&mut table, structure::LOCAL_X2APIC, &[&[0, 0], words.as_flattened()]);
        }
    }
    let address = (IoApic::BASE.0 as u32).to_le_bytes();
    append(&mut table, structure::IO_APIC, &[&[0, 0], &address, &0u32.to_le_bytes()]);
    overrides(&mut table);
    append(
        &mut table,
        structure::LOCAL_APIC_NMI,
        &[&[ALL_PROCESSORS], &INTI_CONFORMS.to_le_bytes(), &[NMI_PIN]],
    );
    if large {
        let uid = ALL_X2APIC_PROCESSORS.to_le_bytes();
        append(
            &mut table,
            structure::LOCAL_X2APIC_NMI,
            &[&INTI_CONFORMS.to_le_bytes(), &uid, &[NMI_PIN, 0, 0, 0]],
        );
    }
    table
}

/// ISA line `source` is global system interrupt `gsi`.
fn source_override(table: &mut Sdt, source: u8, gsi: u8, flags: u16) {
    const ISA_BUS: u8 = 0;
    append(
        table,
        structure::SOURCE_OVERRIDE,
        &[&[ISA_BUS, source], &u32::from(gsi).to_le_bytes(), &flags.to_le_bytes()],
    );
}

/// Appends a structure: type, length, fields.
fn append(table: &mut Sdt, kind: u8, fields: &[&[u8]]) {
    let fields = fields.concat();
    let mut bytes = alloc::vec![kind, fields.len() as u8 + 2];
    bytes.extend_from_slice(&fields);
    table.append_slice(&bytes);
}
