//! Firmware of VMs that boot from their disks: SeaBIOS, as Debian has it, from dom0's initial file system.

use std::fs;
use std::io::Result;
use std::path::Path;

use vcpu::Gpa;

use super::file::named;
use super::window::Memory;
use crate::channel::Asks;

/// Where it lies.
const ROM: &str = "/usr/share/basalt/bios.bin";
/// A ROM ends where 32 bits do,
const END: u64 = 1 << 32;
/// and so much of its end is below 1 MiB as well.
const SHADOW_END: u64 = 1 << 20;
const SHADOWED: usize = 256 << 10;

/// Reads it.
///
/// # Errors
/// dom0 was made without.
pub(super) fn read() -> Result<Vec<u8>> {
    let path = Path::new(ROM);
    fs::read(path)
        .map_err(|error| named(path, format_args!("{error}: without a kernel, a VM needs this firmware")))
}

/// Puts it into a VM's memory.
///
/// # Errors
/// The kernel says why.
pub(super) fn place(memory: &mut Memory<'_, impl Asks>, rom: &[u8]) -> Result<()> {
    let shadowed = rom.get(rom.len().saturating_sub(SHADOWED)..).unwrap_or_default();
    for (end, bytes) in [(END, rom), (SHADOW_END, shadowed)] {
        memory.put(Gpa(end - bytes.len() as u64), bytes)?;
    }
    Ok(())
}
