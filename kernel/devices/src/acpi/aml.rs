//! The few AML terms that the tables crate has no words for.
//!
//! Source: ACPI specification 6.5, "ACPI Machine Language (AML) Specification" and "Small Resource Data Type".

use acpi_tables::aml::{Device, EISAName, IO, Name, ResourceTemplate};
use acpi_tables::{Aml, AmlSink};
use alloc::vec::Vec;

/// An ISA interrupt line, edge-triggered and active high: the IRQ descriptor without its flags byte.
pub(super) struct IsaInterrupt(pub(super) u8);

impl Aml for IsaInterrupt {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const IRQ_NO_FLAGS: u8 = 0x22;
        sink.byte(IRQ_NO_FLAGS);
        sink.word(1 << self.0);
    }
}

/// `ports` ports from `first` on, always there.
pub(super) fn ports(first: u16, ports: u16) -> IO {
    IO::new(first, first, 1, ports as u8)
}

/// A device `name` of the ISA kind: an EISA id, and the resources it has.
pub(super) fn isa_device(name: &str, eisa_id: &str, resources: Vec<&dyn Aml>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let id = Name::new("_HID".into(), &EISAName::new(eisa_id));
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    Device::new(name.into(), alloc::vec![&id, &resources]).to_aml_bytes(&mut bytes);
    bytes
}

/// Terms that are encoded already.
pub(super) struct Encoded(pub(super) Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}
