//! The boot information ("Boot information format").

use crate::low_area::{INFO, LOADER_NAME, LowArea, MEMORY_MAP, MODULES};
use crate::memory::MemoryMap;
use crate::modules::Places;
use crate::{GuestMemory, LoadError, Request};

/// Bits of `flags`: which fields are there.
const HAS_MEMORY: u64 = 1 << 0;
const HAS_COMMAND_LINE: u64 = 1 << 2;
const HAS_MODULES: u64 = 1 << 3;
const HAS_MEMORY_MAP: u64 = 1 << 6;
const HAS_LOADER_NAME: u64 = 1 << 9;
const HAS_FRAMEBUFFER: u64 = 1 << 12;

/// Offsets, and the size of it all.
const FLAGS: u64 = 0;
const MEM_LOWER: u64 = 4;
const MEM_UPPER: u64 = 8;
const CMDLINE: u64 = 16;
const MODS_COUNT: u64 = 20;
const MODS_ADDR: u64 = 24;
const MMAP_LENGTH: u64 = 44;
const MMAP_ADDR: u64 = 48;
const BOOT_LOADER_NAME: u64 = 64;
const FRAMEBUFFER_ADDR: u64 = 88;
const FRAMEBUFFER_PITCH: u64 = 96;
const FRAMEBUFFER_WIDTH: u64 = 100;
const FRAMEBUFFER_HEIGHT: u64 = 104;
const FRAMEBUFFER_BPP: u64 = 108;
const FRAMEBUFFER_TYPE: u64 = 109;
const SIZE: u64 = 120;

/// `framebuffer_type`: EGA text; width and height count characters.
const EGA_TEXT: u8 = 2;
const BITS_PER_CHARACTER: u8 = 16;

/// Bytes of an entry of the list of modules: start, end, command line, reserved.
const MODULE_SIZE: u64 = 16;
/// Bytes of an entry of the memory map behind its size field: address, length, type.
const MEMORY_MAP_ENTRY: u64 = 20;

const NAME: &[u8] = b"Basalt";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// `mem_lower` ends here at the latest.
const LOW_MEMORY_END: u64 = 640 * KIB;

/// Writes the structures and gives the address for EBX.
pub(crate) fn write<M: GuestMemory + ?Sized>(
    request: &Request<'_>,
    places: &Places,
    memory: &mut M,
) -> Result<u64, LoadError> {
    let map = MemoryMap(request.memory_map);
    let mut low = LowArea::new(request, memory);
    low.zero(INFO, SIZE)?;
    let command_line = low.put_command_line(request.command_line)?;
    let name = low.put_text(LOADER_NAME, NAME)?;
    let mut flags = HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MEMORY_MAP | HAS_LOADER_NAME;
    low.put_u32(INFO + MEM_LOWER, map.ram_end(0).min(LOW_MEMORY_END) / KIB)?;
    low.put_u32(INFO + MEM_UPPER, (map.ram_end(MIB).saturating_sub(MIB) / KIB).min(u32::MAX.into()))?;
    low.put_u32(INFO + CMDLINE, command_line)?;
    low.put_u32(INFO + MODS_COUNT, places.ranges().len() as u64)?;
    low.put_u32(INFO + MODS_ADDR, low.at(MODULES))?;
    low.put_u32(INFO + MMAP_LENGTH, request.memory_map.len() as u64 * (MEMORY_MAP_ENTRY + 4))?;
    low.put_u32(INFO + MMAP_ADDR, low.at(MEMORY_MAP))?;
    low.put_u32(INFO + BOOT_LOADER_NAME, name)?;
    if let Some(screen) = request.screen {
        flags |= HAS_FRAMEBUFFER;
        low.put_u64(INFO + FRAMEBUFFER_ADDR, screen.base.0)?;
        low.put_u32(INFO + FRAMEBUFFER_PITCH, u64::from(screen.columns) * 2)?;
        low.put_u32(INFO + FRAMEBUFFER_WIDTH, screen.columns.into())?;
        low.put_u32(INFO + FRAMEBUFFER_HEIGHT, screen.rows.into())?;
        low.put(INFO + FRAMEBUFFER_BPP, &[BITS_PER_CHARACTER])?;
        low.put(INFO + FRAMEBUFFER_TYPE, &[EGA_TEXT])?;
    }
    low.put_u32(INFO + FLAGS, flags)?;
    for (index, (file, range)) in request.files().zip(places.ranges()).enumerate() {
        let entry = MODULES + index as u64 * MODULE_SIZE;
        let line = low.put_module_line(file.command_line)?;
        for (field, value) in [range.start, range.end, line, 0].into_iter().enumerate() {
            low.put_u32(entry + field as u64 * 4, value)?;
        }
    }
    for (index, region) in request.memory_map.iter().enumerate() {
        let entry = MEMORY_MAP + index as u64 * (MEMORY_MAP_ENTRY + 4);
        low.put_u32(entry, MEMORY_MAP_ENTRY)?;
        low.put_u64(entry + 4, region.base.0)?;
        low.put_u64(entry + 12, region.length)?;
        low.put_u32(entry + 20, region.kind.0.into())?;
    }
    Ok(low.at(INFO))
}
