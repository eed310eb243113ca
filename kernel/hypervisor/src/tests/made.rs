//! VMs that are made and unmade while the machine runs.

use vcpu::fake::FakeHost;
use vcpu::{Gpa, GuestMemory};

use super::yard::{ENDS, ENTRY, HALTS, LOOPS, Yard, entry, small};
use crate::config::{Description, MAX_CPUS, Nic, Share, name};
use crate::schedule::{CpuSet, Parameters};
use crate::{CreateVmError, ManageError, StartError, StopReason, VmState};

const ENDED: VmState = VmState::Stopped(StopReason::Ended);
const OFF: VmState = VmState::Stopped(StopReason::PowerOff);

/// A VM with everything that has to come back.
fn full(text: &str) -> Description {
    let mut description = small(text);
    description.nics.push(Nic::on("lan"));
    description.nics.push(Nic::on("other"));
    description.ports.push(name("line"));
    description.devices.virtio_console = true;
    description.devices.vga_text = true;
    description
}

#[test]
fn a_vm_is_made_runs_to_its_end_and_is_unmade_and_all_of_it_is_back() {
    Yard::new(1, 4, &[]).run(4, |place| {
        let (free, node) = (place.bank.free(), place.node);
        for round in 0..200_usize {
            let description =
                Description { memory: (16 + round as u64 % 40) << 20, cpus: 1 + round % 4, ..full("vm") };
            let cpus = description.cpus;
            let role = [ENDS, HALTS, LOOPS][round % 3];
            let id = place.begin(description, role);
            assert_eq!((id.index(), node.named("vm")), (0, Some(id)), "the same place each time");
            assert_eq!(node.holdings(), [1, cpus as u64, 1, 0]);
            assert_eq!(node.networks.iter().map(|network| network.switch.ports().count()).sum::<usize>(), 2);
            if role == ENDS {
                place.until_state(id, OFF);
            } else {
                place.until_state(id, VmState::Running);
            }
            place.destroy(id);
            place.until_gone(id);
            assert_eq!(
                (node.holdings(), place.bank.free(), node.own_bytes()),
                ([0; 4], free, 0),
                "round {round}"
            );
            assert!(node.named("vm").is_none() && node.networks.port_of("vm", 0).is_none());
            assert!(node.networks.iter().all(|network| network.switch.ports().next().is_none()));
        }
        assert_eq!(node.networks.iter().count(), 2);
    });
}

#[test]
fn a_vm_that_is_held_has_memory_and_begins_where_it_is_told() {
    Yard::new(1, 1, &[]).run(1, |place| {
        let id = place.create(small("vm"));
        let node = place.node;
        assert_eq!(node.state(id), Some(VmState::Stopped(StopReason::NotStarted)));
        assert_eq!(node.with_memory(id, |_| ()), Err(ManageError::NoMemory(id)));
        place.start(id);
        place.until_state(id, VmState::Held);
        assert_eq!(node.start(place.first.host(), id), Err(ManageError::NoEntry(id)));
        let mut bytes = [1; 8];
        let read = node.with_memory(id, |space| space.read(Gpa(ENTRY), &mut bytes));
        assert_eq!((read, bytes), (Ok(Ok(())), [0; 8]));
        assert_eq!(node.pause(place.first.host(), id), Err(ManageError::NotNow(VmState::Held)));
        node.set_entry(id, entry(HALTS)).expect("it has no kernel");
        place.start(id);
        place.until_state(id, VmState::Running);
        // After a reset it is held again, with its memory cleared, and what it was told holds.
        node.with_memory(id, |space| space.write(Gpa(ENTRY), b"old")).unwrap().unwrap();
        node.reset(place.first.host(), id).expect("it runs");
        place.until_state(id, VmState::Held);
        let read = node.with_memory(id, |space| space.read(Gpa(ENTRY), &mut bytes));
        assert_eq!((read, bytes), (Ok(Ok(())), [0; 8]));
        node.set_entry(id, entry(ENDS)).expect("it has no kernel");
        place.start(id);
        place.until_state(id, OFF);
        // It can be started again as well.
        place.start(id);
        place.until_state(id, VmState::Held);
        node.stop(place.first.host(), id).expect("it has not ended");
        place.until_state(id, ENDED);
    });
}

