//! Exits, shares and power buttons over the channel.

use std::vec;
use std::vec::Vec;

use abi::{Reason, Refusal, Request, VmState};
use devices::PowerManagement;
use vcpu::{Exit, Host};

use super::bench::{Step, power_off, step};
use super::channel::{Domain, Heard, Told};
use super::yard::{LOOPS, Role, Yard};

const COUNTED: u64 = 30;
const BUTTON: u64 = 31;
const ROLES: &[Role] = &[(COUNTED, counted), (BUTTON, button)];

/// Leaves in ways that are known, and switches itself off.
fn counted() -> Vec<Step> {
    let mut steps: Vec<Step> = (0..3).map(|_| step(|guest| guest.cpuid(0, 0))).collect();
    steps.push(step(|guest| guest.read_msr(0x1b)));
    steps.push(step(|guest| guest.write_msr(0x1b, 0xfee0_0900)));
    steps.push(step(|guest| guest.port_read(0x80, 1)));
    steps.push(step(|_| Exit::Pause));
    steps.push(step(power_off));
    steps
}

/// Switches itself off once its power button was pressed.
fn button() -> Vec<Step> {
    const PRESSED: u64 = 1 << 8;
    let mut looks = false;
    vec![step(move |guest| {
        guest.clock.pass(10_000);
        if core::mem::replace(&mut looks, false) && guest.cpu.registers.rax() & PRESSED != 0 {
            return power_off(guest);
        }
        looks = true;
        guest.port_read(PowerManagement::PORT, 2)
    })]
}

#[test]
fn exits_are_told_by_their_reasons() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.create(place, "vm");
        assert_eq!(domain.ask(place, &Request::ExitCounters { vm }), Told::Exits([0; 12]));
        for request in [Request::Start { vm }, super::channel::entry(vm, COUNTED), Request::Start { vm }] {
            assert_eq!(domain.ask(place, &request), Told::Done);
        }
        assert_eq!(domain.listen(place), [Heard::Ended(vm, Reason::PowerOff)]);
        let told = domain.ask(place, &Request::ExitCounters { vm });
        let Told::Exits(counts) = told else { panic!("{told:?}") };
        // Port accesses, memory accesses, CPUID, MSR reads, MSR writes, control registers, halts, hypercalls; pauses.
        assert_eq!(counts[..8], [2, 0, 3, 1, 1, 0, 0, 0]);
        assert_eq!((counts[10], counts[11]), (1, 0));
        let id = place.node.named("vm").expect("it is there");
        assert_eq!(place.node.status(id).map(|status| status.exits), Some(counts.iter().sum()));
        let gone = Request::ExitCounters { vm: vm + 1 };
        assert_eq!(domain.ask(place, &gone), Told::Refused(Refusal::NoVm, vm + 1, 0));
    });
}

#[test]
fn what_is_free_is_less_while_a_vm_runs() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let told = domain.ask(place, &Request::Machine {});
        let Told::Machine(1, before) = told else { panic!("{told:?}") };
        assert_eq!(before, place.node.free_memory());
        let vm = domain.create(place, "vm");
        assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Done);
        let told = domain.ask(place, &Request::Machine {});
        assert!(matches!(told, Told::Machine(1, free) if free < before), "{told:?}");
    });
}

#[test]
fn shares_are_set_or_refused_with_what_can_be() {
    Yard::new(1, 2, ROLES).run(2, |place| {
        let mut domain = Domain::greeted(place);
        let (vm, other) = (domain.begin(place, "a", LOOPS), domain.begin(place, "b", LOOPS));
        let gone = vm + (9 << 16);
        let share = |vm, weight, cap, reservation| Request::SetShare { vm, weight, cap, reservation };
        let range = |asked, most| Told::Refused(Refusal::Range, asked, most);
        let answers = [
            (share(vm, 0, 0, 0), range(0, 10_000)),
            (share(vm, 10_001, 0, 0), range(10_001, 10_000)),
            (share(vm, 1, 6401, 0), range(6401, 6400)),
            (share(vm, 1, 0, 6401), range(6401, 6400)),
            (share(vm, 1, 50, 60), range(60, 50)),
            (share(vm, 200, 0, 60), Told::Done),
            (share(other, 1, 0, 50), range(50, 40)),
            (share(other, 1, 0, 40), Told::Done),
            (share(vm, 1, 0, 61), range(61, 60)),
            (share(gone, 1, 0, 0), Told::Refused(Refusal::NoVm, gone, 0)),
            (share(vm, 100, 30, 30), Told::Done),
            (share(other, 300, 0, 70), Told::Done),
        ];
        for (request, answer) in answers {
            assert_eq!(domain.ask(place, &request), answer, "{request:?}");
        }
    });
}

#[test]
fn a_power_button_asks_a_guest_to_end() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.create(place, "vm");
        let press = Request::PressPowerButton { vm };
        let stopped = Told::Refused(Refusal::State, VmState::Stopped as u64, 0);
        assert_eq!(domain.ask(place, &press), stopped);
        for request in [Request::Start { vm }, super::channel::entry(vm, BUTTON), Request::Start { vm }] {
            assert_eq!(domain.ask(place, &request), Told::Done);
        }
        assert_eq!(domain.listen(place), []);
        assert_eq!(domain.ask(place, &press), Told::Done);
        assert_eq!(domain.listen(place), [Heard::Ended(vm, Reason::PowerOff)]);
    });
}

#[test]
fn the_clock_on_the_wall_is_set() {
    Yard::new(1, 2, &[]).run(2, |place| {
        let mut domain = Domain::greeted(place);
        assert_eq!(domain.ask(place, &Request::SetWallClock { seconds: 2_000_000_000 }), Told::Done);
        assert_eq!(place.first.host().wall_clock_s(), 2_000_000_000);
        for seconds in [0, 1 << 33, u64::MAX] {
            let told = domain.ask(place, &Request::SetWallClock { seconds });
            assert_eq!(told, Told::Refused(Refusal::Range, seconds, (1 << 33) - 1));
        }
        assert_eq!(place.first.host().wall_clock_s(), 2_000_000_000);
    });
}
