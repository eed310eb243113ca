//! A ring of bytes with a fixed room, allocated once.

use alloc::vec;
use alloc::vec::Vec;

use crate::heap;

/// Bytes in the order they came.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Ring {
    /// An empty ring with room for `capacity` bytes. `None` where there is no memory for it.
    pub(crate) fn new(capacity: usize) -> Option<Self> {
        Some(Self { bytes: heap::row(capacity, 0)?, start: 0, length: 0 })
    }

    /// The same of the console itself, without which there is no machine.
    pub(super) fn of_console(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity], start: 0, length: 0 }
    }

    /// Bytes in it.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Bytes that fit.
    #[inline]
    pub(crate) fn free(&self) -> usize {
        self.bytes.len() - self.length
    }

    /// Index of the byte that is `offset` bytes behind the first; `offset` is at most the capacity.
    #[inline]
    fn index(&self, offset: usize) -> usize {
        let index = self.start + offset;
        if index >= self.bytes.len() { index - self.bytes.len() } else { index }
    }

    /// Appends a byte; false where there is no room.
    #[inline(never)]
    pub(crate) fn push(&mut self, byte: u8) -> bool {
        let index = self.index(self.length);
        if self.free() == 0 {
            return false;
        }
        if let Some(slot) = self.bytes.get_mut(index) {
            *slot = byte;
            self.length += 1;
        }
        true
    }

    /// Appends a byte and forgets the oldest where there is no room.
    #[inline(never)]
    pub(crate) fn push_over(&mut self, byte: u8) {
        if self.free() == 0 {
            self.pop();
        }
        self.push(byte);
    }

    /// The oldest byte.
    #[inline]
    pub(crate) fn first(&self) -> Option<u8> {
        self.get(0)
    }

    /// The byte `offset` bytes behind the oldest.
    #[inline(never)]
    pub(crate) fn get(&self, offset: usize) -> Option<u8> {
        if offset < self.length { self.bytes.get(self.index(offset)).copied() } else { None }
    }

    /// The oldest bytes that lie in one piece.
    pub(crate) fn front(&self) -> &[u8] {
        let end = (self.start + self.length).min(self.bytes.len());
        self.bytes.get(self.start..end).unwrap_or_default()
    }

    /// Drops the `count` oldest bytes, or all where there are fewer.
    pub(crate) fn discard(&mut self, count: usize) {
        let count = count.min(self.length);
        self.start = self.index(count);
        self.length -= count;
    }

    /// Takes the oldest byte.
    #[inline(never)]
    pub(crate) fn pop(&mut self) -> Option<u8> {
        let byte = self.first()?;
        self.start = self.index(1);
        self.length -= 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn pieces_from_the_front_are_the_bytes_in_their_order() {
        let (mut ring, mut model) = (Ring::new(7).expect("memory"), VecDeque::new());
        for round in 0..50_u8 {
            for byte in 0..round % 9 {
                let fits = model.len() < 7;
                assert_eq!(ring.push(round ^ byte), fits);
                if fits {
                    model.push_back(round ^ byte);
                }
            }
            let front = ring.front().to_vec();
            assert_eq!(front.is_empty(), model.is_empty());
            assert!(front.iter().eq(model.iter().take(front.len())));
            let count = usize::from(round % 4);
            ring.discard(count);
            model.drain(..count.min(model.len()));
            assert_eq!((ring.len(), ring.first()), (model.len(), model.front().copied()));
        }
    }
}
