use super::*;
use crate::message::BROADCAST;
use proptest::prelude::*;
extern crate std;
use std::vec::Vec;

#[derive(Default)]
struct Sent(Vec<ApicMessage>);

impl ApicBus for Sent {
    fn deliver(&mut self, message: ApicMessage) {
        self.0.push(message);
    }
}

fn write_register(ioapic: &mut IoApic, index: u8, value: u32, bus: &mut Sent) {
    ioapic.write(offset::SELECT, Width::Dword, index.into(), bus).unwrap();
    ioapic.write(offset::WINDOW, Width::Dword, value.into(), bus).unwrap();
}

fn read_register(ioapic: &mut IoApic, index: u8) -> u32 {
    ioapic.write(offset::SELECT, Width::Byte, index.into(), &mut Sent::default()).unwrap();
    ioapic.read(offset::WINDOW, Width::Dword).unwrap() as u32
}

#[test]
fn identity() {
    let mut ioapic = IoApic::new();
    assert_eq!(read_register(&mut ioapic, 1), 0x0017_0020);
    write_register(&mut ioapic, 0, 0xff00_0000, &mut Sent::default());
    assert_eq!(read_register(&mut ioapic, 0), 0x0f00_0000);
    assert_eq!(read_register(&mut ioapic, 0x10), 0x0001_0000);
    assert_eq!(read_register(&mut ioapic, 0x40), 0);
}

#[test]
fn edges_send_once_and_are_lost_when_masked() {
    let (mut ioapic, mut bus) = (IoApic::new(), Sent::default());
    ioapic.set_line(4, true, &mut bus);
    ioapic.set_line(4, false, &mut bus);
    write_register(&mut ioapic, 0x19, 0x0500_0000, &mut bus);
    write_register(&mut ioapic, 0x18, 0x0000_0044, &mut bus);
    assert!(bus.0.is_empty());
    ioapic.set_line(4, true, &mut bus);
    ioapic.set_line(4, true, &mut bus);
    assert_eq!(bus.0, [ApicMessage::fixed(5, 0x44)]);
    ioapic.set_line(4, false, &mut bus);
    ioapic.set_line(4, true, &mut bus);
    assert_eq!(bus.0.len(), 2);
}

#[test]
fn a_level_line_waits_for_its_end_and_comes_back() {
    let (mut ioapic, mut bus) = (IoApic::new(), Sent::default());
    write_register(&mut ioapic, 0x23, 0xff00_0000, &mut bus);
    write_register(&mut ioapic, 0x22, 0x0000_8059, &mut bus);
    ioapic.set_line(9, true, &mut bus);
    assert_eq!(bus.0.len(), 1);
    assert!(bus.0[0].level_triggered && bus.0[0].destination == BROADCAST);
    assert_eq!(read_register(&mut ioapic, 0x22), 0x0000_c059);
    ioapic.set_line(9, false, &mut bus);
    ioapic.set_line(9, true, &mut bus);
    assert_eq!(bus.0.len(), 1, "remote IRR holds it back");
    ioapic.end_of_interrupt(0x58, &mut bus);
    assert_eq!(bus.0.len(), 1);
    ioapic.end_of_interrupt(0x59, &mut bus);
    assert_eq!(bus.0.len(), 2);
    ioapic.set_line(9, false, &mut bus);
    ioapic.write(offset::EOI, Width::Dword, 0x59, &mut bus).unwrap();
    assert_eq!(bus.0.len(), 2);
    assert_eq!(read_register(&mut ioapic, 0x22), 0x0000_8059);
}

#[test]
fn unmasking_a_level_line_sends_and_turning_to_edge_forgets_the_end() {
    let (mut ioapic, mut bus) = (IoApic::new(), Sent::default());
    write_register(&mut ioapic, 0x22, 0x0001_8059, &mut bus);
    ioapic.set_line(9, true, &mut bus);
    assert!(bus.0.is_empty());
    write_register(&mut ioapic, 0x22, 0x0000_8059, &mut bus);
    assert_eq!(bus.0.len(), 1);
    write_register(&mut ioapic, 0x22, 0x0001_0059, &mut bus);
    write_register(&mut ioapic, 0x22, 0x0000_8059, &mut bus);
    assert_eq!(bus.0.len(), 2);
}

#[test]
fn odd_accesses_are_refused() {
    let (mut ioapic, mut bus) = (IoApic::new(), Sent::default());
    assert!(ioapic.write(offset::WINDOW, Width::Byte, 0, &mut bus).is_err());
    assert!(ioapic.write(offset::SELECT, Width::Qword, 0, &mut bus).is_err());
    assert!(ioapic.read(0x14, Width::Dword).is_err());
    assert!(ioapic.read(offset::WINDOW, Width::Qword).is_err());
}

proptest! {
    /// Every level message is followed by no other of its pin before the EOI, and after an EOI an asserted,
    /// unmasked level pin always has its remote IRR set again.
    #[test]
    fn level_pins_never_lose_an_assertion(steps in prop::collection::vec(any::<(u8, u8, u32)>(), 0..200)) {
        let (mut ioapic, mut bus) = (IoApic::new(), Sent::default());
        for (action, target, value) in steps {
            match action % 4 {
                0 => ioapic.set_line(target % 32, value & 1 != 0, &mut bus),
                1 => write_register(&mut ioapic, target % 0x48, value, &mut bus),
                2 => ioapic.end_of_interrupt(target, &mut bus),
                _ => { let _ = ioapic.write(u64::from(target), Width::Dword, value.into(), &mut bus); }
            }
            for pin in 0..IoApic::PINS {
                let entry = ioapic.entries[pin];
                let vectored = entry.message().is_some_and(|m| m.delivery.carries_vector());
                if entry.has(Redirection::LEVEL) && !entry.has(Redirection::MASKED) && vectored
                    && ioapic.lines & 1 << pin != 0
                {
                    prop_assert!(entry.has(Redirection::REMOTE_IRR));
                }
                prop_assert!(entry.has(Redirection::LEVEL) || !entry.has(Redirection::REMOTE_IRR));
            }
        }
    }
}

#[test]
fn what_no_interrupt_flag_holds_back_is_told() {
    let (mut ioapic, mut bus) = (IoApic::new(), Sent::default());
    assert_eq!(ioapic.unmaskable().count(), 0);
    write_register(&mut ioapic, 0x14, 0x0000_0044, &mut bus);
    write_register(&mut ioapic, 0x16, 0x0001_0400, &mut bus);
    assert_eq!(ioapic.unmaskable().count(), 0, "a vector, and a masked NMI");
    write_register(&mut ioapic, 0x16, 0x0000_0400, &mut bus);
    write_register(&mut ioapic, 0x18, 0x0000_0500, &mut bus);
    let kinds: Vec<_> = ioapic.unmaskable().map(|message| message.delivery).collect();
    assert_eq!(kinds, [DeliveryMode::Nmi, DeliveryMode::Init]);
}
