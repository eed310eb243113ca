//! The differentiated system description table: processors, the PCI root bridge and the devices at fixed ports.
//!
//! Source: ACPI specification 6.5, "Device Configuration"; PCI Firmware Specification, "ACPI Methods" for the bridge.

use super::aml::{Encoded, IsaInterrupt, device, eisa_id, isa_device, name, ports, resources};
use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID, Window};
use crate::chipset::{COM1, FIRST_PCI_GSI, PCI_IRQS, PCI_LINES, isa_line};
use crate::pci::{Ecam, PciBus};
use crate::pm::PowerManagement;
use crate::power::SystemControlA;
use crate::uart::Uart;
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, If, Memory32Fixed, Method, PackageBuilder, Path, Return, Scope,
    Store, ZERO,
};
use acpi_tables::sdt::Sdt;
use alloc::format;
use alloc::vec::Vec;

const REVISION: u8 = 2;
const HEADER_LENGTH: u32 = 36;

/// PCI devices of bus 0 and pins of each for which interrupts are routed: pin p of device d to GSI 16 + (d + p) % 4, and to
/// an IRQ of the 8259s.
const PCI_DEVICES: u32 = 32;
const PCI_PINS: u32 = PCI_LINES as u32;

/// The table, given where the generation identifier is.
pub(super) fn build(config: &AcpiConfig, generation_id: Option<u32>) -> Sdt {
    let mut body = Vec::new();
    soft_off(&mut body);
    interrupt_model(&mut body);
    let mut system_bus = Vec::new();
    processors(&mut system_bus, config.apic_ids.len());
    pci_root(&mut system_bus, config);
    fixed_devices(&mut system_bus);
    if let Some(at) = generation_id {
        generation_counter(&mut system_bus, at);
    }
    Scope::new("\\_SB_".into(), alloc::vec![&Encoded(system_bus)]).to_aml_bytes(&mut body);
    let mut table = Sdt::new(*b"DSDT", HEADER_LENGTH, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&body);
    table
}

/// `\_S5`: what to write to SLP_TYP to switch the machine off.
fn soft_off(sink: &mut Vec<u8>) {
    let mut package = PackageBuilder::new();
    for value in [PowerManagement::SLEEP_TYPE_S5, PowerManagement::SLEEP_TYPE_S5, 0, 0] {
        package.add_element(&value);
    }
    name(sink, "_S5_", &package);
}

/// `\_PIC`, by which a system says that it uses I/O APICs; until then it is the 8259s.
fn interrupt_model(sink: &mut Vec<u8>) {
    name(sink, "PICM", &ZERO);
    let (place, model) = (Path::new("PICM"), Arg(0));
    let keep = Store::new(&place, &model);
    Method::new("_PIC".into(), 1, false, alloc::vec![&keep]).to_aml_bytes(sink);
}

fn processors(sink: &mut Vec<u8>, count: usize) {
    for uid in 0..count as u32 {
        let mut children = Vec::new();
        name(&mut children, "_HID", &"ACPI0007");
        name(&mut children, "_UID", &uid);
        device(sink, &format!("C{uid:03X}"), children);
    }
}

