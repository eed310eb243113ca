//! A disk that the domain serves: from the guest's instructions over the port to the domain's memory, and back.

use std::vec::Vec;

use abi::{DeviceKind, DiskAnswer, DiskOrder, DiskStatus, DiskVerb, Reason, Refusal, Request};
use vcpu::{Gpa, GuestMemory};

use super::bench::{KERNEL, Step, halt, power_off, step};
use super::channel::{Domain, Heard, Told};
use super::disks::{BUFFER, DEVICE, board, bytes, driver, read_sector, told};
use super::yard::{LOOPS, Place, Role, Yard};
use crate::VmState;

const READS: u64 = 40;
const ROLES: &[Role] = &[(READS, reads)];
const SECTORS: u64 = 1 << 40;
/// Where the domain has its window.
const WINDOW: u64 = KERNEL + (4 << 20);

/// Reads a sector, sees it come with an interrupt, and switches itself off.
fn reads() -> Vec<Step> {
    let mut steps = board();
    steps.extend(driver());
    steps.push(step(|guest| read_sector(guest, SECTORS - 1)));
    steps.push(step(|guest| {
        told(guest);
        halt(guest)
    }));
    steps.push(step(|guest| {
        assert_eq!(bytes(guest, BUFFER + 0x200), [0xd1; 512]);
        assert_eq!(bytes(guest, DEVICE + 2), [1, 0, 0, 0, 0, 0, 1, 2], "head 0 is used, with 513 bytes");
        power_off(guest)
    }));
    steps
}

/// The VM that reads, its disks' server, and who manages it.
fn begin(place: &mut Place<'_, '_>) -> (Domain, Domain, u64) {
    let mut domain = Domain::greeted(place);
    let disk = Request::AddDevice { kind: DeviceKind::ServedDisk, first: SECTORS, second: 0 };
    assert_eq!(domain.ask(place, &disk), Told::Done);
    let vm = domain.begin(place, "vm", READS);
    let server = Domain::of_disks(place);
    (domain, server, vm)
}

fn serve(server: &mut Domain, place: &mut Place<'_, '_>, vm: u64) -> Vec<DiskOrder> {
    assert_eq!(server.ask(place, &Request::ServeDisks { vm, window: WINDOW }), Told::Done);
    match server.listen(place).as_slice() {
        [Heard::Orders(of, orders)] if *of == vm => orders.clone(),
        other => panic!("{other:?}"),
    }
}

fn answer(server: &mut Domain, vm: u64, entries: &[(u16, DiskStatus)]) {
    let entries: Vec<_> =
        entries.iter().map(|&(slot, status)| DiskAnswer { slot, status }.to_bytes()).collect();
    server.send(&Request::DisksDone { vm, answers: entries.as_flattened() });
}

/// Puts what is read into the order's place.
fn fill(place: &Place<'_, '_>, order: &DiskOrder) {
    assert_eq!((order.disk, order.verb, order.sector, order.sectors), (0, DiskVerb::Read, SECTORS - 1, 1));
    let domain = place.node.domain_id().expect("there is one");
    let at = Gpa(WINDOW + u64::from(order.slot) * (64 << 10));
    place.node.with_memory(domain, |space| space.write(at, &[0xd1; 512])).unwrap().unwrap();
}

#[test]
fn a_guest_reads_what_the_domain_has() {
    Yard::with_domain(1, ROLES, halt).run(1, |place| {
        let (mut domain, mut server, vm) = begin(place);
        assert_eq!(domain.listen(place), [], "it waits for who serves its disk");
        let orders = serve(&mut server, place, vm);
        assert_eq!(orders.len(), 1);
        fill(place, &orders[0]);
        answer(&mut server, vm, &[(orders[0].slot, DiskStatus::Done)]);
        assert_eq!(domain.listen(place), [Heard::Ended(vm, Reason::PowerOff)]);
        assert_eq!(server.listen(place), [], "no answer where all is in order");
        assert_eq!(domain.ask(place, &Request::DestroyVm { vm }), Told::Done);
    });
}

