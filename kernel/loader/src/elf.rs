//! ELF executables of 64 and 32 bits (System V ABI, "ELF Header", "Program Header"; "ELF-64 Object File Format"), and the
//! note by which a kernel names its PVH entry (Xen, "x86/HVM direct boot ABI").

use vcpu::Gpa;

use crate::bytes::{slice_at, u8_at, u16_at, u32_at, u64_at};
use crate::memory::MemoryMap;
use crate::{Format, GuestMemory, LoadError, Part, Range, Request};

const MAGIC: &[u8] = b"\x7fELF";
/// Offset of `EI_CLASS`, and its values.
const EI_CLASS: u64 = 4;
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
/// `EI_DATA` and `ELFDATA2LSB`.
const DATA: (u64, u8) = (5, 1);
/// Offsets of the file header's fields that both classes share.
const E_TYPE: u64 = 16;
const E_MACHINE: u64 = 18;
const E_ENTRY: u64 = 24;
/// `ET_EXEC` and `ET_DYN`.
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
/// `PT_LOAD` and `PT_NOTE`.
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// More than any kernel has, few enough to compare each with each.
pub const MAX_PROGRAM_HEADERS: u16 = 64;
/// Notes are looked for in this much of a `PT_NOTE` segment.
const NOTES_SEARCHED: usize = 64 << 10;
/// Bytes of a note before its name: `namesz`, `descsz`, `type`.
const NOTE_HEADER: usize = 12;
/// Xen's notes, and the one with the 32-bit entry's physical address.
const XEN: &[u8] = b"Xen\0";
const PHYS32_ENTRY: u32 = 18;

/// Where the two classes differ: offsets of fields.
#[derive(Clone, Copy)]
struct Class {
    is_64: bool,
    /// `EM_X86_64` or `EM_386`.
    machine: u16,
    e_phoff: u64,
    e_phentsize: u64,
    e_phnum: u64,
    program_header: u16,
    p_offset: u64,
    p_vaddr: u64,
    p_paddr: u64,
    p_filesz: u64,
    p_memsz: u64,
}

const ELF64: Class = Class {
    is_64: true,
    machine: 62,
    e_phoff: 32,
    e_phentsize: 54,
    e_phnum: 56,
    program_header: 56,
    p_offset: 8,
    p_vaddr: 16,
    p_paddr: 24,
    p_filesz: 32,
    p_memsz: 40,
};

const ELF32: Class = Class {
    is_64: false,
    machine: 3,
    e_phoff: 28,
    e_phentsize: 42,
    e_phnum: 44,
    program_header: 32,
    p_offset: 4,
    p_vaddr: 8,
    p_paddr: 12,
    p_filesz: 16,
    p_memsz: 20,
};

/// Offset of `p_type`.
const P_TYPE: u64 = 0;

impl Class {
    /// An address or size.
    fn word(&self, bytes: &[u8], offset: u64, part: Part) -> Result<u64, LoadError> {
        if self.is_64 { u64_at(bytes, offset, part) } else { u32_at(bytes, offset, part).map(u64::from) }
    }
}

/// A segment to load, addresses as the file has them.
#[derive(Clone, Copy)]
struct Segment<'a> {
    content: &'a [u8],
    virtual_address: u64,
    memory: Range,
}

/// An ELF file's segments.
#[derive(Clone, Copy)]
pub(crate) struct Elf<'a> {
    file: &'a [u8],
    class: Class,
    table: u64,
    count: u16,
}

impl<'a> Elf<'a> {
    /// Checks the file header.
    pub(crate) fn read(file: &'a [u8]) -> Result<Self, LoadError> {
        let part = Part::ElfHeader;
        let class = match u8_at(file, EI_CLASS, part)? {
            CLASS_64 => ELF64,
            CLASS_32 => ELF32,
            class => return Err(LoadError::BadHeader { field: "EI_CLASS", raw: class.into() }),
        };
        let machine = u16_at(file, E_MACHINE, part)?;
        if u8_at(file, DATA.0, part)? != DATA.1 || machine != class.machine {
            return Err(LoadError::NotX86 { machine });
        }
        let kind = u16_at(file, E_TYPE, part)?;
        if kind != EXECUTABLE && kind != SHARED {
            return Err(LoadError::BadHeader { field: "e_type", raw: kind.into() });
        }
        let size = u16_at(file, class.e_phentsize, part)?;
        if size != class.program_header {
            return Err(LoadError::BadHeader { field: "e_phentsize", raw: size.into() });
        }
        let count = u16_at(file, class.e_phnum, part)?;
        if count == 0 || count > MAX_PROGRAM_HEADERS {
            return Err(LoadError::BadHeader { field: "e_phnum", raw: count.into() });
        }
        Ok(Self { file, class, table: class.word(file, class.e_phoff, part)?, count })
    }

