//! Consoles and the log, as the management domain watches them and types on them.

use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use abi::{Refusal, Request, VmState};
use virtio::console::Line;

use super::bench::{Step, step};
use super::channel::{Domain, Heard, Told};
use super::yard::{Place, Role, Yard};

const TALKS: u64 = 20;
const ECHOES: u64 = 21;
const ROLES: &[Role] = &[(TALKS, talks), (ECHOES, echoes)];

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;

/// The byte that is said at this place.
const fn said(at: u64) -> u8 {
    b' ' + (at % 90) as u8
}

/// Says one byte after the other.
fn talks() -> Vec<Step> {
    const EMPTY: u64 = 1 << 5;
    let (mut at, mut looks) = (0, false);
    vec![step(move |guest| {
        guest.clock.pass(10_000);
        if core::mem::replace(&mut looks, false) && guest.cpu.registers.rax() & EMPTY != 0 {
            at += 1;
            return guest.port_write(COM1, 1, said(at - 1).into());
        }
        looks = true;
        guest.port_read(LINE_STATUS, 1)
    })]
}

/// Says what it hears.
fn echoes() -> Vec<Step> {
    let mut state = 0;
    vec![step(move |guest| {
        guest.clock.pass(10_000);
        let value = guest.cpu.registers.rax() as u32 & 0xff;
        let (next, exit) = match (state, value & 1) {
            (0, _) | (1, 0) => (1, guest.port_read(LINE_STATUS, 1)),
            (1, _) => (2, guest.port_read(COM1, 1)),
            _ => (0, guest.port_write(COM1, 1, value)),
        };
        state = next;
        exit
    })]
}

/// What of a console has come, without a byte that was lost unsaid.
fn outputs(events: &[Heard], vm: u64) -> Vec<u8> {
    let mut all = Vec::new();
    for event in events {
        match event {
            Heard::Output(from, bytes) if *from == vm => all.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    all
}

fn rounds(place: &mut Place<'_, '_>, count: usize) {
    (0..count).for_each(|_| place.first.round());
}

#[test]
fn a_console_that_is_watched_comes_and_the_kernels_shows_the_same() {
    Yard::new(1, 2, ROLES).run(2, |place| {
        let mut domain = Domain::greeted(place);
        let (vm, other) = (domain.begin(place, "talks", TALKS), domain.begin(place, "other", TALKS));
        assert_eq!(domain.ask(place, &Request::WatchConsole { vm, on: true }), Told::Done);
        let mut bytes = outputs(&domain.listen(place), vm);
        assert_eq!(domain.ask(place, &Request::WatchConsole { vm, on: true }), Told::Done, "it goes on");
        bytes.extend(outputs(&domain.listen(place), vm));
        assert!(bytes.len() > 1000, "{}", bytes.len());
        assert!(bytes.windows(2).all(|pair| pair[0] < pair[1] || pair == [said(89), said(0)]), "all of it");
        let shown = String::from_utf8_lossy(&place.first.host().output).into_owned();
        let piece: String = (0..60).map(|at| char::from(said(at))).collect();
        assert!(shown.contains(&format!("[talks] {piece}")) && shown.contains(&format!("[other] {piece}")));
        assert_eq!(domain.ask(place, &Request::WatchConsole { vm, on: false }), Told::Done);
        domain.events.clear();
        assert_eq!(domain.listen(place), []);
        assert_eq!(domain.ask(place, &Request::WatchConsole { vm: other, on: false }), Told::Done);
    });
}

#[test]
fn who_reads_too_slowly_loses_the_oldest_bytes_and_hears_how_many() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.begin(place, "talks", TALKS);
        assert_eq!(domain.ask(place, &Request::WatchConsole { vm, on: true }), Told::Done);
        let shown = place.first.host().output.len();
        rounds(place, 500);
        // The kernel's own console did not wait.
        assert!(place.first.host().output.len() > shown + 40_000);
        let (mut next, mut lost) = (None, 0);
        for event in domain.listen(place) {
            match event {
                Heard::Output(_, bytes) => {
                    for byte in bytes {
                        let at = u64::from(byte - said(0));
                        assert!(next.is_none_or(|next| next % 90 == at), "{next:?} {at}");
                        next = Some(at + 1);
                    }
                }
                Heard::Lost(from, count) => {
                    assert!(from == vm && count > 0);
                    (next, lost) = (next.map(|next| next + count), lost + count);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(lost > 5000, "{lost}");
    });
}

#[test]
fn a_watch_ends_with_the_conversation_and_with_the_vm() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.begin(place, "talks", TALKS);
        assert_eq!(domain.ask(place, &Request::WatchConsole { vm, on: true }), Told::Done);
        assert!(!domain.listen(place).is_empty());
        domain.line.set_open(false);
        rounds(place, 20);
        domain.line.set_open(true);
        domain.greet(place);
        assert_eq!(domain.listen(place), []);
        assert_eq!(domain.ask(place, &Request::WatchConsole { vm, on: true }), Told::Done);
        assert_eq!(domain.ask(place, &Request::DestroyVm { vm }), Told::Done);
        domain.events.clear();
        let gone = Told::Refused(Refusal::NoVm, vm, 0);
        assert_eq!(domain.ask(place, &Request::WatchConsole { vm, on: true }), gone);
        let again = domain.begin(place, "talks", TALKS);
        assert_eq!(domain.listen(place), [], "nobody watches this one");
        assert_eq!(domain.ask(place, &Request::WatchConsole { vm: again, on: true }), Told::Done);
        assert!(!outputs(&domain.listen(place), again).is_empty());
    });
}

