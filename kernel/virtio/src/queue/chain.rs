//! A request's buffers.
//!
//! Source: VIRTIO 1.2, "The Virtqueue Descriptor Table", "Indirect Descriptors".

use arrayvec::ArrayVec;
use vcpu::{Gpa, GuestMemory, PAGE_SIZE};

use super::{Broken, DESCRIPTOR_BYTES, Layout, MAX_SIZE};
use crate::STEP_BYTES;
use crate::memory::behind;

/// Buffers of a request at most: a chain is no longer than its queue.
pub const MAX_SEGMENTS: usize = MAX_SIZE as usize;

/// Descriptor flags.
mod flag {
    pub(super) const NEXT: u16 = 1 << 0;
    pub(super) const WRITE: u16 = 1 << 1;
    pub(super) const INDIRECT: u16 = 1 << 2;
}

/// A buffer in guest memory. Whether there is memory shows with its use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// First byte.
    pub gpa: Gpa,
    /// Bytes.
    pub length: u32,
}

/// A descriptor, as read.
struct Descriptor {
    gpa: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    #[inline]
    fn read<M: GuestMemory>(memory: &M, table: Gpa, index: u16) -> Result<Self, Broken> {
        let at = behind(table, DESCRIPTOR_BYTES * u64::from(index));
        let [low, high] = if at.0.is_multiple_of(DESCRIPTOR_BYTES) {
            memory.load_pair(at)?.map(u64::from_le)
        } else {
            // A table of its own may lie anywhere.
            let mut bytes = [[0; 8]; 2];
            memory.read(at, bytes.as_flattened_mut())?;
            bytes.map(u64::from_le_bytes)
        };
        Ok(Self::new([low, high]))
    }

    #[inline]
    const fn new([low, high]: [u64; 2]) -> Self {
        Self { gpa: low, length: high as u32, flags: (high >> 32) as u16, next: (high >> 48) as u16 }
    }
}

/// A request: buffers that the device reads, then buffers that it writes.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    head: u16,
    segments: ArrayVec<Segment, MAX_SEGMENTS>,
    /// How many of them are to be read, and bytes of these and of the others.
    readable: usize,
    bytes: [u64; 2],
}

impl Chain {
    /// Reads the chain that begins with descriptor `head`.
    #[inline(always)]
    pub(super) fn read<M: GuestMemory>(
        &mut self,
        memory: &M,
        layout: &Layout,
        indirect: bool,
        head: u16,
    ) -> Result<(), Broken> {
        self.segments.clear();
        self.head = head;
        if head >= layout.size {
            return Err(Broken::Descriptor);
        }
        // The queue's table is aligned.
        let at = behind(layout.descriptors, DESCRIPTOR_BYTES * u64::from(head));
        let found = Descriptor::new(memory.load_pair(at)?.map(u64::from_le));
        if found.flags & (flag::INDIRECT | flag::NEXT) == 0 {
            self.be_one(&found);
            return Ok(());
        }
        self.read_several(memory, layout, indirect)
    }

    /// Reads the chain that begins with descriptor `head`, whatever there is now.
    #[inline(never)]
    fn read_several<M: GuestMemory>(
        &mut self,
        memory: &M,
        layout: &Layout,
        indirect: bool,
    ) -> Result<(), Broken> {
        (self.readable, self.bytes) = (0, [0; 2]);
        let (mut table, mut size) = (layout.descriptors, layout.size);
        let (mut index, mut nested) = (self.head, false);
        loop {
            if index >= size {
                return Err(Broken::Descriptor);
            }
            let found = Descriptor::read(memory, table, index)?;
            if found.flags & flag::INDIRECT != 0 {
                // Whether it is to be written says nothing of a table.
                if !indirect || nested || found.flags & flag::NEXT != 0 {
                    return Err(Broken::Indirect);
                }
                let entries = u64::from(found.length) / DESCRIPTOR_BYTES;
                if !u64::from(found.length).is_multiple_of(DESCRIPTOR_BYTES) || entries == 0 {
                    return Err(Broken::Indirect);
                }
                // A longer table may be there, but not a longer chain.
                size = u16::try_from(entries).unwrap_or(u16::MAX);
                (table, index, nested) = (Gpa(found.gpa), 0, true);
                continue;
            }
            self.add(&found, layout.size)?;
            if found.flags & flag::NEXT == 0 {
                return Ok(());
            }
            index = found.next;
        }
    }

