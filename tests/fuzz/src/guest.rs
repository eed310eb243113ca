//! A guest with a virtio device: its memory, its queues, and what its driver does.

use std::sync::Arc;

use devices::Width;
use devices::pci::ConfigSpace;
use vcpu::fake::{FakeImage, FakeSpace};
use vcpu::{AddressSpace, Gpa, GuestMemory};
use virtio::pci::configured;
use virtio::{Function, Kind, Progress, Signals, Wires};

use crate::acts::Act;

/// RAM of the guest. Queues are below [`FREE`], buffers may be anywhere.
pub(crate) const RAM: u64 = 0x4_0000;
pub(crate) const FREE: u64 = 0x2_0000;
/// Queues that the driver uses.
pub(crate) const QUEUES: usize = 3;
const SIZE: u16 = 16;
const QUEUE_BYTES: u64 = 0x4000;

/// Offsets in the page of common registers.
pub(crate) mod register {
    pub(crate) const DEVICE_SELECT: u64 = 0x00;
    pub(crate) const DEVICE_FEATURE: u64 = 0x04;
    pub(crate) const DRIVER_SELECT: u64 = 0x08;
    pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
    pub(crate) const STATUS: u64 = 0x14;
    pub(crate) const QUEUE_SELECT: u64 = 0x16;
    pub(crate) const QUEUE_SIZE: u64 = 0x18;
    pub(crate) const QUEUE_ENABLE: u64 = 0x1c;
    pub(crate) const QUEUE_DESCRIPTORS: u64 = 0x20;
}
/// Status: acknowledged, with a driver, features settled; ready; broken.
const SETTLED: u64 = 0xb;
const READY: u64 = 0xf;
const NEEDS_RESET: u64 = 0x40;
const NOTIFY: u64 = 3 << 12;
/// Of a command register: memory and bus mastering.
const ENABLED: u32 = 6;
const COMMAND: u8 = 4;

/// A buffer of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) gpa: u64,
    pub(crate) length: u32,
    pub(crate) writable: bool,
}

/// Interrupts go nowhere.
pub(crate) struct Deaf;

impl Signals for Deaf {
    fn message(&mut self, _address: u64, _data: u32) {}

    fn line(&mut self, _high: bool) {}
}

/// What a device reaches: other devices, where it knows them.
#[derive(Clone, Default)]
struct World {
    peers: Vec<Peer>,
}

/// A device with its driver's memory.
#[derive(Clone)]
pub(crate) struct Peer {
    function: Arc<Function<FakeImage>>,
    memory: FakeSpace,
}

impl Signals for World {
    fn message(&mut self, _address: u64, _data: u32) {}

    fn line(&mut self, _high: bool) {}
}

impl Wires<FakeImage, FakeSpace> for World {
    fn reach<R>(
        &mut self,
        owner: usize,
        with: impl FnOnce(&Function<FakeImage>, &FakeSpace, &mut dyn Signals) -> R,
    ) -> Option<R> {
        let peer = self.peers.get(owner)?;
        Some(with(&peer.function, &peer.memory, &mut Deaf))
    }
}

/// What the driver knows of a queue.
#[derive(Clone, Copy, Debug, Default)]
struct Ring {
    offered: u16,
    collected: u16,
    next: u16,
}

/// The guest.
pub(crate) struct Guest {
    pub(crate) function: Arc<Function<FakeImage>>,
    pub(crate) memory: FakeSpace,
    space: ConfigSpace,
    rings: [Ring; QUEUES],
    world: World,
}

