//! Several devices on one switch: whoever is to have a frame has it, whole and in order, or has lost it and counts that; and a receiver
//! that stops takes nothing from others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use vswitch::Switch;
use vswitch::settings::{Settings, Storm};

use super::tests::{End, FRAME, HEADER, LARGE, POOL, RX, TAKES_NOTHING, TX, tcp};
use super::{Mac, Net, Plug, feature};
use crate::Progress;
use crate::transport::status;

/// Bytes that a driver has for buffers, and buffers at most.
const POOL_BYTES: u64 = 0x7_0000;
const MOST_BUFFERS: u64 = 60;
/// Where a sender has the frames that it sends at once.
const APART: u64 = 0x1_4000;
/// Bytes of headers of a large frame, and where the number is that says where a segment belongs: the frame's, and its first byte's in it.
const TCP_HEADERS: usize = 54;
const SEQUENCE: std::ops::Range<usize> = 38..42;
const NUMBER_SHIFT: u32 = 17;
const ALL: u8 = 9;

const fn mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0, number]
}

/// A frame to be sent: to whom, how large its payload is, whether it is a large one, and where its chain is cut.
#[derive(Clone, Debug)]
struct Letter {
    to: u8,
    payload: usize,
    large: bool,
    cuts: Vec<usize>,
}

#[derive(Clone, Debug)]
enum Act {
    Send(usize, Vec<Letter>),
    Stop(usize),
    GoOn(usize),
}

/// A driver with its buffers, and what it has received of each sender, by its number in what that one has sent.
struct Station {
    end: End,
    buffer: u32,
    fed: u64,
    used: u64,
    is_stopped: bool,
    was_stopped: bool,
    expected: HashMap<u8, VecDeque<(u32, Vec<u8>)>>,
    /// The beginning of a large frame that comes in segments.
    begun: HashMap<u8, (u32, Vec<u8>)>,
    received: u64,
    missed: u64,
    /// Frames that it has sent to itself, which no switch gives back.
    to_itself: u64,
}

impl Station {
    fn new(switch: &Arc<Switch>, number: u8, without: u64) -> Self {
        let storm = Storm { broadcast: None, multicast: None, unknown: None };
        let id = switch.add(Settings { storm, ..Settings::default() }).expect("a port");
        switch.port(id).expect("it is there").set_owner(number.into());
        let end = End::new(Net::new(Plug::new(Arc::clone(switch), id), mac(number), None, 1), without);
        let buffer = match (without & feature::MRG_RXBUF != 0, without & feature::GUEST_TSO4 != 0) {
            (false, _) => 2048,
            (true, true) => 9100,
            (true, false) => 0x1_0040,
        };
        Self {
            end,
            buffer,
            fed: 0,
            used: 0,
            is_stopped: false,
            was_stopped: false,
            expected: HashMap::new(),
            begun: HashMap::new(),
            received: 0,
            missed: 0,
            to_itself: 0,
        }
    }

    fn buffers(&self) -> u64 {
        (POOL_BYTES / u64::from(self.buffer)).min(MOST_BUFFERS)
    }

    fn place(&self, number: u64) -> u64 {
        POOL + number % self.buffers() * u64::from(self.buffer)
    }

    /// Receives until nothing more comes.
    fn receive(&mut self) {
        loop {
            while self.fed - self.used < self.buffers() {
                let place = self.place(self.fed);
                self.end.queues[RX].offer_chain(&[(place, self.buffer, true)]);
                self.fed += 1;
            }
            self.end.ring(RX);
            self.end.work();
            let mut got = self.end.queues[RX].collect().into_iter();
            let before = self.used;
            while let Some((_, length)) = got.next() {
                let mut all = self.take(length);
                for _ in 1..u16::from_le_bytes([all[10], all[11]]) {
                    let (_, length) = got.next().expect("as many buffers as the header says");
                    all.extend(self.take(length));
                }
                self.look_at(&all[HEADER..]);
            }
            if self.used == before {
                return;
            }
        }
    }

    fn take(&mut self, length: u32) -> Vec<u8> {
        let bytes = self.end.bytes(self.place(self.used), length as usize);
        self.used += 1;
        bytes
    }

