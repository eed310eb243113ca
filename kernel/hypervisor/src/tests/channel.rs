//! What the management domain asks, and what it is answered.

use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

use abi::{
    Answer, DiskOrder, Event, HEADER_BYTES, Link, MAX_MESSAGE, Name, Reason, Refusal, Request, Stream,
    VmState,
};
use trace::{EVENT_BYTES, Event as Traced};
use vcpu::{Gpa, GuestMemory, Nanos};
use virtio::VmSet;
use virtio::console::Line;
use virtio::console::pipe::{Pipe, PipeEnd};

use super::bench::log_lines;
use super::yard::{ENDS, ENTRY, LOOPS, Place, Yard};
use crate::channel::Channel;

/// How long the domain listens.
const A_WHILE: Nanos = Nanos::from_millis(60);

/// The domain's side.
pub(super) struct Domain {
    pub(super) line: PipeEnd,
    stream: Stream,
    next: u64,
    /// What has come unasked.
    pub(super) events: Vec<Heard>,
    /// The events of a CPU that came last.
    pub(super) traced: Vec<Traced>,
}

/// What is asserted of an answer: the answers themselves borrow what they were read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Hello(u16, u16),
    Pong(u64),
    Done,
    Vm(u64),
    Status(u64, VmState),
    MemoryMap { rsdp: u64, ranges: [u64; 24] },
    Refused(Refusal, u64, u64),
    Exits([u64; 12]),
    Machine(u16, u64),
    Taken(u32),
    Misread(String),
    Port { network: Name, link: Link, sent: [u64; 2], received: [u64; 2], lost: u64, words: String },
    Network { network: Name, ports: u16, rules: u16, mirrors: u16, allows: bool },
    Entry(u16, String),
    Trace { next: u64, lost: u64 },
    Other,
}

/// The same of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    Ended(u64, Reason),
    Reset(u64),
    Progress(u64, u64, u64),
    Output(u64, Vec<u8>),
    Lost(u64, u64),
    Line(String),
    NoRoom(u64),
    Orders(u64, Vec<DiskOrder>),
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

