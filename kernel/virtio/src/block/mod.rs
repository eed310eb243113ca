//! The block device: requests against an [`Image`], carried out in pieces, or handed to a [`Server`].
//!
//! Source: VIRTIO 1.2, "Block Device".

mod remote;
mod server;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use arrayvec::ArrayVec;
use vcpu::{Gpa, GuestMemory, Image, ImageError};

pub(crate) use remote::{Ended, Remote, Way, Work as Telling, scratch, status};
pub use server::{Answer, Order, SLOT_BYTES, SLOTS, Server, Verb as OrderVerb};

use crate::STEP_BYTES;
use crate::image;
use crate::memory::behind;
use crate::queue::{Broken, Chain, Cursor};

/// The device's type, and its PCI class: mass storage, other.
pub(crate) const TYPE: u16 = 2;
pub(crate) const CLASS: u32 = 0x01_80_00;
/// Bytes of a sector, in which requests count.
pub const SECTOR: u64 = 512;
/// Characters of a serial number.
pub const SERIAL_BYTES: usize = 20;

/// Features.
mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const READ_ONLY: u64 = 1 << 5;
    pub(super) const BLOCK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const MULTI_QUEUE: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Types of requests.
mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// How a request ends.
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
/// The same for who deals with answers.
pub(crate) const FAILED: u8 = IO_ERROR;
const UNSUPPORTED: u8 = 2;

/// Bytes of a request's header, and of a range to be discarded or zeroed.
pub(crate) const HEADER_BYTES: u32 = 16;
const RANGE_BYTES: u32 = 16;
/// A range's flag: it need not be kept allocated.
const MAY_UNMAP: u32 = 1;
/// Data buffers of a request at most: what a chain has beside header and status.
const MOST_SEGMENTS: u32 = crate::queue::MAX_SEGMENTS as u32 - 2;
/// Sectors that one request discards or zeroes at most: the device does it in pieces.
const MOST_ZEROED: u32 = 1 << 17;
/// What is read and written best: a page, in sectors of the logical size.
const PAGE_EXPONENT: u8 = 3;

/// A disk.
#[derive(Debug)]
pub struct Block<I> {
    sectors: Sectors<I>,
    read_only: bool,
    serial: [u8; SERIAL_BYTES],
}

/// Who has its sectors.
#[derive(Debug)]
enum Sectors<I> {
    Here(I),
    Elsewhere(Box<Remote>),
}

/// What is done with bytes of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb {
    Read,
    Write,
    Zero,
}

/// What a request asks for: sectors of the disk that there are, and where its bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    verb: OrderVerb,
    sector: u64,
    sectors: u32,
    data: Cursor,
}

/// What has become of a request that was looked at.
pub(crate) enum Looked {
    /// There is something to be done.
    Asked(Asked),
    /// It is answered.
    Done(Next),
}

/// A request under way, and where in the image and in its buffers it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Work {
    verb: Verb,
    offset: u64,
    left: u32,
    data: Cursor,
    /// Bytes of data that the device has written, by its own account.
    written: u32,
}

/// What a request has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// There is more to do.
    More(Work),
    /// It is done.
    Done {
        /// Bytes of its buffers that were written.
        written: u32,
        /// Bytes that were moved since the last step, or in all where there was none.
        moved: u32,
    },
}

impl<I: Image> Block<I> {
    /// A disk with the whole sectors of an image. Of the serial number the first [`SERIAL_BYTES`] bytes count.
    pub fn new(image: I, read_only: bool, serial: &str) -> Self {
        Self::with(Sectors::Here(image), read_only, serial)
    }

    /// A disk of so many sectors that a server has, where it has that number. `None` where there is no memory for it.
    pub fn served(
        server: Arc<dyn Server>,
        disk: u16,
        sectors: u64,
        read_only: bool,
        serial: &str,
    ) -> Option<Self> {
        let mut room = Vec::<Remote>::new();
        room.try_reserve_exact(1).ok()?;
        drop(room);
        let remote = Box::new(Remote::new(server, disk, sectors));
        Some(Self::with(Sectors::Elsewhere(remote), read_only, serial))
    }

    fn with(sectors: Sectors<I>, read_only: bool, serial: &str) -> Self {
        let mut padded = [0; SERIAL_BYTES];
        padded.iter_mut().zip(serial.bytes()).for_each(|(place, byte)| *place = byte);
        Self { sectors, read_only, serial: padded }
    }

    /// Its image, where it has one.
    const fn image(&self) -> Option<&I> {
        if let Sectors::Here(image) = &self.sectors { Some(image) } else { None }
    }

    /// What somebody else has of it, where that is so.
    #[inline]
    pub(crate) fn remote(&self) -> Option<&Remote> {
        if let Sectors::Elsewhere(remote) = &self.sectors { Some(remote) } else { None }
    }

