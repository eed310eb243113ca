//! Two devices on a switch, each with its driver. Frames go straight into the other's buffers, or through the queue of its port.

use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use devices::Width;
use devices::pci::register as pci_register;
use proptest::prelude::*;
use vcpu::fake::{FakeImage, FakeSpace};
use vcpu::{Gpa, GuestMemory};

use vswitch::settings::Settings;
use vswitch::{Nanos, Switch};

use super::{Mac, Net, Plug, feature};
use crate::pci::{self, PAGE_SHIFT, page};
use crate::queue::driver::{BUFFERS, Driver};
use crate::transport::{register, status};
use crate::{Function, Kind, Progress, Signals, Wires};

const MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
pub(super) const HEADER: usize = 12;
pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;
const CONTROL: usize = 2;
/// Buffers of the receiver, and where the sender has a frame.
pub(super) const POOL: u64 = BUFFERS;
pub(super) const FRAME: u64 = BUFFERS + 0x8_0000;
const WORDS: u64 = BUFFERS + 0xc_0000;

/// A device with its driver's memory.
#[derive(Clone)]
pub(super) struct Peer {
    function: Arc<Function<FakeImage>>,
    memory: FakeSpace,
    messages: Arc<Mutex<Vec<u32>>>,
}

/// What a device tells its VM and the rest of the world.
#[derive(Clone, Default)]
pub(super) struct Told {
    messages: Arc<Mutex<Vec<u32>>>,
    /// The devices that can be reached.
    pub(super) peers: Vec<Peer>,
    calls: Arc<Mutex<Vec<usize>>>,
    now: Nanos,
    wakes: Option<Nanos>,
}

impl Signals for Told {
    fn message(&mut self, _address: u64, data: u32) {
        self.messages.lock().unwrap().push(data);
    }

    fn line(&mut self, _high: bool) {}
}

impl Wires<FakeImage, FakeSpace> for Told {
    fn now(&mut self) -> Nanos {
        self.now
    }

    fn reach<R>(
        &mut self,
        owner: usize,
        with: impl FnOnce(&Function<FakeImage>, &FakeSpace, &mut dyn Signals) -> R,
    ) -> Option<R> {
        let Peer { function, memory, messages } = self.peers.get(owner)?.clone();
        Some(with(&function, &memory, &mut Self { messages, ..Self::default() }))
    }

    fn call(&mut self, owner: usize) {
        self.calls.lock().unwrap().push(owner);
    }

    fn wake_at(&mut self, at: Nanos) {
        self.wakes = Some(at);
    }
}

pub(super) struct End {
    pub(super) function: Arc<Function<FakeImage>>,
    pub(super) queues: [Driver; 3],
    pub(super) told: Told,
}

/// Two devices on a switch.
struct World {
    switch: Arc<Switch>,
    calls: Arc<Mutex<Vec<usize>>>,
}

