//! Lies about the machine, told where the kernel reads a fact. Without the feature `faults` each gives back what
//! it got.

use vcpu::CpuidResult;
#[cfg(feature = "faults")]
use vcpu::{Hpa, PAGE_SIZE};

use super::{Fault, is};
#[cfg(feature = "faults")]
use crate::boot_info::{BootInfo, MemoryKind, MemoryMap, MemoryRange};
use crate::cpu::Features;
use crate::memory::frames::FrameKind;

const MADT: [u8; 4] = *b"APIC";
/// Where a PC has its local APIC and no memory.
#[cfg(feature = "faults")]
const LOCAL_APIC: u64 = 0xfee0_0000;

const LEAF_FEATURES: u32 = 1;
const LEAF_EXTENDED_FEATURES: u32 = 0x8000_0001;
const LEAF_SVM: u32 = 0x8000_000a;
const ECX_VMX: u32 = 1 << 5;
const ECX_SVM: u32 = 1 << 2;
const SVM_EDX_NESTED_PAGING: u32 = 1 << 0;

const FEATURE_CONTROL: u32 = 0x3a;
const FEATURE_CONTROL_LOCK: u64 = 1 << 0;
const VM_CR: u32 = 0xc001_0114;
const VM_CR_LOCKED_OFF: u64 = 1 << 3 | 1 << 4;
const VMX_BASIC: u32 = 0x480;
/// A bit of the revision that the region given to VMXON must begin with.
const VMX_BASIC_REVISION_BIT: u64 = 1 << 0;
const VMX_SECONDARY_CONTROLS: u32 = 0x48b;
/// Secondary controls that may be one are in the upper half.
const MAY_ENABLE_EPT: u64 = 1 << 33;
const MAY_BE_UNRESTRICTED: u64 = 1 << 39;

/// What CPUID says.
#[inline(always)]
pub(crate) fn cpuid(leaf: u32, mut result: CpuidResult) -> CpuidResult {
    match leaf {
        LEAF_FEATURES if is(Fault::NoVirtualization) => result.ecx &= !ECX_VMX,
        LEAF_EXTENDED_FEATURES if is(Fault::NoVirtualization) => result.ecx &= !ECX_SVM,
        LEAF_SVM if is(Fault::NoNestedPaging) => result.edx &= !SVM_EDX_NESTED_PAGING,
        _ => {}
    }
    result
}

/// What an MSR holds.
#[inline(always)]
pub(crate) fn msr(number: u32, value: u64) -> u64 {
    match number {
        FEATURE_CONTROL if is(Fault::LockedByFirmware) => FEATURE_CONTROL_LOCK,
        VM_CR if is(Fault::LockedByFirmware) => value | VM_CR_LOCKED_OFF,
        VMX_BASIC if is(Fault::VmxonFails) => value ^ VMX_BASIC_REVISION_BIT,
        VMX_SECONDARY_CONTROLS if is(Fault::NoNestedPaging) => value & !MAY_ENABLE_EPT,
        VMX_SECONDARY_CONTROLS if is(Fault::NoUnrestrictedGuest) => value & !MAY_BE_UNRESTRICTED,
        _ => value,
    }
}

/// What the CPU can do.
#[inline(always)]
pub(crate) fn features(mut features: Features) -> Features {
    features.no_execute &= !is(Fault::NoExecuteMissing);
    features.apic &= !is(Fault::NoLocalApic);
    features
}

/// The signature in an ACPI table's header.
#[inline(always)]
pub(crate) fn acpi_signature(signature: [u8; 4]) -> [u8; 4] {
    if is(Fault::NoMadt) && signature == MADT { *b"NONE" } else { signature }
}

/// The bytes of an ACPI table, of which a false one lacks the first: what is left does not add up.
#[inline(always)]
pub(crate) fn acpi_table(signature: [u8; 4], bytes: &'static [u8]) -> &'static [u8] {
    if is(Fault::BadMadt) && signature == MADT { bytes.get(1..).unwrap_or_default() } else { bytes }
}

/// Whether there are no frames for this use.
#[inline(always)]
pub(crate) fn out_of_frames(kind: FrameKind) -> bool {
    match kind {
        FrameKind::Heap => is(Fault::NoHeapFrames),
        FrameKind::Control => is(Fault::NoControlFrames),
        FrameKind::Guest => is(Fault::NoGuestFrames),
        FrameKind::Kernel | FrameKind::Stack | FrameKind::PageTable | FrameKind::NestedTable => false,
    }
}

/// The bits of a timer of known rate that are to be believed: all of them, or none where it stands still.
#[inline(always)]
pub(crate) fn counting() -> u32 {
    if is(Fault::TimersStandStill) { 0 } else { u32::MAX }
}

/// What the boot loader said.
#[cfg(feature = "faults")]
pub(super) fn boot(boot: &mut BootInfo) {
    /// What is left free by too little memory.
    const LITTLE: u64 = 8 << 20;
    let image = boot.image.physical.clone();
    if is(Fault::NoModule) {
        boot.modules.clear();
    }
    if is(Fault::NoRootPointer) {
        boot.rsdp = None;
    }
    if is(Fault::BadRootPointer)
        && let Some(rsdp) = &mut boot.rsdp
    {
        rsdp[8] ^= 1;
    }
    if is(Fault::NoMemory) {
        remake(&mut boot.memory, |range| {
            let end = range.end().0.min(image.end + LITTLE);
            let usable = range.kind == MemoryKind::Usable;
            MemoryRange {
                length: if usable { end.saturating_sub(range.start.0) } else { range.length },
                ..range
            }
        });
        boot.modules.clear();
    }
    if is(Fault::BrokenMemoryMap) {
        remake(&mut boot.memory, |range| MemoryRange { kind: MemoryKind::Reserved, ..range });
    }
    let Some(first) = boot.modules.first_mut() else { return };
    if is(Fault::TruncatedModule) {
        *first = first.part(0, first.data().len() / 2);
    }
    if is(Fault::ModuleOverKernel) {
        *first = first.moved(Hpa(image.start + PAGE_SIZE));
    }
    if is(Fault::ModuleOutsideMemory) {
        *first = first.moved(Hpa(LOCAL_APIC));
    }
    if is(Fault::OverlappingModules) {
        let second = first.part(PAGE_SIZE as usize, first.data().len());
        // A full list has others to lie about.
        let _ = boot.modules.try_push(second);
    }
}

/// Changes every range of a memory map.
#[cfg(feature = "faults")]
fn remake(map: &mut MemoryMap, change: impl Fn(MemoryRange) -> MemoryRange) {
    let mut made = MemoryMap::default();
    for range in map.ranges().iter().copied().map(change) {
        made.add(range.start.0, range.length, range.kind);
    }
    *map = made;
}
