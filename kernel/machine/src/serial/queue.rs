//! A byte queue of fixed capacity.

/// First in, first out; at most `N` bytes.
#[derive(Debug)]
pub(super) struct Queue<const N: usize> {
    bytes: [u8; N],
    first: usize,
    length: usize,
}

impl<const N: usize> Queue<N> {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; N], first: 0, length: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends a byte. False where the queue is full.
    pub(super) const fn push(&mut self, byte: u8) -> bool {
        if self.length == N {
            return false;
        }
        self.bytes[(self.first + self.length) % N] = byte;
        self.length += 1;
        true
    }

    /// Takes the oldest byte.
    pub(super) const fn pop(&mut self) -> Option<u8> {
        if self.length == 0 {
            return None;
        }
        let byte = self.bytes[self.first];
        self.discard(1);
        Some(byte)
    }

    /// The oldest bytes that lie in one piece.
    pub(super) fn front(&self) -> &[u8] {
        let end = (self.first + self.length).min(N);
        &self.bytes[self.first..end]
    }

    /// Drops the `count` oldest bytes, or all where there are fewer.
    pub(super) const fn discard(&mut self, count: usize) {
        let count = if count < self.length { count } else { self.length };
        self.first = (self.first + count) % N;
        self.length -= count;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_bounded_deque(steps in proptest::collection::vec(any::<(u8, u8)>(), 0..200)) {
            let mut queue = Queue::<7>::new();
            let mut model = VecDeque::new();
            for (choice, byte) in steps {
                match choice % 3 {
                    0 => {
                        let room = model.len() < 7;
                        prop_assert_eq!(queue.push(byte), room);
                        if room { model.push_back(byte); }
                    }
                    1 => prop_assert_eq!(queue.pop(), model.pop_front()),
                    _ => {
                        let front = queue.front().to_vec();
                        prop_assert_eq!(front.is_empty(), model.is_empty());
                        prop_assert!(front.iter().eq(model.iter().take(front.len())));
                        queue.discard(front.len());
                        model.drain(..front.len());
                    }
                }
                prop_assert_eq!(queue.is_empty(), model.is_empty());
            }
        }
    }
}
