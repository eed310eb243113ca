//! A frame on its way: its first bytes, which are looked at, and how long it is.

mod internet;
mod layers;
#[cfg(test)]
pub(crate) mod tests;

pub use internet::{Address, Flags, Fragment, Internet, Transport, protocol, v4};
pub use layers::{Arp, Layers, Network, ether_type};

use core::ops::Range;

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

/// Bytes that a head can have: a tag makes it longer.
pub const STORED_BYTES: usize = HEAD_BYTES + TAG_BYTES;

/// A frame on its way. Its head was copied once, and is what is delivered: its sender cannot change it once it was looked at.
///
/// What is behind the head stays with the sender. Where it is there, [`Frame::rest_at`] says, as the head may have become longer or
/// shorter than what was copied.
#[derive(Clone, Debug)]
pub struct Frame {
    head: [u8; STORED_BYTES],
    head_bytes: u8,
    length: u32,
    rest_at: u32,
    /// What its sender has left to others.
    pub offload: Offload,
}

impl Frame {
    /// A frame of `length` bytes, of which `head` are the first: all of them where there are no more than [`HEAD_BYTES`]. `None` where it has no
    /// Ethernet header or is too long.
    #[inline]
    pub fn new(head: &[u8; HEAD_BYTES], length: u32, offload: Offload) -> Option<Self> {
        if !(ETHERNET_BYTES as u32..=MOST_BYTES).contains(&length) {
            return None;
        }
        let mut stored = [0; STORED_BYTES];
        *stored.first_chunk_mut()? = *head;
        let head_bytes = HEAD_BYTES.min(length as usize) as u8;
        Some(Self { head: stored, head_bytes, length, rest_at: head_bytes.into(), offload })
    }

    /// Its first bytes.
    pub fn head(&self) -> &[u8] {
        self.head.get(..self.head_bytes()).unwrap_or(&self.head)
    }

    pub(crate) fn head_mut(&mut self) -> &mut [u8] {
        self.head.get_mut(..self.head_bytes.into()).unwrap_or_default()
    }

    /// How many these are.
    pub fn head_bytes(&self) -> usize {
        self.head_bytes.into()
    }

    /// Its length in bytes.
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// Where its sender has what is behind the head, in bytes from the first byte that the sender has.
    pub const fn rest_at(&self) -> u32 {
        self.rest_at
    }

    /// Bytes that are behind the head.
    pub const fn rest_bytes(&self) -> u32 {
        self.length.saturating_sub(self.head_bytes as u32)
    }

    /// Some of its bytes, as far as it has them: those in the head, and where its sender has those behind it.
    pub fn split(&self, bytes: Range<u32>) -> (&[u8], Range<u32>) {
        let end = bytes.end.min(self.length);
        let start = bytes.start.min(end);
        let head = self.head();
        let in_head = head.get(head.len().min(start as usize)..head.len().min(end as usize));
        let at = |place: u32| self.rest_at + place.saturating_sub(self.head_bytes.into());
        (in_head.unwrap_or_default(), at(start)..at(end))
    }

    /// A frame of this one's first `headers` bytes, which must be in its head, and then of `body`, which is behind them.
    /// Nothing is left to do for it.
    pub(crate) fn extract(&self, headers: usize, body: Range<u32>) -> Option<Self> {
        let (more, rest) = self.split(body);
        let bytes = headers + more.len();
        let mut extract = self.clone();
        extract.head.get_mut(headers..bytes)?.copy_from_slice(more);
        let length = bytes as u32 + rest.len() as u32;
        if !(ETHERNET_BYTES..=self.head_bytes()).contains(&headers) {
            return None;
        }
        (extract.head_bytes, extract.length, extract.rest_at) = (bytes as u8, length, rest.start);
        extract.offload = Offload::default();
        Some(extract)
    }

    /// Puts a tag before what is behind the addresses. `None` where there is no room for it.
    pub(crate) fn insert_tag(&mut self, tag: [u8; TAG_BYTES]) -> Option<()> {
        let bytes = self.head_bytes() + TAG_BYTES;
        let length = self.length + TAG_BYTES as u32;
        if length > MOST_BYTES {
            return None;
        }
        let moved = self.head.get_mut(ADDRESSES_BYTES..bytes)?;
        moved.rotate_right(TAG_BYTES);
        *moved.first_chunk_mut()? = tag;
        (self.head_bytes, self.length) = (bytes as u8, length);
        Some(())
    }

    /// Takes away as many bytes as a tag has from behind the addresses. `None` where what is left would be no frame.
    pub(crate) fn remove_tag(&mut self) -> Option<()> {
        let bytes = self.head_bytes().checked_sub(TAG_BYTES).filter(|bytes| *bytes >= ETHERNET_BYTES)?;
        self.head.get_mut(ADDRESSES_BYTES..self.head_bytes.into())?.rotate_left(TAG_BYTES);
        (self.head_bytes, self.length) = (bytes as u8, self.length - TAG_BYTES as u32);
        Some(())
    }

    /// The first bytes of it, at most so many and at least an Ethernet header. Nothing is left to do for what is cut off.
    #[must_use]
    pub fn cut(mut self, most: u16) -> Self {
        let most = u32::from(most).max(ETHERNET_BYTES as u32);
        if most < self.length {
            self.length = most;
            self.head_bytes = self.head_bytes.min(most.min(u8::MAX.into()) as u8);
            self.offload = Offload::default();
        }
        self
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

/// Puts `N` bytes there.
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value;
    Some(())
}