    /// Puts bytes of somebody's memory into its content, as who makes the disk may. Returns how many bytes that has moved in all.
    ///
    /// # Errors
    /// See [`Image::write`]; [`ImageError::OutOfImage`] where a server has its content.
    pub fn fill<M: GuestMemory>(
        &self,
        offset: u64,
        memory: &M,
        gpa: Gpa,
        length: u32,
    ) -> Result<u32, ImageError> {
        image::from_guest(self.image().ok_or(ImageError::OutOfImage)?, offset, memory, gpa, length)
    }

    /// Bytes of its content.
    pub fn bytes(&self) -> u64 {
        match &self.sectors {
            Sectors::Here(image) => image.bytes(),
            Sectors::Elsewhere(remote) => remote.sectors.saturating_mul(SECTOR),
        }
    }

    fn sectors(&self) -> u64 {
        self.bytes() / SECTOR
    }

    /// Bytes of host memory that what was written takes.
    pub(crate) fn kept(&self) -> u64 {
        self.image().map_or(0, Image::kept)
    }

    pub(crate) const fn features(&self) -> u64 {
        let either =
            if self.read_only { feature::READ_ONLY } else { feature::DISCARD | feature::WRITE_ZEROES };
        either
            | feature::SEG_MAX
            | feature::BLOCK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY
            | feature::MULTI_QUEUE
    }

    /// The device's configuration, for a driver that reads it with so many queues.
    pub(crate) fn configuration(&self, queues: usize) -> ArrayVec<u8, 64> {
        let mut bytes = ArrayVec::new();
        let mut put = |part: &[u8]| {
            // There is room for all of it.
            let _ = bytes.try_extend_from_slice(part);
        };
        put(&self.sectors().to_le_bytes());
        // size_max, which is not offered.
        put(&0_u32.to_le_bytes());
        put(&MOST_SEGMENTS.to_le_bytes());
        // Geometry, which is not offered.
        put(&[0; 4]);
        put(&(SECTOR as u32).to_le_bytes());
        // Topology: physical blocks, aligned; least and best sizes.
        put(&[PAGE_EXPONENT, 0]);
        put(&1_u16.to_le_bytes());
        put(&(1_u32 << PAGE_EXPONENT).to_le_bytes());
        // Writeback, which is not offered, and a byte that is unused.
        put(&[0; 2]);
        put(&(queues as u16).to_le_bytes());
        // Discard: sectors, ranges, alignment. Zeroes: sectors, ranges, may unmap, three unused.
        for number in [MOST_ZEROED, 1, 1, MOST_ZEROED, 1] {
            put(&number.to_le_bytes());
        }
        put(&[1, 0, 0, 0]);
        bytes
    }

    /// Looks at a request.
    ///
    /// # Errors
    /// [`Broken`] where it has no header or no place for its status: nothing can be answered.
    pub(crate) fn look<M: GuestMemory>(&self, chain: &Chain, memory: &M) -> Result<Looked, Broken> {
        let mut header = [0; HEADER_BYTES as usize];
        let mut input = chain.readable();
        input.read(chain, memory, &mut header)?;
        let room = chain.writable_bytes().checked_sub(1).ok_or(Broken::Request)?;
        let given = chain.readable_bytes() - HEADER_BYTES;
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let sector = header.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let asked = match kind {
            kind::IN => self.transfer(OrderVerb::Read, sector, room, chain.writable()),
            kind::OUT if !self.read_only => self.transfer(OrderVerb::Write, sector, given, input),
            kind::OUT => Err(IO_ERROR),
            kind::FLUSH => {
                Ok(Asked { verb: OrderVerb::Flush, sector: 0, sectors: 0, data: Cursor::default() })
            }
            kind::GET_ID => return self.identify(chain, memory, room).map(Looked::Done),
            kind::DISCARD | kind::WRITE_ZEROES if self.read_only => Err(IO_ERROR),
            kind::DISCARD | kind::WRITE_ZEROES => self.range(chain, memory, input, given, kind)?,
            _ => Err(UNSUPPORTED),
        };
        match asked {
            Ok(asked) => Ok(Looked::Asked(asked)),
            Err(status) => finish(chain, memory, status, (0, 0)).map(Looked::Done),
        }
    }