#[test]
fn what_is_typed_reaches_the_guest() {
    Yard::new(1, 1, ROLES).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.create(place, "echo");
        let stopped = Told::Refused(Refusal::State, VmState::Stopped as u64, 0);
        assert_eq!(domain.ask(place, &Request::ConsoleInput { vm, bytes: b"x" }), stopped);
        for request in [Request::Start { vm }, super::channel::entry(vm, ECHOES), Request::Start { vm }] {
            assert_eq!(domain.ask(place, &request), Told::Done);
        }
        assert_eq!(domain.ask(place, &Request::WatchConsole { vm, on: true }), Told::Done);
        assert_eq!(domain.ask(place, &Request::ConsoleInput { vm, bytes: b"hello" }), Told::Taken(5));
        assert_eq!(outputs(&domain.listen(place), vm), b"hello");
        let text = [b'y'; 1000];
        let mut at = 0;
        for _ in 0..200 {
            let typed = domain.ask(place, &Request::ConsoleInput { vm, bytes: &text[at..] });
            let Told::Taken(count) = typed else { panic!("{typed:?}") };
            assert!(count <= 64);
            at += count as usize;
        }
        assert_eq!(at, text.len());
        domain.listen(place).iter().for_each(|event| assert!(matches!(event, Heard::Output(..))));
        let gone = Request::ConsoleInput { vm: vm + 1, bytes: b"x" };
        assert_eq!(domain.ask(place, &gone), Told::Refused(Refusal::NoVm, vm + 1, 0));
    });
}

#[test]
fn the_log_comes_from_its_oldest_line_on() {
    Yard::new(1, 1, &[]).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let line = |text: &str| Heard::Line(text.to_string());
        let push = |place: &mut Place<'_, '_>, text: &str| {
            place.first.host().log_kept.push_back(text.as_bytes().to_vec());
        };
        // What is not kept any more was before the watch.
        place.first.host().log_gone = 7;
        push(place, "oldest");
        push(place, "second");
        assert_eq!(domain.listen(place), []);
        assert_eq!(domain.ask(place, &Request::WatchLog { on: true }), Told::Done);
        assert_eq!(domain.listen(place), [line("oldest"), line("second")]);
        push(place, "third");
        assert_eq!(domain.ask(place, &Request::WatchLog { on: true }), Told::Done, "it goes on");
        assert_eq!(domain.listen(place), [line("third")]);
        place.first.host().log_kept.clear();
        place.first.host().log_gone = 15;
        push(place, "later");
        let lost = "(5 lines of the log were lost: they were not taken in time)";
        assert_eq!(domain.listen(place), [line(lost), line("later")]);
        assert_eq!(domain.ask(place, &Request::WatchLog { on: false }), Told::Done);
        push(place, "unheard");
        assert_eq!(domain.listen(place), []);
    });
}
