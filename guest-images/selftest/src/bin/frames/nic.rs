//! A network device that sends and receives any bytes.

use selftest::cpu::{read8, read16, write8};
use selftest::memory::{self, PAGE};
use selftest::tsc;
use selftest::virtio::{Buffer, Device, Queue};

use crate::packet::{Bytes, Mac};

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const ENTRIES: u16 = 32;
/// Bytes before a frame.
pub(crate) const HEADER: usize = 12;
/// Where in the header the number of buffers is.
const BUFFERS_AT: u64 = 10;
/// Pages for the longest frame.
const FRAME_PAGES: u64 = 18;
/// How long a frame may take.
const PATIENCE_US: u64 = 1_000_000;

/// What is before a frame (VIRTIO 1.2, `virtio_net_hdr`).
pub(crate) type Header = [u8; HEADER];
/// Nothing is left to others.
pub(crate) const PLAIN: Header = [0; HEADER];

/// Features.
pub(crate) mod feature {
    pub(crate) const CSUM: u64 = 1 << 0;
    pub(crate) const GUEST_CSUM: u64 = 1 << 1;
    pub(crate) const GUEST_TSO4: u64 = 1 << 7;
    pub(crate) const HOST_TSO4: u64 = 1 << 11;
    pub(crate) const MRG_RXBUF: u64 = 1 << 15;
}

/// A device in use.
#[derive(Clone, Copy)]
pub(crate) struct Nic {
    receive: Queue,
    transmit: Queue,
    /// Buffers of a page each, as many as entries.
    buffers: u64,
    outgoing: u64,
    /// The frame that has come last.
    incoming: u64,
    merges: bool,
}

/// A frame that has come: its header, where it is, and its length.
#[derive(Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) header: Header,
    pub(crate) at: u64,
    pub(crate) length: u32,
}

impl Arrived {
    /// Whether it is these bytes and no more.
    pub(crate) fn is(&self, bytes: &Bytes) -> bool {
        self.length == bytes.length()
            && (0..self.length).all(|index| read8(self.at + u64::from(index)) == bytes.at(index))
    }

    /// Whether it begins with these bytes.
    pub(crate) fn starts_with(&self, bytes: &[u8]) -> bool {
        self.length as usize >= bytes.len() && (self.at..).zip(bytes).all(|(at, byte)| read8(at) == *byte)
    }

    pub(crate) fn byte(&self, at: u64) -> u8 {
        read8(self.at + at)
    }

    /// The big-endian word there.
    pub(crate) fn word(&self, at: u64) -> u16 {
        read16(self.at + at).swap_bytes()
    }
}

impl Nic {
    /// Takes a device into use that has been reset, with these features where it has them.
    pub(crate) fn begin(device: &Device, wanted: u64) -> Option<Self> {
        let features = device.begin(wanted)?;
        let mut receive = device.queue(RECEIVE, ENTRIES, features)?;
        let transmit = device.queue(TRANSMIT, ENTRIES, features)?;
        receive.want_interrupts(false);
        transmit.want_interrupts(false);
        device.go();
        let buffers = memory::pages(u64::from(receive.layout.size));
        for at in 0..u64::from(receive.layout.size) {
            let head = receive.chain(&[Buffer::writable(buffers + at * PAGE, PAGE as u32)]);
            receive.put(head);
        }
        receive.publish();
        receive.kick();
        let (outgoing, incoming) = (memory::pages(FRAME_PAGES), memory::pages(FRAME_PAGES));
        let merges = features & feature::MRG_RXBUF != 0;
        Some(Self { receive, transmit, buffers, outgoing, incoming, merges })
    }

    /// The device's address.
    pub(crate) fn address_of(device: &Device) -> Mac {
        device.bytes_of_config()
    }

    /// Where it has the frame that it sends, behind its header.
    pub(crate) const fn outgoing(&self) -> u64 {
        self.outgoing + HEADER as u64
    }

    /// Sends a frame, and waits until its buffer comes back. False where it does not.
    pub(crate) fn send(&mut self, header: &Header, frame: &Bytes) -> bool {
        memory::store(self.outgoing, header);
        memory::store(self.outgoing + HEADER as u64, frame.said());
        let said = (HEADER + frame.said().len()) as u64;
        let length = HEADER as u32 + frame.length();
        memory::fill(self.outgoing + said, 0, u64::from(length) - said);
        self.transmit.request(&[Buffer::readable(self.outgoing, length)]).is_some()
    }

    /// The next frame that comes, within a second.
    pub(crate) fn wait(&mut self) -> Option<Arrived> {
        let mut arrived = None;
        tsc::wait_us(PATIENCE_US, || {
            arrived = self.take();
            arrived.is_some()
        });
        arrived
    }

    /// The next frame, where there is one.
    pub(crate) fn take(&mut self) -> Option<Arrived> {
        let used = self.receive.poll()?;
        let first = self.buffer_of(used.head);
        let mut header = PLAIN;
        header.iter_mut().zip(first..).for_each(|(byte, at)| *byte = read8(at));
        let pieces = if self.merges { read16(first + BUFFERS_AT) } else { 1 };
        let mut length = self.keep(0, first + HEADER as u64, used.written.saturating_sub(HEADER as u32));
        self.give_back(used.head);
        for _ in 1..pieces {
            let used = self.receive.wait()?;
            length = self.keep(length, self.buffer_of(used.head), used.written);
            self.give_back(used.head);
        }
        self.receive.publish();
        self.receive.kick();
        Some(Arrived { header, at: self.incoming, length })
    }

    fn buffer_of(&self, head: u32) -> u64 {
        self.buffers + u64::from(head) * PAGE
    }

    /// Puts a piece of a frame behind `done` bytes of it. Returns how many there are then.
    fn keep(&self, done: u32, from: u64, bytes: u32) -> u32 {
        let most = (FRAME_PAGES * PAGE) as u32;
        let bytes = bytes.min(most - done);
        for at in 0..u64::from(bytes) {
            write8(self.incoming + u64::from(done) + at, read8(from + at));
        }
        done + bytes
    }

    /// Offers a buffer again: each has the descriptor of its number.
    fn give_back(&mut self, head: u32) {
        self.receive.describe(head as u16, Buffer::writable(self.buffer_of(head), PAGE as u32), 0, 0);
        self.receive.put(head as u16);
    }
}