impl World {
    fn calls(&self) -> Vec<usize> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

/// Devices whose drivers leave out these features. `direct` ones can reach each other.
fn pair(without: [u64; 2], mtu: Option<u16>, direct: bool) -> ([End; 2], World) {
    let switch = Arc::new(Switch::new(1).expect("memory"));
    let calls: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mut ends = [0, 1].map(|number| {
        let id = switch.add(Settings::default()).expect("a port");
        switch.port(id).expect("it is there").set_owner(number);
        let net = Net::new(Plug::new(Arc::clone(&switch), id), MACS[number], mtu, 1);
        let mut end = End::new(net, without[number]);
        end.told.calls = Arc::clone(&calls);
        end
    });
    if direct {
        let peers: Vec<Peer> = ends.iter().map(End::peer).collect();
        ends.iter_mut().for_each(|end| end.told.peers = peers.clone());
    }
    (ends, World { switch, calls })
}

impl End {
    pub(super) fn new(net: Net, without: u64) -> Self {
        let queues = net.queues();
        #[expect(
            clippy::arc_with_non_send_sync,
            reason = "images of the hypervisor are both, this one is for one thread"
        )]
        let function = Arc::new(Function::new(Kind::Net(Box::new(net)), queues).expect("memory"));
        let mut space = function.config_space();
        space.write(pci_register::COMMAND, Width::Word, 6);
        let mut told = Told::default();
        function.configure(&pci::configured(&space), &mut told);
        let first = Driver::new(64);
        let queues = [first.beside(0), first.beside(1), first.beside(2)];
        let mut end = Self { function, queues, told };
        end.start(without);
        end
    }

    pub(super) fn peer(&self) -> Peer {
        Peer {
            function: Arc::clone(&self.function),
            memory: self.queues[0].memory.clone(),
            messages: Arc::clone(&self.told.messages),
        }
    }

    fn common(&mut self, at: u64, width: Width, value: u64) {
        self.function.write(page::COMMON << PAGE_SHIFT | at, width, value, &mut self.told);
    }

    fn read(&mut self, page: u64, at: u64, width: Width) -> u64 {
        self.function.read(page << PAGE_SHIFT | at, width, &mut self.told)
    }

    fn start(&mut self, without: u64) {
        use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
        self.common(register::STATUS, Width::Byte, 0);
        for select in 0..2 {
            self.common(register::DEVICE_FEATURE_SELECT, Width::Dword, select);
            self.common(register::DRIVER_FEATURE_SELECT, Width::Dword, select);
            let offered = self.read(page::COMMON, register::DEVICE_FEATURE, Width::Dword);
            let refused = (without | crate::transport::feature::EVENT_IDX) >> (32 * select) & 0xffff_ffff;
            self.common(register::DRIVER_FEATURE, Width::Dword, offered & !refused);
        }
        self.common(register::STATUS, Width::Byte, (ACKNOWLEDGE | DRIVER | FEATURES_OK).into());
        for index in [RX, TX, CONTROL] {
            let layout = self.queues[index].layout;
            self.common(register::QUEUE_SELECT, Width::Word, index as u64);
            self.common(register::QUEUE_SIZE, Width::Word, layout.size.into());
            for (at, Gpa(address)) in
                [layout.descriptors, layout.driver, layout.device].into_iter().enumerate()
            {
                self.common(register::QUEUE_DESCRIPTORS + 8 * at as u64, Width::Qword, address);
            }
            self.common(register::QUEUE_ENABLE, Width::Word, 1);
        }
        self.common(register::STATUS, Width::Byte, DRIVER_OK.into());
        assert_eq!(self.status() & status::NEEDS_RESET, 0);
    }

    fn plug(&self) -> vswitch::PortId {
        self.function.as_net().expect("it is one").plug().id()
    }

    pub(super) fn status(&mut self) -> u8 {
        self.read(page::COMMON, register::STATUS, Width::Byte) as u8
    }

    fn link(&mut self) -> bool {
        self.read(page::DEVICE, 6, Width::Word) & 1 != 0
    }

    pub(super) fn ring(&mut self, queue: usize) {
        self.function.write(page::NOTIFY << PAGE_SHIFT | (4 * queue as u64), Width::Word, 0, &mut self.told);
    }

    pub(super) fn work(&mut self) {
        let memory = self.queues[0].memory.clone();
        for _ in 0..1000 {
            if self.function.step(&memory, &mut self.told) == Progress::Idle {
                return;
            }
        }
        panic!("it does not end");
    }

    pub(super) fn put(&self, at: u64, bytes: &[u8]) {
        self.queues[0].memory.write(Gpa(at), bytes).unwrap();
    }

    pub(super) fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.queues[0].memory.read(Gpa(at), &mut bytes).unwrap();
        bytes
    }

    fn send(&mut self, header: [u8; HEADER], frame: &[u8]) {
        self.put(FRAME, &[&header[..], frame].concat());
        self.queues[TX].offer_chain(&[(FRAME, (HEADER + frame.len()) as u32, false)]);
        self.ring(TX);
        self.work();
        assert_eq!(self.queues[TX].collect().len(), 1, "what is sent is given back");
    }

    /// Offers `count` buffers of this size.
    fn feed(&mut self, count: u64, bytes: u32) {
        for at in 0..count {
            self.queues[RX].offer_chain(&[(POOL + at * u64::from(bytes), bytes, true)]);
        }
        self.ring(RX);
        self.work();
    }

    /// The frames that have come, with their headers, out of buffers of this size that were fed in order from the first.
    fn received(&mut self, bytes: u32, first: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.work();
        let mut used = self.queues[RX].collect().into_iter();
        let (mut frames, mut at) = (vec![], first);
        while let Some((_, length)) = used.next() {
            let mut all = self.bytes(POOL + at * u64::from(bytes), length as usize);
            let more = u16::from_le_bytes([all[10], all[11]]) - 1;
            at += 1;
            for _ in 0..more {
                let (_, length) = used.next().expect("as many buffers as the header says");
                all.extend(self.bytes(POOL + at * u64::from(bytes), length as usize));
                at += 1;
            }
            let frame = all.split_off(HEADER);
            frames.push((all, frame));
        }
        frames
    }

    fn command(&mut self, words: &[u8]) -> u8 {
        self.put(WORDS, words);
        self.put(WORDS + 0x1000, &[0xee]);
        self.queues[CONTROL].offer_chain(&[(WORDS, words.len() as u32, false), (WORDS + 0x1000, 1, true)]);
        self.ring(CONTROL);
        self.work();
        assert_eq!(self.queues[CONTROL].collect().len(), 1);
        self.bytes(WORDS + 0x1000, 1)[0]
    }
}

