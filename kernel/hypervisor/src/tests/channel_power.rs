//! The machine's power, by the management domain's word and by its own end.

use abi::{PowerAction, Refusal, Request};
use vcpu::Exit;
use vcpu::fake::Guest;

use super::bench::{halt, log_lines};
use super::channel::{Domain, Told};
use super::yard::{HALTS, LOOPS, Yard, small};
use crate::schedule::VmId;
use crate::{Ended, StopReason, VmState};

/// Where the domain's machine is told to sleep (`FakeHardware`), and the word for that.
const PM1_CONTROL: u16 = 0x604;
const SLEEP: u32 = 1 << 13 | 5 << 10;

fn logged(text: &str) -> bool {
    log_lines().iter().any(|line| line.contains(text))
}

#[test]
fn the_machine_is_switched_as_the_domain_says() {
    for (action, restarts) in [(PowerAction::Off, false), (PowerAction::Restart, true)] {
        Yard::new(1, 2, &[]).run(2, |place| {
            let mut domain = Domain::greeted(place);
            let names = [("loops", LOOPS), ("halts", HALTS)];
            names.iter().for_each(|(name, role)| {
                domain.begin(place, name, *role);
            });
            assert_eq!(domain.ask(place, &Request::Power { action }), Told::Done, "first of all");
            assert_eq!(place.first.run(), Ended::PoweredOff);
            let host = place.first.host();
            assert_eq!((host.powered_off, host.restarted), (!restarts, restarts));
            for (name, _) in names {
                let state = place.node.named(name).and_then(|id| place.node.state(id));
                assert_eq!(state, Some(VmState::Stopped(StopReason::Ended)), "{name}");
            }
            assert!(logged(if restarts {
                "restarted by the management"
            } else {
                "switched off by the management"
            }));
        });
    }
}

/// A domain that does that after a while, beside a VM that runs: what becomes of the machine.
fn domain_that(
    act: fn(&mut Guest<'_>) -> Exit,
    check: impl FnOnce(&mut super::yard::Place<'_, '_>, VmId, VmId),
) {
    let domain = move |guest: &mut Guest<'_>| {
        guest.clock.pass(10_000);
        if guest.step < 20_000 { guest.cpuid(0, 0) } else { act(guest) }
    };
    Yard::with_domain(1, &[], domain).run(1, |place| {
        let dom0 = place.node.domain_id().expect("there is one");
        let vm = place.begin(small("vm"), LOOPS);
        place.until_state(vm, VmState::Running);
        assert_eq!(place.node.state(dom0), Some(VmState::Running), "it comes later");
        check(place, dom0, vm);
    });
}

#[test]
fn a_domain_that_goes_off_takes_the_machine_with_it() {
    domain_that(
        |guest| guest.port_write(PM1_CONTROL, 2, SLEEP),
        |place, dom0, vm| {
            assert_eq!(place.first.run(), Ended::PoweredOff);
            assert!(place.first.host().powered_off && !place.first.host().restarted);
            assert_eq!(place.node.state(dom0), Some(VmState::Stopped(StopReason::PowerOff)));
            assert_eq!(place.node.state(vm), Some(VmState::Stopped(StopReason::Ended)));
            assert!(logged("vm dom0: stopped: powered off"));
        },
    );
}

#[test]
fn a_domain_that_resets_restarts_the_machine() {
    let ways: [fn(&mut Guest<'_>) -> Exit; 3] = [
        |guest| guest.port_write(0x64, 1, 0xfe),
        |guest| guest.port_write(0x92, 1, 1),
        |guest| guest.port_write(0xcf9, 1, 6),
    ];
    for way in ways {
        domain_that(way, |place, dom0, vm| {
            assert_eq!(place.first.run(), Ended::PoweredOff);
            assert!(place.first.host().restarted && !place.first.host().powered_off);
            assert_eq!(place.node.state(dom0), Some(VmState::Stopped(StopReason::Restart)));
            assert_eq!(place.node.state(vm), Some(VmState::Stopped(StopReason::Ended)));
        });
    }
}

#[test]
fn a_domain_that_crashes_leaves_the_machine_and_its_vms_as_they_are() {
    domain_that(
        |_| Exit::TripleFault,
        |place, dom0, vm| {
            place.until_state(dom0, VmState::Stopped(StopReason::TripleFault));
            (0..500).for_each(|_| place.first.round());
            assert_eq!(place.node.state(vm), Some(VmState::Running));
            assert!(!place.first.host().powered_off && !place.first.host().restarted);
            let told = log_lines().iter().filter(|line| line.contains("nobody manages the VMs")).count();
            assert_eq!(told, 1);
        },
    );
}

#[test]
fn what_is_the_machines_is_not_done_to_the_domain_alone() {
    Yard::with_domain(1, &[], halt).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let dom0 = place.node.domain_id().expect("there is one");
        let vm = u64::from(dom0.generation()) << 16 | dom0.index() as u64;
        place.until_state(dom0, VmState::Running);
        for request in [Request::PressPowerButton { vm }, Request::DestroyVm { vm }] {
            assert_eq!(domain.ask(place, &request), Told::Refused(Refusal::Unsupported, 0, 0));
        }
    });
}
