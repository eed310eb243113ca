//! A VM's window: a huge page that its worker and this process share, and whose place in memory the kernel is told.

use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

/// Its bytes: one huge page.
const BYTES: usize = 2 << 20;
const PAGE: usize = 4096;
/// What pages are where: an entry of eight bytes for each (Linux, "pagemap").
const PAGEMAP: &str = "/proc/self/pagemap";
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// The window.
pub(super) struct Window {
    file: File,
    /// It is there as long as this is.
    _region: MmapRegion,
    physical: u64,
}

impl Window {
    /// Takes a huge page.
    ///
    /// # Errors
    /// There is none, or Linux does not say where it is.
    pub(super) fn new() -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let file = File::from(memfd_create("window", flags)?);
        ftruncate(&file, BYTES as u64)?;
        let region: MmapRegion = MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), BYTES)
            .map_err(|error| {
                Error::other(format!(
                    "dom0 has no large page free for a VM's disks ({error}); give it more memory"
                ))
            })?;
        // It is there once it was written to.
        region.as_volatile_slice().write_obj(0_u8, 0).map_err(Error::other)?;
        let page = region.as_ptr().addr() / PAGE;
        let mut entry = [0; 8];
        File::open(PAGEMAP)?.read_exact_at(&mut entry, page as u64 * 8)?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 || entry & FRAME == 0 {
            return Err(Error::other("Linux does not tell where memory is: basaltd has to run as root"));
        }
        Ok(Self { file, _region: region, physical: (entry & FRAME) * PAGE as u64 })
    }

    /// The same for the worker.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Where it is, for the kernel.
    pub(super) const fn physical(&self) -> u64 {
        self.physical
    }
}