/// What a VM does when it is destroyed: how far it is, and for how many rounds it went on from there.
#[test]
fn a_vm_can_be_destroyed_whatever_it_does() {
    Yard::new(1, 1, &[]).run(1, |place| {
        let (free, node) = (place.bank.free(), place.node);
        let check = |place: &mut super::yard::Place<'_, '_>, id, what: &str| {
            place.destroy(id);
            // Again, and what else may be asked, changes nothing.
            place.destroy(id);
            assert!(node.start(place.first.host(), id).is_err(), "{what}");
            place.until_gone(id);
            assert_eq!((node.holdings(), place.bank.free()), ([0; 4], free), "{what}");
            assert_eq!(node.destroy(place.first.host(), id), Err(ManageError::NoSuchVm(id)));
        };
        let id = place.create(full("vm"));
        check(place, id, "not started");
        // At each point of its start.
        for rounds in 0..12 {
            let id = place.create(full("vm"));
            place.start(id);
            (0..rounds).for_each(|_| place.first.round());
            check(place, id, "starting");
        }
        let id = place.create(full("vm"));
        place.start(id);
        place.until_state(id, VmState::Held);
        check(place, id, "held");
        for role in [HALTS, LOOPS] {
            let id = place.begin(full("vm"), role);
            place.until_state(id, VmState::Running);
            check(place, id, "running");
            let id = place.begin(full("vm"), role);
            place.until_state(id, VmState::Running);
            node.pause(place.first.host(), id).expect("it runs");
            check(place, id, "about to be paused");
            let id = place.begin(full("vm"), role);
            place.until_state(id, VmState::Running);
            node.pause(place.first.host(), id).expect("it runs");
            place.until_state(id, VmState::Paused);
            check(place, id, "paused");
        }
        let id = place.begin(full("vm"), HALTS);
        place.until_state(id, VmState::Running);
        node.reset(place.first.host(), id).expect("it runs");
        place.first.round();
        check(place, id, "restarting");
        // One that starts anew by itself, again and again.
        let restart = crate::config::Restart::Times(1000);
        for rounds in 0..40 {
            let id = place.begin(Description { restart, ..full("vm") }, ENDS);
            (0..rounds).for_each(|_| place.first.round());
            check(place, id, "starting anew");
        }
    });
}

#[test]
fn a_vm_that_another_cpu_has_in_its_registers_goes_when_that_lets_it() {
    Yard::new(2, 1, &[]).run(1, |place| {
        let (free, node) = (place.bank.free(), place.node);
        let mut host = FakeHost::new(&place.clock).with_cpus(2).as_cpu(1);
        let mut second = node.prepare(&mut host);
        let pin = CpuSet::from_bits(0b10);
        let id = place.create(Description { share: Share { pin, ..Share::default() }, ..small("vm") });
        node.set_entry(id, entry(HALTS)).expect("it has no kernel");
        for state in [VmState::Held, VmState::Running] {
            place.start(id);
            for _ in 0..1000 {
                second.turn();
                place.first.round();
            }
            assert_eq!(node.state(id), Some(state));
        }
        place.destroy(id);
        assert!(place.first.host().kicks.contains(&1), "it is told");
        for _ in 0..1000 {
            place.first.round();
        }
        // It is in the other's registers still, so nothing is taken from it.
        assert_eq!((node.state(id), node.holdings()), (Some(VmState::Changing), [1, 1, 0, 0]));
        assert!(place.bank.free() < free);
        for _ in 0..1000 {
            second.turn();
        }
        assert_eq!(node.state(id), Some(ENDED), "the first one unmakes it");
        place.until_gone(id);
        assert_eq!((node.holdings(), place.bank.free()), ([0; 4], free));
    });
}

#[test]
fn an_id_is_never_another_vms() {
    Yard::new(1, 1, &[]).run(1, |place| {
        let node = place.node;
        let old = place.begin(small("vm"), HALTS);
        place.destroy(old);
        place.until_gone(old);
        let new = place.begin(small("vm"), HALTS);
        place.until_state(new, VmState::Running);
        assert!(old != new && old.index() == new.index());
        let host = place.first.host();
        let gone = Err(ManageError::NoSuchVm(old));
        let all = [
            node.start(host, old),
            node.stop(host, old),
            node.reset(host, old),
            node.pause(host, old),
            node.resume(host, old),
            node.set_entry(old, entry(ENDS)),
            node.destroy(host, old),
            node.with_memory(old, |_| ()),
        ];
        assert_eq!((all, node.state(old)), ([gone; 8], None));
        (0..100).for_each(|_| place.first.round());
        assert_eq!(node.state(new), Some(VmState::Running));
    });
}

