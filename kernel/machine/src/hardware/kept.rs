//! What the kernel keeps of the machine's addresses: memory, and registers by which one would be master of it or of interrupts.
//!
//! Sources: ACPI Specification, "Multiple APIC Description Table (MADT)"; PCI Firmware Specification, "MCFG Table Description"; Intel
//! Virtualization Technology for Directed I/O, "DMA Remapping Hardware Unit Definition Structure"; AMD I/O Virtualization Technology, "I/O
//! Virtualization Hardware Definition (IVHD) Block".

use core::ops::Range;

use spin::Once;
use vcpu::PAGE_SIZE;

use crate::acpi::{Acpi, Register};
use crate::memory::aside;

/// Local APICs, and where messages of interrupts go.
const LOCAL_APICS: Range<u64> = 0xfee0_0000..0xfef0_0000;
/// Ranges at most.
const MOST: usize = 64;

/// Sorted by nothing: there are few.
#[derive(Debug)]
struct Kept(arrayvec::ArrayVec<Range<u64>, MOST>);

static KEPT: Once<Kept> = Once::new();

pub(super) fn start(acpi: &Acpi) {
    KEPT.call_once(|| {
        let page = |at: u64| at & !(PAGE_SIZE - 1)..(at & !(PAGE_SIZE - 1)).saturating_add(PAGE_SIZE);
        let mut kept = arrayvec::ArrayVec::new();
        // There is room, as each list is bounded by less.
        let mut keep = |range: Range<u64>| {
            let _ = kept.try_push(range);
        };
        keep(LOCAL_APICS);
        acpi.madt.io_apics.iter().for_each(|io_apic| keep(page(io_apic.address.0)));
        acpi.hpet.iter().for_each(|at| keep(page(at.0)));
        if let Some((Register::Memory(at), _)) = acpi.fadt.reset {
            keep(page(at.0));
        }
        acpi.windows.iter().for_each(|window| keep(window.clone()));
        Kept(kept)
    });
}

/// Its registers.
pub(super) fn ranges() -> &'static [Range<u64>] {
    KEPT.get().map_or(&[], |kept| &kept.0)
}

/// Whether any of a range is the kernel's. Without knowing better it is.
pub(crate) fn keeps(range: &Range<u64>) -> bool {
    let overlaps = |kept: &Range<u64>| kept.start < range.end && range.start < kept.end;
    aside::has_ram(range) || KEPT.get().is_none_or(|kept| kept.0.iter().any(overlaps))
}
