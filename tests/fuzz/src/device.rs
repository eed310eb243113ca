//! Devices under a guest that does anything, and then behaves.

use std::sync::Arc;

use spin::Mutex;
use vcpu::GuestMemory;
use vcpu::fake::{FakeImage, FakeRandom};
use virtio::balloon::QUEUES;
use virtio::block::Block;
use virtio::console::Console;
use virtio::console::pipe::{Pipe, PipeEnd};
use virtio::net::{Net, Plug};
use virtio::{Kind, VmSet};
use vswitch::Switch;
use vswitch::settings::Settings;

use crate::acts::acts;
use crate::guest::{Buffer, FREE, Guest};

const SECTORS: usize = 64;
const DATA: u64 = FREE + 0x1000;
const STATUS: u64 = FREE + 0x800;
const OUT: u32 = 1;
const IN: u32 = 0;
/// A balloon's queue for pages that it takes.
const INFLATE: usize = 0;

const fn buffer(gpa: u64, length: u32, writable: bool) -> Buffer {
    Buffer { gpa, length, writable }
}

/// A disk request of one sector.
fn transfer(guest: &mut Guest, kind: u32, sector: u64) {
    guest.put(FREE, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
    guest.put(STATUS, &[0xee]);
    guest.offer(0, &[buffer(FREE, 16, false), buffer(DATA, 512, kind == IN), buffer(STATUS, 1, true)]);
    guest.ring(0);
    guest.work();
    assert_eq!(guest.collect(0), Some(if kind == IN { 513 } else { 1 }));
    assert_eq!(guest.get::<1>(STATUS), [0]);
}

/// A disk.
pub(crate) fn block(bytes: &[u8]) {
    let image = FakeImage::new(&[0x5a; SECTORS * 512]);
    let mut guest = Guest::new(Kind::Block(Block::new(image, false, "fuzz")), 2);
    acts(bytes).iter().for_each(|act| guest.act(act));
    guest.work();
    guest.start_over();
    guest.put(DATA, &[0xa5; 512]);
    transfer(&mut guest, OUT, 7);
    guest.put(DATA, &[0; 512]);
    transfer(&mut guest, IN, 7);
    assert_eq!(guest.get::<512>(DATA), [0xa5; 512]);
    assert!(!guest.is_broken());
}

/// A balloon: what it takes comes again as zeros, and all that was taken is free or in the guest when it is through.
pub(crate) fn balloon(bytes: &[u8]) {
    const PAGE: u32 = (DATA >> 12) as u32;
    let mut guest = Guest::new(Kind::Balloon(Box::default()), QUEUES);
    acts(bytes).iter().for_each(|act| guest.act(act));
    guest.work();
    guest.start_over();
    // What it had told is told anew.
    guest.work();
    guest.put(DATA, &[7; 64]);
    guest.put(FREE, &PAGE.to_le_bytes());
    guest.offer(INFLATE, &[buffer(FREE, 4, false)]);
    guest.ring(INFLATE);
    guest.work();
    assert_eq!(guest.collect(INFLATE), Some(0));
    assert!(guest.memory.settle(), "a request is given back before its page is free");
    assert!(guest.memory.taken_back() >= 4096);
    assert_eq!(guest.get::<64>(DATA), [0; 64]);
    assert!(!guest.is_broken());
}

/// An entropy device.
pub(crate) fn entropy(bytes: &[u8]) {
    let mut guest = Guest::new(Kind::Entropy(Mutex::new(Box::new(FakeRandom::default()))), 1);
    acts(bytes).iter().for_each(|act| guest.act(act));
    guest.work();
    guest.start_over();
    guest.offer(0, &[buffer(DATA, 64, true)]);
    guest.ring(0);
    guest.work();
    assert_eq!(guest.collect(0), Some(64));
    assert_ne!(guest.get::<64>(DATA), [0; 64]);
}

/// A console device whose guest does anything; at the end of its line is one that behaves. Then both do, and bytes arrive. The driver here
/// knows three queues, so the console stands in for a port.
pub(crate) fn console(bytes: &[u8]) {
    let pipe = Pipe::new(&Arc::<VmSet>::default()).expect("there is memory");
    let [own, other] = [0, 1].map(|vm| pipe.take(vm).expect("an end"));
    let guest = |line: PipeEnd| {
        let console = Console::new(Some(Arc::new(line)), [], (80, 25));
        let queues = console.queues();
        Guest::new(Kind::Console(Box::new(console)), queues)
    };
    let (mut wild, mut tame) = (guest(own), guest(other));
    tame.start(MULTIPORT);
    for act in acts(bytes) {
        wild.act(&act);
        tame.work();
    }
    wild.work();
    tame.work();
    assert!(!tame.is_broken(), "nothing that the other does breaks it");
    for guest in [&mut wild, &mut tame] {
        guest.start_over();
        guest.start(MULTIPORT);
    }
    tame.offer(RX, &[buffer(DATA, 64, true)]);
    tame.ring(RX);
    wild.put(DATA, b"bytes of a guest's");
    wild.offer(TX, &[buffer(DATA, 18, false)]);
    wild.ring(TX);
    wild.work();
    tame.work();
    assert_eq!((wild.collect(TX), tame.collect(RX)), (Some(0), Some(18)));
    assert_eq!(&tame.get::<18>(DATA), b"bytes of a guest's");
}

/// Feature: there are messages about ports.
const MULTIPORT: u64 = 1 << 1;
const RX: usize = 0;
const TX: usize = 1;
const FRAME: u32 = 60;
const HEADER: u32 = 12;

/// A frame from one to the other arrives.
fn exchange(from: &mut Guest, to: &mut Guest) {
    to.offer(RX, &[buffer(DATA, 2048, true)]);
    to.ring(RX);
    to.work();
    from.put(DATA, &[0; HEADER as usize]);
    // To all, from nobody in particular.
    from.put(DATA + u64::from(HEADER), &[0x77; FRAME as usize]);
    from.put(DATA + u64::from(HEADER) + 6, &[2]);
    from.offer(TX, &[buffer(DATA, HEADER + FRAME, false)]);
    from.ring(TX);
    from.work();
    to.work();
    assert_eq!((from.collect(TX), to.collect(RX)), (Some(0), Some(HEADER + FRAME)));
    assert_eq!(to.get::<6>(DATA + u64::from(HEADER)), [0x77; 6]);
    assert_eq!(to.get::<53>(DATA + u64::from(HEADER) + 7), [0x77; 53]);
}

/// A network device whose guest does anything; on the same switch is one that behaves, and finds it whole again.
pub(crate) fn net(bytes: &[u8]) {
    let switch = Arc::new(Switch::new(1).expect("there is memory"));
    let guest = |number: u8| {
        let id = switch.add(Settings::default()).expect("a port");
        switch.port(id).expect("it is there").set_owner(number.into());
        let net = Net::new(Plug::new(Arc::clone(&switch), id), [2, 0, 0, 0, 0, number], None, 1);
        let queues = net.queues();
        Guest::new(Kind::Net(Box::new(net)), queues)
    };
    let (mut wild, mut tame) = (guest(0), guest(1));
    // The first byte says whether they can reach each other.
    if bytes.first().is_some_and(|byte| byte & 1 != 0) {
        let peers = [wild.peer(), tame.peer()];
        wild.know(&peers);
        tame.know(&peers);
    }
    tame.start(0);
    for at in 0..8 {
        tame.offer(RX, &[buffer(FREE + at * 2048, 2048, true)]);
    }
    tame.ring(RX);
    for act in acts(bytes) {
        wild.act(&act);
        tame.work();
    }
    wild.work();
    tame.work();
    assert!(!tame.is_broken(), "nothing that the other does breaks it");
    wild.start_over();
    tame.start_over();
    exchange(&mut wild, &mut tame);
    exchange(&mut tame, &mut wild);
}
