//! Requests of a block device (VIRTIO 1.2, "Block Device").

use super::queue::{Buffer, Queue};
use crate::cpu::{read8, write8, write32, write64};

/// Types of requests.
#[expect(missing_docs, reason = "the specification's names")]
pub mod request {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// How a request ends.
pub const OK: u8 = 0;
/// How a request ends that failed.
pub const IO_ERROR: u8 = 1;
/// How a request ends that the device does not know.
pub const UNSUPPORTED: u8 = 2;

/// A status that no device writes.
pub const NO_STATUS: u8 = 0xaa;
/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Bytes of a request's header.
pub const HEADER: u32 = 16;
/// Bytes of a request's header and its status, which follows it.
pub const SLOT: u64 = 32;

/// Writes the header of a request to `slot`, and that it has no status yet.
#[inline]
pub fn prepare(slot: u64, request: u32, sector: u64) {
    write32(slot, request);
    write32(slot + 4, 0);
    write64(slot + 8, sector);
    write8(slot + u64::from(HEADER), NO_STATUS);
}

/// The status of a request.
#[inline]
pub fn status(slot: u64) -> u8 {
    read8(slot + u64::from(HEADER))
}

/// The buffers of a prepared request with data.
#[inline]
pub const fn buffers(slot: u64, data: Buffer) -> [Buffer; 3] {
    [Buffer::readable(slot, HEADER), data, Buffer::writable(slot + HEADER as u64, 1)]
}

/// Carries a request out. `None` where it does not come back.
pub fn carry_out(queue: &mut Queue, slot: u64, kind: u32, sector: u64, data: Buffer) -> Option<u8> {
    prepare(slot, kind, sector);
    if data.length == 0 {
        let [header, _, end] = buffers(slot, data);
        queue.request(&[header, end])?;
    } else {
        queue.request(&buffers(slot, data))?;
    }
    Some(status(slot))
}