    /// Begins a request against an image.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub(crate) fn begin<M: GuestMemory>(&self, chain: &Chain, memory: &M) -> Result<Next, Broken> {
        let Asked { verb, sector, sectors, data } = match self.look(chain, memory)? {
            Looked::Asked(asked) => asked,
            Looked::Done(next) => return Ok(next),
        };
        let verb = match verb {
            OrderVerb::Read => Verb::Read,
            OrderVerb::Write => Verb::Write,
            OrderVerb::Zero { .. } => Verb::Zero,
            // What was written is in the image, and stays there.
            OrderVerb::Flush | OrderVerb::Discard => return finish(chain, memory, OK, (0, 0)),
        };
        let (offset, left) = (sector * SECTOR, sectors * SECTOR as u32);
        Ok(Next::More(Work { verb, offset, left, data, written: 0 }))
    }

    /// A transfer of whole sectors inside the disk.
    fn transfer(&self, verb: OrderVerb, sector: u64, bytes: u32, data: Cursor) -> Result<Asked, u8> {
        let sectors = self.checked(sector, bytes)?;
        Ok(Asked { verb, sector, sectors, data })
    }

    /// How many sectors so many bytes are, where there are that many from this one on.
    fn checked(&self, sector: u64, bytes: u32) -> Result<u32, u8> {
        let sectors = bytes / SECTOR as u32;
        let end = sector.checked_add(sectors.into()).ok_or(IO_ERROR)?;
        if !u64::from(bytes).is_multiple_of(SECTOR) || end > self.sectors() {
            return Err(IO_ERROR);
        }
        Ok(sectors)
    }

    /// One range that is discarded, for which nothing is done, or zeroed.
    fn range<M: GuestMemory>(
        &self,
        chain: &Chain,
        memory: &M,
        mut input: Cursor,
        given: u32,
        kind: u32,
    ) -> Result<Result<Asked, u8>, Broken> {
        if given != RANGE_BYTES {
            return Ok(Err(UNSUPPORTED));
        }
        let mut range = [0; RANGE_BYTES as usize];
        input.read(chain, memory, &mut range)?;
        let word = |at: usize| {
            let bytes = range.get(at..).and_then(|rest| rest.first_chunk::<4>());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let sector = u64::from(word(4)) << 32 | u64::from(word(0));
        let (sectors, flags) = (word(8), word(12));
        let allowed = if kind == kind::WRITE_ZEROES { MAY_UNMAP } else { 0 };
        if flags & !allowed != 0 {
            return Ok(Err(UNSUPPORTED));
        }
        if sectors > MOST_ZEROED {
            return Ok(Err(IO_ERROR));
        }
        let verb = match kind {
            kind::WRITE_ZEROES => OrderVerb::Zero { may_unmap: flags & MAY_UNMAP != 0 },
            _ => OrderVerb::Discard,
        };
        Ok(self.transfer(verb, sector, sectors * SECTOR as u32, Cursor::default()))
    }

    fn identify<M: GuestMemory>(&self, chain: &Chain, memory: &M, room: u32) -> Result<Next, Broken> {
        let length = (room as usize).min(SERIAL_BYTES);
        let serial = self.serial.get(..length).unwrap_or_default();
        match chain.writable().write(chain, memory, serial) {
            Ok(()) => finish(chain, memory, OK, (length as u32, length as u32)),
            Err(_) => finish(chain, memory, IO_ERROR, (0, 0)),
        }
    }

    /// Does a piece of a request: until [`STEP_BYTES`] were moved. What is written to a part of the image for the first time moves more than itself.
    ///
    /// # Errors
    /// [`Broken`] where the status has no place in memory.
    pub(crate) fn go_on<M: GuestMemory>(
        &self,
        mut work: Work,
        chain: &Chain,
        memory: &M,
    ) -> Result<Next, Broken> {
        let mut moved = 0;
        while moved < STEP_BYTES && work.left != 0 {
            match self.piece(&mut work, image::PIECE, chain, memory) {
                Ok(bytes) => moved += bytes,
                Err(Failed) => return finish(chain, memory, IO_ERROR, (work.written, moved)),
            }
        }
        if work.left == 0 { finish(chain, memory, OK, (work.written, moved)) } else { Ok(Next::More(work)) }
    }

    /// Does some of it that lies together, at most `most` bytes of the request. Returns how many bytes were moved.
    fn piece<M: GuestMemory>(
        &self,
        work: &mut Work,
        most: u32,
        chain: &Chain,
        memory: &M,
    ) -> Result<u32, Failed> {
        let (most, image) = (most.min(work.left), self.image().ok_or(Failed)?);
        let (bytes, moved) = match work.verb {
            Verb::Zero => (most, image::zero(image, work.offset, most).map_err(|_| Failed)?),
            Verb::Read => {
                let part = work.data.next(chain, most).ok_or(Failed)?;
                image::to_guest(image, work.offset, memory, part.gpa, part.length).map_err(|_| Failed)?;
                work.written += part.length;
                (part.length, part.length)
            }
            Verb::Write => {
                let part = work.data.next(chain, most).ok_or(Failed)?;
                let moved = image::from_guest(image, work.offset, memory, part.gpa, part.length)
                    .map_err(|_| Failed)?;
                (part.length, moved)
            }
        };
        work.offset += u64::from(bytes);
        work.left -= bytes;
        Ok(moved)
    }
}

/// A piece was not moved: the guest has no RAM there, or the image ends.
struct Failed;

/// Writes the status, the last byte of what can be written. Of the data, so many bytes were written and moved.
pub(crate) fn finish<M: GuestMemory>(
    chain: &Chain,
    memory: &M,
    status: u8,
    (written, moved): (u32, u32),
) -> Result<Next, Broken> {
    let mut place = chain.writable();
    place.skip(chain, chain.writable_bytes().checked_sub(1).ok_or(Broken::Request)?);
    let at = place.next(chain, 1).ok_or(Broken::Request)?;
    memory.write(behind(at.gpa, 0), &[status])?;
    Ok(Next::Done { written: written + 1, moved })
}
