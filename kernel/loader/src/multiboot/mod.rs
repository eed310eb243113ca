//! Multiboot, the first version (Multiboot Specification version 0.6.96: "OS image format", "I386 machine state", "Boot
//! information format"). Images are ELF files, or any file whose header has the address fields.

mod info;

use vcpu::Gpa;

use crate::bytes::{slice_at, u32_at};
use crate::memory::MemoryMap;
use crate::{GuestMemory, LoadError, Part, Range, Request};

pub(crate) use info::write as write_info;

/// The header lies in this much of the file, and on a multiple of four.
const SEARCHED: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at the entry.
pub(crate) const LOADER_MAGIC: u64 = 0x2bad_b002;

/// Bits of the header's `flags`: modules on page boundaries, memory information, a video mode, the address fields.
const PAGE_ALIGN: u32 = 1 << 0;
const MEMORY_INFO: u32 = 1 << 1;
const VIDEO_MODE: u32 = 1 << 2;
const ADDRESS_FIELDS: u32 = 1 << 16;
/// A loader that does not know a bit of these must refuse.
const REQUIREMENTS: u32 = 0xffff;

/// Offsets of the header's fields.
const FLAGS: u64 = 4;
const CHECKSUM: u64 = 8;
const HEADER_ADDR: u64 = 12;
const LOAD_ADDR: u64 = 16;
const LOAD_END_ADDR: u64 = 20;
const BSS_END_ADDR: u64 = 24;
const ENTRY_ADDR: u64 = 28;

/// A header that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    offset: u64,
    flags: u32,
}

/// What the address fields say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flat<'a> {
    content: &'a [u8],
    memory: Range,
    entry: u64,
}

impl Header {
    /// The first header of the file.
    pub(crate) fn find(kernel: &[u8]) -> Option<Self> {
        let searched = kernel.get(..SEARCHED).unwrap_or(kernel);
        searched.chunks_exact(4).enumerate().find_map(|(index, magic)| {
            if magic != HEADER_MAGIC.to_le_bytes() {
                return None;
            }
            let offset = index as u64 * 4;
            let flags = u32_at(searched, offset + FLAGS, Part::MultibootHeader).ok()?;
            let checksum = u32_at(searched, offset + CHECKSUM, Part::MultibootHeader).ok()?;
            let sum = HEADER_MAGIC.wrapping_add(flags).wrapping_add(checksum);
            (sum == 0).then_some(Self { offset, flags })
        })
    }

    /// True where the header says itself where the image goes.
    pub(crate) const fn has_addresses(self) -> bool {
        self.flags & ADDRESS_FIELDS != 0
    }

    /// Refuses what it demands and we do not have. (A video mode is a wish.)
    pub(crate) fn check(self) -> Result<(), LoadError> {
        let unknown = self.flags & REQUIREMENTS & !(PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE);
        if unknown != 0 {
            return Err(LoadError::UnknownRequirement { flags: unknown });
        }
        Ok(())
    }

    /// Reads the address fields.
    pub(crate) fn flat(self, kernel: &[u8]) -> Result<Flat<'_>, LoadError> {
        let field = |at| u32_at(kernel, self.offset + at, Part::MultibootHeader).map(u64::from);
        let bad = |field, raw| LoadError::BadHeader { field, raw };
        let load = field(LOAD_ADDR)?;
        let header = field(HEADER_ADDR)?;
        let start = header
            .checked_sub(load)
            .and_then(|distance| self.offset.checked_sub(distance))
            .ok_or(bad("header_addr", header))?;
        let length = match field(LOAD_END_ADDR)? {
            0 => (kernel.len() as u64).saturating_sub(start),
            end => end.checked_sub(load).ok_or(bad("load_end_addr", end))?,
        };
        let content = slice_at(kernel, start, length, Part::Segment)?;
        let loaded = Range { start: load, end: load + length };
        let memory = match field(BSS_END_ADDR)? {
            0 => loaded,
            end if end >= loaded.end => Range { end, ..loaded },
            end => return Err(bad("bss_end_addr", end)),
        };
        Ok(Flat { content, memory, entry: field(ENTRY_ADDR)? })
    }
}

/// Checks the place of an image with address fields. Gives its range and its entry.
pub(crate) fn plan(
    request: &Request<'_>,
    header: Header,
    low_area: Range,
) -> Result<(Range, Gpa), LoadError> {
    let flat = header.flat(request.kernel)?;
    let Range { start: paddr, .. } = flat.memory;
    let size = flat.memory.size();
    if request.load_address.is_some_and(|Gpa(address)| address != paddr) {
        return Err(LoadError::BadHeader { field: "load_addr", raw: paddr });
    }
    if flat.memory.overlaps(low_area) {
        return Err(LoadError::Overlap { paddr, size });
    }
    if !MemoryMap(request.memory_map).is_ram(flat.memory) {
        return Err(LoadError::SegmentOutsideMemory { paddr, size });
    }
    if !flat.memory.contains(flat.entry) {
        return Err(LoadError::EntryOutsideKernel { entry: flat.entry });
    }
    Ok((flat.memory, Gpa(flat.entry)))
}

/// Copies the image and clears what the file does not bring.
pub(crate) fn write<M: GuestMemory + ?Sized>(
    kernel: &[u8],
    header: Header,
    memory: &mut M,
) -> Result<(), LoadError> {
    let Flat { content, memory: range, .. } = header.flat(kernel)?;
    let length = content.len() as u64;
    memory.write(Gpa(range.start), content)?;
    Ok(memory.zero(Gpa(range.start + length), range.size() - length)?)
}
