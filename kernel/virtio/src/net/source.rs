//! Where the bytes of a frame come from that are to be received: its sender's buffers, or the queue of its receiver's port.

use vcpu::{CopyError, Gpa, GuestMemory};
use vswitch::output::{Front, Output};

use super::header::BUFFER_HEADER_BYTES;
use crate::memory::behind;
use crate::queue::{Broken, Chain, Cursor};

/// Whose fault it is that a frame does not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The sender's buffers are no RAM.
    Sender(Broken),
    /// The receiver's are not, or make no sense.
    Receiver(Broken),
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        Self::Receiver(broken)
    }
}

impl From<CopyError> for Fault {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Source(error) => Self::Sender(error.into()),
            CopyError::Target(error) => Self::Receiver(error.into()),
        }
    }
}

/// The bytes of a frame, from a place on that moves.
pub(crate) trait Source<M> {
    /// Goes to the byte `at`.
    fn seek(&mut self, at: u32);

    /// Copies the next bytes to a receiver's memory.
    fn copy(&mut self, length: u32, memory: &M, to: Gpa) -> Result<(), Fault>;

    /// Copies bytes from `at` on.
    #[inline]
    fn copy_at(&mut self, at: u32, length: u32, memory: &M, to: Gpa) -> Result<(), Fault> {
        self.seek(at);
        self.copy(length, memory, to)
    }
}

/// A frame in its sender's buffers, behind the header.
pub(crate) struct Sender<'a, M> {
    chain: &'a Chain,
    memory: &'a M,
    cursor: Cursor,
}

impl<'a, M: GuestMemory> Sender<'a, M> {
    pub(crate) fn new(chain: &'a Chain, memory: &'a M) -> Self {
        Self { chain, memory, cursor: chain.readable() }
    }

    /// Copies the next bytes out.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> Result<(), Broken> {
        self.cursor.read(self.chain, self.memory, bytes)
    }
}

impl<M: GuestMemory> Source<M> for Sender<'_, M> {
    fn seek(&mut self, at: u32) {
        self.cursor = self.chain.readable();
        self.cursor.skip(self.chain, BUFFER_HEADER_BYTES + at);
    }

    fn copy(&mut self, length: u32, memory: &M, to: Gpa) -> Result<(), Fault> {
        let mut done = 0;
        while done < length {
            let part = self.cursor.next(self.chain, length - done).ok_or(Fault::Sender(Broken::Request))?;
            memory.copy_from(behind(to, done.into()), self.memory, part.gpa, part.length)?;
            done += part.length;
        }
        Ok(())
    }

    #[inline]
    fn copy_at(&mut self, at: u32, length: u32, memory: &M, to: Gpa) -> Result<(), Fault> {
        let begin = u64::from(BUFFER_HEADER_BYTES) + u64::from(at);
        // Most drivers have a frame in one piece.
        if let Some(all) = self.chain.first_readable()
            && begin + u64::from(length) <= all.length.into()
        {
            return Ok(memory.copy_from(to, self.memory, behind(all.gpa, begin), length)?);
        }
        self.seek(at);
        self.copy(length, memory, to)
    }
}

/// A frame in the queue of a port.
pub(crate) struct Queued<'a> {
    output: &'a Output,
    front: Front,
    at: u32,
}

impl<'a> Queued<'a> {
    pub(crate) const fn new(output: &'a Output, front: Front) -> Self {
        Self { output, front, at: 0 }
    }

    /// Copies the bytes from `at` on out.
    pub(crate) fn bytes_at(&self, at: u32, bytes: &mut [u8]) -> Result<(), Broken> {
        let mut done = 0;
        self.output.read(&self.front, at, bytes.len() as u32, |part| {
            let places = bytes.get_mut(done..done + part.len()).unwrap_or_default();
            places.copy_from_slice(part.get(..places.len()).unwrap_or_default());
            done += part.len();
            Ok(())
        })
    }
}

impl<M: GuestMemory> Source<M> for Queued<'_> {
    fn seek(&mut self, at: u32) {
        self.at = at;
    }

    fn copy(&mut self, length: u32, memory: &M, to: Gpa) -> Result<(), Fault> {
        let mut done = 0_u64;
        self.output.read(&self.front, self.at, length, |part| {
            memory.write(behind(to, done), part)?;
            done += part.len() as u64;
            Ok::<(), Broken>(())
        })?;
        self.at += length;
        Ok(())
    }
}