#[test]
fn what_cannot_be_made_is_refused_and_takes_nothing() {
    Yard::new(1, 1, &[]).run(3, |place| {
        let (node, free) = (place.node, place.bank.free());
        let a = place.create(small("a"));
        let b = place.create(Description { cpus: 8, ..small("b") });
        let holdings = node.holdings();
        let refused = |place: &mut super::yard::Place<'_, '_>, description: Description| {
            let error = node.create(place.first.host(), description).expect_err("it cannot be");
            assert_eq!((node.holdings(), place.bank.free()), (holdings, free));
            assert!(node.networks.iter().all(|network| network.switch.ports().next().is_none()));
            assert!(std::string::ToString::to_string(&error).len() > 20);
            error
        };
        assert_eq!(refused(place, small("a")), CreateVmError::NameTaken(name("a")));
        assert_eq!(refused(place, small("A")), CreateVmError::BadName(name("A")));
        assert_eq!(refused(place, small("")), CreateVmError::BadName(name("")));
        let asked = MAX_CPUS + 1;
        assert_eq!(
            refused(place, Description { cpus: asked, ..small("c") }),
            CreateVmError::Cpus { asked, most: 64 }
        );
        assert!(matches!(refused(place, Description { cpus: 0, ..small("c") }), CreateVmError::Cpus { .. }));
        for memory in [0, 1 << 20, (16 << 20) + 1, 1 << 41, u64::MAX] {
            let error = refused(place, Description { memory, ..small("c") });
            assert!(matches!(error, CreateVmError::Memory { asked, .. } if asked == memory));
        }
        assert_eq!(
            refused(place, Description { tsc_khz: Some(1), ..small("c") }),
            CreateVmError::TscRate { khz: 1 }
        );
        // There is room for 12 vCPUs.
        assert_eq!(refused(place, Description { cpus: 4, ..small("c") }), CreateVmError::NoPlace);
        let nowhere = Share { pin: CpuSet::from_bits(0b100), ..Share::default() };
        let error = refused(place, Description { share: nowhere, ..small("c") });
        assert!(matches!(error, CreateVmError::Refused(StartError::Schedule(_))));
        let parameters = Parameters { weight: 0, ..Parameters::default() };
        let error =
            refused(place, Description { share: Share { parameters, ..Share::default() }, ..small("c") });
        assert!(matches!(error, CreateVmError::Refused(StartError::Schedule(_))));
        let mut many = full("c");
        many.nics = (0..9).map(|_| Nic::on("lan")).collect();
        assert_eq!(refused(place, many), CreateVmError::Nics { asked: 9, most: 8 });
        let mut unnamed = full("c");
        unnamed.nics.push(Nic::on("LAN"));
        assert_eq!(refused(place, unnamed), CreateVmError::BadName(name("LAN")));
        let mut taken = full("c");
        taken.devices.debug_exit = Some(0x60);
        assert!(matches!(refused(place, taken), CreateVmError::Refused(StartError::Port(_))));
        let c = place.create(small("c"));
        let error = node.create(place.first.host(), small("d"));
        assert_eq!(error, Err(CreateVmError::NoPlace));
        for id in [a, b, c] {
            place.destroy(id);
            place.until_gone(id);
        }
        assert_eq!(node.holdings(), [0; 4]);
    });
}

/// A name is free when its VM is gone, and a network has as many ports as it has, whoever had them.
#[test]
fn ports_are_the_limit_of_a_network_and_names_come_again() {
    Yard::new(1, 1, &[]).run(12, |place| {
        let node = place.node;
        let with_nics = |text: &str| {
            let mut description = small(text);
            description.nics = (0..8).map(|_| Nic::on("lan")).collect();
            description
        };
        let names: std::vec::Vec<_> = (0..8).map(|number| std::format!("vm-{number}")).collect();
        let ids: std::vec::Vec<_> = names.iter().map(|text| place.create(with_nics(text))).collect();
        let mut late = with_nics("late");
        late.nics.insert(0, Nic::on("other"));
        late.nics.pop();
        let full = node.create(place.first.host(), late.clone());
        assert!(matches!(full, Err(CreateVmError::Refused(StartError::NetworkFull { .. }))), "{full:?}");
        let other = node.networks.find("other").expect("it came to be for a moment");
        assert!(other.switch.ports().next().is_none(), "the port that it had already is free again");
        assert!(node.named("late").is_none() && node.holdings()[0] == 8);
        place.destroy(ids[3]);
        place.until_gone(ids[3]);
        place.create(late);
        assert_eq!(
            node.create(place.first.host(), small("vm-2")),
            Err(CreateVmError::NameTaken(name("vm-2")))
        );
        place.create(small("vm-3"));
    });
}

#[test]
fn each_allocation_of_a_start_may_fail() {
    Yard::new(1, 1, &[]).run(1, |place| {
        let (node, free) = (place.node, place.bank.free());
        let mut failures = 0;
        for number in 0.. {
            place.bank.fail_after(number);
            let id = place.create(small("vm"));
            place.start(id);
            let failed = VmState::Stopped(StopReason::NotStarted);
            place.until("it is held, or has failed", |node| {
                node.state(id) == Some(VmState::Held) || node.state(id) == Some(failed)
            });
            let is_held = node.state(id) == Some(VmState::Held);
            assert_eq!(is_held, !place.bank.has_failed(), "allocation {number}");
            place.destroy(id);
            place.until_gone(id);
            assert_eq!((node.holdings(), place.bank.free()), ([0; 4], free), "allocation {number}");
            if is_held {
                break;
            }
            failures += 1;
        }
        assert!(failures > 200, "{failures}");
    });
}

#[test]
fn without_memory_for_the_kernels_own_part_none_is_made() {
    let mut yard = Yard::new(1, 1, &[]);
    yard.set_memory(1 << 20);
    yard.run(1, |place| {
        let error = place.node.create(place.first.host(), small("vm"));
        assert_eq!(error, Err(CreateVmError::NoMemory { wanted: 2 << 20, free: 1 << 20 }));
        assert_eq!(place.node.holdings(), [0; 4]);
    });
}
