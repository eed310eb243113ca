//! What a sender may leave to others: a checksum, and dividing a large packet.
//!
//! Source: VIRTIO 1.2, "Packet Transmission" and "Processing of Incoming Packets" of the network device.

use crate::frame::{Layers, Network};

/// A checksum that is to be made: the Internet checksum of all bytes from `start` on, where the place `offset` bytes behind `start` holds
/// the sum of the pseudo header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksum {
    /// Where the transport's header begins, in bytes from the frame's first.
    pub start: u16,
    /// Where the checksum is in that header.
    pub offset: u16,
}

/// Which packets a large one stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LargeKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP, over either.
    Udp,
}

/// A packet that stands for several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Large {
    /// Of what.
    pub kind: LargeKind,
    /// The sender has reduced its congestion window: the TCP flag CWR is for the first segment alone.
    pub ecn: bool,
    /// Payload bytes of each, never 0.
    pub size: u16,
    /// Bytes of headers, as the sender says; it may be wrong.
    pub header_bytes: u16,
}

/// What is left to do for a frame. A large one always has a checksum to be made, too.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Offload {
    /// The checksum, where it is not there yet.
    pub checksum: Option<Checksum>,
    /// The packet is a large one.
    pub large: Option<Large>,
}

impl Offload {
    /// Whether nothing that a switch looks at becomes something else when the checksum is made: it belongs into the transport's header, where that
    /// has it, or behind all that is known of the frame, as that of a packet within the packet does.
    pub(crate) fn spares(&self, layers: &Layers) -> bool {
        let Some(Checksum { start, offset }) = self.checksum else { return true };
        match &layers.network {
            Network::Internet(packet) => match packet.checksum() {
                Some((own, _)) if start == packet.transport_at => offset == own,
                Some((_, seen)) => start >= packet.transport_at.saturating_add(seen),
                None => start >= packet.transport_at,
            },
            Network::Other => start >= layers.at,
            Network::Arp(_) | Network::Malformed => false,
        }
    }
}

/// What a receiver takes undone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Takes {
    /// Frames without a checksum.
    pub checksum: bool,
    /// Large ones, by kind.
    pub tcp4: bool,
    /// TCP over IPv6.
    pub tcp6: bool,
    /// TCP with the congestion flag.
    pub ecn: bool,
    /// UDP over IPv4.
    pub udp4: bool,
    /// UDP over IPv6.
    pub udp6: bool,
}

impl Takes {
    /// Whether a receiver takes such a large frame undivided.
    pub const fn large(self, large: Large) -> bool {
        if !self.checksum || large.ecn && !self.ecn {
            return false;
        }
        match large.kind {
            LargeKind::Tcp4 => self.tcp4,
            LargeKind::Tcp6 => self.tcp6,
            LargeKind::Udp => self.udp4 && self.udp6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::{ethernet, frame, ipv4, ipv6, tcp, udp};
    use crate::frame::{ether_type, protocol};
    use std::vec::Vec;

    fn spares(bytes: &[u8], start: u16, offset: u16) -> bool {
        let undone = Offload { checksum: Some(Checksum { start, offset }), large: None };
        undone.spares(&frame(bytes).layers())
    }

    fn of(kind: u16, packet: &[u8]) -> Vec<u8> {
        ethernet([2; 6], [4; 6], &[], kind, &[packet, &[0; 60]].concat())
    }

    #[test]
    fn a_checksum_belongs_where_the_transport_has_it() {
        let v4 = |number, rest: &[u8]| of(ether_type::IPV4, &ipv4([1; 4], [2; 4], number, (0, 0), rest));
        let v6 = |number, rest: &[u8]| of(ether_type::IPV6, &ipv6([1; 16], [2; 16], number, rest));
        let icmp = [136, 0, 0, 0, 0, 0, 0, 0];
        for (bytes, own, at) in [
            (v4(protocol::TCP, &tcp(1, 2, 0)), 34, 16),
            (v4(protocol::UDP, &udp(1, 2)), 34, 6),
            (v6(protocol::TCP, &tcp(1, 2, 0)), 54, 16),
            (v6(protocol::ICMPV6, &icmp), 54, 2),
        ] {
            assert!((0..60).all(|offset| spares(&bytes, own, offset) == (offset == at)), "{bytes:x?}");
            assert!((0..own).all(|start| !spares(&bytes, start, own + at - start)), "not from before on");
        }
        let within = v4(protocol::UDP, &udp(1, 4789));
        assert!(!spares(&within, 41, 0) && spares(&within, 42, 0), "a packet in a datagram has its own");
        assert!(!spares(&v6(protocol::ICMPV6, &icmp), 70, 0), "all of a message is looked at");
        assert!(spares(&v4(47, &[0; 8]), 34, 9) && !spares(&v4(47, &[0; 8]), 33, 9));
    }

    #[test]
    fn what_is_no_packet_has_none_in_its_headers() {
        let other = of(0x88b5, &[]);
        assert!(spares(&other, 14, 0) && !spares(&other, 13, 1));
        let tagged = ethernet([2; 6], [4; 6], &[0, 7], 0x88b5, &[0; 40]);
        assert!(spares(&tagged, 22, 0) && !spares(&tagged, 21, 1), "its tags are looked at");
        assert!(!spares(&of(ether_type::ARP, &[0, 1, 8, 0, 6, 4, 0, 2]), 42, 0));
        assert!(!spares(&of(ether_type::IPV4, &[0; 20]), 34, 6), "it could become a packet");
        assert!(Offload::default().spares(&frame(&of(ether_type::ARP, &[])).layers()));
    }
}
