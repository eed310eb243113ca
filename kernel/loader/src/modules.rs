//! Where the files go that a kernel is given: as high as it reaches, out of the way of everything that it unpacks (Linux
//! documentation, "The Linux/x86 Boot Protocol", `initrd_addr_max`; Multiboot, "Boot modules").

use vcpu::Gpa;

use crate::memory::MemoryMap;
use crate::{BootModule, GuestMemory, LoadError, MAX_MODULES, Plan, Range, Request};

const FOUR_GIB: u64 = 1 << 32;

/// The files' places: the initial file system's first, then those of the modules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    ranges: [Range; MAX_MODULES],
    count: usize,
}

impl Places {
    /// In the order of [`Request::files`].
    pub(crate) fn ranges(&self) -> &[Range] {
        self.ranges.get(..self.count).unwrap_or_default()
    }
}

impl<'a> Request<'a> {
    /// The initial file system, where there is one, and the modules.
    pub(crate) fn files(&self) -> impl Iterator<Item = BootModule<'a>> {
        let initrd = self.initrd.filter(|bytes| !bytes.is_empty());
        let initrd = initrd.map(|bytes| BootModule { bytes, command_line: &[] });
        initrd.into_iter().chain(self.modules.iter().copied())
    }
}

/// A place for each file below 4 GiB, or above it where there is none and the kernel can follow.
pub(crate) fn place(request: &Request<'_>, plan: &Plan, low_area: Range) -> Result<Places, LoadError> {
    const NOTHING: Range = Range { start: 0, end: 0 };
    let count = request.files().count();
    if count > MAX_MODULES {
        return Err(LoadError::TooManyModules { count, max: MAX_MODULES });
    }
    // The kernel, the low area, and what has been placed. An empty range touches nothing.
    let mut taken = [NOTHING; MAX_MODULES + 2];
    let [kernel, low, ..] = &mut taken;
    (*kernel, *low) = (plan.kernel, low_area);
    let mut places = Places { ranges: [NOTHING; MAX_MODULES], count };
    for (index, file) in request.files().enumerate() {
        // An empty file has an address as well.
        let found = place_one(request, (file.bytes.len() as u64).max(1), plan, &taken)?;
        let range = Range { start: found.start, end: found.start + file.bytes.len() as u64 };
        for (list, at, value) in [(&mut taken[..], index + 2, found), (&mut places.ranges[..], index, range)]
        {
            if let Some(slot) = list.get_mut(at) {
                *slot = value;
            }
        }
    }
    Ok(places)
}

fn place_one(request: &Request<'_>, size: u64, plan: &Plan, taken: &[Range]) -> Result<Range, LoadError> {
    let map = MemoryMap(request.memory_map);
    let limit = plan.module_addr_max.saturating_add(1).min(FOUR_GIB);
    map.highest(size, 0, limit, taken)
        .or_else(|| plan.modules_above_4g.then(|| map.highest(size, FOUR_GIB, u64::MAX, taken)).flatten())
        .ok_or(LoadError::ModuleDoesNotFit { size, limit })
}

/// Copies the files.
pub(crate) fn write<M: GuestMemory + ?Sized>(
    request: &Request<'_>,
    places: &Places,
    memory: &mut M,
) -> Result<(), LoadError> {
    for (file, range) in request.files().zip(places.ranges()) {
        memory.write(Gpa(range.start), file.bytes)?;
    }
    Ok(())
}
