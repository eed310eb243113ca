//! A guest that uses its disk, and notices when it does not have what it wrote, or has it later than usual.

use selftest::cpu::{rdtsc, read64, write64};
use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, Device, Queue, block, feature, kind};
use selftest::{power, println, runner};

/// Requests at once.
const DEPTH: u64 = 4;
/// Sectors of a block.
const SECTORS: u64 = PAGE / block::SECTOR;

/// What belongs into a word of a block after a pass.
fn pattern(block: u64, pass: u64, at: u64) -> u64 {
    (block << 32 ^ pass << 16 ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

struct Disk {
    queue: Queue,
    slots: u64,
    pages: u64,
    blocks: u64,
}

impl Disk {
    fn open() -> Option<Self> {
        let device = Device::find(kind::BLOCK)?;
        let features = device.begin(feature::EVENT_IDX)?;
        let blocks = read64(device.configuration) / SECTORS / DEPTH * DEPTH;
        let queue = device.queue(0, 64, features)?;
        queue.want_interrupts(false);
        device.go();
        Some(Self { queue, slots: memory::page(), pages: memory::pages(DEPTH), blocks })
    }

    /// Some blocks in a row, from `first` on.
    fn transfer(&mut self, request: u32, first: u64) -> Result<(), &'static str> {
        for number in 0..DEPTH {
            let (slot, page) = (self.slots + block::SLOT * number, self.pages + PAGE * number);
            block::prepare(slot, request, (first + number) * SECTORS);
            let data = match request {
                block::request::IN => Buffer::writable(page, PAGE as u32),
                _ => Buffer::readable(page, PAGE as u32),
            };
            let head = self.queue.chain(&block::buffers(slot, data));
            self.queue.put(head);
        }
        self.queue.publish();
        self.queue.kick();
        for _ in 0..DEPTH {
            self.queue.wait().ok_or("a request does not come back")?;
        }
        let failed = (0..DEPTH).any(|number| block::status(self.slots + block::SLOT * number) != block::OK);
        if failed { Err("a request has failed") } else { Ok(()) }
    }

    fn words(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let pages = self.pages;
        (0..DEPTH)
            .flat_map(move |number| (0..PAGE).step_by(8).map(move |at| (number, pages + PAGE * number + at)))
    }

    /// Writes blocks, reads them, and looks whether they are what was written.
    fn round(&mut self, first: u64, pass: u64) -> Result<(), &'static str> {
        self.words().for_each(|(number, at)| write64(at, pattern(first + number, pass, at)));
        self.transfer(block::request::OUT, first)?;
        memory::fill(self.pages, 0xee, DEPTH * PAGE);
        self.transfer(block::request::IN, first)?;
        let right = self.words().all(|(number, at)| read64(at) == pattern(first + number, pass, at));
        if right { Ok(()) } else { Err("what is read is not what was written") }
    }
}

pub(crate) fn run() {
    runner::announce("witness");
    runner::baseline();
    let window = 1_000_000 * crate::number("window", 50);
    let Some(mut disk) = Disk::open() else {
        println!("witness: BAD: no disk");
        return;
    };
    let (mut start, mut blocks, mut windows) = (rdtsc(), 0, 0_u64);
    for pass in 0.. {
        for first in (0..disk.blocks).step_by(DEPTH as usize) {
            if let Err(reason) = disk.round(first, pass) {
                println!("witness: BAD: {reason}, pass {pass}, block {first}");
                power::off();
            }
            blocks += DEPTH;
            let ticks = rdtsc().wrapping_sub(start);
            if ticks >= window {
                windows += 1;
                println!(
                    "witness: window {windows}: {} blocks in 1000 million ticks",
                    blocks * 1_000_000_000 / ticks
                );
                (start, blocks) = (rdtsc(), 0);
            }
        }
    }
}
