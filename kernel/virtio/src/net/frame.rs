//! The little of a frame that a network device looks at: whom it is for, and what belongs to one conversation.
//!
//! Sources: IEEE 802.3 and 802.1Q, "MAC frame format"; RFC 791, RFC 8200.

use vswitch::Mac;

const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
const VLAN: u16 = 0x8100;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A frame's first bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a>(pub(super) &'a [u8]);

impl Start<'_> {
    /// The address that it is for.
    pub(super) fn destination(self) -> Option<Mac> {
        self.0.first_chunk().copied()
    }

    fn word(self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    /// The number of the VLAN in its tag, where it has one.
    pub(super) fn vlan(self) -> Option<u16> {
        if self.word(ETHERNET_BYTES - 2)? != VLAN {
            return None;
        }
        Some(self.word(ETHERNET_BYTES)? & 0xfff)
    }

    /// A number that is the same for all frames of a conversation, both ways.
    pub(super) fn flow(self) -> u32 {
        self.try_flow().unwrap_or(0)
    }

    fn try_flow(self) -> Option<u32> {
        let tag = if self.vlan().is_some() { TAG_BYTES } else { 0 };
        let at = ETHERNET_BYTES + tag;
        let (addresses, bytes, protocol, ports) = match self.word(at - 2)? {
            IPV4 => {
                let first = *self.0.get(at)?;
                // Only the first fragment has ports.
                let fragment = self.word(at + 6)? & 0x3fff != 0;
                let ports = (!fragment).then_some(at + usize::from(first & 0xf) * 4);
                (at + 12, 8, *self.0.get(at + 9)?, ports)
            }
            IPV6 => (at + 8, 32, *self.0.get(at + 6)?, Some(at + 40)),
            _ => return None,
        };
        // Exclusive or knows no direction.
        let mut sum = 0;
        for pair in self.0.get(addresses..addresses + bytes)?.chunks_exact(2) {
            sum ^= u32::from(*pair.first()?) << 8 | u32::from(*pair.last()?);
        }
        if matches!(protocol, TCP | UDP)
            && let Some(at) = ports
            && let (Some(from), Some(to)) = (self.word(at), self.word(at + 2))
        {
            sum ^= u32::from(from) ^ u32::from(to);
        }
        // All bits count in the lowest ones.
        Some(sum.wrapping_mul(0x9e37_79b1) >> 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn ipv4(from: [u8; 4], to: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let mut frame = [[2; 6], [4; 6]].concat();
        frame.extend(IPV4.to_be_bytes());
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0]);
        frame.extend(from.iter().chain(&to));
        frame.extend(ports.0.to_be_bytes().into_iter().chain(ports.1.to_be_bytes()));
        frame
    }

    proptest! {
        #[test]
        fn a_conversation_is_one_both_ways(a: [u8; 4], b: [u8; 4], p: u16, q: u16) {
            let (there, back) = (ipv4(a, b, (p, q)), ipv4(b, a, (q, p)));
            prop_assert_eq!(Start(&there).flow(), Start(&back).flow());
        }

        #[test]
        fn any_bytes_can_be_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0_usize..4) {
            let mut bytes = bytes;
            if let (Some(place), Some(kind)) = (bytes.get_mut(12..14), [IPV4, IPV6, VLAN].get(kind)) {
                place.copy_from_slice(&kind.to_be_bytes());
            }
            let frame = Start(&bytes);
            let _ = (frame.destination(), frame.vlan(), frame.flow());
        }
    }

    #[test]
    fn conversations_spread() {
        let flows =
            (0..64).map(|port| Start(&ipv4([10, 0, 0, 1], [10, 0, 0, 2], (40_000 + port, 80))).flow() % 2);
        let odd: u32 = flows.sum();
        assert!((16..48).contains(&odd), "{odd} of 64");
    }
}