impl Heard {
    fn of(event: Event<'_>) -> Self {
        match event {
            Event::Ended { vm, reason } => Self::Ended(vm, reason),
            Event::Reset { vm } => Self::Reset(vm),
            Event::Progress { request, done, all } => Self::Progress(request, done, all),
            Event::ConsoleOutput { vm, bytes } => Self::Output(vm, bytes.to_vec()),
            Event::ConsoleLost { vm, count } => Self::Lost(vm, count),
            Event::LogLine { bytes } => Self::Line(text(bytes)),
            Event::NoRoom { vm } => Self::NoRoom(vm),
            Event::DiskOrders { vm, orders } => {
                let (orders, rest) = orders.as_chunks();
                assert!(rest.is_empty(), "whole entries");
                Self::Orders(vm, orders.iter().map(|it| DiskOrder::from_bytes(it).expect("one")).collect())
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Domain {
    /// With an open port, on a line of its own.
    pub(super) fn new(place: &mut Place<'_, '_>) -> Self {
        let pipe = Pipe::new(&Arc::<VmSet>::default()).expect("memory");
        let (line, end) = (pipe.take(0).expect("free"), pipe.take(1).expect("free"));
        place.first.talk(Channel::new(end, 256).expect("memory"));
        Self::on(line)
    }

    /// That serves disks, on another line of its own, with the versions told.
    pub(super) fn of_disks(place: &mut Place<'_, '_>) -> Self {
        let pipe = Pipe::new(&Arc::<VmSet>::default()).expect("memory");
        let (line, end) = (pipe.take(0).expect("free"), pipe.take(1).expect("free"));
        place.first.talk_of_disks(Channel::of_disks(end).expect("memory"));
        let mut domain = Self::on(line);
        domain.greet(place);
        domain
    }

    fn on(line: PipeEnd) -> Self {
        line.set_open(true);
        Self { line, stream: Stream::new(), next: 1, events: Vec::new(), traced: Vec::new() }
    }

    /// And with the versions told.
    pub(super) fn greeted(place: &mut Place<'_, '_>) -> Self {
        let mut domain = Self::new(place);
        domain.greet(place);
        domain
    }

    #[track_caller]
    pub(super) fn greet(&mut self, place: &mut Place<'_, '_>) {
        let told = self.ask(place, &Request::Hello { major: abi::MAJOR, minor: abi::MINOR });
        assert_eq!(told, Told::Hello(abi::MAJOR, abi::MINOR));
    }

    pub(super) fn send(&mut self, request: &Request<'_>) -> u64 {
        let mut buffer = [0; MAX_MESSAGE];
        let length = request.write(self.next, &mut buffer).expect("it fits");
        assert_eq!(self.line.put(&buffer[..length]), length);
        self.next += 1;
        self.next - 1
    }

    /// What has been answered, if a whole message; events on the way there are kept.
    pub(super) fn hear(&mut self) -> Option<(u64, Told)> {
        let mut byte = [0; 1];
        while self.line.take(&mut byte) == 1 {
            let (_, whole) = self.stream.take(&byte).expect("messages");
            let Some((header, body)) = whole else { continue };
            if let Ok(event) = Event::read(header.kind, body) {
                assert_eq!(header.id, 0);
                self.events.push(Heard::of(event));
                continue;
            }
            let told = match Answer::read(header.kind, body).expect("an answer") {
                Answer::Hello { major, minor, .. } => Told::Hello(major, minor),
                Answer::Pong { cookie } => Told::Pong(cookie),
                Answer::Done {} => Told::Done,
                Answer::Vm { vm } => Told::Vm(vm),
                Answer::Status { vm, state, .. } => Told::Status(vm, state),
                Answer::MemoryMap { rsdp, ranges } => Told::MemoryMap { rsdp, ranges },
                Answer::Refused { refusal, first, second } => Told::Refused(refusal, first, second),
                Answer::Exits { counts } => Told::Exits(counts),
                Answer::Machine { cpus, free } => Told::Machine(cpus, free),
                Answer::Taken { count } => Told::Taken(count),
                Answer::Misread { bytes } => Told::Misread(text(bytes)),
                Answer::Port { network, link, sent, received, lost, words, .. } => {
                    let (lost, words) = (lost.iter().sum(), text(words));
                    Told::Port { network, link, sent, received, lost, words }
                }
                Answer::Network { network, ports, rules, mirrors, allows, .. } => {
                    Told::Network { network, ports, rules, mirrors, allows }
                }
                Answer::Entry { number, words, .. } => Told::Entry(number, text(words)),
                Answer::Trace { next, lost, bytes } => {
                    let (events, rest) = bytes.as_chunks::<EVENT_BYTES>();
                    assert!(rest.is_empty(), "whole events");
                    self.traced = events.iter().map(Traced::from_bytes).collect();
                    Told::Trace { next, lost }
                }
                _ => Told::Other,
            };
            return Some((header.id, told));
        }
        None
    }

    /// Runs the machine until an answer comes.
    #[track_caller]
    pub(super) fn answer(&mut self, place: &mut Place<'_, '_>) -> (u64, Told) {
        for _ in 0..20_000 {
            if let Some(heard) = self.hear() {
                return heard;
            }
            place.first.round();
        }
        panic!("no answer comes");
    }

    /// Runs the machine for a while, and gives what has come unasked until then.
    #[track_caller]
    pub(super) fn listen(&mut self, place: &mut Place<'_, '_>) -> Vec<Heard> {
        let until = place.clock.time_of(place.clock.tsc()) + A_WHILE;
        while place.clock.time_of(place.clock.tsc()) < until {
            place.first.round();
            assert_eq!(self.hear(), None, "nothing was asked");
        }
        std::mem::take(&mut self.events)
    }

    #[track_caller]
    pub(super) fn ask(&mut self, place: &mut Place<'_, '_>, request: &Request<'_>) -> Told {
        let id = self.send(request);
        let (answered, told) = self.answer(place);
        assert_eq!(answered, id);
        told
    }

    /// Makes a VM that does that, by messages.
    #[track_caller]
    pub(super) fn begin(&mut self, place: &mut Place<'_, '_>, name: &str, role: u64) -> u64 {
        let vm = self.create(place, name);
        for request in [Request::Start { vm }, entry(vm, role), Request::Start { vm }] {
            assert_eq!(self.ask(place, &request), Told::Done, "{request:?}");
        }
        vm
    }

    #[track_caller]
    pub(super) fn create(&mut self, place: &mut Place<'_, '_>, name: &str) -> u64 {
        let name = Name::new(name).expect("a name");
        match self.ask(place, &Request::CreateVm { name, cpus: 1, memory: 16 << 20 }) {
            Told::Vm(vm) => vm,
            other => panic!("{other:?}"),
        }
    }
}

/// An entry in 32-bit mode, of a guest that does that.
pub(super) fn entry(vm: u64, role: u64) -> Request<'static> {
    Request::SetEntry {
        vm,
        registers: [ENTRY, 0, role, 0, 0],
        control: [0x11, 0, 0, 0],
        gdt: 0,
        gdt_limit: 0,
    }
}

#[test]
fn a_vm_is_made_filled_started_and_unmade_by_messages() {
    Yard::new(1, 2, &[]).run(2, |place| {
        let free = place.bank.free();
        let mut domain = Domain::greeted(place);
        let vm = domain.create(place, "web");
        assert_eq!(domain.ask(place, &Request::NextVm { after: 0 }), Told::Status(vm, VmState::Stopped));
        assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Done, "its memory is there");
        assert_eq!(domain.ask(place, &Request::NextVm { after: 0 }), Told::Status(vm, VmState::Held));
        let bytes = b"a kernel";
        assert_eq!(domain.ask(place, &Request::WriteMemory { vm, gpa: ENTRY, bytes }), Told::Done);
        assert_eq!(domain.ask(place, &entry(vm, LOOPS)), Told::Done);
        assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Done);
        assert_eq!(domain.ask(place, &Request::NextVm { after: 0 }), Told::Status(vm, VmState::Running));
        let id = place.node.named("web").expect("it is there");
        let mut found = [0; 8];
        place.node.with_memory(id, |space| space.read(Gpa(ENTRY), &mut found)).unwrap().unwrap();
        assert_eq!(&found, bytes);
        assert_eq!(domain.ask(place, &Request::NextVm { after: vm }), Told::Refused(Refusal::NoVm, vm, 0));
        assert_eq!(domain.ask(place, &Request::DestroyVm { vm }), Told::Done, "when all of it is back");
        assert_eq!((place.bank.free(), place.node.holdings()), (free, [0; 4]));
        assert_eq!(domain.ask(place, &Request::DestroyVm { vm }), Told::Refused(Refusal::NoVm, vm, 0));
        let again = domain.create(place, "web");
        assert_ne!(again, vm, "a number is one VM's for ever");
    });
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    Yard::new(1, 2, &[]).run(2, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.create(place, "web");
        let (name, before) = (Name::new("web").unwrap(), place.node.holdings());
        let refused = [
            (Request::CreateVm { name, cpus: 1, memory: 16 << 20 }, Refusal::NameTaken),
            (Request::CreateVm { name: Name::new("b").unwrap(), cpus: 65, memory: 16 << 20 }, Refusal::Range),
            (Request::CreateVm { name: Name::new("b").unwrap(), cpus: 1, memory: 1 }, Refusal::Range),
            (Request::Resume { vm }, Refusal::State),
            (Request::Pause { vm }, Refusal::State),
            (Request::WriteMemory { vm, gpa: 0, bytes: b"x" }, Refusal::State),
            (Request::Start { vm: vm + 1 }, Refusal::NoVm),
            (Request::CopyIn { vm, gpa: 0, from: 0, length: 1 }, Refusal::Unsupported),
        ];
        for (request, wanted) in refused {
            match domain.ask(place, &request) {
                Told::Refused(refusal, ..) => assert_eq!(refusal, wanted, "{request:?}"),
                other => panic!("{request:?}: {other:?}"),
            }
        }
        assert_eq!(place.node.holdings(), before);
        assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Done);
        let beyond = Request::WriteMemory { vm, gpa: 16 << 20, bytes: b"x" };
        assert_eq!(domain.ask(place, &beyond), Told::Refused(Refusal::Address, 16 << 20, 0));
        let empty = Request::Start { vm };
        assert_eq!(domain.ask(place, &empty), Told::Refused(Refusal::State, 0, 0), "it has no entry");
        assert_eq!(domain.ask(place, &entry(vm, ENDS)), Told::Done);
        assert_eq!(domain.ask(place, &Request::Start { vm }), Told::Done);
    });
}

