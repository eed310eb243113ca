//! Which physical memory is RAM that the kernel may use, from the firmware's map and what is already in
//! memory.

use core::fmt;
use core::ops::Range;

use vcpu::Hpa;

use super::DIRECT_MAP_BYTES;
use super::range_set::{RangeSet, pages_of};
use crate::boot_info::{BootInfo, MemoryKind, MemoryRange};
use crate::logger::survivor;

/// The first MiB keeps what firmware and other CPUs' start-up need.
const LOW_MEMORY: Range<u64> = 0..0x10_0000;

/// RAM, in whole pages: what some entry of the firmware's map calls usable and no entry calls anything else.
/// Firmware maps come unsorted and overlapping; the cautious reading wins. What neither the CPU nor the
/// direct map reaches is left out.
pub(crate) fn usable(ranges: &[MemoryRange], physical_bits: u8) -> RangeSet {
    let limit = 1_u64.checked_shl(u32::from(physical_bits)).unwrap_or(u64::MAX).min(DIRECT_MAP_BYTES);
    let mut set = RangeSet::new();
    for range in ranges.iter().filter(|range| range.kind == MemoryKind::Usable) {
        set.add(range.start.0..range.end().0.min(limit));
    }
    for range in ranges.iter().filter(|range| range.kind != MemoryKind::Usable) {
        set.remove(range.start.0..range.end().0);
    }
    set.shrink_to_pages();
    set
}

/// What the boot loader put into memory for the kernel to read: modules and boot information, in whole
/// pages.
pub(crate) fn loaded(boot: &BootInfo) -> RangeSet {
    let mut set = RangeSet::new();
    for module in &boot.modules {
        set.add(pages_of(&(module.start.0..module.start.0 + module.data().len() as u64)));
    }
    for range in &boot.information {
        set.add(pages_of(range));
    }
    set
}

/// What a boot loader must not do: going on would let one thing overwrite another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    /// The kernel runs where the memory map has no usable memory.
    KernelOutsideMemory,
    /// A module lies where the memory map has no usable memory.
    ModuleOutsideMemory {
        /// Its number, from 0.
        module: usize,
        /// Its address.
        at: Hpa,
    },
    /// A module and the kernel lie over each other.
    ModuleOverKernel {
        /// Its number, from 0.
        module: usize,
    },
    /// Two modules lie over each other.
    ModulesOverlap {
        /// Their numbers, from 0.
        modules: [usize; 2],
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KernelOutsideMemory => {
                f.write_str("the firmware's memory map is broken: the kernel lies where it has no memory")
            }
            Self::ModuleOutsideMemory { module, at } => {
                write!(f, "module {} lies at {at}, where the memory map has no memory", module + 1)
            }
            Self::ModuleOverKernel { module } => {
                write!(f, "module {} and the kernel lie over each other", module + 1)
            }
            Self::ModulesOverlap { modules: [one, other] } => {
                write!(f, "modules {} and {} lie over each other", one + 1, other + 1)
            }
        }
    }
}

/// Looks whether kernel and modules lie in memory and apart.
pub(crate) fn check(boot: &BootInfo, usable: &RangeSet) -> Result<(), LayoutError> {
    let image = &boot.image.physical;
    if !usable.contains(image) {
        return Err(LayoutError::KernelOutsideMemory);
    }
    for (module, found) in boot.modules.iter().enumerate().filter(|(_, found)| !found.range().is_empty()) {
        let range = found.range();
        if overlap(&range, image) {
            return Err(LayoutError::ModuleOverKernel { module });
        }
        // Half a page at the edge of usable memory is not in the set, but readable.
        if !usable.overlaps(&range) {
            return Err(LayoutError::ModuleOutsideMemory { module, at: found.start });
        }
        let before = boot.modules[..module].iter().position(|other| overlap(&other.range(), &range));
        if let Some(other) = before {
            return Err(LayoutError::ModulesOverlap { modules: [other, module] });
        }
    }
    Ok(())
}

const fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// The RAM that nothing occupies.
pub(crate) fn free(usable: &RangeSet, loaded: &RangeSet, image: &Range<u64>) -> RangeSet {
    let mut set = usable.clone();
    set.remove(LOW_MEMORY);
    set.remove(survivor::PLACE);
    set.remove(pages_of(image));
    for range in loaded.ranges() {
        set.remove(range.clone());
    }
    set
}

#[cfg(test)]
mod tests {
    use core::slice;

    use proptest::prelude::*;
    use vcpu::PAGE_SIZE;

