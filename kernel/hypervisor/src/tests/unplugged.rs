//! VMs on a network from which others go, and to which others come in their places.

use vcpu::{Exit, Gpa, GuestMemory};
use vswitch::counters::Drop;

use super::bench::{Step, step};
use super::disks::{DRIVER, NOTIFY, board, describe, store};
use super::networks::{DB, HEADER, WEB, buffer, driver, frame, offer, used};
use super::yard::{HALTS, Role, Yard, small};
use crate::VmState;
use crate::config::{Description, Nic};

/// Sends a frame to [`DB`] whenever the last one is done with.
const SENDS: u64 = 16;
/// Takes eight frames.
const TAKES: u64 = 17;
const ROLES: [Role; 2] = [(SENDS, sends), (TAKES, takes)];

fn sends() -> std::vec::Vec<Step> {
    let mut steps: std::vec::Vec<Step> = board().into_iter().chain(driver(1)).collect();
    steps.push(step(|guest| {
        let bytes = [&[0; HEADER][..], &frame(DB, WEB, 80)].concat();
        guest.memory.write(Gpa(buffer(0)), &bytes).unwrap();
        describe(guest, 0, buffer(0), bytes.len() as u32, 0);
        Exit::Pause
    }));
    let mut sent = 0_u16;
    steps.push(step(move |guest| {
        guest.clock.pass(20_000);
        if used(guest) != sent {
            return Exit::Pause;
        }
        sent = sent.wrapping_add(1);
        // All entries of the ring are the one buffer.
        guest.memory.write(Gpa(DRIVER + 2), &sent.to_le_bytes()).unwrap();
        store(guest, NOTIFY + 4, 2, 1)
    }));
    steps
}

fn takes() -> std::vec::Vec<Step> {
    let mut steps: std::vec::Vec<Step> = board().into_iter().chain(driver(0)).collect();
    steps.push(step(|guest| {
        (0..8).for_each(|index| describe(guest, index, buffer(index), 0x400, 2));
        offer(guest, 8, 0)
    }));
    steps.push(step(|guest| {
        guest.clock.pass(20_000);
        Exit::Pause
    }));
    steps
}

fn on_lan(name: &str, mac: [u8; 6]) -> Description {
    let mut description = small(name);
    let mut nic = Nic::on("lan");
    nic.mac = Some(mac);
    description.nics.push(nic);
    description
}

#[test]
fn frames_for_a_vm_that_is_gone_go_nowhere_and_not_to_the_next_in_its_place() {
    Yard::new(1, 2, &ROLES).run(2, |place| {
        let node = place.node;
        let web = place.begin(on_lan("web", WEB), SENDS);
        place.until_state(web, VmState::Running);
        let db = place.begin(on_lan("db", DB), TAKES);
        let lan = node.networks.find("lan").expect("it is there");
        let port_of = |vm: &str| {
            let (_, id) = node.networks.port_of(vm, 0).expect("a port");
            (id, lan.switch.port(id).expect("it is there"))
        };
        let (id, port) = port_of("db");
        place.until("frames have come", |_| port.counters.received.read().0 == 8);
        place.until("more wait", |_| !port.output.is_empty());

        place.destroy(db);
        place.until_gone(db);
        assert!(
            lan.switch.ports().count() == 1
                && port.output.is_empty()
                && node.networks.port_of("db", 0).is_none()
        );
        let sender = port_of("web").1;
        let lost = sender.counters.lost(Drop::NoReceiver);
        place.until("frames go nowhere", |_| sender.counters.lost(Drop::NoReceiver) > lost + 8);
        assert_eq!(node.state(web), Some(VmState::Running));

        // Another one in its place, with its number on the network; and then one with its name and address, too.
        let next = place.begin(on_lan("next", [2, 0, 0, 0, 0, 9]), HALTS);
        place.until_state(next, VmState::Running);
        assert_eq!((next.index(), port_of("next").0), (db.index(), id));
        let sent = sender.counters.sent.read().0;
        place.until("more is sent", |_| sender.counters.sent.read().0 > sent + 8);
        assert!(port.counters.received.read() == (0, 0) && port.output.is_empty());
        place.destroy(next);
        place.until_gone(next);
        place.begin(on_lan("db", DB), TAKES);
        place.until("frames have come again", |_| port.counters.received.read().0 == 8);
    });
}
