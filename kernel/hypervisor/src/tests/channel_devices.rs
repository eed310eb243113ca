//! Devices of VMs that the management domain makes.

use abi::{DeviceKind, Name, Refusal, Request, VmState};
use vcpu::{Gpa, GuestMemory};

use super::channel::{Domain, Told};
use super::yard::{Place, Yard};
use crate::run::FillError;

fn device(kind: DeviceKind) -> Request<'static> {
    Request::AddDevice { kind, first: 0, second: 0 }
}

fn disk(sectors: u64, read_only: bool) -> Request<'static> {
    Request::AddDevice { kind: DeviceKind::MemoryDisk, first: sectors, second: read_only.into() }
}

fn network(mac: u64) -> Request<'static> {
    Request::AddNetwork { network: Name::new("lan").unwrap(), mac }
}

/// How many virtio devices a VM has.
fn devices(place: &Place<'_, '_>, name: &str) -> usize {
    let id = place.node.named(name).expect("it is there");
    place.node.devices(id).expect("it is there")
}

#[test]
fn a_vm_has_the_devices_that_were_added_and_the_next_one_none() {
    Yard::new(1, 2, &[]).run(2, |place| {
        let free = place.bank.free();
        let mut domain = Domain::greeted(place);
        let added = [
            device(DeviceKind::Console),
            device(DeviceKind::Balloon),
            disk(8, true),
            disk(2, false),
            network(0x56_34_12_00_54_52),
        ];
        for request in added {
            assert_eq!(domain.ask(place, &request), Told::Done);
        }
        let first = domain.create(place, "first");
        assert_eq!(devices(place, "first"), added.len());
        let second = domain.create(place, "second");
        assert_eq!(devices(place, "second"), 0);
        assert_eq!(domain.ask(place, &Request::DestroyVm { vm: first }), Told::Done);
        domain.ask(place, &device(DeviceKind::Console));
        domain.ask(place, &Request::ForgetDevices {});
        let third = domain.create(place, "third");
        assert_eq!(devices(place, "third"), 0);
        for vm in [second, third] {
            assert_eq!(domain.ask(place, &Request::DestroyVm { vm }), Told::Done);
        }
        assert_eq!((place.bank.free(), place.node.holdings()), (free, [0; 4]));
    });
}

#[test]
fn devices_that_cannot_be_are_refused() {
    Yard::new(1, 2, &[]).run(2, |place| {
        let mut domain = Domain::greeted(place);
        let group = 1;
        assert_eq!(domain.ask(place, &network(group)), Told::Refused(Refusal::Range, group, 0));
        assert_eq!(domain.ask(place, &network(1 << 48)), Told::Refused(Refusal::Range, 1 << 48, 0));
        for sectors in [0, u64::MAX] {
            domain.ask(place, &disk(sectors, false));
            let create = Request::CreateVm { name: Name::new("vm").unwrap(), cpus: 1, memory: 16 << 20 };
            let told = domain.ask(place, &create);
            assert!(matches!(told, Told::Refused(Refusal::Range, ..)), "{told:?}");
        }
        // What was refused is forgotten.
        domain.create(place, "vm");
        assert_eq!(devices(place, "vm"), 0);
        for _ in 0..crate::config::MAX_DISKS {
            assert_eq!(domain.ask(place, &disk(1, false)), Told::Done);
        }
        assert!(matches!(domain.ask(place, &disk(1, false)), Told::Refused(Refusal::TooMany, ..)));
    });
}

#[test]
fn a_disk_is_filled_until_its_vm_runs() {
    Yard::new(1, 2, &[]).run(2, |place| {
        let mut domain = Domain::greeted(place);
        domain.ask(place, &disk(4, true));
        let vm = domain.create(place, "vm");
        assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Done);
        assert_eq!(domain.ask(place, &Request::NextVm { after: 0 }), Told::Status(vm, VmState::Held));
        let id = place.node.named("vm").unwrap();
        let fill = |at, gpa, length| {
            let filled = place.node.with_memory(id, |space| {
                space.write(Gpa(0x5000), b"content").unwrap();
                place.node.fill_disk(id, at, (space, Gpa(gpa)), length)
            });
            filled.expect("it has memory")
        };
        assert_eq!(fill((0, 1000), 0x5000, 7), Ok(()));
        assert_eq!(fill((1, 0), 0x5000, 7), Err(FillError::Range { asked: 1, most: 1 }));
        assert_eq!(fill((0, 2042), 0x5000, 7), Err(FillError::Range { asked: 2049, most: 2048 }));
        assert_eq!(fill((0, u64::MAX), 0x5000, 7), Err(FillError::Range { asked: u64::MAX, most: 2048 }));
        assert_eq!(fill((0, 0), 1 << 40, 7), Err(FillError::Address(Gpa(1 << 40))));
    });
}

#[test]
fn a_vms_memory_map_is_told() {
    Yard::new(1, 2, &[]).run(2, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.create(place, "vm");
        let Told::MemoryMap { rsdp, ranges } = domain.ask(place, &Request::MemoryMap { vm }) else {
            panic!("a map")
        };
        let (ranges, _) = ranges.as_chunks::<3>();
        let last_ram = ranges.iter().rfind(|[_, _, kind]| *kind == 1).expect("there is RAM");
        assert_eq!(last_ram[0] + last_ram[1], 16 << 20);
        assert!((0xe_0000..0x10_0000).contains(&rsdp));
        let unknown = Request::MemoryMap { vm: vm + 1 };
        assert_eq!(domain.ask(place, &unknown), Told::Refused(Refusal::NoVm, vm + 1, 0));
    });
}
