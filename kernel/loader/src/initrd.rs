//! Where the initial file system goes: as high as the kernel reaches, out of the way of everything that it
//! unpacks (Linux documentation, "The Linux/x86 Boot Protocol", `initrd_addr_max`).

use crate::memory::MemoryMap;
use crate::{LoadError, Plan, Range, Request};

const FOUR_GIB: u64 = 1 << 32;

/// A place for `file` below 4 GiB, or above it where there is none and the kernel can follow.
pub(crate) fn place(
    request: &Request<'_>,
    file: &[u8],
    plan: &Plan,
    low_area: Range,
) -> Result<Range, LoadError> {
    let map = MemoryMap(request.memory_map);
    let size = file.len() as u64;
    let limit = plan.initrd_addr_max.saturating_add(1).min(FOUR_GIB);
    let taken = [plan.kernel, low_area];
    map.highest(size, 0, limit, &taken)
        .or_else(|| plan.initrd_above_4g.then(|| map.highest(size, FOUR_GIB, u64::MAX, &taken)).flatten())
        .ok_or(LoadError::InitrdDoesNotFit { size, limit })
}
