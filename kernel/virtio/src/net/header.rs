//! What is before each frame in a network device's buffers.
//!
//! Source: VIRTIO 1.2, "Device Operation" of the network device (`virtio_net_hdr`), "Packet Transmission".

use vswitch::{Checksum, Large, LargeKind, Offload, Takes};

/// Bytes of the header, and of what of it travels with a frame: all but the number of buffers.
pub(super) const BUFFER_HEADER_BYTES: u32 = 12;
const HEADER_BYTES: usize = 10;
/// Where in it the number of buffers is.
pub(super) const BUFFERS_AT: u32 = HEADER_BYTES as u32;

const NEEDS_CHECKSUM: u8 = 1;
/// The checksum is right, as far as anybody needs to know: the frame has not left the machine.
const CHECKSUM_VALID: u8 = 2;
/// The frame is a large one for the network card to divide: of which kind, and whether it has the congestion flag.
mod gso {
    pub(super) const NONE: u8 = 0;
    pub(super) const TCPV4: u8 = 1;
    pub(super) const TCPV6: u8 = 4;
    pub(super) const UDP_L4: u8 = 5;
    pub(super) const ECN: u8 = 0x80;
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Header {
    flags: u8,
    gso_type: u8,
    header_bytes: u16,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl Header {
    const fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *bytes;
        Self {
            flags,
            gso_type,
            header_bytes: u16::from_le_bytes([a, b]),
            gso_size: u16::from_le_bytes([c, d]),
            checksum_start: u16::from_le_bytes([e, f]),
            checksum_offset: u16::from_le_bytes([g, h]),
        }
    }

    const fn to_bytes(self, buffers: u16) -> [u8; BUFFER_HEADER_BYTES as usize] {
        let [a, b] = self.header_bytes.to_le_bytes();
        let [c, d] = self.gso_size.to_le_bytes();
        let [e, f] = self.checksum_start.to_le_bytes();
        let [g, h] = self.checksum_offset.to_le_bytes();
        let [i, j] = buffers.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h, i, j]
    }
}

/// Whether nothing is left to others.
#[inline]
pub(super) const fn is_plain(bytes: &[u8; BUFFER_HEADER_BYTES as usize]) -> bool {
    bytes[0] & NEEDS_CHECKSUM == 0 && bytes[1] == gso::NONE
}

/// What a sender with these offloads leaves to others for a frame of that length. `None` where its header makes no sense.
pub(super) fn read(bytes: &[u8; BUFFER_HEADER_BYTES as usize], length: u32, may: Takes) -> Option<Offload> {
    let header = bytes.first_chunk().map(Header::from_bytes)?;
    let is_large = header.gso_type != gso::NONE;
    if header.flags & NEEDS_CHECKSUM == 0 {
        // A large frame cannot have a checksum that is right for its pieces.
        return (!is_large).then(Offload::default);
    }
    let checksum = Checksum { start: header.checksum_start, offset: header.checksum_offset };
    let end = u32::from(checksum.start) + u32::from(checksum.offset) + 2;
    if !may.checksum || end > length {
        return None;
    }
    let large = if is_large { Some(large(header, length, may)?) } else { None };
    Some(Offload { checksum: Some(checksum), large })
}

fn large(header: Header, length: u32, may: Takes) -> Option<Large> {
    let kind = match header.gso_type & !gso::ECN {
        gso::TCPV4 => LargeKind::Tcp4,
        gso::TCPV6 => LargeKind::Tcp6,
        gso::UDP_L4 => LargeKind::Udp,
        _ => return None,
    };
    let large = Large {
        kind,
        ecn: header.gso_type & gso::ECN != 0,
        size: header.gso_size,
        header_bytes: header.header_bytes.min(u16::try_from(length).unwrap_or(u16::MAX)),
    };
    (large.size != 0 && may.large(large)).then_some(large)
}

/// The header of a frame for a driver that takes what is left undone, with the number of its buffers.
pub(super) fn bytes(offload: Offload, buffers: u16) -> [u8; BUFFER_HEADER_BYTES as usize] {
    let mut header = Header::default();
    if let Some(Checksum { start, offset }) = offload.checksum {
        (header.flags, header.checksum_start, header.checksum_offset) = (NEEDS_CHECKSUM, start, offset);
    }
    if let Some(large) = offload.large {
        let kind = match large.kind {
            LargeKind::Tcp4 => gso::TCPV4,
            LargeKind::Tcp6 => gso::TCPV6,
            LargeKind::Udp => gso::UDP_L4,
        };
        header.gso_type = kind | if large.ecn { gso::ECN } else { 0 };
        (header.gso_size, header.header_bytes) = (large.size, large.header_bytes);
    }
    header.to_bytes(buffers)
}

/// The header of a frame that was cut off: what is left of it has no checksum that could be right.
pub(super) fn bytes_of_cut(buffers: u16) -> [u8; BUFFER_HEADER_BYTES as usize] {
    Header { flags: CHECKSUM_VALID, ..Header::default() }.to_bytes(buffers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Takes = Takes { checksum: true, tcp4: true, tcp6: true, ecn: true, udp4: true, udp6: true };

    proptest! {
        #[test]
        fn what_a_receiver_sees_stays_in_the_frame(header: [u8; 12], kind in 0_usize..6, length in 0_u32..70_000) {
            let mut header = header;
            header[1] = [0, 1, 4, 5, 0x81, 3][kind];
            let Some(seen) = read(&header, length, ALL) else { return Ok(()) };
            if let Some(Checksum { start, offset }) = seen.checksum {
                prop_assert!(u32::from(start) + u32::from(offset) + 2 <= length);
            }
            if let Some(large) = seen.large {
                prop_assert!(large.size != 0 && u32::from(large.header_bytes) <= length && seen.checksum.is_some());
            }
            let again = read(&bytes(seen, 1), length, ALL);
            prop_assert_eq!(again, Some(seen), "a receiver sees what its sender has said");
            prop_assert!(read(&header, length, Takes::default()).is_none_or(|it| it == Offload::default()));
        }
    }
}
