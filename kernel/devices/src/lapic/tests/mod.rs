#![expect(unused_must_use, reason = "tests look at the effects they are about")]

use super::registers::index;
use super::*;
use crate::bus::Width;
use crate::message::{BROADCAST, Shorthand};
extern crate std;
use std::vec::Vec;

mod properties;
mod timer;

const T0: Nanos = Nanos::from_secs(3);
const ENABLED: u64 = 0x1ff;
const MASKED: u64 = 1 << 16;

fn apic(apic_id: u32) -> LocalApic {
    LocalApic::new(LocalApicConfig { apic_id, bootstrap: apic_id == 0, physical_address_bits: 40 })
}

/// An enabled APIC in xAPIC mode.
fn xapic(apic_id: u32) -> LocalApic {
    let mut apic = apic(apic_id);
    assert_eq!(write(&mut apic, index::SPURIOUS, ENABLED as u32), ApicEffect::RoutingChanged);
    apic
}

/// An enabled APIC in x2APIC mode.
fn x2apic(apic_id: u32) -> LocalApic {
    let mut apic = xapic(apic_id);
    apic.write_base(apic.base() | 0xc00).unwrap();
    apic
}

fn write(apic: &mut LocalApic, index: u16, value: u32) -> ApicEffect {
    apic.mmio_write(u64::from(index) * 16, Width::Dword, value.into(), T0)
}

fn read(apic: &mut LocalApic, index: u16) -> u32 {
    read_at(apic, index, T0)
}

fn read_at(apic: &mut LocalApic, index: u16, now: Nanos) -> u32 {
    apic.mmio_read(u64::from(index) * 16, Width::Dword, now) as u32
}

fn msr(index: u16) -> u32 {
    X2APIC_MSR_FIRST + u32::from(index)
}

fn sent(effect: ApicEffect) -> ApicMessage {
    match effect {
        ApicEffect::Send(message) => message,
        other => panic!("no message but {other:?}"),
    }
}

#[test]
fn power_up_state() {
    let mut apic = apic(3);
    assert_eq!(apic.base(), 0xfee0_0800);
    assert_eq!(apic.mmio_base(), Some(Gpa(0xfee0_0000)));
    assert_eq!(read(&mut apic, index::ID), 3 << 24);
    assert_eq!(read(&mut apic, index::VERSION), 0x0105_0014);
    assert_eq!(read(&mut apic, index::SPURIOUS), 0xff);
    assert_eq!(read(&mut apic, index::DESTINATION_FORMAT), 0xffff_ffff);
    for entry in index::LOCAL_VECTOR..=index::LOCAL_VECTOR_LAST {
        assert_eq!(read(&mut apic, entry), 0x1_0000);
    }
    assert!(!apic.deliver(&ApicMessage::fixed(3, 0x40)), "software-disabled");
}

#[test]
fn priorities_decide_what_is_delivered() {
    let mut apic = xapic(0);
    for vector in [0x31, 0x45, 0x4f] {
        assert!(apic.deliver(&ApicMessage::fixed(0, vector)));
    }
    assert_eq!(apic.pending_vector(), Some(0x4f));
    apic.acknowledge(0x4f);
    assert_eq!(apic.processor_priority(), 0x40);
    assert_eq!(apic.pending_vector(), None, "0x45 is of the class in service");
    apic.deliver(&ApicMessage::fixed(0, 0x50));
    assert_eq!(apic.pending_vector(), Some(0x50));
    apic.acknowledge(0x50);
    assert_eq!(write(&mut apic, index::EOI, 0), ApicEffect::None);
    assert_eq!(apic.processor_priority(), 0x40);
    assert_eq!(apic.end_of_interrupt(), None);
    assert_eq!(apic.pending_vector(), Some(0x45));
    apic.set_cr8(4);
    assert_eq!((apic.pending_vector(), read(&mut apic, index::TASK_PRIORITY)), (None, 0x40));
    apic.acknowledge(0x45);
    write(&mut apic, index::TASK_PRIORITY, 0x47);
    assert_eq!(apic.processor_priority(), 0x47, "of one class, the task priority counts whole");
    apic.end_of_interrupt();
    apic.deliver(&ApicMessage::fixed(0, 0x45));
    write(&mut apic, index::TASK_PRIORITY, 0x3f);
    assert_eq!((apic.cr8(), apic.processor_priority(), apic.pending_vector()), (3, 0x3f, Some(0x45)));
}

