//! What the management domain is told unasked.

use std::vec;
use std::vec::Vec;

use abi::{Reason, Refusal, Request, VmState};
use vcpu::{Exit, Gpa, GuestMemory, Nanos, rflags};
use virtio::console::Line;

use super::bench::{Step, halt, step};
use super::channel::{Domain, Heard, Told};
use super::yard::{ENDS, ENTRY, HALTS, LOOPS, Role, Yard, small};
use crate::{StopReason, VmState as State};

const CRASHES: u64 = 10;
const SLEEPS: u64 = 11;
const RESETS: u64 = 12;
const ROLES: &[Role] = &[(CRASHES, crashes), (SLEEPS, sleeps), (RESETS, resets)];

fn crashes() -> Vec<Step> {
    vec![step(|_| Exit::TripleFault)]
}

fn sleeps() -> Vec<Step> {
    vec![step(|guest| {
        guest.cpu.rflags &= !rflags::IF;
        Exit::Halt
    })]
}

fn resets() -> Vec<Step> {
    vec![step(|guest| guest.port_write(0xcf9, 1, 6))]
}

#[test]
fn each_end_is_told_once_with_its_reason() {
    Yard::new(1, 2, ROLES).run(2, |place| {
        let mut domain = Domain::greeted(place);
        let reasons = [(ENDS, Reason::PowerOff), (CRASHES, Reason::Crashed), (SLEEPS, Reason::Halted)];
        for (role, reason) in reasons {
            let vm = domain.begin(place, "vm", role);
            assert_eq!(domain.listen(place), [Heard::Ended(vm, reason)]);
            assert_eq!(domain.ask(place, &Request::DestroyVm { vm }), Told::Done);
            assert_eq!(domain.listen(place), [], "it had ended before");
        }
        let vm = domain.begin(place, "vm", LOOPS);
        assert_eq!(domain.ask(place, &Request::Stop { vm }), Told::Done);
        assert_eq!(domain.listen(place), [Heard::Ended(vm, Reason::Stopped)]);
        place.bank.fail_after(3);
        assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Refused(Refusal::Start, 0, 0));
        assert_eq!(domain.listen(place), [Heard::Ended(vm, Reason::NotStarted)]);
        assert_eq!(domain.listen(place), []);
    });
}

#[test]
fn a_vm_that_is_reset_is_held_and_that_is_told() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.begin(place, "vm", LOOPS);
        assert_eq!(domain.ask(place, &Request::Reset { vm }), Told::Done);
        assert_eq!(domain.listen(place), [Heard::Reset(vm)]);
        assert_eq!(domain.ask(place, &Request::NextVm { after: 0 }), Told::Status(vm, VmState::Held));
        assert_eq!(domain.ask(place, &super::channel::entry(vm, RESETS)), Told::Done);
        for _ in 0..3 {
            assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Done);
            assert_eq!(domain.listen(place), [Heard::Reset(vm)], "it has reset itself");
        }
    });
}

/// However much happens while the domain does not read, it hears of it later.
#[test]
fn nothing_is_lost_where_the_domain_does_not_read() {
    Yard::new(1, 2, ROLES).run(2, |place| {
        let mut domain = Domain::greeted(place);
        let mut pings = 0..;
        for _ in 0..3 {
            // Answers fill the line, and more of them wait.
            (&mut pings).take(300).for_each(|cookie| {
                domain.send(&Request::Ping { cookie });
            });
            (0..100).for_each(|_| place.first.round());
        }
        let id = place.begin(small("a"), ENDS);
        for _ in 0..2 {
            place.until_state(id, State::Stopped(StopReason::PowerOff));
            for state in [State::Held, State::Stopped(StopReason::PowerOff)] {
                place.start(id);
                place.until_state(id, state);
            }
        }
        // Its place is another's only when all was told.
        place.destroy(id);
        (0..200).for_each(|_| place.first.round());
        assert!(place.node.state(id).is_some());
        for cookie in 0..pings.start {
            assert_eq!(domain.answer(place).1, Told::Pong(cookie));
        }
        let vm = u64::from(id.generation()) << 16;
        let ended = Heard::Ended(vm, Reason::PowerOff);
        assert_eq!(domain.listen(place), [ended.clone(), ended.clone(), ended]);
        assert_eq!(place.node.state(id), None);
    });
}