    fn iter(self) -> impl Iterator<Item = Result<Segment<'a>, LoadError>> {
        (0..self.count).filter_map(move |index| self.get(index).transpose())
    }

    fn program_header(&self, index: u16) -> Result<&'a [u8], LoadError> {
        let size = u64::from(self.class.program_header);
        let offset = self.table.saturating_add(u64::from(index) * size);
        slice_at(self.file, offset, size, Part::ProgramHeaders)
    }

    fn content(&self, header: &[u8], part: Part) -> Result<&'a [u8], LoadError> {
        let field = |at| self.class.word(header, at, Part::ProgramHeaders);
        slice_at(self.file, field(self.class.p_offset)?, field(self.class.p_filesz)?, part)
    }

    /// Segment `index`; `None` where the program header is not of a loadable segment, or of an empty one.
    fn get(&self, index: u16) -> Result<Option<Segment<'a>>, LoadError> {
        let header = self.program_header(index)?;
        let field = |at| self.class.word(header, at, Part::ProgramHeaders);
        let memory_size = field(self.class.p_memsz)?;
        if u32_at(header, P_TYPE, Part::ProgramHeaders)? != LOAD || memory_size == 0 {
            return Ok(None);
        }
        let file_size = field(self.class.p_filesz)?;
        if file_size > memory_size {
            return Err(LoadError::BadHeader { field: "p_filesz", raw: file_size });
        }
        let paddr = field(self.class.p_paddr)?;
        let outside = LoadError::SegmentOutsideMemory { paddr, size: memory_size };
        Ok(Some(Segment {
            content: self.content(header, Part::Segment)?,
            virtual_address: field(self.class.p_vaddr)?,
            memory: Range::new(paddr, memory_size).ok_or(outside)?,
        }))
    }

    /// The 32-bit entry point that the PVH note names, a physical address as the file has it.
    fn pvh_entry(&self) -> Result<Option<u64>, LoadError> {
        for index in 0..self.count {
            let header = self.program_header(index)?;
            if u32_at(header, P_TYPE, Part::ProgramHeaders)? != NOTE {
                continue;
            }
            let notes = self.content(header, Part::Notes)?;
            if let Some(entry) = find_pvh_note(notes.get(..NOTES_SEARCHED).unwrap_or(notes)) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

/// Notes are three words, then name and value, each padded to four bytes.
fn find_pvh_note(mut notes: &[u8]) -> Option<u64> {
    let word = |bytes: &[u8], at| bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    loop {
        let (name_size, value_size) = (word(notes, 0)? as usize, word(notes, 4)? as usize);
        let value = NOTE_HEADER.checked_add(name_size.checked_next_multiple_of(4)?)?;
        let next = value.checked_add(value_size.checked_next_multiple_of(4)?)?;
        let name = notes.get(NOTE_HEADER..NOTE_HEADER.checked_add(name_size)?)?;
        if name == XEN && word(notes, 8)? == PHYS32_ENTRY {
            let value = notes.get(value..value.checked_add(value_size)?)?;
            return match value_size {
                4 => word(value, 0).map(u64::from),
                8 => value.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
                _ => None,
            };
        }
        notes = notes.get(next..)?;
    }
}

/// The addresses from the first segment's start to the last one's end.
fn extent(elf: Elf<'_>) -> Result<Range, LoadError> {
    let mut extent: Option<Range> = None;
    for segment in elf.iter() {
        let memory = segment?.memory;
        extent = Some(match extent {
            None => memory,
            Some(old) => Range { start: old.start.min(memory.start), end: old.end.max(memory.end) },
        });
    }
    extent.ok_or(LoadError::BadHeader { field: "e_phnum", raw: elf.count.into() })
}

/// How segments move from the file's addresses to the guest's.
#[derive(Clone, Copy)]
struct Relocation {
    from: u64,
    to: u64,
}

impl Relocation {
    fn of(request: &Request<'_>, extent: Range) -> Self {
        Self { from: extent.start, to: request.load_address.map_or(extent.start, |Gpa(address)| address) }
    }

    /// `range` is not below `from`.
    fn apply(self, range: Range) -> Result<Range, LoadError> {
        let size = range.size();
        range
            .start
            .checked_sub(self.from)
            .and_then(|distance| self.to.checked_add(distance))
            .and_then(|start| Range::new(start, size))
            .ok_or(LoadError::SegmentOutsideMemory { paddr: range.start, size })
    }
}

pub(crate) fn is_elf(kernel: &[u8]) -> bool {
    kernel.starts_with(MAGIC)
}

/// The class, of a file that [`is_elf`].
pub(crate) fn format(kernel: &[u8]) -> Result<Format, LoadError> {
    let class = u8_at(kernel, EI_CLASS, Part::ElfHeader)?;
    Ok(if class == CLASS_32 { Format::Elf32 } else { Format::Elf64 })
}

/// Which of its addresses an ELF file is entered at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryPoint {
    /// The file header's.
    Header,
    /// That of the PVH note.
    PvhNote,
}

/// True where a PVH note names an entry.
pub(crate) fn has_pvh_entry(kernel: &[u8]) -> Result<bool, LoadError> {
    Ok(Elf::read(kernel)?.pvh_entry()?.is_some())
}

/// Checks the headers and every segment's place. Gives the range of all segments, and the entry.
pub(crate) fn plan(
    request: &Request<'_>,
    low_area: Range,
    entry: EntryPoint,
) -> Result<(Range, Gpa), LoadError> {
    let elf = Elf::read(request.kernel)?;
    let extent = extent(elf)?;
    let relocation = Relocation::of(request, extent);
    let map = MemoryMap(request.memory_map);
    for index in 0..elf.count {
        let Some(segment) = elf.get(index)? else { continue };
        let memory = relocation.apply(segment.memory)?;
        let (paddr, size) = (memory.start, memory.size());
        if memory.overlaps(low_area) || overlaps_earlier(elf, index, segment.memory)? {
            return Err(LoadError::Overlap { paddr, size });
        }
        if !map.is_ram(memory) {
            return Err(LoadError::SegmentOutsideMemory { paddr, size });
        }
    }
    let named = match entry {
        EntryPoint::Header => elf.class.word(request.kernel, E_ENTRY, Part::ElfHeader)?,
        EntryPoint::PvhNote => elf.pvh_entry()?.ok_or(LoadError::NoPvhEntry)?,
    };
    let entry = physical_entry(elf, named)?;
    let entry = relocation.apply(Range { start: entry, end: entry })?.start;
    Ok((relocation.apply(extent)?, Gpa(entry)))
}

fn overlaps_earlier(elf: Elf<'_>, index: u16, memory: Range) -> Result<bool, LoadError> {
    for earlier in 0..index {
        if elf.get(earlier)?.is_some_and(|other| other.memory.overlaps(memory)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The entry point as a physical address. Linux's is one already; of other kernels it may be virtual.
fn physical_entry(elf: Elf<'_>, entry: u64) -> Result<u64, LoadError> {
    for segment in elf.iter() {
        if segment?.memory.contains(entry) {
            return Ok(entry);
        }
    }
    for segment in elf.iter() {
        let segment = segment?;
        let distance = entry.wrapping_sub(segment.virtual_address);
        if distance < segment.memory.size() {
            return Ok(segment.memory.start + distance);
        }
    }
    Err(LoadError::EntryOutsideKernel { entry })
}

/// Copies the segments and clears what the file does not bring.
pub(crate) fn write<M: GuestMemory + ?Sized>(request: &Request<'_>, memory: &mut M) -> Result<(), LoadError> {
    let elf = Elf::read(request.kernel)?;
    let relocation = Relocation::of(request, extent(elf)?);
    for segment in elf.iter() {
        let segment = segment?;
        let range = relocation.apply(segment.memory)?;
        let content = segment.content.len() as u64;
        memory.write(Gpa(range.start), segment.content)?;
        memory.zero(Gpa(range.start + content), range.size() - content)?;
    }
    Ok(())
}
