//! A frame on its way: its first bytes, which are looked at, and how long it is.

mod internet;
mod layers;
#[cfg(test)]
pub(crate) mod tests;

pub use internet::{Address, Flags, Fragment, Internet, Transport, protocol, v4};
pub use layers::{Arp, Layers, Network, ether_type};

use crate::offload::Offload;

/// Bytes of a frame that a switch looks at: Ethernet with a tag, the longest IPv4 and TCP headers, or IPv6 with some extensions.
pub const HEAD_BYTES: usize = 160;
/// Bytes of an Ethernet header, and of a VLAN's tag behind the two addresses.
pub const ETHERNET_BYTES: usize = 14;
pub(crate) const ADDRESSES_BYTES: usize = 12;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 4;
/// Bytes of a frame at most: what the largest IP packet needs, with two tags.
pub const MOST_BYTES: u32 = 65_535 + ETHERNET_BYTES as u32 + 2 * TAG_BYTES as u32;

/// A frame on its way. Its head was copied once, and is what is delivered: nobody changes it once it was looked at.
#[derive(Clone, Debug)]
pub struct Frame {
    head: [u8; HEAD_BYTES],
    length: u32,
    /// What its sender has left to others.
    pub offload: Offload,
}

impl Frame {
    /// A frame of `length` bytes, of which `head` are the first: all of them where there are no more than [`HEAD_BYTES`]. `None` where it has no
    /// Ethernet header or is too long.
    pub fn new(head: [u8; HEAD_BYTES], length: u32, offload: Offload) -> Option<Self> {
        (ETHERNET_BYTES as u32..=MOST_BYTES).contains(&length).then_some(Self { head, length, offload })
    }

    /// Its first bytes.
    pub fn head(&self) -> &[u8] {
        self.head.get(..self.head_bytes()).unwrap_or(&self.head)
    }

    /// How many these are.
    pub fn head_bytes(&self) -> usize {
        HEAD_BYTES.min(self.length as usize)
    }

    /// Its length in bytes.
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// Its headers.
    pub fn layers(&self) -> Layers {
        Layers::read(self.head(), self.length)
    }
}

/// The big-endian word there.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// `N` bytes there.
pub(crate) fn bytes<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
