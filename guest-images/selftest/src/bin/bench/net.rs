//! What a frame costs on its way from one guest to another: both guests and everything between them, on one CPU.
//! Small frames are datagrams of UDP, large ones a TCP segment that stands for many.
//!
//! `only=packet_64`, `only=switch_64`, `only=switch_1500` or `only=frame_64_kib` sends, `only=sink` in the other guest receives; `only=flood` sends to all. After each batch the receiver says that it has
//! all, and both sleep while they wait.

use selftest::cpu::{self, rdtsc, read8, write8, write16};
use selftest::interrupt::{self, Acknowledge};
use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, Device, Queue, feature, kind};
use selftest::{apic, boot, smp};

use crate::{number, report_samples, skip, tell_requests};

/// Features: checksums and TCP over IPv4 undone, to send and to receive; buffers that are merged.
const FEATURES: u64 = 1 << 0 | 1 << 1 | 1 << 7 | 1 << 11 | 1 << 15 | feature::INDIRECT_DESC;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const VECTOR: u8 = 0x56;
const MESSAGE: u16 = 0;
/// Buffers for frames, of a page each.
const BUFFERS: u64 = 256;
const HEADER: u64 = 12;
/// Where a frame says what it is: behind all headers.
const MARK: u64 = HEADER + 54;
const DATA: u8 = 0;
const HELLO: u8 = 1;
const END: u8 = 2;
/// Frames in a sample at least.
const FRAMES: u64 = 32;
/// Frames that a switch under load finds in a queue.
const LOAD: u64 = 128;
/// Bytes of a small frame, of a usual one, and of a large one: 45 segments of TCP.
const SMALL: u32 = 64;
const USUAL: u32 = 1514;
const SEGMENT: u16 = 1448;
const IPV4: u16 = 0x0800;
const UDP: u8 = 17;
const TCP: u8 = 6;
const ALL: [u8; 6] = [0xff; 6];
const LARGE: u32 = 54 + 45 * SEGMENT as u32;

/// A network device in use.
struct Net {
    receive: Queue,
    transmit: Queue,
    buffers: u64,
    frame: u64,
    own: [u8; 6],
    /// The other guest's device, once something has come from there.
    other: [u8; 6],
}

impl Net {
    fn new() -> Option<Self> {
        let device = Device::find(kind::NET)?;
        let features = device.begin(FEATURES)?;
        interrupt::expect(VECTOR, Acknowledge::LocalApic);
        device.set_msix(true, false);
        device.route(MESSAGE, apic::id(), VECTOR);
        device.set_queue_vector(RECEIVE, MESSAGE);
        let [mut receive, transmit] =
            [device.queue(RECEIVE, 256, features)?, device.queue(TRANSMIT, 256, features)?];
        transmit.want_interrupts(false);
        device.go();
        let buffers = memory::pages(BUFFERS);
        for at in 0..BUFFERS {
            let head = receive.chain(&[Buffer::writable(buffers + at * PAGE, PAGE as u32)]);
            receive.put(head);
        }
        receive.publish();
        receive.kick();
        let frame = memory::pages(u64::from(LARGE).div_ceil(PAGE) + 1);
        Some(Self { receive, transmit, buffers, frame, own: device.bytes_of_config(), other: ALL })
    }

    /// Puts a frame of a kind into the queue.
    fn put(&mut self, length: u32, mark: u8) {
        let large = length > USUAL;
        self.write_headers(length, large);
        write8(self.frame + MARK, mark);
        // Needs a checksum; TCP over IPv4.
        write16(self.frame, if large { 0x0101 } else { 0 });
        for (at, value) in [(2, 54), (4, SEGMENT), (6, 34), (8, 16)] {
            write16(self.frame + at, if large { value } else { 0 });
        }
        let head = self.transmit.chain(&[Buffer::readable(self.frame, HEADER as u32 + length)]);
        self.transmit.put(head);
    }

