//! Integer arithmetic with its flags (SDM vol. 1, "Status Flags"; vol. 2, the instructions' "Flags
//! Affected"). Where the manual leaves a flag undefined, what CPUs commonly do is done: AND, OR, XOR and TEST
//! clear AF; the bit tests leave OF, SF, AF and PF alone.

use crate::Width;

/// Carry.
pub(crate) const CF: u64 = 1 << 0;
/// Parity of the low byte: set where the number of ones is even.
pub(crate) const PF: u64 = 1 << 2;
/// Carry out of bit 3.
pub(crate) const AF: u64 = 1 << 4;
/// Zero.
pub(crate) const ZF: u64 = 1 << 6;
/// Sign.
pub(crate) const SF: u64 = 1 << 7;
/// Single step.
pub(crate) const TF: u64 = 1 << 8;
/// Direction of string instructions.
pub(crate) const DF: u64 = 1 << 10;
/// Signed overflow.
pub(crate) const OF: u64 = 1 << 11;
/// The six status flags.
pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// A result and the status flags that go with it. Flags not in `affected` keep their value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) value: u64,
    pub(crate) flags: u64,
    pub(crate) affected: u64,
}

impl Outcome {
    /// RFLAGS after the instruction.
    #[inline]
    pub(crate) const fn apply(self, rflags: u64) -> u64 {
        (rflags & !self.affected) | (self.flags & self.affected)
    }

    /// The same with CF kept, as INC and DEC do.
    #[inline]
    const fn keeping_carry(self) -> Self {
        Self { affected: self.affected & !CF, ..self }
    }
}

/// An operation with a destination and a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Binary {
    Add,
    Adc,
    Sub,
    Sbb,
    And,
    Or,
    Xor,
}

/// An operation on one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unary {
    Inc,
    Dec,
    Neg,
    Not,
}

/// What a bit test does to the bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BitChange {
    None,
    Set,
    Reset,
    Complement,
}

/// SF, ZF and PF of a result.
#[inline]
fn result_flags(width: Width, value: u64) -> u64 {
    let mut flags = 0;
    if value == 0 {
        flags |= ZF;
    }
    if value & width.sign_bit() != 0 {
        flags |= SF;
    }
    if (value & 0xff).count_ones().is_multiple_of(2) {
        flags |= PF;
    }
    flags
}

#[inline]
fn logic(width: Width, value: u64) -> Outcome {
    let value = value & width.mask();
    Outcome { value, flags: result_flags(width, value), affected: STATUS }
}

#[inline]
fn with_carries(width: Width, value: u64, carries: u64, overflow: u64, half: u64) -> Outcome {
    let sign = width.sign_bit();
    let mut flags = result_flags(width, value) | (half & AF);
    if carries & sign != 0 {
        flags |= CF;
    }
    if overflow & sign != 0 {
        flags |= OF;
    }
    Outcome { value, flags, affected: STATUS }
}

#[inline]
fn add(width: Width, a: u64, b: u64, carry: u64) -> Outcome {
    let value = a.wrapping_add(b).wrapping_add(carry) & width.mask();
    let carries = (a & b) | ((a | b) & !value);
    with_carries(width, value, carries, (a ^ value) & (b ^ value), a ^ b ^ value)
}

#[inline]
fn subtract(width: Width, a: u64, b: u64, borrow: u64) -> Outcome {
    let value = a.wrapping_sub(b).wrapping_sub(borrow) & width.mask();
    let borrows = (!a & b) | ((!a | b) & value);
    with_carries(width, value, borrows, (a ^ b) & (a ^ value), a ^ b ^ value)
}

/// `a - b` for its flags: CMP, CMPS, SCAS, CMPXCHG.
#[inline]
pub(crate) fn compare(width: Width, a: u64, b: u64) -> Outcome {
    subtract(width, a & width.mask(), b & width.mask(), 0)
}

/// `a & b` for its flags: TEST.
#[inline]
pub(crate) fn test(width: Width, a: u64, b: u64) -> Outcome {
    logic(width, a & b)
}

#[inline]
pub(crate) fn binary(operation: Binary, width: Width, a: u64, b: u64, rflags: u64) -> Outcome {
    let (a, b) = (a & width.mask(), b & width.mask());
    match operation {
        Binary::Add => add(width, a, b, 0),
        Binary::Adc => add(width, a, b, rflags & CF),
        Binary::Sub => subtract(width, a, b, 0),
        Binary::Sbb => subtract(width, a, b, rflags & CF),
        Binary::And => logic(width, a & b),
        Binary::Or => logic(width, a | b),
        Binary::Xor => logic(width, a ^ b),
    }
}

#[inline]
pub(crate) fn unary(operation: Unary, width: Width, a: u64) -> Outcome {
    let a = a & width.mask();
    match operation {
        Unary::Inc => add(width, a, 1, 0).keeping_carry(),
        Unary::Dec => subtract(width, a, 1, 0).keeping_carry(),
        Unary::Neg => subtract(width, 0, a, 0),
        Unary::Not => Outcome { value: !a & width.mask(), flags: 0, affected: 0 },
    }
}

/// CF takes the bit `offset` (modulo the width) of `a`; the result has it changed.
#[inline]
pub(crate) fn bit_test(change: BitChange, width: Width, a: u64, offset: u64) -> Outcome {
    let bit = 1 << (offset & u64::from(width.bits() - 1));
    let flags = if a & bit != 0 { CF } else { 0 };
    let value = match change {
        BitChange::None => a,
        BitChange::Set => a | bit,
        BitChange::Reset => a & !bit,
        BitChange::Complement => a ^ bit,
    };
    Outcome { value, flags, affected: CF }
}

/// A condition of SETcc and CMOVcc, by its number in the opcode's low four bits (SDM vol. 1, "Condition
/// Codes").
#[inline]
pub(crate) const fn condition(number: u8, rflags: u64) -> bool {
    let sign_differs = (rflags & SF != 0) != (rflags & OF != 0);
    let holds = match (number >> 1) & 7 {
        0 => rflags & OF != 0,
        1 => rflags & CF != 0,
        2 => rflags & ZF != 0,
        3 => rflags & (CF | ZF) != 0,
        4 => rflags & SF != 0,
        5 => rflags & PF != 0,
        6 => sign_differs,
        _ => rflags & ZF != 0 || sign_differs,
    };
    holds != (number & 1 != 0)
}
