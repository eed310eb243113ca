//! ELF64 executables ("ELF-64 Object File Format": "File Header", "Program Header Table").

use vcpu::Gpa;

use crate::boot_params::VMLINUX_COMMAND_LINE_MAX;
use crate::bytes::{slice_at, u8_at, u16_at, u32_at, u64_at};
use crate::memory::MemoryMap;
use crate::{Format, GuestMemory, LoadError, Part, Plan, Range, Request};

const MAGIC: &[u8] = b"\x7fELF";
/// `EI_CLASS` and `ELFCLASS64`.
const CLASS: (u64, u8) = (4, 2);
/// `EI_DATA` and `ELFDATA2LSB`.
const DATA: (u64, u8) = (5, 1);
/// Offsets of the file header's fields.
const E_TYPE: u64 = 16;
const E_MACHINE: u64 = 18;
const E_ENTRY: u64 = 24;
const E_PHOFF: u64 = 32;
const E_PHENTSIZE: u64 = 54;
const E_PHNUM: u64 = 56;
/// `ET_EXEC` and `ET_DYN`.
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
/// `EM_X86_64`.
const X86_64: u16 = 62;
/// Size of a program header and offsets of its fields.
const PROGRAM_HEADER_SIZE: u16 = 56;
const P_TYPE: u64 = 0;
const P_OFFSET: u64 = 8;
const P_VADDR: u64 = 16;
const P_PADDR: u64 = 24;
const P_FILESZ: u64 = 32;
const P_MEMSZ: u64 = 40;
/// `PT_LOAD`.
const LOAD: u32 = 1;
/// More than any kernel has, few enough to compare each with each.
const MAX_PROGRAM_HEADERS: u16 = 64;

/// A segment to load, addresses as the file has them.
#[derive(Clone, Copy)]
struct Segment<'a> {
    content: &'a [u8],
    virtual_address: u64,
    memory: Range,
}

/// The file's loadable segments.
#[derive(Clone, Copy)]
struct Segments<'a> {
    file: &'a [u8],
    table: u64,
    count: u16,
}

impl<'a> Segments<'a> {
    fn read(file: &'a [u8]) -> Result<Self, LoadError> {
        let part = Part::ElfHeader;
        if u8_at(file, CLASS.0, part)? != CLASS.1 || u8_at(file, DATA.0, part)? != DATA.1 {
            return Err(LoadError::Not64Bit);
        }
        if u16_at(file, E_MACHINE, part)? != X86_64 {
            return Err(LoadError::Not64Bit);
        }
        let kind = u16_at(file, E_TYPE, part)?;
        if kind != EXECUTABLE && kind != SHARED {
            return Err(LoadError::BadHeader { field: "e_type", raw: kind.into() });
        }
        let size = u16_at(file, E_PHENTSIZE, part)?;
        if size != PROGRAM_HEADER_SIZE {
            return Err(LoadError::BadHeader { field: "e_phentsize", raw: size.into() });
        }
        let count = u16_at(file, E_PHNUM, part)?;
        if count == 0 || count > MAX_PROGRAM_HEADERS {
            return Err(LoadError::BadHeader { field: "e_phnum", raw: count.into() });
        }
        Ok(Self { file, table: u64_at(file, E_PHOFF, part)?, count })
    }

    fn iter(self) -> impl Iterator<Item = Result<Segment<'a>, LoadError>> {
        (0..self.count).filter_map(move |index| self.get(index).transpose())
    }

    /// Segment `index`; `None` where the program header is not of a loadable segment, or of an empty one.
    fn get(&self, index: u16) -> Result<Option<Segment<'a>>, LoadError> {
        let offset = self.table.saturating_add(u64::from(index) * u64::from(PROGRAM_HEADER_SIZE));
        let header = slice_at(self.file, offset, PROGRAM_HEADER_SIZE.into(), Part::ProgramHeaders)?;
        let field = |at| u64_at(header, at, Part::ProgramHeaders);
        let memory_size = field(P_MEMSZ)?;
        if u32_at(header, P_TYPE, Part::ProgramHeaders)? != LOAD || memory_size == 0 {
            return Ok(None);
        }
        let file_size = field(P_FILESZ)?;
        if file_size > memory_size {
            return Err(LoadError::BadHeader { field: "p_filesz", raw: file_size });
        }
        let paddr = field(P_PADDR)?;
        let outside = LoadError::SegmentOutsideMemory { paddr, size: memory_size };
        Ok(Some(Segment {
            content: slice_at(self.file, field(P_OFFSET)?, file_size, Part::Segment)?,
            virtual_address: field(P_VADDR)?,
            memory: Range::new(paddr, memory_size).ok_or(outside)?,
        }))
    }
}

/// The addresses from the first segment's start to the last one's end.
fn extent(segments: Segments<'_>) -> Result<Range, LoadError> {
    let mut extent: Option<Range> = None;
    for segment in segments.iter() {
        let memory = segment?.memory;
        extent = Some(match extent {
            None => memory,
            Some(old) => Range { start: old.start.min(memory.start), end: old.end.max(memory.end) },
        });
    }
    extent.ok_or(LoadError::BadHeader { field: "e_phnum", raw: segments.count.into() })
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

/// Checks the headers and every segment's place.
pub(crate) fn plan(request: &Request<'_>, low_area: Range) -> Result<Plan, LoadError> {
    let segments = Segments::read(request.kernel)?;
    let extent = extent(segments)?;
    let relocation = Relocation::of(request, extent);
    let map = MemoryMap(request.memory_map);
    for index in 0..segments.count {
        let Some(segment) = segments.get(index)? else { continue };
        let memory = relocation.apply(segment.memory)?;
        let (paddr, size) = (memory.start, memory.size());
        if memory.overlaps(low_area) || overlaps_earlier(segments, index, segment.memory)? {
            return Err(LoadError::Overlap { paddr, size });
        }
        if !map.is_ram(memory) {
            return Err(LoadError::SegmentOutsideMemory { paddr, size });
        }
    }
    let entry = physical_entry(segments, u64_at(request.kernel, E_ENTRY, Part::ElfHeader)?)?;
    let entry = relocation.apply(Range { start: entry, end: entry })?.start;
    Ok(Plan {
        format: Format::Elf64,
        kernel: relocation.apply(extent)?,
        entry: Gpa(entry),
        initrd_addr_max: u64::MAX,
        initrd_above_4g: true,
        command_line_max: VMLINUX_COMMAND_LINE_MAX,
    })
}

fn overlaps_earlier(segments: Segments<'_>, index: u16, memory: Range) -> Result<bool, LoadError> {
    for earlier in 0..index {
        if segments.get(earlier)?.is_some_and(|other| other.memory.overlaps(memory)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The entry point as a physical address. Linux's is one already; of other kernels it may be virtual.
fn physical_entry(segments: Segments<'_>, entry: u64) -> Result<u64, LoadError> {
    for segment in segments.iter() {
        if segment?.memory.contains(entry) {
            return Ok(entry);
        }
    }
    for segment in segments.iter() {
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
    let segments = Segments::read(request.kernel)?;
    let relocation = Relocation::of(request, extent(segments)?);
    for segment in segments.iter() {
        let segment = segment?;
        let range = relocation.apply(segment.memory)?;
        let content = segment.content.len() as u64;
        memory.write(Gpa(range.start), segment.content)?;
        memory.zero(Gpa(range.start + content), range.size() - content)?;
    }
    Ok(())
}