fn frame(to: Mac, length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&MACS[usize::from(to == MACS[0])]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// A checksum to be made from byte 14 on, at its byte 4; a large frame of that kind where it is not 0.
fn undone(gso_type: u8) -> [u8; HEADER] {
    [1, gso_type, 54, 0, if gso_type == 0 { 0 } else { 0xb4 }, 5, 14, 0, 4, 0, 0, 0]
}

/// The TCP segment of a large packet, or of a small one: Ethernet, IPv4, TCP, and payload.
pub(super) fn tcp(to: Mac, payload: usize) -> Vec<u8> {
    let mut frame = frame(to, 54 + payload);
    let total = (40 + payload) as u16;
    let mut headers = vec![0x08, 0x00, 0x45, 0];
    headers.extend(total.to_be_bytes());
    headers.extend([0, 9, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    headers.extend([0, 80, 1, 187, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    frame[12..54].copy_from_slice(&headers);
    frame
}

/// The header of such a packet: its checksum is to be made, and it stands for packets of 1460 bytes of payload.
pub(super) const LARGE: [u8; HEADER] = [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0];

#[test]
fn a_frame_goes_to_the_other_end_and_one_comes_back() {
    for direct in [false, true] {
        let ([mut a, mut b], world) = pair([0; 2], None, direct);
        assert!(a.link() && b.link());
        b.feed(8, 2048);
        let sent = frame(MACS[1], 60);
        a.send([0; HEADER], &sent);
        assert_eq!(world.calls(), if direct { vec![] } else { vec![1] }, "who cannot be reached is called");
        assert_eq!(b.received(2048, 0), [(vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], sent.clone())]);
        a.feed(8, 2048);
        let back = frame(MACS[0], 60);
        b.send([0; HEADER], &back);
        assert_eq!(a.received(2048, 0)[0].1, back);
        assert_eq!((a.function.lost_frames(), b.function.lost_frames()), (0, 0));
    }
}

#[test]
fn a_large_frame_fills_many_buffers_and_waits_until_there_are_enough() {
    for direct in [false, true] {
        let ([mut a, mut b], _) = pair([0; 2], None, direct);
        let sent = tcp(MACS[1], 60_000);
        b.feed(8, 4096);
        a.send(LARGE, &sent);
        assert_eq!(b.received(4096, 0), [], "half of it is nothing");
        for at in 8..16 {
            b.queues[RX].offer_chain(&[(POOL + at * 4096, 4096, true)]);
        }
        b.ring(RX);
        let got = b.received(4096, 0);
        assert_eq!(got.len(), 1);
        assert_eq!(
            (got[0].0[0], got[0].0[1], got[0].0[10]),
            (1, 1, 15),
            "its header says what is left to do"
        );
        assert_eq!(got[0].1, sent);
    }
}

/// What a driver takes that takes nothing undone.
pub(super) const TAKES_NOTHING: u64 = feature::GUEST_CSUM
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::GUEST_ECN
    | feature::GUEST_USO4
    | feature::GUEST_USO6;

fn sum(bytes: &[u8]) -> u64 {
    let words =
        bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |it| u64::from(*it)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[test]
fn checksums_are_completed_for_who_takes_none_undone() {
    for direct in [false, true] {
        let ([mut a, mut b], _) = pair([0, TAKES_NOTHING], None, direct);
        b.feed(8, 2048);
        let mut sent = frame(MACS[1], 61);
        sent[18..20].copy_from_slice(&[0, 0]);
        a.send(undone(0), &sent);
        let got = b.received(2048, 0);
        assert_eq!(got[0].0[..10], [0; 10]);
        assert_eq!(sum(&got[0].1[14..]), 0xffff, "with its checksum it sums up to nothing");
    }
}

#[test]
fn large_frames_are_divided_for_who_takes_none() {
    for (direct, without) in [
        (false, TAKES_NOTHING),
        (true, TAKES_NOTHING),
        (true, feature::GUEST_TSO4),
        (true, TAKES_NOTHING | feature::MRG_RXBUF),
    ] {
        let ([mut a, mut b], _) = pair([0, without], None, direct);
        let sent = tcp(MACS[1], 4000);
        // The last packet waits for its buffer.
        b.feed(2, 2048);
        a.send(LARGE, &sent);
        b.work();
        b.queues[RX].offer_chain(&[(POOL + 2 * 2048, 2048, true)]);
        b.ring(RX);
        let got = b.received(2048, 0);
        assert_eq!(got.iter().map(|it| it.1.len()).collect::<Vec<_>>(), [1514, 1514, 54 + 1080]);
        let payload: Vec<u8> = got.iter().flat_map(|it| it.1[54..].to_vec()).collect();
        assert_eq!(payload, sent[54..]);
        let undone = without & feature::GUEST_CSUM == 0;
        for (header, packet) in &got {
            assert_eq!((header[0], header[1]), (u8::from(undone), 0));
            let segment = &packet[34..];
            let pseudo = [&packet[26..34], &[0, 6], &(segment.len() as u16).to_be_bytes()].concat();
            assert!(undone || sum(&[&pseudo[..], segment].concat()) == 0xffff, "a checksum is right");
        }
        assert_eq!(b.function.lost_frames(), 0);
    }
}

#[test]
fn rates_hold_senders_and_receivers_back() {
    use vswitch::meter::Rate;
    let ([mut a, mut b], world) = pair([0; 2], None, true);
    let rate = Some(Rate { per_second: 1000, burst: 1 });
    b.feed(8, 2048);
    let (from, to) = (a.plug(), b.plug());
    world.switch.change(from, 0, |settings| settings.send = rate);
    let sent = frame(MACS[1], 100);
    a.send([0; HEADER], &sent);
    a.put(FRAME, &[&[0; HEADER][..], &sent].concat());
    a.queues[TX].offer_chain(&[(FRAME, 112, false)]);
    a.ring(TX);
    a.work();
    assert_eq!(
        (a.queues[TX].collect().len(), a.told.wakes),
        (0, Some(99_000_000)),
        "it waits, and nothing is lost"
    );
    a.told.now = 99_000_000;
    a.function.advance();
    a.work();
    assert_eq!((a.queues[TX].collect().len(), b.received(2048, 0).len()), (1, 2));
    // And the same where it is received.
    world.switch.change(from, 0, |settings| settings.send = None);
    world.switch.change(to, 0, |settings| settings.receive = rate);
    a.send([0; HEADER], &sent);
    a.send([0; HEADER], &sent);
    b.told.now = a.told.now;
    assert_eq!(b.received(2048, 2).len(), 1);
    b.told.now = b.told.wakes.expect("the other one comes later");
    b.function.advance();
    assert_eq!(b.received(2048, 3).len(), 1);
}

#[test]
fn without_mergeable_buffers_one_must_be_large_enough() {
    let ([mut a, mut b], _) = pair([0, feature::MRG_RXBUF], None, true);
    b.feed(4, 512);
    a.send([0; HEADER], &frame(MACS[1], 600));
    a.send([0; HEADER], &frame(MACS[1], 500));
    let got = b.received(512, 0);
    assert_eq!(got.iter().map(|it| it.1.len()).collect::<Vec<_>>(), [500]);
    assert_eq!(b.function.lost_frames(), 1);
}

#[test]
fn the_driver_says_which_frames_it_wants() {
    let ([mut a, mut b], _) = pair([0; 2], None, true);
    b.feed(8, 2048);
    assert_eq!(b.command(&[0, 0, 0]), 0, "not promiscuous");
    let to = |end: &mut End, mac| end.send([0; HEADER], &frame(mac, 60));
    to(&mut a, [2, 0, 0, 0, 0, 9]);
    to(&mut a, [3, 0, 0, 0, 0, 9]);
    to(&mut a, MACS[1]);
    to(&mut a, [0xff; 6]);
    assert_eq!(b.received(2048, 0).len(), 2);
    let table =
        [&[1, 0][..], &1_u32.to_le_bytes(), &[2, 0, 0, 0, 0, 9], &1_u32.to_le_bytes(), &[3, 0, 0, 0, 0, 9]];
    assert_eq!(b.command(&table.concat()), 0);
    assert_eq!(b.command(&[1, 1, 2, 0, 0, 0, 0, 7]), 0, "another address");
    assert_eq!(b.read(page::DEVICE, 4, Width::Word), 0x0700);
    to(&mut a, [2, 0, 0, 0, 0, 9]);
    to(&mut a, [3, 0, 0, 0, 0, 9]);
    to(&mut a, MACS[1]);
    to(&mut a, [2, 0, 0, 0, 0, 7]);
    assert_eq!(b.received(2048, 2).len(), 3);
    assert_eq!(b.function.lost_frames(), 0, "what nobody wants is not lost");
    // What makes no sense is refused, and changes nothing.
    for words in [
        &[9, 0, 0][..],
        &[0, 9, 1],
        &[0, 0],
        &[1, 0, 255, 255, 255, 255],
        &[1, 1, 2],
        &[4, 0, 1, 0],
        &[2, 9, 1, 0],
    ] {
        assert_eq!(b.command(words), 1, "{words:?}");
    }
    assert_eq!(b.status() & status::NEEDS_RESET, 0);
}

#[test]
fn a_driver_that_goes_loses_its_frames_and_a_port_that_is_down_has_no_link() {
    for direct in [false, true] {
        let ([mut a, mut b], world) = pair([0; 2], None, direct);
        a.send([0; HEADER], &frame(MACS[1], 60));
        b.common(register::STATUS, Width::Byte, 0);
        a.send([0; HEADER], &frame(MACS[1], 60));
        assert_eq!(b.function.lost_frames(), 1, "nobody is there");
        b.queues = [0, 1, 2].map(|number| b.queues[0].beside(number));
        b.put(0x1000, &[0; 0xc000]);
        b.start(0);
        b.feed(8, 2048);
        assert_eq!(b.received(2048, 0), [], "what came before is not kept");
        a.send([0; HEADER], &frame(MACS[1], 64));
        assert_eq!(b.received(2048, 0).len(), 1);
        let port = a.plug();
        world.switch.change(port, 0, |settings| settings.up = false);
        a.work();
        assert!(!a.link() && b.link());
        a.send([0; HEADER], &frame(MACS[1], 64));
        assert_eq!((a.function.lost_frames(), b.received(2048, 1).len()), (1, 0));
        world.switch.change(port, 0, |settings| settings.up = true);
        assert!(a.link());
    }
}

#[test]
fn a_receiver_that_stops_costs_only_its_own_frames() {
    let ([mut a, mut b], _) = pair([0; 2], None, true);
    for _ in 0..100 {
        a.send([0; HEADER], &frame(MACS[1], 9000));
    }
    let lost = b.function.lost_frames();
    assert!((60..99).contains(&lost), "{lost} of 100");
    b.feed(64, 4096);
    assert_eq!(b.received(4096, 0).len() as u64, 100 - lost);
}

#[test]
fn frames_beyond_the_mtu_are_none() {
    let ([mut a, mut b], _) = pair([0; 2], Some(1400), true);
    assert_eq!(a.read(page::DEVICE, 10, Width::Word), 1400);
    b.feed(8, 4096);
    a.send([0; HEADER], &frame(MACS[1], 1423));
    a.send([0; HEADER], &frame(MACS[1], 14));
    a.send([0; HEADER], &frame(MACS[1], 1418));
    assert_eq!(b.received(4096, 0).len(), 2);
    assert_eq!(a.function.lost_frames(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Frames of any size through buffers of any size come whole and in order.
    #[test]
    fn frames_arrive_whole_and_in_order(
        sizes in prop::collection::vec(14_usize..20_000, 1..12),
        buffer in 128_u32..8000,
        feeds in prop::collection::vec(1_u64..20, 12),
        direct: bool,
    ) {
        let ([mut a, mut b], _) = pair([0; 2], None, direct);
        let sent: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, size)| {
            let mut frame = frame(MACS[1], *size);
            frame[6] = 2 * at as u8;
            frame
        }).collect();
        let (mut got, mut fed, mut used) = (vec![], 0_u64, 0);
        for (frame, feed) in sent.iter().zip(feeds) {
            a.send([0; HEADER], frame);
            let most = 0x7_0000 / u64::from(buffer);
            let now = feed.min(most.saturating_sub(fed)).min(60 - fed.min(60));
            for at in fed..fed + now {
                b.queues[RX].offer_chain(&[(POOL + at * u64::from(buffer), buffer, true)]);
            }
            fed += now;
            b.ring(RX);
            for (header, frame) in b.received(buffer, used) {
                used += u64::from(header[10]);
                got.push(frame);
            }
        }
        prop_assert!(got.len() <= sent.len());
        prop_assert_eq!(&got[..], &sent[..got.len()]);
        let room = fed * u64::from(buffer);
        prop_assert!(got.len() == sent.len() || room < sent.iter().take(got.len() + 1).map(|it| it.len() as u64 + 8012).sum::<u64>());
        prop_assert_eq!(b.status() & status::NEEDS_RESET, 0);
    }
}

/// A ring whose entries all name one chain of next to nothing.
#[test]
fn buffers_in_too_many_parts_break_their_device_and_nothing_else() {
    const WRITE: u16 = 2;
    const NEXT: u16 = 1;
    for direct in [false, true] {
        let ([mut a, mut b], _) = pair([0; 2], None, direct);
        for index in 0..59 {
            b.queues[RX].own(index, (POOL, 0), WRITE | NEXT, index + 1);
        }
        b.queues[RX].own(59, (POOL, 13), WRITE, 0);
        (0..20).for_each(|_| b.queues[RX].offer(0));
        b.ring(RX);
        b.work();
        a.send([0; HEADER], &frame(MACS[1], 1000));
        b.work();
        assert_eq!(b.status() & status::NEEDS_RESET, status::NEEDS_RESET);
        assert_eq!(a.status() & status::NEEDS_RESET, 0);
    }
}
