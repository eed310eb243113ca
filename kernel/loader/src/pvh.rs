//! The PVH protocol: `hvm_start_info` and what hangs from it (Xen, "x86/HVM direct boot ABI", and the public header
//! `arch-x86/hvm/start_info.h`).

use crate::low_area::{INFO, LowArea, MEMORY_MAP, MODULES};
use crate::modules::Places;
use crate::{GuestMemory, LoadError, Request};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u64 = 0x336e_c578;
/// The version with a memory map.
const VERSION: u64 = 1;

/// Offsets in `hvm_start_info`, and its size.
mod start_info {
    pub(super) const MAGIC: u64 = 0;
    pub(super) const VERSION: u64 = 4;
    pub(super) const NR_MODULES: u64 = 12;
    pub(super) const MODLIST_PADDR: u64 = 16;
    pub(super) const CMDLINE_PADDR: u64 = 24;
    pub(super) const RSDP_PADDR: u64 = 32;
    pub(super) const MEMMAP_PADDR: u64 = 40;
    pub(super) const MEMMAP_ENTRIES: u64 = 48;
    pub(super) const SIZE: u64 = 56;
}

/// Bytes of an entry of the list of modules: address, size, address of the command line, reserved.
const MODULE_SIZE: u64 = 32;
/// Bytes of an entry of the memory map: address, size, type, reserved. The types are those of E820.
const MEMORY_MAP_ENTRY_SIZE: u64 = 24;

/// Writes the structures and gives the address for EBX.
pub(crate) fn write<M: GuestMemory + ?Sized>(
    request: &Request<'_>,
    places: &Places,
    memory: &mut M,
) -> Result<u64, LoadError> {
    let mut low = LowArea::new(request, memory);
    low.zero(INFO, start_info::SIZE)?;
    let command_line = low.put_command_line(request.command_line)?;
    low.put_u32(INFO + start_info::MAGIC, MAGIC)?;
    low.put_u32(INFO + start_info::VERSION, VERSION)?;
    low.put_u32(INFO + start_info::NR_MODULES, places.ranges().len() as u64)?;
    low.put_u64(INFO + start_info::MODLIST_PADDR, low.at(MODULES))?;
    low.put_u64(INFO + start_info::CMDLINE_PADDR, command_line)?;
    low.put_u64(INFO + start_info::RSDP_PADDR, request.rsdp.unwrap_or_default().0)?;
    low.put_u64(INFO + start_info::MEMMAP_PADDR, low.at(MEMORY_MAP))?;
    low.put_u32(INFO + start_info::MEMMAP_ENTRIES, request.memory_map.len() as u64)?;
    for (index, (file, range)) in request.files().zip(places.ranges()).enumerate() {
        let entry = MODULES + index as u64 * MODULE_SIZE;
        let line = if file.command_line.is_empty() { 0 } else { low.put_module_line(file.command_line)? };
        for (field, value) in [range.start, range.size(), line, 0].into_iter().enumerate() {
            low.put_u64(entry + field as u64 * 8, value)?;
        }
    }
    for (index, region) in request.memory_map.iter().enumerate() {
        let entry = MEMORY_MAP + index as u64 * MEMORY_MAP_ENTRY_SIZE;
        for (field, value) in [region.base.0, region.length, region.kind.0.into()].into_iter().enumerate() {
            low.put_u64(entry + field as u64 * 8, value)?;
        }
    }
    Ok(low.at(INFO))
}
