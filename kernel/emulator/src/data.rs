//! Moves, arithmetic, bit tests and exchanges (SDM vol. 2, the instruction reference). In all of them memory
//! is written before registers and flags are, so that a fault leaves both as they were.

use iced_x86::OpKind;

use crate::alu::{self, Binary, BitChange, Outcome, Unary, ZF};
use crate::execute::{Abort, Place, Progress, Run};
use crate::{Access, Context, Exception, Gpr, MemoryOperand, Width};

/// RAX, RCX, RDX and RBX by number.
pub(crate) const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RBX: u8 = 3;

impl Run<'_> {
    pub(crate) fn mov(&mut self) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        // A source that is not a general-purpose register (segment, control, debug) is refused in `place`.
        let value = self.value(1, width)?;
        let to = self.place(0, width, Access::Write)?;
        self.store(to, width, value)
    }

    pub(crate) fn mov_extending(&mut self, signed: bool) -> Result<Progress, Abort> {
        let (width, from) = (self.width(0)?, self.width(1)?);
        let value = self.value(1, from)?;
        let value = if signed { from.sign_extend(value) } else { value };
        let to = self.place(0, width, Access::Write)?;
        self.store(to, width, value)
    }

    pub(crate) fn mov_swapping(&mut self) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        let value = self.value(1, width)?.swap_bytes() >> (64 - width.bits());
        let to = self.place(0, width, Access::Write)?;
        self.store(to, width, value)
    }

    pub(crate) fn set_on_condition(&mut self, number: u8) -> Result<Progress, Abort> {
        let to = self.place(0, Width::Byte, Access::Write)?;
        let holds = alu::condition(number, self.context.rflags());
        self.store(to, Width::Byte, u64::from(holds))
    }

    /// The source is read, and the upper half of a 32-bit destination cleared, whether the condition holds
    /// or not.
    pub(crate) fn move_on_condition(&mut self, number: u8) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        let value = self.value(1, width)?;
        let to = self.place(0, width, Access::Write)?;
        let holds = alu::condition(number, self.context.rflags());
        let value = if holds { value } else { self.load(to, width, Access::Read)? };
        self.store(to, width, value)
    }

    pub(crate) fn binary(&mut self, operation: Binary) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        let source = self.value(1, width)?;
        let rflags = self.context.rflags();
        self.modify(width, |a| alu::binary(operation, width, a, source, rflags))
    }

    pub(crate) fn unary(&mut self, operation: Unary) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        self.modify(width, |a| alu::unary(operation, width, a))
    }

    /// Reads operand 0, computes, writes it back, then sets the flags.
    #[inline]
    fn modify(&mut self, width: Width, compute: impl FnOnce(u64) -> Outcome) -> Result<Progress, Abort> {
        let place = self.place(0, width, Access::Update)?;
        let old = self.load(place, width, Access::Update)?;
        let outcome = compute(old);
        let progress = self.replace(place, width, old, outcome.value)?;
        self.finish(progress, outcome)
    }

    #[inline]
    fn finish(&mut self, progress: Progress, outcome: Outcome) -> Result<Progress, Abort> {
        if progress == Progress::Done && outcome.affected != 0 {
            let rflags = self.context.rflags();
            self.context.set_rflags(outcome.apply(rflags));
        }
        Ok(progress)
    }

    pub(crate) fn compare(&mut self) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        let (a, b) = (self.value(0, width)?, self.value(1, width)?);
        self.finish(Progress::Done, alu::compare(width, a, b))
    }

    pub(crate) fn test(&mut self) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        let (a, b) = (self.value(0, width)?, self.value(1, width)?);
        self.finish(Progress::Done, alu::test(width, a, b))
    }

    /// With a register as offset and memory as base, the bit may lie anywhere in 2^width bits around the
    /// operand: the offset is signed and selects the word first.
    pub(crate) fn bit_test(&mut self, change: BitChange) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        let offset = self.value(1, width)?;
        let access = if change == BitChange::None { Access::Read } else { Access::Update };
        let in_memory = self.instruction.op_kind(0) == OpKind::Memory;
        let place = if in_memory && self.instruction.op_kind(1) == OpKind::Register {
            let words = (width.sign_extend(offset) as i64) >> width.bits().trailing_zeros();
            let distance = (words as u64).wrapping_mul(width.bytes() as u64);
            let operand = MemoryOperand::of(self.instruction);
            Place::Memory(operand.linear_beyond(self.context, distance, width.bytes(), access)?)
        } else {
            self.place(0, width, access)?
        };
        let old = self.load(place, width, access)?;
        let outcome = alu::bit_test(change, width, old, offset);
        let progress = match change {
            BitChange::None => Progress::Done,
            _ => self.replace(place, width, old, outcome.value)?,
        };
        self.finish(progress, outcome)
    }

    pub(crate) fn exchange(&mut self) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        let (first, second) = (self.place(0, width, Access::Update)?, self.place(1, width, Access::Update)?);
        let a = self.load(first, width, Access::Update)?;
        let b = self.load(second, width, Access::Update)?;
        // The decoder puts memory first; of two registers the order does not matter.
        match self.replace(first, width, a, b)? {
            Progress::Done => self.store(second, width, a),
            Progress::Again => Ok(Progress::Again),
        }
    }

    pub(crate) fn exchange_add(&mut self) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        let (to, from) = (self.place(0, width, Access::Update)?, self.place(1, width, Access::Read)?);
        let source = self.value(1, width)?;
        let old = self.load(to, width, Access::Update)?;
        let outcome = alu::binary(Binary::Add, width, old, source, 0);
        // With one register as both operands the sum stays, so the destination is written last there.
        if let Place::Register(_) = to {
            self.store(from, width, old)?;
            self.store(to, width, outcome.value)?;
            return self.finish(Progress::Done, outcome);
        }
        let progress = self.replace(to, width, old, outcome.value)?;
        if progress == Progress::Done {
            self.store(from, width, old)?;
        }
        self.finish(progress, outcome)
    }

    /// Memory is written in both cases, as the CPU does: with its own value where the comparison failed.
    pub(crate) fn compare_exchange(&mut self) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        let accumulator = Gpr::new(RAX, width);
        let source = self.value(1, width)?;
        let place = self.place(0, width, Access::Update)?;
        let old = self.load(place, width, Access::Update)?;
        let expected = accumulator.get(self.context);
        let equal = old == expected;
        let progress = match place {
            Place::Register(_) if !equal => Progress::Done,
            _ => self.replace(place, width, old, if equal { source } else { old })?,
        };
        if progress == Progress::Done && !equal {
            accumulator.set(self.context, old);
        }
        self.finish(progress, alu::compare(width, expected, old))
    }

    pub(crate) fn compare_exchange_8b(&mut self) -> Result<Progress, Abort> {
        let linear = MemoryOperand::of(self.instruction).linear(self.context, 8, Access::Update)?;
        let old: [u8; 8] = self.load_bytes(linear, Access::Update)?;
        let pair = |context: &dyn Context, high, low| {
            (Gpr::new(high, Width::Dword).get(context) << 32) | Gpr::new(low, Width::Dword).get(context)
        };
        let value = u64::from_le_bytes(old);
        let equal = value == pair(self.context, RDX, RAX);
        let new = if equal { pair(self.context, RCX, RBX) } else { value };
        let progress = self.replace_bytes(linear, &old, &new.to_le_bytes())?;
        self.finish_pair(progress, equal, Width::Dword, value >> 32, value)
    }

    pub(crate) fn compare_exchange_16b(&mut self) -> Result<Progress, Abort> {
        let linear = MemoryOperand::of(self.instruction).linear(self.context, 16, Access::Update)?;
        if linear.0 % 16 != 0 {
            return Err(Exception::GP0.into());
        }
        let old: [u8; 16] = self.load_bytes(linear, Access::Update)?;
        let pair = |context: &dyn Context, high, low| {
            (u128::from(context.gpr(high)) << 64) | u128::from(context.gpr(low))
        };
        let value = u128::from_le_bytes(old);
        let equal = value == pair(self.context, RDX, RAX);
        let new = if equal { pair(self.context, RCX, RBX) } else { value };
        let progress = self.replace_bytes(linear, &old, &new.to_le_bytes())?;
        self.finish_pair(progress, equal, Width::Qword, (value >> 64) as u64, value as u64)
    }

    /// CMPXCHG8B and CMPXCHG16B: on a mismatch the value goes to the register pair; ZF alone changes.
    fn finish_pair(
        &mut self,
        progress: Progress,
        equal: bool,
        width: Width,
        high: u64,
        low: u64,
    ) -> Result<Progress, Abort> {
        if progress == Progress::Done && !equal {
            Gpr::new(RDX, width).set(self.context, high);
            Gpr::new(RAX, width).set(self.context, low);
        }
        let flags = if equal { ZF } else { 0 };
        self.finish(progress, Outcome { value: 0, flags, affected: ZF })
    }
}
