//! Frames of one conversation right behind each other: the first is looked at in full, and those that are like it go the same way.
//!
//! A train lasts as long as its sender's queue is served without a pause, which is a bounded number of frames. Whatever changes meanwhile, settings, rules or
//! addresses, meets these frames as if they had been on their way already.
//!
//! Source: Jain and Routhier, "Packet trains: measurements and a new model for computer network traffic", 1986.

use super::way::largest_packet;
use super::{Sent, Switch};
use crate::Nanos;
use crate::frame::{Flags, Fragment, Frame, Internet, STARTING_BYTES, Transport, protocol, put};
use crate::port::PortId;
use crate::tag::Tag;

const WORDS: usize = STARTING_BYTES / 8;
/// Bytes of IP's headers without options, and what of a transport's header must be there.
const IPV4_BYTES: u16 = 20;
const IPV6_BYTES: u16 = 40;
const TCP_BYTES: u16 = 20;
const UDP_BYTES: u16 = 8;
/// Where TCP has its flags.
const FLAGS_AT: usize = 13;

/// What the frames of a train have in common, and what of them was not yet counted.
#[derive(Clone, Debug)]
pub(super) struct Train {
    /// The port that they go to, and what is done to their tags. `None` where there is no train.
    way: Option<(PortId, Tag)>,
    /// The first bytes, of which those count that are set in `mask`.
    start: [u64; WORDS],
    mask: [u64; WORDS],
    /// Where IP's length is, what it does not count, and its least.
    length_at: u16,
    before: u16,
    least: u16,
    /// Where TCP's flags are, 0 for other transports.
    flags_at: u16,
    /// Bytes of a packet at most, 0 without a limit.
    mtu: u16,
    held: Held,
}

/// Frames that their conversation has not counted.
#[derive(Clone, Copy, Default, Debug)]
struct Held {
    packets: u32,
    bytes: u64,
    flags: u8,
}

impl Train {
    pub(super) const fn none() -> Self {
        Self {
            way: None,
            start: [0; WORDS],
            mask: [0; WORDS],
            length_at: 0,
            before: 0,
            least: 0,
            flags_at: 0,
            mtu: 0,
            held: Held { packets: 0, bytes: 0, flags: 0 },
        }
    }

    /// Whether a frame is like the first one.
    // In this crate its loop is unrolled.
    #[inline(never)]
    fn has(&self, frame: &Frame) -> bool {
        let words = self.start.iter().zip(&self.mask).zip(frame.start());
        if words.fold(0, |differ, ((own, mask), its)| differ | (own ^ its) & mask) != 0 {
            return false;
        }
        // What its header says is there, and has the transport's header.
        let said = frame.word_at(self.length_at.into());
        said >= self.least && u32::from(said) + u32::from(self.before) <= frame.length()
    }

    /// Makes it one of frames like this.
    fn begin(&mut self, frame: &Frame, packet: &Internet) -> Option<()> {
        let transport = match packet.transport {
            Transport::Tcp { flags, .. } if !flags.any(Flags::CHANGING) => TCP_BYTES,
            Transport::Ports { .. } if packet.protocol == protocol::UDP => UDP_BYTES,
            _ => return None,
        };
        let header = if packet.v6 { IPV6_BYTES } else { IPV4_BYTES };
        if packet.fragment != Fragment::No || packet.transport_at != packet.at + header {
            return None;
        }
        let mut mask = [0_u8; STARTING_BYTES];
        let (at, ports_at) = (usize::from(packet.at), usize::from(packet.transport_at));
        // Addresses, the tag, and what is behind it.
        mask.get_mut(..at)?.fill(0xff);
        if packet.v6 {
            put(&mut mask, at, [0xf0])?;
            put(&mut mask, at + 6, [0xff])?;
            mask.get_mut(at + 8..ports_at)?.fill(0xff);
            (self.length_at, self.before, self.least) = (packet.at + 4, packet.transport_at, transport);
        } else {
            put(&mut mask, at, [0xff])?;
            // Which part of a packet it is, its protocol.
            put(&mut mask, at + 6, [0xff, 0xff])?;
            put(&mut mask, at + 9, [0xff])?;
            mask.get_mut(at + 12..ports_at)?.fill(0xff);
            (self.length_at, self.before, self.least) = (packet.at + 2, packet.at, header + transport);
        }
        put(&mut mask, ports_at, [0xff; 4])?;
        self.flags_at = 0;
        if transport == TCP_BYTES {
            put(&mut mask, ports_at + FLAGS_AT, [Flags::CHANGING])?;
            self.flags_at = (ports_at + FLAGS_AT) as u16;
        }
        self.start = frame.start();
        self.mask = crate::frame::words(&mask);
        self.held = Held::default();
        Some(())
    }
}

impl Sent {
    /// Where its train goes, and what is done to tags there, where it has begun one.
    pub const fn train(&self) -> Option<(PortId, Tag)> {
        self.train.way
    }
}

impl Switch {
    /// Frames right behind this one, which goes to one port only and looks so there, may be of its train.
    pub fn begin_train(&self, sent: &mut Sent, frame: &Frame, (to, tag): (PortId, Tag)) {
        if !sent.found {
            return;
        }
        let Some(port) = self.port(to) else { return };
        let Sent { layers, train, .. } = sent;
        if let Some(packet) = layers.internet().filter(|_| !layers.nested)
            && train.begin(frame, packet).is_some()
        {
            (train.way, train.mtu) = (Some((to, tag)), port.view().mtu().unwrap_or(0));
        }
    }

    /// The same as [`Self::accept`] and [`Self::admit`] for a frame of the train that `sent` has: where it goes, and what is done to its tag. `None` where it is not of that train.
    // A call of it for each frame would cost a quarter of what it does.
    #[inline(always)]
    pub fn go_on(&self, frame: &Frame, now: Nanos, sent: &mut Sent) -> Option<(PortId, Tag)> {
        let way = sent.train.way?;
        if !sent.train.has(frame) {
            return None;
        }
        if !frame.offload.spares(&sent.layers) {
            return None;
        }
        if sent.train.mtu != 0 && largest_packet(frame, &sent.layers) > sent.train.mtu.into() {
            return None;
        }
        let port = self.port(sent.from)?;
        let (packets, bytes) = crate::segment::segments_of(frame);
        port.counters.sent.count(packets, bytes);
        port.send.take(bytes, now);
        (sent.packets, sent.wire_bytes, sent.at, sent.asked) = (packets, bytes, now, 0);
        let Train { held, flags_at, .. } = &mut sent.train;
        held.packets = held.packets.saturating_add(packets);
        held.bytes += bytes;
        if *flags_at != 0 {
            held.flags |= frame.head().get(usize::from(*flags_at)).copied().unwrap_or(0);
        }
        Some(way)
    }

    /// The train is over: what went with it is counted.
    pub fn end_train(&self, sent: &mut Sent) {
        if sent.train.way.is_some() {
            self.settle(sent);
            sent.train.way = None;
        }
    }

    /// Counts what went with a train so far.
    pub(super) fn settle(&self, sent: &mut Sent) {
        let held = core::mem::take(&mut sent.train.held);
        if held.packets != 0 {
            self.count_train(sent, (held.packets, held.bytes), Flags(held.flags));
        }
    }
}
