//! Finding capabilities. Lists are walked a bounded way, whatever a device says.
//!
//! Sources: PCI 3.0, "Capabilities List"; PCI Express Base Specification, "PCI Express Extended Capabilities"; AMD I/O Virtualization
//! Technology (IOMMU) Specification, "Capability Header".

use arrayvec::ArrayVec;
use devices::Width;

use super::ground::Access;

/// Capability identifiers.
pub(super) mod id {
    pub(in crate::pci) const MSI: u8 = 0x05;
    pub(in crate::pci) const SECURE_DEVICE: u8 = 0x0f;
    pub(in crate::pci) const MSI_X: u8 = 0x11;
    /// BARs of another kind, which software may move as well.
    pub(in crate::pci) const ENHANCED_ALLOCATION: u8 = 0x14;
}

/// Extended capabilities by which more memory is decoded than BARs say, and their bytes: SR-IOV, MR-IOV, multicast, resizable BARs of functions
/// and of virtual functions.
const DECODING: [(u16, u16); 5] = [(0x10, 0x40), (0x11, 0x40), (0x12, 0x30), (0x15, 0x34), (0x24, 0x34)];

const STATUS: u16 = 0x06;
const HAS_LIST: u32 = 1 << 4;
const POINTER: u16 = 0x34;
/// Where the list begins in a CardBus bridge.
const CARDBUS_POINTER: u16 = 0x14;
/// There is room for so many between the header and the end.
const MAX_WALK: usize = 48;
const FIRST: u16 = 0x40;
const FIRST_EXTENDED: u16 = 0x100;
const MAX_EXTENDED_WALK: usize = 480;
/// The kind of secure-device capability that an IOMMU has, in bits 18:16 of its header.
const IOMMU: u32 = 3;

/// A capability: its identifier and its register.
pub(super) type Capability = (u8, u16);

/// The capabilities of a function in the order of its list.
pub(super) fn list(access: &Access<'_, '_>, cardbus: bool) -> ArrayVec<Capability, MAX_WALK> {
    let mut found = ArrayVec::new();
    if access.read(STATUS, Width::Word) & HAS_LIST == 0 {
        return found;
    }
    let mut next = access.read(if cardbus { CARDBUS_POINTER } else { POINTER }, Width::Byte);
    while !found.is_full() {
        let register = (next & 0xfc) as u16;
        if register < FIRST || found.iter().any(|(_, other)| *other == register) {
            break;
        }
        let header = access.read(register, Width::Word);
        if header & 0xff == 0xff || found.try_push((header as u8, register)).is_err() {
            break;
        }
        next = header >> 8;
    }
    found
}

/// Whether the function is an IOMMU's.
pub(super) fn is_iommu(access: &Access<'_, '_>, list: &[Capability]) -> bool {
    let mut secure = list.iter().filter(|(id, _)| *id == id::SECURE_DEVICE);
    secure.any(|(_, register)| access.read(*register, Width::Dword) >> 16 & 7 == IOMMU)
}

/// Where registers of extended capabilities are that decode memory: first byte and the one behind the last.
pub(super) fn decoding(access: &Access<'_, '_>) -> ArrayVec<(u16, u16), 8> {
    let mut found = ArrayVec::new();
    let mut register = FIRST_EXTENDED;
    for _ in 0..MAX_EXTENDED_WALK {
        let header = access.read(register, Width::Dword);
        if header == 0 || header == u32::MAX {
            break;
        }
        if let Some((_, bytes)) = DECODING.iter().find(|(id, _)| u32::from(*id) == header & 0xffff) {
            // A list with more of them than there are kinds is a loop or nonsense.
            if found.try_push((register, register.saturating_add(*bytes))).is_err() {
                break;
            }
        }
        register = (header >> 20) as u16 & 0xffc;
        if register < FIRST_EXTENDED {
            break;
        }
    }
    found
}
