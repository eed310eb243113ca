//! A piece of a load: of everything that loading a kernel writes, in its order, only the bytes in a window.
//!
//! Loading is a pure function of the request, so it can be done anew for each piece: the headers are read again, which takes
//! far less than the copying. Nothing has to be remembered in between but how far one has come.

use core::ops::Range;

use vcpu::Gpa;

use crate::memory::{GuestMemory, OutOfRange};

/// Guest memory of which only a window of what is written is written.
pub(crate) struct Window<'a, M: ?Sized> {
    memory: &'a mut M,
    /// The window, in bytes from the first one that is written.
    window: Range<u64>,
    /// Bytes that would have been written so far.
    position: u64,
}

impl<'a, M: GuestMemory + ?Sized> Window<'a, M> {
    pub(crate) fn new(memory: &'a mut M, window: Range<u64>) -> Self {
        Self { memory, window, position: 0 }
    }

    /// Bytes in all.
    pub(crate) const fn total(&self) -> u64 {
        self.position
    }

    /// What of the next `length` bytes is in the window, from their start.
    fn next(&mut self, length: u64) -> Option<Range<u64>> {
        let start = self.position;
        self.position = start.saturating_add(length);
        let from = self.window.start.max(start);
        let to = self.window.end.min(self.position);
        (from < to).then(|| from - start..to - start)
    }
}

impl<M: GuestMemory + ?Sized> GuestMemory for Window<'_, M> {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), OutOfRange> {
        let Some(part) = self.next(bytes.len() as u64) else { return Ok(()) };
        let bytes = bytes.get(part.start as usize..part.end as usize).unwrap_or_default();
        self.memory.write(Gpa(gpa.0.wrapping_add(part.start)), bytes)
    }

    fn zero(&mut self, gpa: Gpa, length: u64) -> Result<(), OutOfRange> {
        let Some(part) = self.next(length) else { return Ok(()) };
        self.memory.zero(Gpa(gpa.0.wrapping_add(part.start)), part.end - part.start)
    }
}
