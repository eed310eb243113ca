//! The ACPI tables against the reference compiler: `iasl` (Debian package acpica-tools) disassembles each, and compiles
//! what comes out again, without a complaint. Without `iasl` the test says so and passes.

use devices::acpi::{AcpiConfig, AcpiTables, Window, build};
use devices::pci::Ecam;
use std::path::{Path, PathBuf};
use std::process::Command;
use vcpu::Gpa;

const BASE: Gpa = Gpa(0xe_0000);

fn number(tables: &AcpiTables, address: u64, length: usize) -> u64 {
    let start = (address - tables.base.0) as usize;
    tables.bytes[start..start + length].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Writes the table at `address` to a file of its own.
fn extract(tables: &AcpiTables, address: u64, folder: &Path, name: &str) -> PathBuf {
    let start = (address - tables.base.0) as usize;
    let length = number(tables, address + 4, 4) as usize;
    let path = folder.join(name);
    std::fs::write(&path, &tables.bytes[start..start + length]).expect("the folder can be written");
    path
}

/// Runs `iasl` and returns everything it said.
fn iasl(arguments: &[&str], file: &Path) -> String {
    let output = Command::new("iasl").args(arguments).arg(file).output().expect("iasl starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "iasl {arguments:?} {}: {said}", file.display());
    said
}

fn complaints(text: &str) -> Vec<&str> {
    let words = ["Error", "Warning", "Remark", "Invalid", "invalid", "*** "];
    let summary = |line: &str| line.contains("0 Errors, 0 Warnings, 0 Remarks");
    text.lines().filter(|line| !summary(line) && words.iter().any(|word| line.contains(word))).collect()
}

#[test]
fn the_reference_compiler_accepts_every_table() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("skipped: iasl is not installed (package acpica-tools)");
        return;
    }
    let config = AcpiConfig {
        apic_ids: &[0, 1, 2, 300],
        pci_memory: Window { first: Ecam::BASE.0 + Ecam::SIZE, last: 0xfebf_ffff },
        pci_memory_64: Some(Window { first: 0x40_0000_0000, last: 0x7f_ffff_ffff }),
        generation_id: Some([5; 16]),
    };
    let tables = build(&config, BASE).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("acpi_compiler");
    std::fs::create_dir_all(&folder).unwrap();
    let xsdt = number(&tables, BASE.0 + 24, 8);
    let [fadt, madt, mcfg] = [36, 44, 52].map(|entry| number(&tables, xsdt + entry, 8));
    let places = [
        ("xsdt", xsdt),
        ("facp", fadt),
        ("apic", madt),
        ("mcfg", mcfg),
        ("facs", number(&tables, fadt + 36, 4)),
        ("dsdt", number(&tables, fadt + 40, 4)),
    ];
    for (name, address) in places {
        let binary = extract(&tables, address, &folder, &format!("{name}.dat"));
        let said = iasl(&["-d"], &binary);
        assert_eq!(complaints(&said), Vec::<&str>::new(), "{name}: {said}");
        let source = binary.with_extension("dsl");
        let text = std::fs::read_to_string(&source).unwrap();
        let body: Vec<&str> = complaints(&text);
        assert_eq!(body, Vec::<&str>::new(), "{name}: {text}");
        if name == "dsdt" {
            let said = iasl(&["-p", folder.join("again").to_str().unwrap()], &source);
            assert_eq!(complaints(&said), Vec::<&str>::new(), "{said}");
            for expected in [
                "PNP0A03",
                "PNP0501",
                "PNP0B00",
                "PNP0C02",
                "_S5",
                "_PRT",
                "ACPI0007",
                "QWordMemory",
                "Memory32Fixed",
            ] {
                assert!(text.contains(expected), "{expected} is missing: {text}");
            }
        }
    }
}
