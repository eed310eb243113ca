//! Dividing large frames: TCP over IPv4 and IPv6, and UDP over both, into the frames that they stand for.
//!
//! A [`Plan`] says once what a large frame is divided into; each segment is then made by its number, whenever there is time and room for it.
//! A segment is a [`Frame`] like any other: its headers are its own, in its head, and its payload stays where the sender has it. Its checksum
//! is left to others: [`checksum::complete`](crate::checksum::complete) makes it for who does not take that.
//!
//! Of what the sender says, only the size of a segment is believed. All else is read from the headers, or refused.
//!
//! Sources: VIRTIO 1.2, "Packet Transmission" of the network device; RFC 791, "Internet Header Format"; RFC 6864, "Updated Specification of
//! the IPv4 ID Field"; RFC 8200, "Upper-Layer Checksums"; RFC 9293, "Header Format"; RFC 3168, "The TCP Sender"; RFC 768.

mod plan;
#[cfg(test)]
mod tests;

use crate::checksum::Sum;
use crate::frame::{Flags, Frame, HEAD_BYTES, put, word};
use crate::offload::{Checksum, LargeKind, Offload};

/// Segments of a frame at most.
///
/// A sender's frame is at most 64 KiB, and no TCP is asked for segments of less than 48 bytes with all its options: Linux does not go below,
/// and with time stamps has 36 bytes of payload then, so that 1821 segments are the most that it sends at once. UDP of Linux sends 128.
pub const MAX_SEGMENTS: u32 = 2048;

/// Payload of a TCP segment at least, in bytes: 48 with the most options, 40 bytes (Linux' `TCP_MIN_GSO_SIZE`). With less, a frame would be
/// mostly headers that the sender has not sent. A datagram of UDP may have any size.
pub const LEAST_TCP_SIZE: u16 = 8;

/// Bytes of fixed headers, and where the checksum is in them.
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: u32 = 40;
const TCP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const TCP_CHECKSUM_AT: u16 = 16;
const UDP_CHECKSUM_AT: u16 = 6;

/// Why a frame cannot be divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsuited {
    /// It is not a large one.
    NotLarge,
    /// Its headers are not of the kind that its sender says.
    Kind,
    /// Its headers are cut off, do not fit into each other, or do not fit into the head.
    Headers,
    /// It is a fragment.
    Fragment,
    /// It has headers of IPv6 that cannot be repeated: for fragments, routing or authentication.
    Extensions,
    /// It does not leave a checksum in the transport's header to others.
    Checksum,
    /// It has no payload.
    Empty,
    /// The segments would be too small, too many, or larger than an IP packet.
    Size,
    /// TCP's flags SYN or RST are set, which are never for several segments.
    Flags,
}

/// What a large frame is divided into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    tcp: bool,
    v6: bool,
    /// Where the headers of IP and of the transport begin, in bytes from the frame's first.
    at: u16,
    transport_at: u16,
    /// Where the payload begins, and ends.
    header_bytes: u16,
    end: u32,
    /// Payload bytes of each segment, but the last one.
    size: u16,
    segments: u32,
    /// The sum of what the pseudo headers of all segments have: addresses and protocol.
    pseudo: u16,
}

impl Plan {
    /// How many segments there are: 1 to [`MAX_SEGMENTS`].
    pub const fn segments(&self) -> u32 {
        self.segments
    }

    /// Bytes of each segment's headers, from the frame's first on.
    pub const fn header_bytes(&self) -> u16 {
        self.header_bytes
    }

    /// Bytes of all segments together, each from its Ethernet header on.
    pub const fn wire_bytes(&self) -> u64 {
        self.payload_bytes() as u64 + self.segments as u64 * self.header_bytes as u64
    }

    const fn payload_bytes(&self) -> u32 {
        self.end.saturating_sub(self.header_bytes as u32)
    }

    /// The segment of that number, from 0 on, of the frame that the plan was made for, which has its tag as it had it then. `None` where
    /// there is none.
    pub fn segment(&self, frame: &Frame, index: u32) -> Option<Frame> {
        if index >= self.segments {
            return None;
        }
        let done = index * u32::from(self.size);
        let from = u32::from(self.header_bytes) + done;
        let body = from..self.end.min(from + u32::from(self.size));
        let mut segment = frame.extract(self.header_bytes.into(), body)?;
        self.finish_internet(&mut segment, index)?;
        let offset = if self.tcp {
            self.finish_tcp(segment.head_mut(), index, done)?;
            TCP_CHECKSUM_AT
        } else {
            UDP_CHECKSUM_AT
        };
        let transport_at = usize::from(self.transport_at);
        let bytes = u16::try_from(segment.length().checked_sub(self.transport_at.into())?).ok()?;
        if !self.tcp {
            put(segment.head_mut(), transport_at + 4, bytes.to_be_bytes())?;
        }
        let mut pseudo = Sum::default();
        pseudo.add_word(self.pseudo);
        pseudo.add_word(bytes);
        put(segment.head_mut(), transport_at + usize::from(offset), pseudo.fold().to_be_bytes())?;
        let checksum = Some(Checksum { start: self.transport_at, offset });
        segment.offload = Offload { checksum, large: None };
        Some(segment)
    }