    /// A frame, or a segment of one, must be the next one of its sender's, but for those that were lost.
    fn look_at(&mut self, frame: &[u8]) {
        let from = frame[11];
        let sequence = u32::from_be_bytes(frame[SEQUENCE].try_into().expect("four bytes"));
        let (number, at) = (sequence >> NUMBER_SHIFT, (sequence & ((1 << NUMBER_SHIFT) - 1)) as usize);
        let begun = self.begun.remove(&from);
        let mut bytes = match begun {
            Some((before, bytes)) if before == number => {
                assert_eq!(at, bytes.len() - TCP_HEADERS, "segments follow each other");
                bytes
            }
            Some(_) => panic!("a large frame has no end"),
            None => {
                assert_eq!(at, 0, "a large frame has a beginning");
                frame[..TCP_HEADERS].to_vec()
            }
        };
        bytes.extend(&frame[TCP_HEADERS..]);
        let expected = self.expected.get_mut(&from).expect("somebody that sends to it");
        while expected.front().is_some_and(|(next, _)| *next < number) {
            expected.pop_front();
            self.missed += 1;
        }
        let (next, whole) = expected.front().expect("a frame that was sent");
        assert_eq!(*next, number, "a frame that is for it, once and in order");
        if bytes.len() < whole.len() {
            self.begun.insert(from, (number, bytes));
            return;
        }
        assert!(bytes[..12] == whole[..12] && bytes[TCP_HEADERS..] == whole[TCP_HEADERS..]);
        if frame.len() == whole.len() && at == 0 {
            // The length of IP's header and its checksum differ where it was divided, and those of TCP.
            assert_eq!(frame[..16], whole[..16]);
        }
        expected.pop_front();
        self.received += 1;
    }
}

struct World {
    stations: Vec<Station>,
    numbers: Vec<u32>,
}

impl World {
    fn new(without: &[u64], direct: bool) -> Self {
        let switch = Arc::new(Switch::new(1).expect("memory"));
        let mut stations: Vec<Station> =
            (0..).zip(without).map(|(number, without)| Station::new(&switch, number, *without)).collect();
        if direct {
            let peers: Vec<_> = stations.iter().map(|station| station.end.peer()).collect();
            stations.iter_mut().for_each(|station| station.end.told.peers.clone_from(&peers));
        }
        let mut world = Self { numbers: vec![0; stations.len()], stations };
        // So everybody is known.
        for from in 0..world.stations.len() {
            world.send(from, &[Letter { to: ALL, payload: 10, large: false, cuts: vec![] }]);
        }
        world
    }

    /// Sends frames at once, in as many steps as it takes; all that have not stopped receive meanwhile.
    fn send(&mut self, from: usize, letters: &[Letter]) {
        for (at, letter) in letters.iter().enumerate() {
            let number = self.numbers[from];
            self.numbers[from] += 1;
            let to = if letter.to == ALL { [0xff; 6] } else { mac(letter.to % self.stations.len() as u8) };
            let mut frame = tcp(to, letter.payload);
            frame[6..12].copy_from_slice(&mac(from as u8));
            frame[SEQUENCE].copy_from_slice(&(number << NUMBER_SHIFT).to_be_bytes());
            self.stations[from].to_itself += u64::from(to == mac(from as u8));
            for (station, receiver) in self.stations.iter_mut().enumerate() {
                if station != from && (letter.to == ALL || to == mac(station as u8)) {
                    let expected = receiver.expected.entry(from as u8).or_default();
                    expected.push_back((number, frame.clone()));
                }
            }
            let header = if letter.large { LARGE } else { [0; HEADER] };
            self.offer(from, FRAME + at as u64 * APART, &[&header[..], &frame].concat(), &letter.cuts);
        }
        self.stations[from].end.ring(TX);
        loop {
            let end = &mut self.stations[from].end;
            end.function.as_net().expect("it is one").plug().switch().refill();
            let memory = end.queues[TX].memory.clone();
            if end.function.step(&memory, &mut end.told) == Progress::Idle {
                break;
            }
            self.receive_but(from);
        }
        let net = self.stations[from].end.function.as_net().expect("it is one");
        assert!(!net.has_train(), "a train ends with its step");
        let given_back = self.stations[from].end.queues[TX].collect().len();
        assert_eq!(given_back, letters.len(), "what is sent is given back");
        self.receive();
    }

