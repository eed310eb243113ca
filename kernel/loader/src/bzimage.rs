//! Linux bzImage (Linux documentation, "The Linux/x86 Boot Protocol": "The Real-Mode Kernel Header", "32-bit
//! Boot Protocol", "64-bit Boot Protocol").

use vcpu::Gpa;

use crate::boot_params::header;
use crate::bytes::{slice_at, u8_at, u16_at, u32_at, u64_at};
use crate::entry::EntryMode;
use crate::memory::MemoryMap;
use crate::{Format, GuestMemory, LoadError, Part, Plan, Protocol, Range, Request};

/// The 64-bit entry point, from the start of the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// Boot protocol 2.10, the first that tells where the kernel goes and what room it needs.
const VERSION_2_10: u16 = 0x020a;
/// Boot protocol 2.12, the first with `xloadflags`.
const VERSION_2_12: u16 = 0x020c;
const SECTOR: u64 = 512;
/// `setup_sects` of very old kernels, meaning this many.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// `syssize` counts in these, and rounds up.
const PARAGRAPH: u64 = 16;
const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
const PAGE_SIZE: u64 = 4096;

/// True where the boot sector's signature and the header's magic number are both there.
pub(crate) fn has_boot_flag(kernel: &[u8]) -> bool {
    u16_at(kernel, header::BOOT_FLAG, Part::SetupHeader) == Ok(header::BOOT_FLAG_VALUE)
        && u32_at(kernel, header::MAGIC, Part::SetupHeader) == Ok(header::MAGIC_VALUE)
}

/// The setup header, from `setup_sects` to its end as its jump instruction tells it.
pub(crate) fn setup_header(kernel: &[u8]) -> Result<&[u8], LoadError> {
    let end = header::MAGIC + u64::from(u8_at(kernel, header::JUMP_DISPLACEMENT, Part::SetupHeader)?);
    if !(header::KERNEL_64_END..=header::ROOM_END).contains(&end) {
        return Err(LoadError::BadHeader { field: "jump", raw: end - header::MAGIC });
    }
    slice_at(kernel, header::START, end - header::START, Part::SetupHeader)
}

/// The protected-mode code. Files may be longer: signatures are appended.
fn protected_mode_code(kernel: &[u8]) -> Result<&[u8], LoadError> {
    let sectors = match u8_at(kernel, header::SETUP_SECTS, Part::SetupHeader)? {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors,
    };
    let start = (u64::from(sectors) + 1) * SECTOR;
    let size = u64::from(u32_at(kernel, header::SYSSIZE, Part::SetupHeader)?) * PARAGRAPH;
    let have = (kernel.len() as u64).saturating_sub(start);
    let is_rounded_up = have < size && size - have < PARAGRAPH;
    slice_at(kernel, start, if is_rounded_up { have } else { size }, Part::ProtectedModeCode)
}

/// Checks the header and finds a place.
pub(crate) fn plan(request: &Request<'_>, low_area: Range) -> Result<Plan, LoadError> {
    let kernel = request.kernel;
    let part = Part::SetupHeader;
    let version = u16_at(kernel, header::VERSION, part)?;
    if version < VERSION_2_10 {
        return Err(LoadError::TooOld { version });
    }
    setup_header(kernel)?;
    let xloadflags = if version < VERSION_2_12 { 0 } else { u16_at(kernel, header::XLOADFLAGS, part)? };
    let (mode, entry) = match xloadflags & XLF_KERNEL_64 {
        0 => (EntryMode::Protected, 0),
        _ => (EntryMode::Long, ENTRY_64),
    };
    let loadflags = u8_at(kernel, header::LOADFLAGS, part)?;
    if loadflags & LOADED_HIGH == 0 {
        return Err(LoadError::BadHeader { field: "loadflags", raw: loadflags.into() });
    }
    let code = protected_mode_code(kernel)?.len() as u64;
    let init_size = u64::from(u32_at(kernel, header::INIT_SIZE, part)?);
    if code <= ENTRY_64 || init_size == 0 {
        return Err(LoadError::BadHeader { field: "init_size", raw: init_size });
    }
    // What the file brings has to lie in the guarded range, whatever the header claims.
    let size = init_size.max(code);
    let range = place(request, size, low_area)?;
    Ok(Plan {
        format: Format::BzImage,
        protocol: Protocol::Linux,
        mode,
        kernel: range,
        entry: Gpa(range.start + entry),
        module_addr_max: u32_at(kernel, header::INITRD_ADDR_MAX, part)?.into(),
        modules_above_4g: mode == EntryMode::Long && xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0,
        command_line_max: u32_at(kernel, header::CMDLINE_SIZE, part)?.into(),
    })
}

/// Where the caller says; else the preferred address; else the next one above it that is free. (Below it
/// Linux would move itself up, over memory that nobody checked.)
fn place(request: &Request<'_>, size: u64, low_area: Range) -> Result<Range, LoadError> {
    let (kernel, part) = (request.kernel, Part::SetupHeader);
    let preferred = u64_at(kernel, header::PREF_ADDRESS, part)?;
    let relocatable = u8_at(kernel, header::RELOCATABLE_KERNEL, part)? != 0;
    let alignment = u64::from(u32_at(kernel, header::KERNEL_ALIGNMENT, part)?);
    if !alignment.is_power_of_two() || alignment < PAGE_SIZE {
        return Err(LoadError::BadHeader { field: "kernel_alignment", raw: alignment });
    }
    let map = MemoryMap(request.memory_map);
    let is_free = |range: &Range| map.is_ram(*range) && !range.overlaps(low_area);
    let fixed = match request.load_address {
        Some(Gpa(address)) if address != preferred && !relocatable => {
            return Err(LoadError::BadHeader { field: "relocatable_kernel", raw: 0 });
        }
        Some(Gpa(address)) if !address.is_multiple_of(alignment) => {
            return Err(LoadError::BadHeader { field: "kernel_alignment", raw: alignment });
        }
        Some(Gpa(address)) => Some(address),
        None if !relocatable => Some(preferred),
        None => None,
    };
    if let Some(address) = fixed {
        let outside = LoadError::SegmentOutsideMemory { paddr: address, size };
        return Range::new(address, size).filter(is_free).ok_or(outside);
    }
    map.lowest(size, alignment, preferred, low_area)
        .map_err(|available| LoadError::NoRoom { needed: size, available })
}

/// Copies the protected-mode code.
pub(crate) fn write<M: GuestMemory + ?Sized>(
    kernel: &[u8],
    start: u64,
    memory: &mut M,
) -> Result<(), LoadError> {
    Ok(memory.write(Gpa(start), protected_mode_code(kernel)?)?)
}