/// The host bridge of bus 0 with what it passes on.
fn pci_root(sink: &mut Vec<u8>, config: &AcpiConfig) {
    // The buses of the configuration window: others do not exist.
    let buses = AddressSpace::new_bus_number(0u16, Ecam::LAST_BUS.into());
    let configuration = ports(PciBus::PORT, 8);
    let low_ports = AddressSpace::new_io(0u16, PciBus::PORT - 1, None);
    let high_ports = AddressSpace::new_io(PciBus::PORT + 8, 0xffff, None);
    let Window { first, last } = config.pci_memory;
    let memory =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first as u32, last as u32, None);
    let memory_64 = config.pci_memory_64.map(|window| {
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, window.first, window.last, None)
    });
    let mut windows: Vec<&dyn Aml> = alloc::vec![&buses, &configuration, &low_ports, &high_ports, &memory];
    if let Some(window) = &memory_64 {
        windows.push(window);
    }
    let mut children = Vec::new();
    eisa_id(&mut children, "PNP0A03");
    name(&mut children, "_UID", &ZERO);
    name(&mut children, "_BBN", &ZERO);
    resources(&mut children, &windows);
    name(&mut children, "PRTA", &interrupt_routing(&|line| u32::from(FIRST_PCI_GSI) + line as u32));
    name(
        &mut children,
        "PRTP",
        &interrupt_routing(&|line| PCI_IRQS.get(line).copied().unwrap_or_default().into()),
    );
    let (model, apics, pics) = (Path::new("\\PICM"), Path::new("PRTA"), Path::new("PRTP"));
    let (by_apics, by_pics) = (Return::new(&apics), Return::new(&pics));
    let with_apics = If::new(&model, alloc::vec![&by_apics]);
    let routing = Method::new("_PRT".into(), 0, false, alloc::vec![&with_apics, &by_pics]);
    routing.to_aml_bytes(&mut children);
    device(sink, "PCI0", children);
}

/// Entries of `_PRT`: address, pin, no link device, and what `arrives` says of the line.
fn interrupt_routing(arrives: &dyn Fn(usize) -> u32) -> PackageBuilder {
    let mut routing = PackageBuilder::new();
    for device in 0..PCI_DEVICES {
        for pin in 0..PCI_PINS {
            let mut entry = PackageBuilder::new();
            let all_functions = device << 16 | 0xffff;
            for value in [all_functions, pin, 0, arrives(((device + pin) % PCI_PINS) as usize)] {
                entry.add_element(&value);
            }
            routing.add_element(&entry);
        }
    }
    routing
}

/// What is before the generation identifier's address: a name, a package of two, a number of 32 bits.
pub(super) const BEFORE_GENERATION_ID: [u8; 9] = *b"\x08ADDR\x12\x08\x02\x0c";

/// The virtual machine generation counter (Microsoft, "Virtual Machine Generation ID"): where the identifier is, in a form that a
/// script can find.
fn generation_counter(sink: &mut Vec<u8>, at: u32) {
    let mut children = Vec::new();
    name(&mut children, "_HID", &"VMGENCTR");
    name(&mut children, "_CID", &"VM_Gen_Counter");
    name(&mut children, "_DDN", &"VM_Gen_Counter");
    children.extend(BEFORE_GENERATION_ID);
    children.extend(at.to_le_bytes());
    // The upper half is zero.
    children.push(0);
    device(sink, "VGEN", children);
}

/// Devices that have always been where they are.
fn fixed_devices(sink: &mut Vec<u8>) {
    isa_device(sink, "PIC_", "PNP0000", &[&ports(0x20, 2), &ports(0xa0, 2), &IsaInterrupt(2)]);
    isa_device(sink, "TMR_", "PNP0100", &[&ports(0x40, 4), &IsaInterrupt(isa_line::TIMER)]);
    isa_device(sink, "RTC_", "PNP0B00", &[&ports(0x70, 2), &IsaInterrupt(isa_line::RTC)]);
    isa_device(sink, "COM1", "PNP0501", &[&ports(COM1, Uart::PORTS), &IsaInterrupt(isa_line::COM1)]);
    // What belongs to the mainboard, so that nobody else is put there. Software trusts the configuration window of the
    // MCFG only if it finds it here.
    let board: [&dyn Aml; 6] = [
        &ports(0x61, 1),
        &ports(0x80, 1),
        &ports(SystemControlA::PORT, 1),
        &ports(0x4d0, 2),
        &ports(PowerManagement::PORT, PowerManagement::PORTS),
        &Memory32Fixed::new(true, Ecam::BASE.0 as u32, Ecam::SIZE as u32),
    ];
    isa_device(sink, "MBRD", "PNP0C02", &board);
}