#[test]
fn level_triggered_vectors_are_broadcast_at_their_end() {
    let mut apic = xapic(0);
    let level = ApicMessage { level_triggered: true, ..ApicMessage::fixed(0, 0x61) };
    apic.deliver(&level);
    assert_eq!(read(&mut apic, index::TRIGGER_MODE + 3), 2);
    apic.acknowledge(0x61);
    assert_eq!(write(&mut apic, index::EOI, 0), ApicEffect::EoiBroadcast(0x61));
    apic.deliver(&ApicMessage::fixed(0, 0x61));
    apic.acknowledge(0x61);
    assert_eq!(write(&mut apic, index::EOI, 0), ApicEffect::None, "this time by an edge");
    write(&mut apic, index::SPURIOUS, ENABLED as u32 | 1 << 12);
    apic.deliver(&level);
    apic.acknowledge(0x61);
    assert_eq!(write(&mut apic, index::EOI, 0), ApicEffect::None);
    assert_eq!(write(&mut apic, index::EOI, 0), ApicEffect::None, "nothing in service");
}

#[test]
fn destinations_in_all_models() {
    let physical = |destination| ApicMessage::fixed(destination, 0x40);
    let logical = |destination| ApicMessage { logical: true, ..physical(destination) };
    let mut apic = xapic(5);
    assert!(apic.accepts(&physical(5)) && apic.accepts(&physical(BROADCAST)) && !apic.accepts(&physical(4)));
    assert!(!apic.accepts(&logical(0xff)), "no logical id yet");
    write(&mut apic, index::LOGICAL_DESTINATION, 0x2000_0000);
    assert!(apic.accepts(&logical(0x60)) && apic.accepts(&logical(0xff)) && !apic.accepts(&logical(0x40)));
    write(&mut apic, index::DESTINATION_FORMAT, 0x0fff_ffff);
    assert!(apic.accepts(&logical(0xff)) && !apic.accepts(&logical(0x22)));
    write(&mut apic, index::LOGICAL_DESTINATION, 0x2200_0000);
    assert!(apic.accepts(&logical(0x23)) && !apic.accepts(&logical(0x32)) && !apic.accepts(&logical(0x21)));

    let apic = x2apic(0x125);
    assert_eq!(apic.msr_read(msr(index::LOGICAL_DESTINATION), T0), Ok(0x0012_0020));
    assert!(
        apic.accepts(&physical(0x125))
            && !apic.accepts(&physical(0x25))
            && apic.accepts(&physical(BROADCAST))
    );
    assert!(apic.accepts(&logical(0x0012_0030)) && !apic.accepts(&logical(0x0011_0020)));
    let mut shorthand =
        ApicMessage { shorthand: Shorthand::AllExcludingSelf, source: Some(0x125), ..physical(0) };
    assert!(!apic.accepts(&shorthand));
    shorthand.source = Some(1);
    assert!(apic.accepts(&shorthand));
    shorthand.shorthand = Shorthand::AllIncludingSelf;
    assert!(apic.accepts(&shorthand));
}

#[test]
fn commands_become_messages() {
    let mut apic = xapic(1);
    write(&mut apic, index::COMMAND_HIGH, 0x0200_0000);
    let message = sent(write(&mut apic, index::COMMAND, 0x0000_40f1));
    assert_eq!(message, ApicMessage { source: Some(1), ..ApicMessage::fixed(2, 0xf1) });
    assert_eq!(read(&mut apic, index::COMMAND), 0x40f1);
    let init = sent(write(&mut apic, index::COMMAND, 0x0000_c500));
    assert_eq!((init.delivery, init.destination), (DeliveryMode::Init, 2));
    assert_eq!(write(&mut apic, index::COMMAND, 0x0000_8500), ApicEffect::None, "level de-assert");
    let startup = sent(write(&mut apic, index::COMMAND, 0x000c_4699));
    assert_eq!((startup.delivery, startup.vector), (DeliveryMode::Startup, 0x99));
    assert_eq!(startup.shorthand, Shorthand::AllExcludingSelf);
    write(&mut apic, index::COMMAND_HIGH, 0xff00_0000);
    assert_eq!(sent(write(&mut apic, index::COMMAND, 0x0000_4400)).destination, BROADCAST);
    assert_eq!(write(&mut apic, index::COMMAND, 0x0004_40aa), ApicEffect::None);
    assert_eq!(apic.pending_vector(), Some(0xaa), "the self shorthand stays inside");

    let mut apic = x2apic(1);
    let effect = apic.msr_write(msr(index::COMMAND), 0x0000_0007_0000_00e0, T0).unwrap();
    assert_eq!(sent(effect), ApicMessage { source: Some(1), ..ApicMessage::fixed(7, 0xe0) });
    assert_eq!(apic.msr_read(msr(index::COMMAND), T0), Ok(0x0000_0007_0000_00e0));
    assert_eq!(apic.msr_write(msr(index::SELF_IPI), 0x77, T0), Ok(ApicEffect::None));
    assert_eq!(apic.pending_vector(), Some(0x77));
}