    /// Ethernet, IPv4, and UDP or TCP, all without checksums.
    fn write_headers(&self, length: u32, large: bool) {
        let at = self.frame + HEADER;
        memory::store(at, &self.other);
        memory::store(at + 6, &self.own);
        memory::store(at + 12, &IPV4.to_be_bytes());
        let bytes = (length as u16).wrapping_sub(14);
        memory::store(at + 14, &[0x45, 0]);
        memory::store(at + 16, &bytes.to_be_bytes());
        memory::store(at + 18, &[0, 0, 0, 0, 64, if large { TCP } else { UDP }, 0, 0]);
        memory::store(at + 26, &[10, 9, 0, 1, 10, 9, 0, 2]);
        memory::store(at + 34, &[0x30, 0x39, 0x14, 0x51]);
        if large {
            // Sequence and acknowledgement numbers, five words of header, ACK.
            memory::store(at + 38, &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        } else {
            memory::store(at + 38, &bytes.wrapping_sub(20).to_be_bytes());
            memory::store(at + 40, &[0, 0]);
        }
    }

    fn send(&mut self) {
        self.transmit.publish();
        self.transmit.kick();
    }

    fn send_one(&mut self, mark: u8) {
        self.put(SMALL, mark);
        self.send();
        while self.transmit.poll().is_some() {}
    }

    /// The kind of the next frame, once there is one.
    fn take(&mut self) -> Option<u8> {
        self.receive.poll()?;
        let at = self.buffers + u64::from(self.receive.collected.wrapping_sub(1)) % BUFFERS * PAGE;
        let (mark, pieces) = (read8(at + MARK), u16::from(read8(at + 10)));
        for (place, byte) in self.other.iter_mut().zip(HEADER + 6..) {
            *place = read8(at + byte);
        }
        for _ in 1..pieces {
            self.receive.wait();
        }
        for _ in 0..pieces {
            // Buffers come back in their order, and so do descriptors.
            let place = u64::from(self.receive.offered) % BUFFERS;
            let head = self.receive.chain(&[Buffer::writable(self.buffers + place * PAGE, PAGE as u32)]);
            self.receive.put(head);
        }
        Some(mark)
    }

    /// Sleeps until a frame comes, and takes it.
    fn wait(&mut self) -> u8 {
        loop {
            if let Some(mark) = self.take() {
                return mark;
            }
            self.receive.publish();
            self.receive.kick();
            self.receive.want_interrupts(true);
            if self.receive.used_index() == self.receive.collected {
                cpu::wait_for_interrupt();
            }
            self.receive.want_interrupts(false);
        }
    }
}

/// Sends, receives, or does nothing, as the command line says.
pub(crate) fn measure() {
    let (name, length, batch) = match boot::option("only") {
        Some("packet_64") => ("packet_64", SMALL, 32),
        Some("switch_64") => ("switch_64", SMALL, LOAD),
        Some("switch_1500") => ("switch_1500", USUAL, LOAD),
        Some("frame_64_kib") => ("frame_64_kib", LARGE, 2),
        Some("sink") => return sink(),
        Some("flood") => return flood(),
        _ => return,
    };
    let Some(mut net) = Net::new() else { return skip(name, "no network") };
    // The other guest may be later.
    while net.take().is_none() {
        net.send_one(HELLO);
        smp::rest_us(2000);
    }
    let mut all = || {
        let begin = rdtsc();
        for _ in 0..batch {
            net.put(length, DATA);
        }
        net.send();
        net.wait();
        let ticks = rdtsc() - begin;
        while net.transmit.poll().is_some() {}
        ticks
    };
    all();
    let rounds = number("rounds", 64);
    let frames = FRAMES.max(batch);
    report_samples(name, frames, rounds, || (0..frames / batch).map(|_| all()).sum());
    tell_requests(name, rounds * frames);
    net.send_one(END);
}

/// Sends small frames to all who are on the switch.
fn flood() {
    let Some(mut net) = Net::new() else { return skip("flood", "no network") };
    for _ in 0..number("rounds", 64) {
        for _ in 0..LOAD {
            net.put(SMALL, DATA);
        }
        net.send();
        for _ in 0..LOAD {
            net.transmit.wait();
        }
    }
}

/// Says after each batch that it has come.
fn sink() {
    let Some(mut net) = Net::new() else { return skip("sink", "no network") };
    let (batch, mut came) = (number("batch", 32), 0);
    loop {
        match net.wait() {
            HELLO => net.send_one(HELLO),
            END => return,
            _ => {
                came += 1;
                if came % batch == 0 {
                    net.send_one(DATA);
                }
            }
        }
    }
}
