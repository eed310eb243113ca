//! Registers and memory operands: partial registers, effective addresses, segmentation.

use iced_x86::{Instruction, Register};
use vcpu::Gva;

use crate::{Context, Exception, Mode, Segment, SegmentName, Width};

/// What an instruction does to a memory operand, for the segment's type check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It reads, then writes.
    Update,
}

/// A general-purpose register or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gpr {
    /// 0 to 15.
    pub number: u8,
    /// How much of it.
    pub width: Width,
    /// AH, CH, DH or BH: bits 8 to 15 of `number`.
    pub high: bool,
}

impl Gpr {
    /// The low part of a register.
    #[inline]
    pub const fn new(number: u8, width: Width) -> Self {
        Self { number, width, high: false }
    }

    /// From the decoder's name; `None` for anything but a general-purpose register.
    #[inline]
    pub(crate) fn from_register(register: Register) -> Option<Self> {
        let value = register as u8;
        let from = |first: Register, width| Self::new(value - first as u8, width);
        Some(match register {
            Register::AL | Register::CL | Register::DL | Register::BL => from(Register::AL, Width::Byte),
            Register::AH | Register::CH | Register::DH | Register::BH => {
                Self { high: true, ..from(Register::AH, Width::Byte) }
            }
            _ if value < Register::SPL as u8 => return None,
            _ if value < Register::AX as u8 => Self::new(value - Register::SPL as u8 + 4, Width::Byte),
            _ if value < Register::EAX as u8 => from(Register::AX, Width::Word),
            _ if value < Register::RAX as u8 => from(Register::EAX, Width::Dword),
            _ if value < Register::EIP as u8 => from(Register::RAX, Width::Qword),
            _ => return None,
        })
    }

    /// Its value, zero-extended.
    #[inline]
    pub fn get<C: Context + ?Sized>(self, context: &C) -> u64 {
        let value = context.gpr(self.number);
        (if self.high { value >> 8 } else { value }) & self.width.mask()
    }

    /// Writes it. A 32-bit write clears the upper half, smaller ones keep the rest (SDM vol. 1,
    /// "General-Purpose Registers in 64-Bit Mode").
    #[inline]
    pub fn set<C: Context + ?Sized>(self, context: &mut C, value: u64) {
        let merged = match self.width {
            Width::Qword => value,
            Width::Dword => value & self.width.mask(),
            Width::Byte | Width::Word => {
                let shift = if self.high { 8 } else { 0 };
                let mask = self.width.mask() << shift;
                (context.gpr(self.number) & !mask) | ((value << shift) & mask)
            }
        };
        context.set_gpr(self.number, merged);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Base {
    None,
    Rip,
    Gpr(u8),
}

/// A memory operand as the instruction names it: segment, base, index, scale and displacement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryOperand {
    /// The segment, overrides included.
    pub segment: SegmentName,
    base: Base,
    index: Option<u8>,
    scale: u8,
    displacement: u64,
    address_width: Width,
}

impl MemoryOperand {
    /// The memory operand of an instruction that has one and was decoded at address 0.
    #[inline]
    pub(crate) fn of(instruction: &Instruction) -> Self {
        let (base, base_width) = match instruction.memory_base() {
            Register::None => (Base::None, None),
            Register::RIP => (Base::Rip, Some(Width::Qword)),
            Register::EIP => (Base::Rip, Some(Width::Dword)),
            register => match Gpr::from_register(register) {
                Some(gpr) => (Base::Gpr(gpr.number), Some(gpr.width)),
                None => (Base::None, None),
            },
        };
        let index = Gpr::from_register(instruction.memory_index());
        let address_width =
            base_width.or(index.map(|gpr| gpr.width)).unwrap_or(match instruction.memory_displ_size() {
                2 => Width::Word,
                8 => Width::Qword,
                _ => Width::Dword,
            });
        Self {
            segment: segment_name(instruction.memory_segment()),
            base,
            index: index.map(|gpr| gpr.number),
            scale: instruction.memory_index_scale() as u8,
            displacement: instruction.memory_displacement64(),
            address_width,
        }
    }

    /// The effective address: the offset in the segment (SDM vol. 1, "Specifying an Offset").
    #[inline]
    pub fn offset<C: Context + ?Sized>(&self, context: &C) -> u64 {
        let base = match self.base {
            Base::None => 0,
            Base::Rip => context.rip(),
            Base::Gpr(number) => context.gpr(number),
        };
        let index = self.index.map_or(0, |number| context.gpr(number));
        let index = index.wrapping_mul(u64::from(self.scale));
        base.wrapping_add(index).wrapping_add(self.displacement) & self.address_width.mask()
    }

