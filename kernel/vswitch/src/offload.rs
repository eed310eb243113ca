//! What a sender may leave to others: a checksum, and dividing a large packet.
//!
//! Source: VIRTIO 1.2, "Packet Transmission" and "Processing of Incoming Packets" of the network device.

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
