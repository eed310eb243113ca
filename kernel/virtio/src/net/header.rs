//! What is before each frame in a network device's buffers.
//!
//! Source: VIRTIO 1.2, "Device Operation" of the network device (`virtio_net_hdr`), "Packet Transmission".

/// Bytes of the header, and of what of it travels with a frame: all but the number of buffers.
pub(super) const BUFFER_HEADER_BYTES: u32 = 12;
pub(super) const HEADER_BYTES: usize = 10;
/// Where in it the number of buffers is.
pub(super) const BUFFERS_AT: u32 = 10;

const NEEDS_CHECKSUM: u8 = 1;
/// The frame is a large one for the network card to divide: of which kind, and whether it has the congestion flag.
mod gso {
    pub(super) const NONE: u8 = 0;
    pub(super) const TCPV4: u8 = 1;
    pub(super) const TCPV6: u8 = 4;
    pub(super) const UDP_L4: u8 = 5;
    pub(super) const ECN: u8 = 0x80;
}

/// What a sender may leave to others, or a receiver takes undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Offloads {
    pub(super) checksum: bool,
    pub(super) tcp4: bool,
    pub(super) tcp6: bool,
    pub(super) ecn: bool,
    pub(super) udp4: bool,
    pub(super) udp6: bool,
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Header {
    flags: u8,
    gso_type: u8,
    header_bytes: u16,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl Header {
    pub(super) const fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
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

    pub(super) const fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [a, b] = self.header_bytes.to_le_bytes();
        let [c, d] = self.gso_size.to_le_bytes();
        let [e, f] = self.checksum_start.to_le_bytes();
        let [g, h] = self.checksum_offset.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// What a receiver may see of it, where it makes sense for a frame of that length from a sender with these offloads.
    pub(super) fn checked(self, length: usize, may: Offloads) -> Option<Self> {
        let needs = self.flags & NEEDS_CHECKSUM != 0;
        let large = self.gso_type != gso::NONE;
        if !needs {
            // A large frame cannot have a checksum that is right for its pieces.
            return (!large).then_some(Self::default());
        }
        let end = usize::from(self.checksum_start) + usize::from(self.checksum_offset) + 2;
        if !may.checksum || end > length || large && (self.gso_size == 0 || !may.allows(self.gso_type)) {
            return None;
        }
        let flags = NEEDS_CHECKSUM;
        if !large {
            return Some(Self { flags, gso_type: gso::NONE, header_bytes: 0, gso_size: 0, ..self });
        }
        let header_bytes = self.header_bytes.min(u16::try_from(length).unwrap_or(u16::MAX));
        Some(Self { flags, header_bytes, ..self })
    }

    /// Whether a receiver with these offloads can take it, once its checksum is complete where that is needed.
    pub(super) const fn suits(self, takes: Offloads) -> bool {
        self.gso_type == gso::NONE || takes.checksum && takes.allows(self.gso_type)
    }

    pub(super) const fn is_large(self) -> bool {
        self.gso_type != gso::NONE
    }

    /// From where on a checksum is to be made, and where behind that it goes; `None` where there is none to be made.
    pub(super) fn checksum(self) -> Option<(usize, usize)> {
        (self.flags & NEEDS_CHECKSUM != 0)
            .then_some((usize::from(self.checksum_start), usize::from(self.checksum_offset)))
    }

    pub(super) const fn without_checksum(self) -> Self {
        Self { flags: 0, checksum_start: 0, checksum_offset: 0, ..self }
    }
}

impl Offloads {
    const fn allows(self, gso_type: u8) -> bool {
        if gso_type & gso::ECN != 0 && !self.ecn {
            return false;
        }
        match gso_type & !gso::ECN {
            gso::TCPV4 => self.tcp4,
            gso::TCPV6 => self.tcp6,
            gso::UDP_L4 => self.udp4 || self.udp6,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Offloads =
        Offloads { checksum: true, tcp4: true, tcp6: true, ecn: true, udp4: true, udp6: true };

    fn any_header() -> impl Strategy<Value = Header> {
        any::<[u8; HEADER_BYTES]>().prop_map(|bytes| Header::from_bytes(&bytes))
    }

    proptest! {
        #[test]
        fn it_is_what_its_bytes_say(bytes: [u8; HEADER_BYTES]) {
            prop_assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
        }

        #[test]
        fn what_a_receiver_sees_stays_in_the_frame(header in any_header(), length in 0_usize..70_000) {
            let Some(seen) = header.checked(length, ALL) else { return Ok(()) };
            if let Some((start, place)) = seen.checksum() {
                prop_assert!(start + place + 2 <= length);
            }
            prop_assert!(usize::from(seen.header_bytes) <= length);
            prop_assert!(!seen.is_large() || seen.gso_size != 0 && seen.checksum().is_some());
            prop_assert!(header.checked(length, Offloads::default()).is_none_or(|it| it == Header::default()));
        }
    }
}