    /// The linear address of `bytes` bytes (at least one) at the operand, checked against the segment's
    /// limit and type or for canonical form; #GP(0) or #SS(0) otherwise.
    #[inline]
    pub fn linear<C: Context + ?Sized>(
        &self,
        context: &C,
        bytes: usize,
        access: Access,
    ) -> Result<Gva, Exception> {
        linear_address(context, self.segment, self.offset(context), bytes, access)
    }

    /// As [`Self::linear`] for the bytes `distance` further on, as bit tests address memory.
    #[inline]
    pub(crate) fn linear_beyond<C: Context + ?Sized>(
        &self,
        context: &C,
        distance: u64,
        bytes: usize,
        access: Access,
    ) -> Result<Gva, Exception> {
        let offset = self.offset(context).wrapping_add(distance) & self.address_width.mask();
        linear_address(context, self.segment, offset, bytes, access)
    }
}

/// The segment register that the decoder names.
#[inline]
pub(crate) fn segment_name(register: Register) -> SegmentName {
    match register {
        Register::ES => SegmentName::Es,
        Register::CS => SegmentName::Cs,
        Register::SS => SegmentName::Ss,
        Register::FS => SegmentName::Fs,
        Register::GS => SegmentName::Gs,
        _ => SegmentName::Ds,
    }
}

/// Segmentation (SDM vol. 3, "Limit Checking", "Type Checking", "Segmentation in IA-32e Mode"; vol. 1,
/// "Canonical Addressing"). Outside 64-bit mode the address has 32 bits; the last bytes of an access may
/// lie past 4 GiB, where they wrap to 0 as the walker's translation does.
#[inline]
pub(crate) fn linear_address<C: Context + ?Sized>(
    context: &C,
    name: SegmentName,
    offset: u64,
    bytes: usize,
    access: Access,
) -> Result<Gva, Exception> {
    let last = (bytes as u64).saturating_sub(1);
    let mode = context.mode();
    let violation = if name == SegmentName::Ss { Exception::SS0 } else { Exception::GP0 };
    if mode == Mode::Long64 {
        let base = match name {
            SegmentName::Fs | SegmentName::Gs => context.segment(name).base,
            _ => 0,
        };
        let linear = base.wrapping_add(offset);
        let bits = context.linear_address_bits();
        let fits = linear.checked_add(last).is_some_and(|end| is_canonical(end, bits));
        return if fits && is_canonical(linear, bits) { Ok(Gva(linear)) } else { Err(violation) };
    }
    let segment = context.segment(name);
    let allowed = (mode.has_plain_segments() || type_allows(segment, access))
        && offset.checked_add(last).is_some_and(|end| within_limit(segment, offset, end));
    if allowed { Ok(Gva(segment.base.wrapping_add(offset) & Width::Dword.mask())) } else { Err(violation) }
}

#[inline]
fn is_canonical(linear: u64, bits: u32) -> bool {
    let shift = 64 - bits.clamp(1, 64);
    (((linear << shift) as i64) >> shift) as u64 == linear
}

/// Code segment (descriptor type bit 3).
const TYPE_CODE: u32 = 1 << 3;
/// Expand-down, of a data segment (descriptor type bit 2).
const TYPE_EXPAND_DOWN: u32 = 1 << 2;
/// Writable data or readable code (descriptor type bit 1).
const TYPE_RIGHT: u32 = 1 << 1;
/// Code or data, not a system segment.
const CODE_OR_DATA: u32 = 1 << 4;
/// D/B: of an expand-down segment, whether it ends at 4 GiB.
const DEFAULT_BIG: u32 = 1 << 14;
/// A null selector was loaded.
const UNUSABLE: u32 = 1 << 16;

fn type_allows(segment: Segment, access: Access) -> bool {
    let has = |bit| segment.attributes & bit != 0;
    if has(UNUSABLE) {
        return false;
    }
    if has(TYPE_CODE) {
        access == Access::Read && has(TYPE_RIGHT)
    } else {
        access == Access::Read || has(TYPE_RIGHT)
    }
}

fn within_limit(segment: Segment, first: u64, last: u64) -> bool {
    let limit = u64::from(segment.limit);
    let expands_down = segment.attributes & (CODE_OR_DATA | TYPE_CODE | TYPE_EXPAND_DOWN | UNUSABLE)
        == CODE_OR_DATA | TYPE_EXPAND_DOWN;
    if !expands_down {
        return last <= limit;
    }
    let top = if segment.attributes & DEFAULT_BIG != 0 { Width::Dword } else { Width::Word };
    first > limit && last <= top.mask()
}