    /// One buffer, as most requests of network devices are.
    #[inline(always)]
    fn be_one(&mut self, found: &Descriptor) {
        let writable = found.flags & flag::WRITE != 0;
        // There is room: there is none yet.
        let _ = self.segments.try_push(Segment { gpa: Gpa(found.gpa), length: found.length });
        self.readable = usize::from(!writable);
        let length = u64::from(found.length);
        self.bytes = if writable { [0, length] } else { [length, 0] };
    }

    /// The buffer to be written, where the request is that one.
    #[inline]
    pub(crate) fn one_writable(&self) -> Option<Segment> {
        match self.segments[..] {
            [segment] if self.readable == 0 => Some(segment),
            _ => None,
        }
    }

    /// Copies the first bytes to be read out of guest memory.
    ///
    /// # Errors
    /// As [`Cursor::read`].
    #[inline]
    pub(crate) fn read_start<M: GuestMemory>(&self, memory: &M, buffer: &mut [u8]) -> Result<(), Broken> {
        match self.first_readable() {
            Some(first) if first.length as usize >= buffer.len() => Ok(memory.read(first.gpa, buffer)?),
            _ => self.readable().read(self, memory, buffer),
        }
    }

    /// The first buffer to be read.
    #[inline]
    pub(crate) fn first_readable(&self) -> Option<Segment> {
        self.segments.first().filter(|_| self.readable != 0).copied()
    }

    fn add(&mut self, found: &Descriptor, most: u16) -> Result<(), Broken> {
        let writable = found.flags & flag::WRITE != 0;
        if self.segments.len() >= usize::from(most) {
            return Err(Broken::Length);
        }
        if !writable && self.readable != self.segments.len() {
            return Err(Broken::Order);
        }
        let [readable, written] = &mut self.bytes;
        let bytes = if writable { written } else { readable };
        *bytes += u64::from(found.length);
        if *bytes > u64::from(u32::MAX) {
            return Err(Broken::Length);
        }
        self.segments
            .try_push(Segment { gpa: Gpa(found.gpa), length: found.length })
            .map_err(|_| Broken::Length)?;
        self.readable += usize::from(!writable);
        Ok(())
    }

    /// The first descriptor, by which the request is given back.
    pub const fn head(&self) -> u16 {
        self.head
    }

    /// How many buffers it has.
    pub fn buffers(&self) -> usize {
        self.segments.len()
    }

    /// Bytes to be read.
    pub const fn readable_bytes(&self) -> u32 {
        self.bytes[0] as u32
    }

    /// Bytes that can be written.
    pub const fn writable_bytes(&self) -> u32 {
        self.bytes[1] as u32
    }

    /// All of it, from its first byte on.
    pub(crate) fn whole(&self) -> Cursor {
        Cursor { segment: 0, end: self.segments.len(), offset: 0 }
    }

    /// Has memory for the buffers from a place on, about `most` bytes of them at a time. True when it is there for all of them, or where there
    /// is no RAM, which their use will show; false where more is to be done or the machine has none.
    pub(crate) fn provide<M: GuestMemory>(&self, from: &mut Cursor, memory: &M, most: u32) -> bool {
        let mut left = most;
        loop {
            let before = *from;
            let Some(part) = from.next(self, left) else { return true };
            if memory.provide(part.gpa, part.length.into()).is_err() {
                *from = before;
                return false;
            }
            // Memory comes by pages.
            match left.checked_sub(part.length.max(PAGE_SIZE as u32)) {
                None | Some(0) => return false,
                Some(rest) => left = rest,
            }
        }
    }

