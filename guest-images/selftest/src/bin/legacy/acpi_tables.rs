//! The tables that describe the machine (ACPI specification, "ACPI System Description Tables").

use selftest::cpu::{read8, read32};
use selftest::{Test, TestResult, acpi, apic, check, check_eq, ioapic, need, tests};

pub(crate) const TESTS: &[Test] = tests![
    acpi_rsdp_checksum,
    acpi_table_checksums,
    acpi_required_tables,
    acpi_madt_lists_this_processor,
    acpi_madt_lists_the_ioapic,
    acpi_fadt_fields,
    acpi_s5_is_defined,
];

fn acpi_rsdp_checksum() -> TestResult {
    let Some(rsdp) = acpi::rsdp() else { selftest::skip!("no RSDP") };
    let sum = |length| (0..length).fold(0_u8, |sum, i| sum.wrapping_add(read8(rsdp + i)));
    check_eq!(sum(20), 0, "checksum");
    if read8(rsdp + 15) >= 2 {
        check_eq!(sum(u64::from(read32(rsdp + 20))), 0, "extended checksum");
    }
    Ok(())
}

fn acpi_table_checksums() -> TestResult {
    let mut count = 0;
    for table in acpi::tables().filter(|table| table.signature() != *b"FACS") {
        count += 1;
        check!(
            (36..0x10_0000).contains(&table.length()),
            "{:x?} has length {}",
            table.signature(),
            table.length()
        );
        check!(table.checksum_holds(), "checksum of {:?}", core::str::from_utf8(&table.signature()));
    }
    check!(count >= 3, "only {count} tables");
    let dsdt = acpi::fadt().map(|fadt| acpi::Table(fadt.dsdt));
    check!(dsdt.is_some_and(acpi::Table::checksum_holds), "checksum of the DSDT");
    Ok(())
}

fn acpi_required_tables() -> TestResult {
    for signature in [*b"FACP", *b"APIC"] {
        check!(acpi::find(signature).is_some(), "no {:?}", core::str::from_utf8(&signature));
    }
    let dsdt = acpi::fadt().map_or(0, |fadt| fadt.dsdt);
    check_eq!(u64::from(read32(dsdt)), u64::from(u32::from_le_bytes(*b"DSDT")), "signature of the DSDT");
    Ok(())
}

fn acpi_madt_lists_this_processor() -> TestResult {
    const LOCAL_APIC: u8 = 0;
    const LOCAL_X2APIC: u8 = 9;
    let mine = u32::from(apic::id());
    let listed = acpi::madt_entries().any(|(kind, at)| match kind {
        LOCAL_APIC => u32::from(read8(at + 3)) == mine && read32(at + 4) & 1 != 0,
        LOCAL_X2APIC => read32(at + 4) == mine && read32(at + 8) & 1 != 0,
        _ => false,
    });
    check!(listed, "no enabled entry for APIC id {mine}");
    Ok(())
}

fn acpi_madt_lists_the_ioapic() -> TestResult {
    const IO_APIC: u8 = 1;
    let entry = acpi::madt_entries().find(|&(kind, _)| kind == IO_APIC);
    let Some((_, at)) = entry else { return Err(selftest::verdict::fail(format_args!("no I/O APIC entry"))) };
    check_eq!(u64::from(read32(at + 4)), ioapic::SELECT, "address");
    check_eq!(read32(at + 8), 0, "first interrupt");
    Ok(())
}

fn acpi_fadt_fields() -> TestResult {
    let Some(fadt) = acpi::fadt() else { selftest::skip!("no FADT") };
    check!(fadt.pm_timer != 0, "no PM timer");
    check!(fadt.pm1a_control != 0 && fadt.pm1a_event != 0, "no PM1 blocks");
    check!(fadt.sci != 0, "no SCI");
    need!(fadt.flags & acpi::RESET_SUPPORTED != 0, "no reset register");
    check!(fadt.reset.1 != 0, "a reset register at 0");
    Ok(())
}

fn acpi_s5_is_defined() -> TestResult {
    check!(acpi::s5_sleep_type().is_some(), "no _S5_ package");
    Ok(())
}
