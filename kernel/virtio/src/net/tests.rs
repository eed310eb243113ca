//! Two devices on a cable, each with its driver.

use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use devices::Width;
use devices::pci::register as pci_register;
use proptest::prelude::*;
use vcpu::fake::FakeImage;
use vcpu::{Gpa, GuestMemory};

use super::wire::cable;
use super::{Mac, Net, feature};
use crate::Calls;
use crate::pci::{self, PAGE_SHIFT, page};
use crate::queue::driver::{BUFFERS, Driver};
use crate::transport::{register, status};
use crate::{Function, Kind, Progress, Signals};

const MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const HEADER: usize = 12;
const RX: usize = 0;
const TX: usize = 1;
const CONTROL: usize = 2;
/// Buffers of the receiver, and where the sender has a frame.
const POOL: u64 = BUFFERS;
const FRAME: u64 = BUFFERS + 0x8_0000;
const WORDS: u64 = BUFFERS + 0xc_0000;

struct Told {
    messages: Vec<u32>,
}

impl Signals for Told {
    fn message(&mut self, _address: u64, data: u32) {
        self.messages.push(data);
    }

    fn line(&mut self, _high: bool) {}
}

struct End {
    function: Function<FakeImage>,
    queues: [Driver; 3],
    told: Told,
}

/// Features that a driver leaves out.
fn pair(without: [u64; 2], mtu: Option<u16>) -> ([End; 2], Arc<Calls>) {
    let calls = Arc::new(Calls::default());
    let plugs = cable(&calls).expect("memory");
    let mut number = 0;
    let ends = plugs.map(|plug| {
        plug.belongs_to(number);
        let net = Net::new(plug, MACS[number], mtu, 1);
        let end = End::new(net, without[number]);
        number += 1;
        end
    });
    (ends, calls)
}

impl End {
    fn new(net: Net, without: u64) -> Self {
        let queues = net.queues();
        let function = Function::new(Kind::Net(Box::new(net)), queues).expect("memory");
        let mut space = function.config_space();
        space.write(pci_register::COMMAND, Width::Word, 6);
        let mut told = Told { messages: vec![] };
        function.configure(&pci::configured(&space), &mut told);
        let first = Driver::new(64);
        let queues = [first.beside(0), first.beside(1), first.beside(2)];
        let mut end = Self { function, queues, told };
        end.start(without);
        end
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

    fn status(&mut self) -> u8 {
        self.read(page::COMMON, register::STATUS, Width::Byte) as u8
    }

    fn link(&mut self) -> bool {
        self.read(page::DEVICE, 6, Width::Word) & 1 != 0
    }

    fn ring(&mut self, queue: usize) {
        self.function.write(page::NOTIFY << PAGE_SHIFT | (4 * queue as u64), Width::Word, 0, &mut self.told);
    }

    fn work(&mut self) {
        let memory = self.queues[0].memory.clone();
        for _ in 0..1000 {
            if self.function.step(&memory, &mut self.told) == Progress::Idle {
                return;
            }
        }
        panic!("it does not end");
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.queues[0].memory.write(Gpa(at), bytes).unwrap();
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
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
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// A checksum to be made from byte 14 on, at its byte 4; a large frame of that kind where it is not 0.
fn undone(gso_type: u8) -> [u8; HEADER] {
    [1, gso_type, 54, 0, if gso_type == 0 { 0 } else { 0xb4 }, 5, 14, 0, 4, 0, 0, 0]
}

#[test]
fn a_frame_goes_to_the_other_end_and_one_comes_back() {
    let ([mut a, mut b], calls) = pair([0; 2], None);
    assert_eq!(calls.take(), 0b01, "the second one has come up for the first");
    assert!(a.link() && b.link());
    b.feed(8, 2048);
    let sent = frame(MACS[1], 60);
    a.send([0; HEADER], &sent);
    assert_eq!(calls.take(), 0b10, "the receiver is called");
    assert_eq!(b.received(2048, 0), [(vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], sent.clone())]);
    a.feed(8, 2048);
    b.send([0; HEADER], &sent);
    assert_eq!(a.received(2048, 0)[0].1, sent);
    assert_eq!((a.function.lost_frames(), b.function.lost_frames()), (0, 0));
}

#[test]
fn a_large_frame_fills_many_buffers_and_waits_until_there_are_enough() {
    let ([mut a, mut b], _) = pair([0; 2], None);
    let sent = frame(MACS[1], 60_000);
    b.feed(8, 4096);
    a.send(undone(1), &sent);
    assert_eq!(b.received(4096, 0), [], "half of it is nothing");
    for at in 8..16 {
        b.queues[RX].offer_chain(&[(POOL + at * 4096, 4096, true)]);
    }
    b.ring(RX);
    let got = b.received(4096, 0);
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].0[0], got[0].0[1], got[0].0[10]), (1, 1, 15), "its header says what is left to do");
    assert_eq!(got[0].1, sent);
}