#[test]
fn what_happened_while_nobody_listened_is_told_after_hello() {
    let mut yard = Yard::with_domain(2, ROLES, halt);
    yard.add_module("vm=boot memory=16M restart=3 kernel");
    yard.run(2, |place| {
        let of = |id: crate::schedule::VmId| u64::from(id.generation()) << 16 | id.index() as u64;
        let boot = place.node.named("boot").expect("it is there");
        place.until_state(boot, State::Stopped(StopReason::PowerOff));
        let made = place.begin(small("made"), HALTS);
        place.until_state(made, State::Running);
        let mut domain = Domain::greeted(place);
        // It has ended four times.
        assert_eq!(domain.listen(place), [Heard::Ended(of(boot), Reason::PowerOff)]);
        domain.line.set_open(false);
        (0..50).for_each(|_| place.first.round());
        place.node.stop(place.first.host(), made).expect("it runs");
        place.until_state(made, State::Stopped(StopReason::Ended));
        domain.line.set_open(true);
        domain.greet(place);
        assert_eq!(domain.listen(place), [Heard::Ended(of(made), Reason::Stopped)]);
        // Nobody is told of his own end.
        let dom0 = place.node.domain_id().expect("there is one");
        place.node.stop(place.first.host(), dom0).expect("it runs");
        place.until_state(dom0, State::Stopped(StopReason::Ended));
        assert_eq!(domain.listen(place), []);
    });
}

#[test]
fn who_is_destroyed_ends_before_it_is_gone() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.begin(place, "vm", LOOPS);
        assert_eq!(domain.ask(place, &Request::DestroyVm { vm }), Told::Done);
        assert_eq!(domain.events, [Heard::Ended(vm, Reason::Stopped)]);
    });
}

/// Progress of one request: not too often, and more each time.
#[track_caller]
fn check_progress(events: &[Heard], id: u64, bytes: u64, took: Nanos) {
    let mut before = 0;
    assert!(
        !events.is_empty() && events.len() as u64 <= took.0 / 100_000_000,
        "{} in {took:?}",
        events.len()
    );
    for event in events {
        match *event {
            Heard::Progress(request, done, all) => {
                assert_eq!((request, all), (id, bytes));
                assert!(before < done && done <= all, "{done} after {before}");
                before = done;
            }
            ref other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_takes_long_says_how_far_it_is() {
    Yard::with_domain(1, ROLES, halt).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.create(place, "vm");
        // Time passes as on a slow machine.
        place.clock.ticks_a_look.set(1_000_000);
        let now = |place: &super::yard::Place<'_, '_>| place.clock.time_of(place.clock.tsc());
        let (begun, id) = (now(place), domain.send(&Request::Start { vm }));
        assert_eq!(domain.answer(place), (id, Told::Done));
        // Without what is display memory in a PC.
        check_progress(&domain.events, id, (16 << 20) - (128 << 10), now(place) - begun);
        domain.events.clear();

        let dom0 = place.node.domain_id().expect("there is one");
        let (from, length) = (4 << 20, 5 << 20);
        let pattern: Vec<u8> = (0..1 << 20).map(|at: u32| (at >> 3) as u8).collect();
        for piece in 0..5 {
            let at = Gpa(from + (piece << 20));
            place.node.with_memory(dom0, |space| space.write(at, &pattern)).unwrap().unwrap();
        }
        let begun = now(place);
        let id = domain.send(&Request::CopyIn { vm, gpa: ENTRY, from, length });
        assert_eq!(domain.answer(place), (id, Told::Done));
        check_progress(&domain.events, id, length, now(place) - begun);
        let vm_id = place.node.named("vm").expect("it is there");
        let mut found = vec![0; 1 << 20];
        for piece in 0..5 {
            let at = Gpa(ENTRY + (piece << 20));
            place.node.with_memory(vm_id, |space| space.read(at, &mut found)).unwrap().unwrap();
            assert_eq!(found, pattern);
        }
        domain.events.clear();
        let beyond = Request::CopyOut { vm, gpa: ENTRY, to: 30 << 20, length };
        assert_eq!(domain.ask(place, &beyond), Told::Refused(Refusal::Address, 30 << 20, 0));
    });
}
