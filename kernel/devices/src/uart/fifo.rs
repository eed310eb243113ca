//! The 16-byte ring that the receiver and the transmitter each have.

/// Bytes in a FIFO of a 16550A.
pub(super) const FIFO_SIZE: usize = 16;

#[derive(Clone, Debug)]
pub(super) struct Fifo {
    bytes: [u8; FIFO_SIZE],
    head: usize,
    len: usize,
}

impl Fifo {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; FIFO_SIZE], head: 0, len: 0 }
    }

    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `byte`; a full ring drops it (callers look first).
    pub(super) fn push(&mut self, byte: u8) {
        if self.len < FIFO_SIZE {
            self.bytes[(self.head + self.len) % FIFO_SIZE] = byte;
            self.len += 1;
        }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        (self.len > 0).then(|| self.bytes[self.head])
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.head = (self.head + 1) % FIFO_SIZE;
        self.len -= 1;
        Some(byte)
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }
}