    /// Writes what of IP's header differs from segment to segment.
    fn finish_internet(&self, segment: &mut Frame, index: u32) -> Option<()> {
        let at = usize::from(self.at);
        let total = segment.length().checked_sub(self.at.into())?;
        let head = segment.head_mut();
        if self.v6 {
            return put(head, at + 4, u16::try_from(total.checked_sub(IPV6_BYTES)?).ok()?.to_be_bytes());
        }
        put(head, at + 2, u16::try_from(total).ok()?.to_be_bytes())?;
        // Identifications of one sender must differ, for who puts fragments together.
        let identification = word(head, at + 4)?.wrapping_add(index as u16);
        put(head, at + 4, identification.to_be_bytes())?;
        put(head, at + 10, [0; 2])?;
        let mut sum = Sum::default();
        sum.add(head.get(at..self.transport_at.into())?);
        put(head, at + 10, sum.checksum().to_be_bytes())
    }

    /// Writes what of TCP's header differs from segment to segment, but the checksum; `done` bytes of payload are in those before.
    fn finish_tcp(&self, head: &mut [u8], index: u32, done: u32) -> Option<()> {
        let at = usize::from(self.transport_at);
        let number = u32::from_be_bytes(*head.get(at + 4..)?.first_chunk()?).wrapping_add(done);
        put(head, at + 4, number.to_be_bytes())?;
        let mut flags = *head.get(at + 13)?;
        if index + 1 != self.segments {
            flags &= !(Flags::FIN | Flags::PSH);
        }
        if index != 0 {
            flags &= !Flags::CWR;
        }
        if flags & Flags::URG != 0 {
            // The urgent pointer counts from the segment's first byte of payload, and may point behind its last.
            let urgent = u32::from(word(head, at + 18)?).saturating_sub(done) as u16;
            put(head, at + 18, urgent.to_be_bytes())?;
            if urgent == 0 && index != 0 {
                flags &= !Flags::URG;
            }
        }
        put(head, at + 13, [flags])
    }
}

/// How many frames a large one of `length` bytes stands for, and how many bytes they have together, where each has `header_bytes` of
/// headers and at most `size` bytes of payload.
pub const fn wire(length: u32, header_bytes: u16, size: u16) -> (u32, u64) {
    let payload = length.saturating_sub(header_bytes as u32);
    let size = if size == 0 { 1 } else { size as u32 };
    let packets = if payload == 0 { 1 } else { payload.div_ceil(size) };
    (packets, length as u64 + (packets - 1) as u64 * header_bytes as u64)
}

/// How many frames a frame stands for, and how many bytes they have together, each from its Ethernet header on: for who counts frames and
/// does not divide them.
///
/// For every frame that a [`Plan`] can be made for, and that does not go on behind its IP packet, it is what the plan says. Others are at
/// least one frame of the frame's length, and nobody divides them.
pub fn segments_of(frame: &Frame) -> (u32, u64) {
    let Some(large) = frame.offload.large else { return (1, frame.length().into()) };
    wire(frame.length(), header_bytes_of(frame) as u16, large.size)
}

/// Bytes of the headers of each packet that a large frame stands for, at most what its head has; 0 for others.
pub fn header_bytes_of(frame: &Frame) -> u32 {
    let Some(large) = frame.offload.large else { return 0 };
    // The header's length as the sender says it is no good: Linux has there how much of the frame is in one piece.
    let at = frame.offload.checksum.map_or(0, |checksum| usize::from(checksum.start));
    let transport = match large.kind {
        LargeKind::Udp => UDP_BYTES,
        LargeKind::Tcp4 | LargeKind::Tcp6 => tcp_bytes(frame.head(), at).unwrap_or(TCP_BYTES),
    };
    (at + transport).min(HEAD_BYTES) as u32
}

/// Bytes of TCP's header at `at`, where it can be one.
fn tcp_bytes(head: &[u8], at: usize) -> Option<usize> {
    let bytes = usize::from(head.get(at + 12)? >> 4) * 4;
    (bytes >= TCP_BYTES).then_some(bytes)
}
