//! VMs with firmware that the management domain makes.

use std::vec::Vec;

use abi::{DeviceKind, Name, Reason, Refusal, Request, VmState};
use vcpu::{Exit, Gpa, GuestMemory, SegmentName};

use super::bench::{Step, power_off, step};
use super::channel::{Domain, Heard, Told};
use super::yard::{ENDS, Place, Role, Yard};

const ROM: u64 = 256 << 10;
const ROM_AT: u64 = (4 << 30) - ROM;
const SHADOW: u64 = (1 << 20) - ROM;
/// What RBX is after power-up, whatever the firmware does then.
const POWER_UP: u64 = 0;
const ROLES: &[Role] = &[(POWER_UP, boots)];

fn added(kind: DeviceKind, first: u64) -> Request<'static> {
    Request::AddDevice { kind, first, second: 0 }
}

/// Finds itself where processors begin, with its ROM in both places and a configuration device; the first time it resets itself then, the second time
/// it switches itself off.
fn boots() -> Vec<Step> {
    let mut steps = std::vec![step(|guest| {
        let code = guest.cpu.segments[SegmentName::Cs as usize];
        assert_eq!((code.base, guest.cpu.rip), (0xffff_0000, 0xfff0));
        for place in [ROM_AT, SHADOW] {
            let mut first = [0; 4];
            guest.memory.read(Gpa(place), &mut first).unwrap();
            assert_eq!(&first, b"BIOS", "at {place:#x}");
        }
        // The signature is the first item.
        guest.port_write(0x510, 2, 0)
    })];
    for letter in *b"QEMU" {
        steps.push(step(|guest| guest.port_read(0x511, 1)));
        steps.push(step(move |guest| {
            assert_eq!(guest.cpu.registers.rax() as u8, letter);
            Exit::Pause
        }));
    }
    steps.push(step(|guest| match guest.resets {
        1 => guest.port_write(0xcf9, 1, 6),
        _ => power_off(guest),
    }));
    steps
}

/// Puts a ROM where the domain has to, and starts the VM that is held.
fn fill(domain: &mut Domain, place: &mut Place<'_, '_>, vm: u64) {
    for gpa in [ROM_AT, SHADOW] {
        assert_eq!(domain.ask(place, &Request::WriteMemory { vm, gpa, bytes: b"BIOS" }), Told::Done);
    }
    assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Done);
}

#[test]
fn a_vm_begins_in_its_firmware_and_again_after_a_reset() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let free = place.bank.free();
        let mut domain = Domain::greeted(place);
        assert_eq!(domain.ask(place, &added(DeviceKind::Firmware, ROM)), Told::Done);
        let vm = domain.create(place, "vm");
        assert_eq!(domain.ask(place, &super::channel::entry(vm, ENDS)), Told::Refused(Refusal::State, 0, 0));
        assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Done);
        assert_eq!(domain.ask(place, &Request::NextVm { after: 0 }), Told::Status(vm, VmState::Held));
        fill(&mut domain, place, vm);
        assert_eq!(domain.listen(place), [Heard::Reset(vm)]);
        assert_eq!(domain.ask(place, &Request::NextVm { after: 0 }), Told::Status(vm, VmState::Held));
        fill(&mut domain, place, vm);
        assert_eq!(domain.listen(place), [Heard::Ended(vm, Reason::PowerOff)]);
        assert_eq!(domain.ask(place, &Request::DestroyVm { vm }), Told::Done);
        assert_eq!((place.bank.free(), place.node.holdings()), (free, [0; 4]));
    });
}

#[test]
fn a_rom_has_a_size_and_its_memory_map_is_all_of_it() {
    Yard::new(1, 1, &[]).run(1, |place| {
        let mut domain = Domain::greeted(place);
        for bytes in [0, 4096, (64 << 10) + 1, (8 << 20) + 4096, u64::MAX] {
            domain.ask(place, &added(DeviceKind::Firmware, bytes));
            let create = Request::CreateVm { name: Name::new("vm").unwrap(), cpus: 1, memory: 16 << 20 };
            assert_eq!(domain.ask(place, &create), Told::Refused(Refusal::Range, bytes, 8 << 20));
        }
        for kind in [DeviceKind::TextScreen, DeviceKind::DebugConsole] {
            assert_eq!(domain.ask(place, &added(kind, 0)), Told::Done);
        }
        domain.ask(place, &added(DeviceKind::Firmware, ROM));
        let vm = domain.create(place, "vm");
        let Told::MemoryMap { ranges, .. } = domain.ask(place, &Request::MemoryMap { vm }) else {
            panic!("a map")
        };
        assert_eq!(ranges[..3], [0, 16 << 20, 1]);
        assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Done);
        let text = Request::WriteMemory { vm, gpa: 0xb_8000, bytes: b"text" };
        assert_eq!(domain.ask(place, &text), Told::Done, "the screen's memory");
        let below = Request::WriteMemory { vm, gpa: ROM_AT - 4, bytes: b"text" };
        assert!(matches!(domain.ask(place, &below), Told::Refused(Refusal::Address, ..)));
    });
}