#[test]
fn versions_come_first_and_another_one_is_refused() {
    Yard::new(1, 1, &[]).run(1, |place| {
        let mut domain = Domain::new(place);
        let ping = Request::Ping { cookie: 7 };
        let version = u64::from(abi::MAJOR);
        assert_eq!(domain.ask(place, &ping), Told::Refused(Refusal::Version, version, 0));
        let other = Request::Hello { major: abi::MAJOR + 1, minor: 0 };
        assert_eq!(domain.ask(place, &other), Told::Refused(Refusal::Version, version, version + 1));
        // Nothing more is heard, until the port is opened anew.
        domain.send(&ping);
        assert_eq!(domain.listen(place), []);
        // Half a message is left.
        domain.line.put(&[40, 0, 0]);
        domain.line.set_open(false);
        domain.listen(place);
        domain.line.set_open(true);
        let hello = Request::Hello { major: abi::MAJOR, minor: 0 };
        assert_eq!(domain.ask(place, &hello), Told::Hello(abi::MAJOR, abi::MINOR));
        assert_eq!(domain.ask(place, &ping), Told::Pong(7));
    });
}

#[test]
fn what_is_no_message_closes_the_channel_and_what_cannot_be_read_does_not() {
    Yard::new(1, 1, &[]).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let mut unknown = [0; HEADER_BYTES];
        unknown[0] = HEADER_BYTES as u8;
        (unknown[4], unknown[8]) = (0x77, 9);
        assert_eq!(domain.line.put(&unknown), HEADER_BYTES);
        assert_eq!(domain.answer(place), (9, Told::Refused(Refusal::Malformed, 0x77, 0)));
        assert_eq!(domain.ask(place, &Request::Ping { cookie: 1 }), Told::Pong(1));
        domain.line.put(&[0xff; HEADER_BYTES]);
        domain.send(&Request::Ping { cookie: 2 });
        assert_eq!(domain.listen(place), []);
    });
}