#[test]
fn illegal_vectors_are_errors() {
    let mut apic = xapic(0);
    write(&mut apic, index::LOCAL_VECTOR + 5, 0xee);
    assert_eq!(write(&mut apic, index::COMMAND, 0x4005), ApicEffect::None);
    assert_eq!(apic.pending_vector(), Some(0xee));
    assert_eq!(read(&mut apic, index::ERROR_STATUS), 0);
    write(&mut apic, index::ERROR_STATUS, 0);
    assert_eq!(read(&mut apic, index::ERROR_STATUS), esr::SEND_ILLEGAL_VECTOR);
    assert!(!apic.deliver(&ApicMessage::fixed(0, 15)));
    assert_eq!(write(&mut apic, 0x05, 1), ApicEffect::None);
    write(&mut apic, index::ERROR_STATUS, 0);
    assert_eq!(read(&mut apic, index::ERROR_STATUS), esr::RECEIVE_ILLEGAL_VECTOR | esr::ILLEGAL_REGISTER);
    write(&mut apic, index::ERROR_STATUS, 0);
    assert_eq!(read(&mut apic, index::ERROR_STATUS), 0);
    write(&mut apic, index::LOCAL_VECTOR + 5, 0x02);
    assert!(!apic.deliver(&ApicMessage::fixed(0, 15)));
}

#[test]
fn software_disabling_masks_the_local_vectors() {
    let mut apic = xapic(0);
    write(&mut apic, index::LOCAL_VECTOR, 0x40);
    write(&mut apic, index::SPURIOUS, 0xff);
    assert_eq!(read(&mut apic, index::LOCAL_VECTOR), 0x1_0040);
    write(&mut apic, index::LOCAL_VECTOR, 0x41);
    assert_eq!(read(&mut apic, index::LOCAL_VECTOR), 0x1_0041);
    assert!(apic.deliver(&ApicMessage { delivery: DeliveryMode::Nmi, ..ApicMessage::fixed(0, 0) }));
    assert!(apic.nmi_pending() && apic.take_nmi() && !apic.take_nmi());
}

#[test]
fn base_register_transitions() {
    let mut apic = apic(0);
    assert_eq!(apic.base(), 0xfee0_0900);
    let transition = |apic: &mut LocalApic, bits: u64| apic.write_base(0xfee0_0100 | bits);
    assert!(transition(&mut apic, 0x400).is_err(), "x2APIC without enable");
    assert_eq!(transition(&mut apic, 0xc00), Ok(()));
    assert_eq!((apic.mode(), apic.mmio_base()), (ApicMode::X2Apic, None));
    assert_eq!(transition(&mut apic, 0xc00), Ok(()));
    assert!(transition(&mut apic, 0x800).is_err(), "back to xAPIC needs a disabling in between");
    assert!(transition(&mut apic, 0x400).is_err());
    assert_eq!(transition(&mut apic, 0), Ok(()));
    assert!(apic.accepts_pic() && apic.pending_vector().is_none());
    assert!(transition(&mut apic, 0xc00).is_err(), "x2APIC from disabled");
    assert_eq!(transition(&mut apic, 0x800), Ok(()));
    assert_eq!(apic.write_base(0xfee0_0901), Err(MsrError::Reserved { msr: 0x1b, value: 0xfee0_0901 }));
    assert!(apic.write_base(1 << 40 | 0x900).is_err(), "beyond the physical address width");
    assert_eq!(apic.write_base(0x12_3456_7800 & !0xfff | 0x900), Ok(()));
    assert_eq!(apic.mmio_base(), Some(Gpa(0x12_3456_7000)));
}

