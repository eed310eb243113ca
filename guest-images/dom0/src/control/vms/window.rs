//! Bytes on their way from this process into a VM: they lie in a piece of memory whose physical address the kernel is told, and which it copies from.
//! No part of a VM is ever mapped here.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;

use abi::Request;
use loader::OutOfRange;
use memmap2::{MmapMut, MmapOptions};
use vcpu::Gpa;

use crate::channel::Asks;

/// A large page: it is in one piece, and stays where it is.
const BYTES: usize = 2 << 20;
/// What it takes to find it, as a power of two.
const LOG2: u8 = 21;
const PAGE: usize = 4096;
/// How many of them the kernel is to keep.
const POOL: &str = "/proc/sys/vm/nr_hugepages";
/// What pages are where: an entry of eight bytes for each (Linux, "pagemap").
const PAGEMAP: &str = "/proc/self/pagemap";
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;
/// What is shorter goes with the message.
const INLINE: usize = 1024;

/// The piece of memory.
pub(super) struct Window {
    bytes: MmapMut,
    physical: u64,
}

impl Window {
    /// Takes a large page, of which there has to be one.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn new() -> Result<Self> {
        fs::write(POOL, "1")?;
        let mut bytes = MmapOptions::new().len(BYTES).huge(Some(LOG2)).map_anon().map_err(|error| {
            Error::other(format!("dom0 has no large page free for copies ({error}); give it more memory"))
        })?;
        // It is there once it was written to.
        bytes.fill(0);
        let mut entry = [0; 8];
        let page = bytes.as_ptr().addr() / PAGE;
        File::open(PAGEMAP)?.read_exact_at(&mut entry, page as u64 * 8)?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 || entry & FRAME == 0 {
            return Err(Error::other("Linux does not tell where memory is: basaltd has to run as root"));
        }
        Ok(Self { bytes, physical: (entry & FRAME) * PAGE as u64 })
    }

    /// Gives all of these bytes to the kernel, as many at a time as have room. `to` says what is to become of them: how many were given before, where
    /// they are, and how many.
    fn give(
        &mut self,
        channel: &mut impl Asks,
        bytes: &[u8],
        to: impl Fn(u64, u64, u64) -> Request<'static>,
    ) -> Result<()> {
        let mut before = 0;
        for piece in bytes.chunks(BYTES) {
            self.bytes.get_mut(..piece.len()).ok_or(ErrorKind::InvalidInput)?.copy_from_slice(piece);
            channel.order(&to(before, self.physical, piece.len() as u64))?;
            before += piece.len() as u64;
        }
        Ok(())
    }

    /// Puts bytes on a VM's disk.
    pub(super) fn fill(&mut self, channel: &mut impl Asks, vm: u64, disk: u16, bytes: &[u8]) -> Result<()> {
        self.give(channel, bytes, |offset, from, length| Request::FillDisk { vm, disk, offset, from, length })
    }
}

/// A VM's memory, as the loader writes to it. It was cleared before.
pub(super) struct Memory<'a, A> {
    pub(super) window: &'a mut Window,
    pub(super) channel: &'a mut A,
    pub(super) vm: u64,
    /// Why nothing more can be written, where the loader is told only that.
    pub(super) failure: Option<Error>,
}

impl<A: Asks> Memory<'_, A> {
    /// Writes bytes there.
    ///
    /// # Errors
    /// The kernel says why.
    pub(super) fn put(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<()> {
        let vm = self.vm;
        if bytes.len() <= INLINE {
            return self.channel.order(&Request::WriteMemory { vm, gpa: gpa.0, bytes });
        }
        let to = |before, from, length| Request::CopyIn { vm, gpa: gpa.0 + before, from, length };
        self.window.give(self.channel, bytes, to)
    }
}

impl<A: Asks> loader::GuestMemory for Memory<'_, A> {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> std::result::Result<(), OutOfRange> {
        self.put(gpa, bytes).map_err(|error| {
            self.failure.get_or_insert(error);
            OutOfRange { gpa }
        })
    }

    fn zero(&mut self, _gpa: Gpa, _length: u64) -> std::result::Result<(), OutOfRange> {
        Ok(())
    }
}