#[test]
fn another_server_is_told_what_was_not_answered() {
    Yard::with_domain(1, ROLES, halt).run(1, |place| {
        let (mut domain, mut server, vm) = begin(place);
        let orders = serve(&mut server, place, vm);
        drop(server);
        let mut server = Domain::of_disks(place);
        assert_eq!(server.listen(place), []);
        let again = serve(&mut server, place, vm);
        assert_eq!((again.len(), again[0].sector), (1, orders[0].sector));
        fill(place, &again[0]);
        answer(&mut server, vm, &[(again[0].slot, DiskStatus::Done)]);
        assert_eq!(domain.listen(place), [Heard::Ended(vm, Reason::PowerOff)]);
    });
}

#[test]
fn a_vm_without_room_stands_still_until_it_is_resumed() {
    Yard::with_domain(1, ROLES, halt).run(1, |place| {
        let (mut domain, mut server, vm) = begin(place);
        let orders = serve(&mut server, place, vm);
        answer(&mut server, vm, &[(orders[0].slot, DiskStatus::NoRoom)]);
        assert_eq!(domain.listen(place), [Heard::NoRoom(vm)]);
        let id = place.node.named("vm").expect("it is there");
        assert_eq!(place.node.state(id), Some(VmState::Paused));
        assert_eq!(domain.ask(place, &Request::Resume { vm }), Told::Done);
        let heard = server.listen(place);
        assert_eq!(heard, [Heard::Orders(vm, orders.clone())], "the same once more");
        fill(place, &orders[0]);
        answer(&mut server, vm, &[(orders[0].slot, DiskStatus::Done)]);
        assert_eq!(domain.listen(place), [Heard::Ended(vm, Reason::PowerOff)]);
    });
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    Yard::with_domain(2, ROLES, halt).run(2, |place| {
        let (mut domain, mut server, vm) = begin(place);
        let other = domain.begin(place, "other", LOOPS);
        let refused = |refusal, first| Told::Refused(refusal, first, 0);
        for (request, told) in [
            (Request::ServeDisks { vm, window: WINDOW + 1 }, refused(Refusal::Address, WINDOW + 1)),
            (Request::ServeDisks { vm, window: 0 }, refused(Refusal::Address, 0)),
            (Request::ServeDisks { vm, window: !4095 }, refused(Refusal::Address, !4095)),
            (Request::ServeDisks { vm: other, window: WINDOW }, refused(Refusal::Unsupported, 0)),
            (
                Request::ServeDisks { vm: vm + (2 << 16), window: WINDOW },
                refused(Refusal::NoVm, vm + (2 << 16)),
            ),
            (Request::Stop { vm }, refused(Refusal::Unsupported, 0x121)),
            (Request::DisksDone { vm, answers: &[0; 3] }, refused(Refusal::Malformed, 0x181)),
            (Request::DisksDone { vm, answers: &[0, 0, 9, 0] }, refused(Refusal::Malformed, 0x181)),
            (Request::DisksDone { vm, answers: &[0; 4] }, Told::Refused(Refusal::Range, 0, 31)),
        ] {
            assert_eq!(server.ask(place, &request), told, "{request:?}");
        }
        let at_control = domain.ask(place, &Request::DisksDone { vm, answers: &[] });
        assert_eq!(at_control, refused(Refusal::Unsupported, 0x181));
        let orders = serve(&mut server, place, vm);
        fill(place, &orders[0]);
        for slot in [31, 32, 0xffff] {
            answer(&mut server, vm, &[(slot, DiskStatus::Done)]);
            let (_, told) = server.answer(place);
            assert_eq!(told, Told::Refused(Refusal::Range, slot.into(), 31));
        }
        answer(&mut server, vm, &[(orders[0].slot, DiskStatus::Done), (orders[0].slot, DiskStatus::Done)]);
        let (_, told) = server.answer(place);
        assert_eq!(told, Told::Refused(Refusal::Range, orders[0].slot.into(), 31), "once");
        assert_eq!(domain.listen(place), [Heard::Ended(vm, Reason::PowerOff)]);
    });
}