/// Neither the log nor what waits grows by what makes no sense.
#[test]
fn nonsense_is_logged_a_few_times() {
    Yard::new(1, 1, &[]).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let mut unknown = [0; HEADER_BYTES];
        unknown[0] = HEADER_BYTES as u8;
        unknown[4] = 0x77;
        for _ in 0..200 {
            domain.line.put(&unknown);
            assert_eq!(domain.answer(place).1, Told::Refused(Refusal::Malformed, 0x77, 0));
        }
        for _ in 0..50 {
            domain.line.put(&[0xff; HEADER_BYTES]);
            domain.listen(place);
            domain.line.set_open(false);
            domain.listen(place);
            domain.line.set_open(true);
            domain.greet(place);
        }
        let lines = log_lines().iter().filter(|line| line.contains("the management domain")).count();
        let windows = 1 + place.clock.time_of(place.clock.tsc()).0 / 10_000_000_000;
        assert!(lines as u64 <= 5 * windows, "{lines} in {windows} windows");
    });
}

#[test]
fn many_requests_at_once_are_all_answered() {
    Yard::new(1, 1, &[]).run(1, |place| {
        let mut domain = Domain::greeted(place);
        let ids: Vec<u64> = (0..300).map(|cookie| domain.send(&Request::Ping { cookie })).collect();
        for (cookie, id) in (0..).zip(ids) {
            assert_eq!(domain.answer(place), (id, Told::Pong(cookie)));
        }
    });
}