    use super::*;
    use crate::boot_info::MemoryMap;

    fn range(start: u64, end: u64, kind: MemoryKind) -> MemoryRange {
        MemoryRange { start: Hpa(start), length: end - start, kind }
    }

    #[test]
    fn overlapping_and_unsorted_entries_are_read_cautiously() {
        let map = [
            range(0x10_0000, 0x80_0000, MemoryKind::Usable),
            range(0x40_0000, 0x40_0800, MemoryKind::AcpiTables),
            range(0, 0x9_fc00, MemoryKind::Usable),
            range(0x70_0000, 0x90_0000, MemoryKind::Usable),
            range(0x8f_f000, 0x1000_0000, MemoryKind::Reserved),
        ];
        assert_eq!(usable(&map, 36).ranges(), [0..0x9_f000, 0x10_0000..0x40_0000, 0x40_1000..0x8f_f000]);
    }

    #[test]
    fn memory_beyond_the_cpus_reach_is_left_out() {
        let map = [range(0x1_0000_0000, u64::MAX, MemoryKind::Usable)];
        assert_eq!(usable(&map, 36).ranges(), slice::from_ref(&(0x1_0000_0000..0x10_0000_0000)));
    }

    #[test]
    fn memory_beyond_the_direct_map_is_left_out() {
        let map = [range(0x1_0000_0000, u64::MAX, MemoryKind::Usable)];
        assert_eq!(usable(&map, 52).ranges(), slice::from_ref(&(0x1_0000_0000..DIRECT_MAP_BYTES)));
    }

    #[test]
    fn what_is_loaded_is_not_free() {
        let map = [range(0, 0x100_0000, MemoryKind::Usable)];
        let mut loaded = RangeSet::new();
        loaded.add(0x50_0000..0x50_1000);
        let free = free(&usable(&map, 36), &loaded, &(0x20_0000..0x30_0001));
        assert_eq!(free.ranges(), [0x10_0000..0x1f_0000, 0x30_1000..0x50_0000, 0x50_1000..0x100_0000]);
    }

    /// Half pages, so that entries end within pages.
    const UNIT: u64 = PAGE_SIZE / 2;
    const UNITS: u64 = 512;
    const BASE: u64 = 0x20_0000;

    fn kinds() -> impl Strategy<Value = MemoryKind> {
        prop_oneof![
            3 => Just(MemoryKind::Usable),
            1 => Just(MemoryKind::AcpiTables),
            1 => Just(MemoryKind::AcpiNvs),
            1 => Just(MemoryKind::Reserved),
        ]
    }

    fn units() -> impl Strategy<Value = Range<u64>> {
        (0..UNITS, 0..48_u64).prop_map(|(start, length)| start..(start + length).min(UNITS))
    }

    proptest! {
        /// Whatever firmware says, in whatever order: a frame is free exactly where all of it is usable by some
        /// entries, by no entry anything else, and nothing was loaded there.
        #[test]
        fn a_frame_is_free_where_nothing_speaks_against_it(
            entries in proptest::collection::vec((units(), kinds()), 0..100),
            modules in proptest::collection::vec(units(), 0..4),
            image in units().prop_filter("an image has bytes", |image| !image.is_empty()),
        ) {
            let bytes = |units: &Range<u64>| BASE + units.start * UNIT..BASE + units.end * UNIT;
            let mut map = MemoryMap::default();
            let (mut usable_units, mut taken) = ([false; UNITS as usize], [false; UNITS as usize]);
            for (units, kind) in &entries {
                let range = bytes(units);
                map.add(range.start, range.end - range.start, *kind);
                let marks = if *kind == MemoryKind::Usable { &mut usable_units } else { &mut taken };
                marks[units.start as usize..units.end as usize].fill(true);
            }
            let mut loaded = RangeSet::new();
            for units in modules.iter().filter(|units| !units.is_empty()) {
                loaded.add(pages_of(&bytes(units)));
                taken[units.start as usize..units.end as usize].fill(true);
            }
            taken[image.start as usize..image.end as usize].fill(true);
            let free = free(&usable(map.ranges(), 36), &loaded, &bytes(&image));
            for page in 0..UNITS / 2 {
                let halves = [page * 2, page * 2 + 1].map(|unit| unit as usize);
                let wanted = halves.into_iter().all(|unit| usable_units[unit] && !taken[unit]);
                let at = BASE + page * PAGE_SIZE;
                let found = free.ranges().iter().any(|range| range.contains(&at));
                prop_assert_eq!(found, wanted, "page at {:#x}", at);
            }
        }
    }
}
