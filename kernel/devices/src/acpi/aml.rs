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

// Calls of the crate's constructors are inlined with all that they allocate and free, so each of them stands once.

/// A name for a value.
#[inline(never)]
pub(super) fn name(sink: &mut Vec<u8>, path: &str, value: &dyn Aml) {
    Name::new(path.into(), value).to_aml_bytes(sink);
}

/// A device with what it has, encoded.
#[inline(never)]
pub(super) fn device(sink: &mut Vec<u8>, name: &str, children: Vec<u8>) {
    Device::new(name.into(), alloc::vec![&Encoded(children)]).to_aml_bytes(sink);
}

/// The resources of a device.
#[inline(never)]
pub(super) fn resources(sink: &mut Vec<u8>, resources: &[&dyn Aml]) {
    name(sink, "_CRS", &ResourceTemplate::new(resources.to_vec()));
}

/// The EISA id of a device.
#[inline(never)]
pub(super) fn eisa_id(sink: &mut Vec<u8>, id: &str) {
    name(sink, "_HID", &EISAName::new(id));
}

/// A device of the ISA kind: an EISA id, and the resources it has.
pub(super) fn isa_device(sink: &mut Vec<u8>, name: &str, id: &str, has: &[&dyn Aml]) {
    let mut children = Vec::new();
    eisa_id(&mut children, id);
    resources(&mut children, has);
    device(sink, name, children);
}

/// Terms that are encoded already.
pub(super) struct Encoded(pub(super) Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}
