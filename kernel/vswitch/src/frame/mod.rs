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

/// Bytes that whoever carries a frame may put before it.
pub const HEADROOM: usize = 12;
/// Bytes at the beginning that [`Frame::start`] has: Ethernet with a tag, IPv6, and TCP up to its flags.
pub(crate) const STARTING_BYTES: usize = 72;
/// Bytes that a head can have: a tag makes it longer.
const STORED_BYTES: usize = HEAD_BYTES + TAG_BYTES;

/// A frame on its way. Its head was copied once, and is what is delivered: its sender cannot change it once it was looked at.
///
/// What is behind the head stays with the sender. Where it is there, [`Frame::rest_at`] says, as the head may have become longer or
/// shorter than what was copied.
#[derive(Clone, Debug)]
pub struct Frame {
    /// [`HEADROOM`] bytes for whoever carries it, and the head.
    bytes: [u8; HEADROOM + STORED_BYTES],
    head_bytes: u8,
    length: u32,
    rest_at: u32,
    /// What its sender has left to others.
    pub offload: Offload,
}

impl Frame {
    /// One that is to be [read](Self::begin).
    pub const fn empty() -> Self {
        let bytes = [0; HEADROOM + STORED_BYTES];
        Self { bytes, head_bytes: 0, length: 0, rest_at: 0, offload: Offload { checksum: None, large: None } }
    }

    /// A frame of `length` bytes, of which `head` are the first: all of them where there are no more than [`HEAD_BYTES`]. `None` where it has no
    /// Ethernet header or is too long.
    pub fn new(head: &[u8; HEAD_BYTES], length: u32, offload: Offload) -> Option<Self> {
        let mut frame = Self::empty();
        let (_, place) = frame.begin(length)?.split_at_mut(HEADROOM);
        place.copy_from_slice(head.get(..place.len())?);
        frame.offload = offload;
        Some(frame)
    }

    /// Makes it another frame, of `length` bytes. Returns the place for what is before it, [`HEADROOM`] bytes, and for its head, all of
    /// which must be written. `None` where it has no Ethernet header or is too long; then it is none.
    #[inline]
    pub fn begin(&mut self, length: u32) -> Option<&mut [u8]> {
        if !(ETHERNET_BYTES as u32..=MOST_BYTES).contains(&length) {
            *self = Self::empty();
            return None;
        }
        let head_bytes = HEAD_BYTES.min(length as usize);
        (self.head_bytes, self.length, self.rest_at) = (head_bytes as u8, length, head_bytes as u32);
        self.offload = Offload::default();
        self.bytes.get_mut(..HEADROOM + head_bytes)
    }

    /// What is before it.
    pub const fn headroom(&self) -> &[u8; HEADROOM] {
        match self.bytes.first_chunk() {
            Some(before) => before,
            None => &[0; HEADROOM],
        }
    }

    /// Its head behind something else.
    #[inline]
    pub fn behind(&mut self, before: [u8; HEADROOM]) -> &[u8] {
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = before;
        }
        self.bytes.get(..HEADROOM + self.head_bytes()).unwrap_or_default()
    }

    #[inline]
    fn stored(&self) -> &[u8] {
        self.bytes.get(HEADROOM..).unwrap_or_default()
    }

    #[inline]
    fn stored_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(HEADROOM..).unwrap_or_default()
    }

    /// Its first bytes.
    #[inline]
    pub fn head(&self) -> &[u8] {
        self.stored().get(..self.head_bytes()).unwrap_or_default()
    }

    /// Its first [`STARTING_BYTES`], in words; behind the head, of any value.
    #[inline]
    pub(crate) fn start(&self) -> [u64; STARTING_BYTES / 8] {
        self.stored().first_chunk().map(words).unwrap_or_default()
    }

    /// The big-endian word there, which is of any value behind the head; 0 where there is none.
    #[inline]
    pub(crate) fn word_at(&self, at: usize) -> u16 {
        word(self.stored(), at).unwrap_or(0)
    }

    pub(crate) fn head_mut(&mut self) -> &mut [u8] {
        let bytes = self.head_bytes();
        self.stored_mut().get_mut(..bytes).unwrap_or_default()
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
        extract.stored_mut().get_mut(headers..bytes)?.copy_from_slice(more);
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
        let moved = self.stored_mut().get_mut(ADDRESSES_BYTES..bytes)?;
        moved.rotate_right(TAG_BYTES);
        *moved.first_chunk_mut()? = tag;
        (self.head_bytes, self.length) = (bytes as u8, length);
        Some(())
    }

    /// Takes away as many bytes as a tag has from behind the addresses. `None` where what is left would be no frame.
    pub(crate) fn remove_tag(&mut self) -> Option<()> {
        let bytes = self.head_bytes().checked_sub(TAG_BYTES).filter(|bytes| *bytes >= ETHERNET_BYTES)?;
        let end = self.head_bytes();
        self.stored_mut().get_mut(ADDRESSES_BYTES..end)?.rotate_left(TAG_BYTES);
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

/// Bytes as words, to be compared.
#[inline]
pub(crate) fn words(bytes: &[u8; STARTING_BYTES]) -> [u64; STARTING_BYTES / 8] {
    let mut words = [0; STARTING_BYTES / 8];
    let (chunks, _) = bytes.as_chunks();
    words.iter_mut().zip(chunks).for_each(|(word, bytes)| *word = u64::from_ne_bytes(*bytes));
    words
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