#[test]
fn checksums_are_completed_for_who_takes_none_undone_and_large_frames_are_lost() {
    let takes_nothing = feature::GUEST_CSUM
        | feature::GUEST_TSO4
        | feature::GUEST_TSO6
        | feature::GUEST_ECN
        | feature::GUEST_USO4
        | feature::GUEST_USO6;
    let ([mut a, mut b], _) = pair([0, takes_nothing], None);
    b.feed(8, 2048);
    let mut sent = frame(MACS[1], 61);
    sent[18..20].copy_from_slice(&[0, 0]);
    a.send(undone(0), &sent);
    a.send(undone(1), &sent);
    let got = b.received(2048, 0);
    assert_eq!(got.len(), 1, "only the small one");
    assert_eq!(b.function.lost_frames(), 1);
    assert_eq!(got[0].0[..10], [0; 10]);
    let words = got[0].1[14..]
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |it| u64::from(*it)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    assert_eq!(sum, 0xffff, "with its checksum it sums up to nothing");
}

#[test]
fn without_mergeable_buffers_one_must_be_large_enough() {
    let ([mut a, mut b], _) = pair([0, feature::MRG_RXBUF], None);
    b.feed(4, 512);
    a.send([0; HEADER], &frame(MACS[1], 600));
    a.send([0; HEADER], &frame(MACS[1], 500));
    let got = b.received(512, 0);
    assert_eq!(got.iter().map(|it| it.1.len()).collect::<Vec<_>>(), [500]);
    assert_eq!(b.function.lost_frames(), 1);
}

#[test]
fn the_driver_says_which_frames_it_wants() {
    let ([mut a, mut b], _) = pair([0; 2], None);
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
fn a_driver_that_goes_takes_the_link_down_and_frames_are_lost() {
    let ([mut a, mut b], calls) = pair([0; 2], None);
    b.feed(8, 2048);
    a.send([0; HEADER], &frame(MACS[1], 60));
    calls.take();
    b.common(register::STATUS, Width::Byte, 0);
    assert_eq!(calls.take(), 0b01, "the other one hears of it");
    a.work();
    assert!(!a.link());
    a.send([0; HEADER], &frame(MACS[1], 60));
    assert_eq!(a.function.lost_frames(), 1);
    b.queues = [0, 1, 2].map(|number| b.queues[0].beside(number));
    b.put(0x1000, &[0; 0xc000]);
    b.start(0);
    assert_eq!(calls.take(), 0b01);
    assert!(a.link());
    b.feed(8, 2048);
    assert_eq!(b.received(2048, 0), [], "what came before is not kept");
    a.send([0; HEADER], &frame(MACS[1], 64));
    assert_eq!(b.received(2048, 0).len(), 1);
}

#[test]
fn a_receiver_that_stops_costs_only_its_own_frames() {
    let ([mut a, mut b], _) = pair([0; 2], None);
    for _ in 0..100 {
        a.send([0; HEADER], &frame(MACS[1], 9000));
    }
    let lost = a.function.lost_frames();
    assert!((60..99).contains(&lost), "{lost} of 100");
    b.feed(64, 4096);
    assert_eq!(b.received(4096, 0).len(), 64 / 3);
}

#[test]
fn frames_beyond_the_mtu_are_none() {
    let ([mut a, mut b], _) = pair([0; 2], Some(1400));
    assert_eq!(a.read(page::DEVICE, 10, Width::Word), 1400);
    b.feed(8, 4096);
    a.send([0; HEADER], &frame(MACS[1], 1419));
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
    ) {
        let ([mut a, mut b], _) = pair([0; 2], None);
        let sent: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, size)| {
            let mut frame = frame(MACS[1], *size);
            frame[6] = at as u8;
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
