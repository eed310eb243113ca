//! What a function decodes of memory, by the registers of its header: BARs, the expansion ROM, a bridge's windows.
//!
//! Sources: PCI 3.0, "Base Addresses", "Expansion ROM Base Address Register"; PCI-to-PCI Bridge Architecture Specification 1.2, "Memory Base
//! Register and Memory Limit Register", "Prefetchable Memory Base Register and Prefetchable Memory Limit Register".

use arrayvec::ArrayVec;

/// Addresses from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Region {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Region {
    /// `bytes` from `first` on; what would be beyond the end of addresses is left out. `None` for none.
    pub(super) const fn new(first: u64, bytes: u64) -> Option<Self> {
        if bytes == 0 {
            return None;
        }
        Some(Self { first, last: first.saturating_add(bytes - 1) })
    }

    pub(super) const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Registers that place memory, at most; each function's are its slots.
pub(super) const SLOTS: usize = 7;
/// Their values.
pub(super) type Image = [u32; SLOTS];
/// A set of slots, a bit for each.
pub(super) type Slots = u8;

const ROM: usize = 6;
const WINDOW: usize = 2;
const PREFETCHABLE: usize = 3;
const PREFETCHABLE_SLOTS: Slots = 0b11_1000;

const IO: u32 = 1;
const TYPE: u32 = 0b110;
const WIDE: u32 = 0b100;
const BAR_FIXED: u32 = 0xf;
const ROM_ENABLE: u32 = 1;
const ROM_FIXED: u32 = 0x7fe;
/// What sizes an expansion ROM without switching it on.
pub(super) const ROM_SIZING: u32 = 0xffff_f800;
/// The address bits of a window's base and limit; below them is the kind.
pub(super) const WINDOW_BITS: u32 = 0xfff0_fff0;
/// A window whose base is beyond its limit.
pub(super) const WINDOW_CLOSED: u32 = 0x0000_fff0;
const WINDOW_WIDE: u32 = 1;
const WINDOW_LOW_BITS: u64 = 0xf_ffff;

/// Which registers a header has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// Type 0.
    Device,
    /// Type 1: a bridge to another PCI bus.
    Bridge,
    /// Anything else; nothing in it is moved.
    Other,
}

/// What the value of a slot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// I/O ports.
    Io,
    /// A memory BAR or its lower half.
    Low,
    /// The upper half of the BAR before.
    High,
    /// The expansion ROM.
    Rom,
    /// Base and limit of a window.
    Window,
    /// The upper half of the prefetchable window's base or limit.
    WindowHigh,
}

/// Something that is decoded, and the slots that say where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decoded {
    pub(super) region: Region,
    pub(super) slots: Slots,
}

fn value(image: &Image, slot: usize) -> u32 {
    image.get(slot).copied().unwrap_or(0)
}

