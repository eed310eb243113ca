//! What CPUs did last, over the channel.

use std::vec;
use std::vec::Vec;

use abi::{Reason, Refusal, Request, VmState};
use trace::{Event, Kind, Subject};
use vcpu::Exit;
use virtio::console::Line;

use super::bench::{Step, step};
use super::channel::{Domain, Heard, Told};
use super::yard::{ENTRY, LOOPS, Place, Role, Yard};
use crate::counters::ExitReason;
use crate::stop::StopReason;

const CRASHES: u64 = 40;
const ROLES: &[Role] = &[(CRASHES, crashes)];
/// Events in an answer.
const PIECE: usize = 64;

fn crashes() -> Vec<Step> {
    vec![step(|guest| guest.cpuid(0, 0)), step(|_| Exit::CacheControl), step(|_| Exit::TripleFault)]
}

/// All events of the first CPU from one on, and where they end; so many were lost.
#[track_caller]
fn read_all(domain: &mut Domain, place: &mut Place<'_, '_>, mut from: u64) -> (Vec<Event>, u64, u64) {
    let (mut events, mut all_lost) = (Vec::new(), 0);
    loop {
        let told = domain.ask(place, &Request::ReadTrace { cpu: 0, from });
        let Told::Trace { next, lost } = told else { panic!("{told:?}") };
        assert_eq!(next, from + lost + domain.traced.len() as u64);
        let count = domain.traced.len();
        events.append(&mut domain.traced);
        (from, all_lost) = (next, all_lost + lost);
        if count < PIECE {
            return (events, from, all_lost);
        }
    }
}

fn short(event: &Event) -> (Kind, [u64; 2]) {
    (event.kind().expect("a kind that is known"), event.numbers())
}

#[test]
fn what_becomes_of_a_vm_is_traced() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.begin(place, "vm", CRASHES);
        assert_eq!(domain.listen(place), [Heard::Ended(vm, Reason::Crashed)]);
        let (events, next, lost) = read_all(&mut domain, place, 0);
        assert_eq!((lost, next), (0, events.len() as u64));
        assert!(events.is_sorted_by_key(Event::tsc));
        let number = vm as u32;
        let of_vm = |event: &&Event| event.subject() == Subject::vm(number);
        let why = StopReason::TripleFault.number();
        let (start, stop) = ((Kind::Asked, [1, 0]), (Kind::Asked, [3, why]));
        let state = |state: VmState, why| (Kind::State, [state as u64, why]);
        let wanted = [
            start,
            state(VmState::Held, 0),
            start,
            state(VmState::Running, 0),
            stop,
            state(VmState::Changing, why),
            state(VmState::Stopped, why),
        ];
        assert_eq!(events.iter().filter(of_vm).map(short).collect::<Vec<_>>(), wanted);
        let of_vcpu = |event: &&Event| event.subject() == Subject::vcpu(number, 0);
        let exit = |reason| (Kind::Exit, [reason as u64, ENTRY]);
        let found: Vec<_> = events.iter().filter(of_vcpu).map(short).collect();
        // CPUID is no event; its exit is counted.
        let wanted = [
            (Kind::TurnBegins, found[0].1),
            exit(ExitReason::CacheControl),
            exit(ExitReason::TripleFault),
            (Kind::Crashed, [why, ENTRY]),
            (Kind::TurnEnds, [6, 3]),
        ];
        assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), wanted.map(|(kind, _)| kind));
        assert_eq!(found[4], wanted[4]);
        assert_eq!(found[2].1[0], ExitReason::TripleFault as u64);
        // What was asked, in order; to read events is no event.
        let asked = |event: &&Event| event.kind() == Some(Kind::Request);
        let kinds: Vec<_> = events.iter().filter(asked).map(|event| event.numbers()[0]).collect();
        assert_eq!(kinds, [0x100, 0x120, 0x103, 0x120]);
        assert_eq!(domain.ask(place, &Request::DestroyVm { vm }), Told::Done);
        let (events, _, lost) = read_all(&mut domain, place, next);
        let found: Vec<_> = events.iter().filter(of_vm).map(short).collect();
        assert_eq!((found, lost), (vec![(Kind::Asked, [6, 0]), (Kind::State, [0, 0])], 0));
    });
}

#[test]
fn who_reads_too_late_hears_how_many_events_are_missing() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.begin(place, "vm", LOOPS);
        domain.listen(place);
        let told = domain.ask(place, &Request::ReadTrace { cpu: 0, from: 3 });
        let Told::Trace { next, lost } = told else { panic!("{told:?}") };
        assert!(lost > 0 && domain.traced.len() == PIECE && next == 3 + lost + PIECE as u64, "{told:?}");
        // A turn begins, its guest leaves, it ends.
        let turns = domain.traced.iter().filter(|event| event.subject() == Subject::vcpu(vm as u32, 0));
        let kinds: Vec<_> = turns.filter_map(Event::kind).collect();
        assert!(kinds.len() > PIECE / 2);
        let is_next = |pair: &[Kind]| {
            let order = [Kind::TurnBegins, Kind::Exit, Kind::TurnEnds];
            let at = |kind| order.iter().position(|other| *other == kind).expect("one of these");
            (at(pair[0]) + 1) % order.len() == at(pair[1])
        };
        assert!(kinds.windows(2).all(is_next), "{kinds:?}");
        assert_eq!(domain.ask(place, &Request::DestroyVm { vm }), Told::Done);
    });
}

#[test]
fn other_cpus_are_read_and_those_that_are_not_there_are_refused() {
    Yard::new(2, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let ask = |cpu, from| Request::ReadTrace { cpu, from };
        assert_eq!(domain.ask(place, &ask(1, 0)), Told::Trace { next: 0, lost: 0 });
        assert_eq!(domain.ask(place, &ask(1, u64::MAX)), Told::Trace { next: 0, lost: 0 });
        for cpu in [2, u16::MAX] {
            let refused = Told::Refused(Refusal::Range, cpu.into(), 1);
            assert_eq!(domain.ask(place, &ask(cpu, 0)), refused);
        }
        // Each is answered, in order, however many come at once.
        let ids: Vec<u64> = (0..40).map(|cpu| domain.send(&ask(cpu % 2, 0))).collect();
        for id in ids {
            let (answered, told) = domain.answer(place);
            assert!(answered == id && matches!(told, Told::Trace { lost: 0, .. }), "{told:?}");
        }
        // Nobody answers who has gone.
        domain.send(&ask(0, 0));
        domain.line.set_open(false);
        domain.listen(place);
        domain.line.set_open(true);
        domain.greet(place);
    });
}
