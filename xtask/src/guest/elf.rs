//! Makes ELF executables small: only what is loaded (and the notes) stays, zeros at a segment's end become
//! memory without file contents. A distribution's `vmlinux` shrinks to about half.
//!
//! Source: "Tool Interface Standard: Executable and Linking Format" and the AMD64 supplement.

use std::fmt;

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
const E_PHOFF: usize = 0x20;
const E_SHOFF: usize = 0x28;
const E_PHENTSIZE: usize = 0x36;
const E_PHNUM: usize = 0x38;
const E_SHNUM: usize = 0x3c;
const E_SHSTRNDX: usize = 0x3e;
const P_OFFSET: usize = 0x08;
const P_VADDR: usize = 0x10;
const P_FILESZ: usize = 0x20;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// File offsets stay congruent to addresses modulo this.
const PAGE: usize = 4096;

/// What keeps a file from being made small.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ElfError {
    /// Not a little-endian ELF64 file.
    NotElf64,
    /// A header points outside the file.
    Truncated,
    /// Nothing would be loaded.
    NothingToLoad,
}

impl fmt::Display for ElfError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotElf64 => "not an ELF64 file",
            Self::Truncated => "the ELF file is truncated",
            Self::NothingToLoad => "the ELF file has nothing to load",
        })
    }
}

struct Segment<'a> {
    header: [u8; PROGRAM_HEADER_SIZE],
    kind: u32,
    offset: usize,
    address: usize,
    contents: &'a [u8],
    new_offset: usize,
}

/// The same executable without sections, symbols and trailing zeros.
pub(crate) fn compact(elf: &[u8]) -> Result<Vec<u8>, ElfError> {
    if !elf.starts_with(MAGIC) {
        return Err(ElfError::NotElf64);
    }
    let mut segments = segments(elf)?;
    if !segments.iter().any(|segment| segment.kind == PT_LOAD) {
        return Err(ElfError::NothingToLoad);
    }
    let mut end = HEADER_SIZE + segments.len() * PROGRAM_HEADER_SIZE;
    for segment in segments.iter_mut().filter(|segment| segment.kind == PT_LOAD) {
        let used = segment.contents.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        segment.contents = &segment.contents[..used];
        segment.new_offset = end + (segment.address % PAGE + PAGE - end % PAGE) % PAGE;
        end = segment.new_offset + used;
    }
    for index in 0..segments.len() {
        if segments[index].kind == PT_NOTE {
            let inside = inside_a_loaded_one(&segments, index);
            segments[index].new_offset = inside.unwrap_or(end.next_multiple_of(8));
            end = end.max(segments[index].new_offset + segments[index].contents.len());
        }
    }
    Ok(assemble(elf, &segments, end))
}

fn segments(elf: &[u8]) -> Result<Vec<Segment<'_>>, ElfError> {
    let table = number(elf, E_PHOFF, 8)?;
    let count = number(elf, E_PHNUM, 2)?;
    let stride = number(elf, E_PHENTSIZE, 2)?;
    let mut segments = Vec::new();
    for index in 0..count {
        let start = table.checked_add(index * stride).ok_or(ElfError::Truncated)?;
        let header = elf.get(start..).and_then(|rest| rest.first_chunk()).ok_or(ElfError::Truncated)?;
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let (offset, size) = (number(header, P_OFFSET, 8)?, number(header, P_FILESZ, 8)?);
        let end = offset.checked_add(size).ok_or(ElfError::Truncated)?;
        if kind == PT_LOAD || kind == PT_NOTE {
            segments.push(Segment {
                header: *header,
                kind,
                offset,
                address: number(header, P_VADDR, 8)?,
                contents: elf.get(offset..end).ok_or(ElfError::Truncated)?,
                new_offset: 0,
            });
        }
    }
    Ok(segments)
}