impl Guest {
    pub(crate) fn new(kind: Kind<FakeImage>, queues: usize) -> Self {
        #[expect(
            clippy::arc_with_non_send_sync,
            reason = "images of the hypervisor are both, this one is for one thread"
        )]
        let function = Arc::new(Function::new(kind, queues).expect("there is memory"));
        let mut memory = FakeSpace::with_memory(RAM);
        memory.grow_all(Gpa(0), RAM).expect("there is memory");
        let space = function.config_space();
        let world = World::default();
        let mut guest = Self { function, memory, space, rings: [Ring::default(); QUEUES], world };
        guest.configure(COMMAND, Width::Word, ENABLED);
        guest
    }

    fn configure(&mut self, register: u8, width: Width, value: u32) {
        self.space.write(register, width, value);
        self.function.configure(&configured(&self.space), &mut Deaf);
    }

    pub(crate) fn write(&self, offset: u64, width: Width, value: u64) {
        self.function.write(offset, width, value, &mut Deaf);
    }

    pub(crate) fn read(&self, offset: u64, width: Width) -> u64 {
        self.function.read(offset, width, &mut Deaf)
    }

    /// Whether a queue has made no sense since the last reset.
    pub(crate) fn is_broken(&self) -> bool {
        self.read(register::STATUS, Width::Byte) & NEEDS_RESET != 0
    }

    fn parts(queue: usize) -> [u64; 3] {
        let base = 0x1000 + queue as u64 * QUEUE_BYTES;
        [base, base + 0x1000, base + 0x2000]
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        // Where there is no RAM nothing is written.
        let _ = self.memory.write(Gpa(at), bytes);
    }

    pub(crate) fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let _ = self.memory.read(Gpa(at), &mut bytes);
        bytes
    }

    /// A driver takes the device into use, as it should.
    pub(crate) fn start(&mut self, without: u64) {
        self.write(register::STATUS, Width::Byte, 0);
        for queue in 0..QUEUES {
            let [first, ..] = Self::parts(queue);
            self.put(first, &[0; 0x3000]);
        }
        self.rings = [Ring::default(); QUEUES];
        for half in 0..2 {
            self.write(register::DEVICE_SELECT, Width::Dword, half);
            self.write(register::DRIVER_SELECT, Width::Dword, half);
            let offered = self.read(register::DEVICE_FEATURE, Width::Dword);
            let refused = without >> (32 * half) & 0xffff_ffff;
            // Version 1 must be.
            let accepted = offered & (!refused | half);
            self.write(register::DRIVER_FEATURE, Width::Dword, accepted);
        }
        self.write(register::STATUS, Width::Byte, SETTLED);
        for queue in 0..QUEUES {
            self.write(register::QUEUE_SELECT, Width::Word, queue as u64);
            self.write(register::QUEUE_SIZE, Width::Word, SIZE.into());
            for (at, address) in Self::parts(queue).into_iter().enumerate() {
                self.write(register::QUEUE_DESCRIPTORS + 8 * at as u64, Width::Qword, address);
            }
            self.write(register::QUEUE_ENABLE, Width::Word, 1);
        }
        self.write(register::STATUS, Width::Byte, READY);
    }

    /// As firmware and an operating system find it: the configuration space as after power-up, then a driver's start. The hypervisor has gone on
    /// with what the last driver's balloon had begun, so there is memory.
    pub(crate) fn start_over(&mut self) {
        while !self.memory.settle() {}
        self.space = self.function.config_space();
        self.configure(COMMAND, Width::Word, ENABLED);
        self.start(0);
    }

    /// Makes a request.
    pub(crate) fn offer(&mut self, queue: usize, buffers: &[Buffer]) {
        let [table, available, _] = Self::parts(queue);
        let Some(ring) = self.rings.get(queue).copied() else { return };
        for (at, buffer) in buffers.iter().enumerate() {
            let index = (ring.next + at as u16) % SIZE;
            let more = u16::from(at + 1 < buffers.len());
            let flags = more | u16::from(buffer.writable) << 1;
            let words = [
                &buffer.gpa.to_le_bytes()[..],
                &buffer.length.to_le_bytes(),
                &flags.to_le_bytes(),
                &((index + 1) % SIZE).to_le_bytes(),
            ];
            self.put(table + 16 * u64::from(index), &words.concat());
        }
        self.put(available + 4 + 2 * u64::from(ring.offered % SIZE), &ring.next.to_le_bytes());
        self.put(available + 2, &ring.offered.wrapping_add(1).to_le_bytes());
        if let Some(ring) = self.rings.get_mut(queue) {
            ring.offered = ring.offered.wrapping_add(1);
            ring.next = (ring.next + buffers.len() as u16) % SIZE;
        }
    }

    /// The length by which the next request is given back, where one was.
    pub(crate) fn collect(&mut self, queue: usize) -> Option<u32> {
        let [.., used] = Self::parts(queue);
        let ring = self.rings.get(queue).copied()?;
        if u16::from_le_bytes(self.get(used + 2)) == ring.collected {
            return None;
        }
        let at = used + 4 + 8 * u64::from(ring.collected % SIZE);
        if let Some(ring) = self.rings.get_mut(queue) {
            ring.collected = ring.collected.wrapping_add(1);
        }
        Some(u32::from_le_bytes(self.get(at + 4)))
    }

    pub(crate) fn ring(&self, queue: usize) {
        self.write(NOTIFY | (4 * queue as u64), Width::Word, queue as u64);
    }

    /// The device, for others that send to it.
    pub(crate) fn peer(&self) -> Peer {
        Peer { function: Arc::clone(&self.function), memory: self.memory.clone() }
    }

    /// It can reach these devices, by their number.
    pub(crate) fn know(&mut self, peers: &[Peer]) {
        self.world.peers = peers.to_vec();
    }

    pub(crate) fn step(&self) -> Progress {
        self.function.step(&self.memory, &mut self.world.clone())
    }

    /// Works until nothing is left to do, which must come.
    pub(crate) fn work(&self) {
        const MOST: usize = 20_000;
        assert!((0..MOST).any(|_| self.step() == Progress::Idle), "the device never comes to an end");
    }

    pub(crate) fn act(&mut self, act: &Act) {
        match act {
            Act::Write { offset, width, value } => self.write(*offset, *width, *value),
            Act::Read { offset, width } => {
                let value = self.read(*offset, *width);
                assert!(value <= width.mask(), "more than was asked for");
            }
            Act::Poke { at, value } => self.put(*at, &value.to_le_bytes()),
            Act::Offer { queue, buffers } => {
                self.offer(*queue, buffers);
                self.ring(*queue);
            }
            Act::Ring { queue } => self.ring(*queue),
            Act::Step => drop(self.step() == Progress::More),
            Act::Start { without } => self.start(*without),
            Act::Reset => self.write(register::STATUS, Width::Byte, 0),
            Act::Configure { register, width, value } => self.configure(*register, *width, *value),
        }
    }
}