    /// Whether there is memory for so many bytes, at most about 64 KiB, that are to be written to its buffers; it is had where there was none. True
    /// also where there is no RAM, which their use will show.
    #[inline]
    pub(crate) fn has_memory<M: GuestMemory>(&self, memory: &M, mut bytes: u32) -> bool {
        if memory.taken_back() == 0 {
            return true;
        }
        let mut from = self.writable();
        while bytes != 0
            && let Some(part) = from.next(self, bytes.min(STEP_BYTES))
        {
            if memory.provide(part.gpa, part.length.into()).is_err() {
                return false;
            }
            bytes -= part.length;
        }
        true
    }

    /// What is to be read, from its first byte on.
    pub fn readable(&self) -> Cursor {
        Cursor { segment: 0, end: self.readable, offset: 0 }
    }

    /// What can be written, from its first byte on.
    pub fn writable(&self) -> Cursor {
        Cursor { segment: self.readable, end: self.segments.len(), offset: 0 }
    }
}

/// A place in the readable or the writable part of a chain. Drivers lay out requests as they like, so nothing is said by where
/// a buffer ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    segment: usize,
    end: usize,
    offset: u32,
}

impl Cursor {
    /// The next bytes that lie together, at most `most` of them, and goes on behind them. `None` at the end.
    pub fn next(&mut self, chain: &Chain, most: u32) -> Option<Segment> {
        while self.segment < self.end {
            let segment = chain.segments.get(self.segment)?;
            let left = segment.length.saturating_sub(self.offset);
            if left == 0 {
                self.segment += 1;
                self.offset = 0;
                continue;
            }
            let length = left.min(most);
            let found = Segment { gpa: behind(segment.gpa, self.offset.into()), length };
            self.offset += length;
            return (length != 0).then_some(found);
        }
        None
    }

    /// Where the next two bytes are, and goes on behind them.
    ///
    /// # Errors
    /// [`Broken::Request`] where there are none.
    pub(crate) fn two_bytes(&mut self, chain: &Chain) -> Result<[Gpa; 2], Broken> {
        let mut one = || self.next(chain, 1).map(|part| part.gpa).ok_or(Broken::Request);
        Ok([one()?, one()?])
    }

    /// Goes on behind the next `bytes` bytes, or to the end.
    pub fn skip(&mut self, chain: &Chain, mut bytes: u32) {
        while bytes != 0
            && let Some(passed) = self.next(chain, bytes)
        {
            bytes -= passed.length;
        }
    }

    /// Copies the next bytes out of guest memory.
    ///
    /// # Errors
    /// [`Broken::Request`] where there are fewer, [`Broken::NotRam`].
    pub fn read<M: GuestMemory>(
        &mut self,
        chain: &Chain,
        memory: &M,
        buffer: &mut [u8],
    ) -> Result<(), Broken> {
        let mut done = 0;
        while done < buffer.len() {
            let part = self.next(chain, (buffer.len() - done) as u32).ok_or(Broken::Request)?;
            let end = done + part.length as usize;
            memory.read(part.gpa, buffer.get_mut(done..end).ok_or(Broken::Request)?)?;
            done = end;
        }
        Ok(())
    }

    /// Copies bytes into guest memory.
    ///
    /// # Errors
    /// [`Broken::Request`] where there is less room, [`Broken::NotRam`].
    pub fn write<M: GuestMemory>(&mut self, chain: &Chain, memory: &M, bytes: &[u8]) -> Result<(), Broken> {
        let mut done = 0;
        while done < bytes.len() {
            let part = self.next(chain, (bytes.len() - done) as u32).ok_or(Broken::Request)?;
            let end = done + part.length as usize;
            memory.write(part.gpa, bytes.get(done..end).ok_or(Broken::Request)?)?;
            done = end;
        }
        Ok(())
    }
}