/// Notes usually lie within a loaded segment: then they move with it.
fn inside_a_loaded_one(segments: &[Segment<'_>], note: usize) -> Option<usize> {
    let note = &segments[note];
    segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find(|segment| {
            (segment.offset..=segment.offset + segment.contents.len()).contains(&note.offset)
                && note.offset + note.contents.len() <= segment.offset + segment.contents.len()
        })
        .map(|segment| segment.new_offset + note.offset - segment.offset)
}

fn assemble(elf: &[u8], segments: &[Segment<'_>], size: usize) -> Vec<u8> {
    let mut small = vec![0; size];
    small[..HEADER_SIZE].copy_from_slice(&elf[..HEADER_SIZE]);
    put(&mut small, E_PHOFF, HEADER_SIZE, 8);
    put(&mut small, E_SHOFF, 0, 8);
    put(&mut small, E_PHENTSIZE, PROGRAM_HEADER_SIZE, 2);
    put(&mut small, E_PHNUM, segments.len(), 2);
    put(&mut small, E_SHNUM, 0, 2);
    put(&mut small, E_SHSTRNDX, 0, 2);
    for (index, segment) in segments.iter().enumerate() {
        let start = HEADER_SIZE + index * PROGRAM_HEADER_SIZE;
        let header = &mut small[start..start + PROGRAM_HEADER_SIZE];
        header.copy_from_slice(&segment.header);
        put(header, P_OFFSET, segment.new_offset, 8);
        put(header, P_FILESZ, segment.contents.len(), 8);
        small[segment.new_offset..segment.new_offset + segment.contents.len()]
            .copy_from_slice(segment.contents);
    }
    small
}

fn number(bytes: &[u8], offset: usize, size: usize) -> Result<usize, ElfError> {
    let field = bytes.get(offset..offset + size).ok_or(ElfError::Truncated)?;
    Ok(field.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
}

fn put(bytes: &mut [u8], offset: usize, value: usize, size: usize) {
    bytes[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::read::elf::{ElfFile64, ProgramHeader};
    use object::{Endianness, Object, ObjectSegment};

    /// An executable with two segments, of which the second ends in zeros, and a note inside the first.
    fn executable() -> Vec<u8> {
        let mut elf = vec![0; 0x6000];
        elf[..6].copy_from_slice(MAGIC);
        elf[6] = 1;
        put(&mut elf, 0x10, 2, 2);
        put(&mut elf, 0x12, 62, 2);
        put(&mut elf, 0x14, 1, 4);
        put(&mut elf, E_PHOFF, HEADER_SIZE, 8);
        put(&mut elf, 0x34, HEADER_SIZE, 2);
        put(&mut elf, E_PHENTSIZE, PROGRAM_HEADER_SIZE, 2);
        put(&mut elf, E_PHNUM, 3, 2);
        let table = [
            (PT_LOAD, 0x2000, 0x20_0000, 0x1000),
            (PT_LOAD, 0x4000, 0x40_0123, 0x2000),
            (PT_NOTE, 0x2010, 0, 4),
        ];
        for (index, (kind, offset, address, size)) in table.into_iter().enumerate() {
            let start = HEADER_SIZE + index * PROGRAM_HEADER_SIZE;
            put(&mut elf, start, kind as usize, 4);
            put(&mut elf, start + P_OFFSET, offset, 8);
            put(&mut elf, start + P_VADDR, address, 8);
            put(&mut elf, start + P_FILESZ, size, 8);
            put(&mut elf, start + P_FILESZ + 8, size, 8);
        }
        elf[0x2010..0x2014].copy_from_slice(b"note");
        elf[0x2fff] = 7;
        elf[0x4000] = 9;
        elf
    }

    #[test]
    fn loaded_bytes_and_notes_survive() {
        let elf = executable();
        let small = compact(&elf).expect("valid");
        assert!(small.len() < 0x3000, "{:#x}", small.len());
        let file = ElfFile64::<Endianness>::parse(&*small).expect("still ELF");
        let loaded: Vec<_> = file.segments().map(|segment| (segment.address(), segment.size())).collect();
        assert_eq!(loaded, [(0x20_0000, 0x1000), (0x40_0123, 0x2000)]);
        let first = file.segments().next().expect("first").data().expect("in file");
        assert_eq!((first.len(), first[0xfff]), (0x1000, 7));
        let note = &file.elf_program_headers()[2];
        assert_eq!(note.data(Endianness::Little, &*small), Ok(&b"note"[..]));
        for header in file
            .elf_program_headers()
            .iter()
            .filter(|header| header.p_type(Endianness::Little) == object::elf::PT_LOAD)
        {
            let congruent = |value: u64| value % PAGE as u64;
            assert_eq!(
                congruent(header.p_offset(Endianness::Little)),
                congruent(header.p_vaddr(Endianness::Little))
            );
        }
    }

    #[test]
    fn every_truncation_is_refused_or_whole() {
        let elf = executable();
        for length in 0..0x5fff {
            assert!(compact(&elf[..length]).is_err(), "{length:#x}");
        }
    }
}
