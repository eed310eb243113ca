//! Which XSAVE components a guest may have and where they lie: leaf 0DH, checked against what the architecture says of
//! each component, since not every CPU's (or emulator's) leaf 0DH is consistent.
//!
//! Source: Intel SDM vol. 1, "Managing State Using the XSAVE Feature Set".

use vcpu::CpuidResult;

use super::baseline as bits;

pub(super) const X87: u64 = StateLayout::X87;
const SSE: u64 = StateLayout::SSE;
pub(super) const AVX: u64 = StateLayout::AVX;
pub(super) const AVX512: u64 = StateLayout::AVX512;
/// Protection keys.
const PKRU: u64 = 1 << 9;
/// Component numbers are below this.
pub(super) const COMPONENTS: u32 = 10;

/// Legacy region and header.
const BASE_SIZE: u32 = 576;
/// Components of the extended region and their sizes in bytes.
const SIZES: [(u32, u32); 5] = [(2, 256), (5, 64), (6, 512), (7, 1024), (9, 8)];
/// Subleaf ECX: the component is aligned to 64 bytes in the compacted format.
const ALIGNED: u32 = 1 << 1;
/// Subleaf ECX: a supervisor component.
const SUPERVISOR: u32 = 1 << 0;

/// A component of the extended region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Component {
    size: u32,
    offset: u32,
    aligned: bool,
}

/// The components a guest may have. None without XSAVE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StateLayout {
    components: u64,
    at: [Component; COMPONENTS as usize],
}

/// Feature bits that must not be shown for want of a component.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Hidden {
    pub(super) ecx1: u32,
    pub(super) ebx7: u32,
    pub(super) ecx7: u32,
    pub(super) edx7: u32,
}

impl StateLayout {
    /// XCR0: x87, always enabled.
    pub const X87: u64 = 1 << 0;
    /// XCR0: SSE.
    pub const SSE: u64 = 1 << 1;
    /// XCR0: upper halves of the YMM registers.
    pub const AVX: u64 = 1 << 2;
    /// XCR0: opmask, upper halves of ZMM0-15, ZMM16-31; all or none.
    pub const AVX512: u64 = 7 << 5;

    /// What of the host's leaf 0DH can be believed and is in the baseline.
    pub(super) fn detect(host: &impl Fn(u32, u32) -> CpuidResult) -> Self {
        let main = host(0xd, 0);
        let offered = u64::from(main.edx) << 32 | u64::from(main.eax);
        let mut layout = Self::default();
        if host(1, 0).ecx & bits::ECX1_XSAVE == 0 || offered & (X87 | SSE) != X87 | SSE {
            return layout;
        }
        layout.components = X87 | SSE;
        for (number, size) in SIZES {
            let leaf = host(0xd, number);
            let component = Component { size: leaf.eax, offset: leaf.ebx, aligned: leaf.ecx & ALIGNED != 0 };
            let believable = leaf.eax == size
                && leaf.ecx & SUPERVISOR == 0
                && component.offset >= BASE_SIZE
                && !layout.overlaps(component);
            if offered >> number & 1 != 0 && believable {
                layout.components |= 1 << number;
                layout.at[number as usize] = component;
            }
        }
        if layout.components & AVX == 0 || layout.components & AVX512 != AVX512 {
            layout.components &= !AVX512;
        }
        // The host says how much room all of its components take. Where that is less than what we would tell, a
        // guest that saves by it writes past its buffer: no XSAVE then.
        if main.ecx < layout.size(layout.components) {
            return Self::default();
        }
        layout
    }

    fn overlaps(&self, new: Component) -> bool {
        let end = |component: Component| component.offset.saturating_add(component.size);
        self.at.iter().any(|old| old.size != 0 && new.offset < end(*old) && old.offset < end(new))
    }

    /// XCR0 bits a guest may set; 0 without XSAVE.
    pub const fn components(&self) -> u64 {
        self.components
    }

    /// Feature bits that go with the components that are missing.
    pub(super) const fn hidden_features(&self) -> Hidden {
        let mut hidden = Hidden { ecx1: 0, ebx7: 0, ecx7: 0, edx7: 0 };
        if self.components == 0 {
            hidden.ecx1 |= bits::ECX1_XSAVE;
        }
        if self.components & AVX == 0 {
            hidden.ecx1 |= bits::ECX1_AVX | bits::ECX1_FMA | bits::ECX1_F16C;
            hidden.ebx7 |= bits::EBX7_AVX2;
            hidden.ecx7 |= bits::ECX7_AVX;
        }
        if self.components & AVX512 == 0 {
            hidden.ebx7 |= bits::EBX7_AVX512;
            hidden.ecx7 |= bits::ECX7_AVX512;
            hidden.edx7 |= bits::EDX7_AVX512;
        }
        if self.components & PKRU == 0 {
            hidden.ecx7 |= bits::ECX7_PKU;
        }
        hidden
    }

    /// Components of the extended region that `xcr0` enables.
    fn enabled(&self, xcr0: u64) -> impl Iterator<Item = Component> {
        self.at.into_iter().enumerate().filter(move |(number, _)| xcr0 >> number & 1 != 0).map(|(_, at)| at)
    }

    /// Bytes of a save area in the standard format.
    pub(super) fn size(&self, xcr0: u64) -> u32 {
        self.enabled(xcr0).map(|at| at.offset.saturating_add(at.size)).fold(BASE_SIZE, u32::max)
    }

    /// Bytes of a save area in the compacted format.
    pub(super) fn compacted_size(&self, xcr0: u64) -> u32 {
        self.enabled(xcr0).filter(|at| at.size != 0).fold(BASE_SIZE, |end, at| {
            let start = if at.aligned { end.next_multiple_of(64) } else { end };
            start + at.size
        })
    }

    /// Subleaves 0 and 1 with XCR0 = 1; `features` are subleaf 1's EAX.
    pub(super) fn leaves(&self, features: u32) -> (CpuidResult, CpuidResult) {
        if self.components == 0 {
            return (CpuidResult::default(), CpuidResult::default());
        }
        let main = CpuidResult {
            eax: self.components as u32,
            ebx: BASE_SIZE,
            ecx: self.size(self.components),
            edx: (self.components >> 32) as u32,
        };
        let compacted = if features & bits::EAXD1_XSAVEC != 0 { BASE_SIZE } else { 0 };
        (main, CpuidResult { eax: features, ebx: compacted, ecx: 0, edx: 0 })
    }

    /// The subleaf of one component; `None` where a guest has not got it.
    pub(super) fn leaf(&self, number: u32) -> Option<CpuidResult> {
        let component = self.at.get(number as usize).filter(|_| self.components >> number & 1 != 0)?;
        Some(CpuidResult {
            eax: component.size,
            ebx: component.offset,
            ecx: if component.aligned { ALIGNED } else { 0 },
            edx: 0,
        })
    }
}