const fn wide(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// The region of a BAR of which `mask` has the bits that can be changed: the lowest of them is its size.
const fn aligned(value: u64, mask: u64) -> Option<Region> {
    Region::new(value & mask, mask & mask.wrapping_neg())
}

impl Layout {
    /// The layout that a header-type register says.
    pub(super) const fn of(header_type: u32) -> Self {
        match header_type & 0x7f {
            0 => Self::Device,
            1 => Self::Bridge,
            _ => Self::Other,
        }
    }

    /// The registers of the slots.
    pub(super) const fn registers(self) -> &'static [u16] {
        match self {
            Self::Device => &[0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30],
            Self::Bridge => &[0x10, 0x14, 0x20, 0x24, 0x28, 0x2c, 0x38],
            Self::Other => &[],
        }
    }

    /// The slot of a register.
    pub(super) fn slot(self, dword: u16) -> Option<usize> {
        self.registers().iter().position(|register| *register == dword)
    }

    /// How many of the slots are BARs; these come first.
    const fn bars(self) -> usize {
        match self {
            Self::Device => 6,
            Self::Bridge => 2,
            Self::Other => 0,
        }
    }

    /// What the slots are. Which BARs are of 64 bits is in their lower halves.
    pub(super) fn kinds(self, image: &Image) -> [Kind; SLOTS] {
        let mut kinds = [Kind::Rom; SLOTS];
        let mut high = false;
        for (slot, kind) in kinds.iter_mut().enumerate().take(ROM) {
            let low = value(image, slot);
            *kind = match slot {
                _ if slot < self.bars() && high => Kind::High,
                _ if slot < self.bars() && low & IO != 0 => Kind::Io,
                _ if slot < self.bars() => Kind::Low,
                WINDOW | PREFETCHABLE => Kind::Window,
                _ => Kind::WindowHigh,
            };
            high = *kind == Kind::Low && low & TYPE == WIDE && slot + 1 < self.bars();
        }
        kinds
    }

    /// The slots that place the same thing as this one.
    pub(super) fn group(self, slot: usize, image: &Image) -> Slots {
        let kinds = self.kinds(image);
        let own = 1 << slot;
        match kinds.get(slot) {
            Some(Kind::Low) if kinds.get(slot + 1) == Some(&Kind::High) => own | own << 1,
            Some(Kind::High) => own | own >> 1,
            Some(Kind::Window) if slot == PREFETCHABLE => PREFETCHABLE_SLOTS,
            Some(Kind::WindowHigh) => PREFETCHABLE_SLOTS,
            _ => own,
        }
    }

    /// What is decoded where the slots have these values; `masks` has the bits of each that can be changed.
    pub(super) fn decoded(self, image: &Image, masks: &Image) -> ArrayVec<Decoded, SLOTS> {
        let mut found = ArrayVec::new();
        let kinds = self.kinds(image);
        for slot in 0..self.registers().len() {
            let (low, mask) = (value(image, slot), value(masks, slot));
            let region = match kinds.get(slot) {
                Some(Kind::Low) if kinds.get(slot + 1) == Some(&Kind::High) => {
                    let mask = wide(mask & !BAR_FIXED, value(masks, slot + 1));
                    aligned(wide(low, value(image, slot + 1)), mask)
                }
                Some(Kind::Low) => aligned(low.into(), (mask & !BAR_FIXED).into()),
                Some(Kind::Rom) if low & ROM_ENABLE != 0 => aligned(low.into(), (mask & ROM_SIZING).into()),
                Some(Kind::Window) if mask != 0 => window(slot, image),
                _ => None,
            };
            if let Some(region) = region {
                let _ = found.try_push(Decoded { region, slots: self.group(slot, image) });
            }
        }
        found
    }

    /// Where a memory BAR begins, be it decoded or not. `None` where it is none, or at 0, as one is that nobody has placed.
    pub(super) fn base(self, bar: usize, image: &Image) -> Option<u64> {
        let kinds = self.kinds(image);
        if bar >= self.bars() || kinds.get(bar) != Some(&Kind::Low) {
            return None;
        }
        let high = if kinds.get(bar + 1) == Some(&Kind::High) { value(image, bar + 1) } else { 0 };
        let base = wide(value(image, bar) & !BAR_FIXED, high);
        (base != 0).then_some(base)
    }
}

/// What a window forwards.
fn window(slot: usize, image: &Image) -> Option<Region> {
    let both = value(image, slot);
    let is_wide = slot == PREFETCHABLE && both & 0xf == WINDOW_WIDE;
    let (base_high, limit_high) =
        if is_wide { (value(image, slot + 1), value(image, slot + 2)) } else { (0, 0) };
    let first = wide((both & 0xfff0) << 16, base_high);
    let last = wide(both & 0xfff0_0000, limit_high) | WINDOW_LOW_BITS;
    (first <= last).then_some(Region { first, last })
}

impl Kind {
    /// The bits that stay as they are whatever is written.
    const fn fixed(self) -> u32 {
        match self {
            Self::Io => 0b11,
            Self::Low => BAR_FIXED,
            Self::Rom => ROM_FIXED,
            Self::Window => !WINDOW_BITS,
            Self::High | Self::WindowHigh => 0,
        }
    }

    /// What the register has after `written`, when it had `before` and the bits in `mask` can be changed.
    pub(super) const fn after(self, before: u32, written: u32, mask: u32) -> u32 {
        let writable = mask & !self.fixed();
        before & !writable | written & writable
    }

    /// Whether a write only asks for the size: all bits of the address are ones.
    pub(super) const fn is_sizing(self, written: u32) -> bool {
        match self {
            Self::Low | Self::High => written | BAR_FIXED == u32::MAX,
            Self::Rom => written | !ROM_SIZING == u32::MAX,
            Self::Io | Self::Window | Self::WindowHigh => false,
        }
    }
}