/// The SDM's table "Local APIC Register Address Map Supported by x2APIC": which can be read, which can be written, and
/// the bits that may be set. The CMCI entry (0x82f) is absent, so version reports six local vectors.
#[test]
fn x2apic_register_space_is_the_manuals() {
    let readable: Vec<u16> = [0x02, 0x03, 0x08, 0x0a, 0x0d, 0x0f]
        .into_iter()
        .chain(0x10..=0x28)
        .chain(0x30..=0x30)
        .chain(0x32..=0x39)
        .chain([0x3e])
        .collect();
    let writable: [(u16, u64); 14] = [
        (0x08, 0xff),
        (0x0b, 0),
        (0x0f, 0x13ff),
        (0x28, 0),
        (0x30, 0xffff_ffff_000c_dfff),
        (0x32, 0x7_10ff),
        (0x33, 0x1_17ff),
        (0x34, 0x1_17ff),
        (0x35, 0x1_f7ff),
        (0x36, 0x1_f7ff),
        (0x37, 0x1_10ff),
        (0x38, 0xffff_ffff),
        (0x3e, 0xb),
        (0x3f, 0xff),
    ];
    for register in 0..=0xff {
        let mut apic = x2apic(0);
        assert_eq!(
            apic.msr_read(msr(register), T0).is_ok(),
            readable.contains(&register),
            "read {register:#x}"
        );
        let bits = writable.iter().find(|(index, _)| *index == register).map(|(_, bits)| *bits);
        assert_eq!(apic.msr_write(msr(register), 0, T0).is_ok(), bits.is_some(), "write {register:#x}");
        for bit in 0..64 {
            let allowed = bits.is_some_and(|bits| bits >> bit & 1 != 0);
            let value = 1u64 << bit;
            assert_eq!(apic.msr_write(msr(register), value, T0).is_ok(), allowed, "{register:#x} bit {bit}");
        }
        let mut other = xapic(0);
        assert!(other.msr_read(msr(register), T0).is_err() && other.msr_write(msr(register), 0, T0).is_err());
    }
    assert!(x2apic(0).msr_read(0x900, T0).is_err());
}

#[test]
fn odd_memory_accesses_have_no_effect() {
    let mut apic = xapic(0xab);
    assert_eq!(apic.mmio_write(0xf0, Width::Byte, 0, T0), ApicEffect::None);
    assert_eq!(apic.mmio_write(0xf4, Width::Dword, 0, T0), ApicEffect::None);
    assert_eq!(apic.mmio_write(0xf0, Width::Qword, 0, T0), ApicEffect::None);
    assert_eq!(read(&mut apic, index::SPURIOUS), ENABLED as u32);
    assert_eq!(apic.mmio_read(0x23, Width::Byte, T0), 0xab);
    assert_eq!(apic.mmio_read(0x24, Width::Dword, T0), 0);
    assert_eq!(apic.mmio_read(0x22, Width::Dword, T0), 0);
    assert_eq!(apic.mmio_read(0xff0, Width::Dword, T0), 0);
    let mut apic = x2apic(0);
    assert_eq!(apic.mmio_read(0x20, Width::Dword, T0), 0);
    assert_eq!(apic.mmio_write(0xf0, Width::Dword, 0, T0), ApicEffect::None);
}

#[test]
fn init_and_startup() {
    let mut apic = xapic(1);
    let message = |delivery, vector| ApicMessage { delivery, ..ApicMessage::fixed(1, vector) };
    apic.deliver(&message(DeliveryMode::Startup, 0x11));
    apic.deliver(&message(DeliveryMode::Init, 0));
    assert_eq!(apic.take_startup(), None, "a start-up message before the INIT is void");
    apic.deliver(&message(DeliveryMode::Startup, 0x9a));
    assert!(apic.init_or_startup_pending() && apic.take_init());
    apic.init();
    assert_eq!(read(&mut apic, index::SPURIOUS), 0xff);
    assert_eq!(apic.take_startup(), Some(0x9a));
    assert!(!apic.init_or_startup_pending());
    let mut apic = x2apic(1);
    apic.init();
    assert_eq!(apic.mode(), ApicMode::X2Apic);
}

#[test]
fn virtual_wire_takes_the_8259s() {
    let mut apic = apic(0);
    assert!(!apic.accepts_pic());
    apic.enter_virtual_wire();
    assert!(apic.accepts_pic());
    assert!(apic.raise_local(LocalInterrupt::Lint1) && apic.take_nmi());
    assert!(!apic.raise_local(LocalInterrupt::Lint0));
    write(&mut apic, index::LOCAL_VECTOR + 3, 0x31);
    assert!(!apic.accepts_pic());
    assert!(apic.raise_local(LocalInterrupt::Lint0));
    assert_eq!(apic.pending_vector(), Some(0x31));
}