    /// A request of these bytes in several buffers.
    fn offer(&mut self, from: usize, place: u64, bytes: &[u8], cuts: &[usize]) {
        let end = &mut self.stations[from].end;
        end.put(place, bytes);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % bytes.len()).filter(|cut| *cut != 0).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let parts: Vec<_> =
            cuts.windows(2).map(|part| (place + part[0] as u64, (part[1] - part[0]) as u32, false)).collect();
        end.queues[TX].offer_chain(&parts);
    }

    fn receive(&mut self) {
        self.receive_but(usize::MAX);
    }

    /// All but one receive that have not stopped.
    fn receive_but(&mut self, sender: usize) {
        for (number, station) in self.stations.iter_mut().enumerate() {
            if !station.is_stopped && number != sender {
                station.receive();
            }
        }
    }

    fn act(&mut self, act: &Act) {
        let count = self.stations.len();
        match act {
            Act::Send(from, letters) => self.send(from % count, letters),
            Act::Stop(number) => {
                let station = &mut self.stations[number % count];
                (station.is_stopped, station.was_stopped) = (true, true);
            }
            Act::GoOn(number) => {
                self.stations[number % count].is_stopped = false;
                self.receive();
            }
        }
    }

    /// All receive what is left. What has not come then is lost, and was counted.
    fn finish(mut self) {
        self.stations.iter_mut().for_each(|station| station.is_stopped = false);
        self.receive();
        for station in &mut self.stations {
            let left: usize = station.expected.values().map(VecDeque::len).sum();
            let missed = station.missed + left as u64;
            let lost = station.end.function.lost_frames();
            assert_eq!(missed + station.to_itself, lost, "{} were received", station.received);
            assert!(missed == 0 || station.was_stopped, "only who stops loses");
            assert!(station.begun.is_empty());
            assert_eq!(station.end.status() & status::NEEDS_RESET, 0);
        }
    }
}

fn letters() -> impl Strategy<Value = Letter> {
    let to = prop_oneof![3 => 0_u8..6, 1 => Just(ALL)];
    let sizes = prop_oneof![
        4 => (0_usize..1460).prop_map(|size| (size, false)),
        1 => (1460_usize..9000).prop_map(|size| (size, false)),
        2 => (1_usize..60_000).prop_map(|size| (size, true)),
    ];
    (to, sizes, prop::collection::vec(any::<prop::sample::Index>(), 0..6)).prop_map(
        |(to, (payload, large), cuts)| {
            let cuts = cuts.into_iter().map(|cut| cut.index(HEADER + TCP_HEADERS + payload)).collect();
            Letter { to, payload, large, cuts }
        },
    )
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        8 => (0_usize..6, prop::collection::vec(letters(), 1..=4)).prop_map(|(from, it)| Act::Send(from, it)),
        8 => (0_usize..6, 0_u8..6, prop::collection::vec(letters(), 2..=4)).prop_map(|(from, to, mut train)| {
            train.iter_mut().for_each(|letter| letter.to = to);
            Act::Send(from, train)
        }),
        1 => (0_usize..6).prop_map(Act::Stop),
        1 => (0_usize..6).prop_map(Act::GoOn),
    ];
    prop::collection::vec(act, 1..40)
}

/// The receivers need more of the switch's reserve than that has at once.
#[test]
fn large_frames_sent_at_once_reach_all_who_keep_up() {
    let mut world = World::new(&[0; 5], false);
    let frames = [(ALL, 8139, false), (3, 7115, true), (ALL, 56_267, true)];
    world.send(0, &frames.map(|(to, payload, large)| Letter { to, payload, large, cuts: vec![] }));
    world.finish();
}

proptest! {
    #[test]
    fn everybody_receives_what_is_theirs(
        without in prop::collection::vec(
            prop::sample::select(vec![
                0,
                0,
                TAKES_NOTHING,
                feature::GUEST_TSO4,
                feature::MRG_RXBUF,
                TAKES_NOTHING | feature::MRG_RXBUF,
            ]),
            3..=6,
        ),
        direct: bool,
        acts in acts(),
    ) {
        let mut world = World::new(&without, direct);
        acts.iter().for_each(|act| world.act(act));
        world.finish();
    }
}
