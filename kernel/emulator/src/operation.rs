//! What an instruction does, by the decoder's number for its form.
//!
//! The decoder has tables of its own that give a form's mnemonic and the size of its memory operand, for all of its five thousand forms: 20 KiB.
//! Of those executed here the forms of an instruction stand behind each other, so that a line for each says the same. A test compares with the decoder's tables.

use iced_x86::Code;

use crate::Width;
use crate::alu::{Binary, BitChange, Unary};
use crate::string::Form;

/// An instruction that the emulator executes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Move,
    /// MOVZX, MOVSX, MOVSXD.
    MoveExtending {
        signed: bool,
    },
    /// MOVBE.
    MoveSwapping,
    Binary(Binary),
    Compare,
    Test,
    Unary(Unary),
    BitTest(BitChange),
    Exchange,
    ExchangeAdd,
    CompareExchange,
    /// CMPXCHG8B.
    CompareExchange8,
    /// CMPXCHG16B.
    CompareExchange16,
    In,
    Out,
    String(Form),
    /// SETcc, with the condition's number.
    SetOn(u8),
    /// CMOVcc, with the condition's number.
    MoveOn(u8),
}

/// What the forms of a row do.
#[derive(Clone, Copy)]
enum Rule {
    All(Operation),
    /// Each another one of [`GROUP_1`].
    Group1,
    /// So do each three.
    Group1Wide,
    /// Each another condition.
    SetOn,
    /// Each three.
    MoveOn,
}

/// The width of the memory operands of a row.
#[derive(Clone, Copy)]
enum Widths {
    /// 1, 2, 4, 8, over and over again.
    Any,
    /// 2, 4, 8.
    Wide,
    /// Always this.
    Only(Width),
}

/// Forms from one to another, in the decoder's order.
struct Row(Code, Code, Rule, Widths);

/// The operations that one opcode tells apart by ModRM.reg (SDM vol. 2, "Opcode Extensions for One-byte and Two-byte Opcodes by Group Number").
const GROUP_1: [Operation; 8] = [
    Operation::Binary(Binary::Add),
    Operation::Binary(Binary::Or),
    Operation::Binary(Binary::Adc),
    Operation::Binary(Binary::Sbb),
    Operation::Binary(Binary::And),
    Operation::Binary(Binary::Sub),
    Operation::Binary(Binary::Xor),
    Operation::Compare,
];

const fn any(first: Code, last: Code, operation: Operation) -> Row {
    Row(first, last, Rule::All(operation), Widths::Any)
}

const fn wide(first: Code, last: Code, operation: Operation) -> Row {
    Row(first, last, Rule::All(operation), Widths::Wide)
}

const fn only(width: Width, first: Code, last: Code, operation: Operation) -> Row {
    Row(first, last, Rule::All(operation), Widths::Only(width))
}

/// The smaller of the decoder's numbers come first.
static ROWS: [Row; 68] = {
    use Operation::*;
    use Width::{Byte, Dword, Qword, Word};
    [
        any(Code::Add_rm8_r8, Code::Add_RAX_imm32, Binary(self::Binary::Add)),
        any(Code::Or_rm8_r8, Code::Or_RAX_imm32, Binary(self::Binary::Or)),
        any(Code::Adc_rm8_r8, Code::Adc_RAX_imm32, Binary(self::Binary::Adc)),
        any(Code::Sbb_rm8_r8, Code::Sbb_RAX_imm32, Binary(self::Binary::Sbb)),
        any(Code::And_rm8_r8, Code::And_RAX_imm32, Binary(self::Binary::And)),
        any(Code::Sub_rm8_r8, Code::Sub_RAX_imm32, Binary(self::Binary::Sub)),
        any(Code::Xor_rm8_r8, Code::Xor_RAX_imm32, Binary(self::Binary::Xor)),
        any(Code::Cmp_rm8_r8, Code::Cmp_RAX_imm32, Compare),
        wide(Code::Inc_r16, Code::Inc_r32, Unary(self::Unary::Inc)),
        wide(Code::Dec_r16, Code::Dec_r32, Unary(self::Unary::Dec)),
        only(Word, Code::Movsxd_r16_rm16, Code::Movsxd_r16_rm16, MoveExtending { signed: true }),
        only(Dword, Code::Movsxd_r32_rm32, Code::Movsxd_r64_rm32, MoveExtending { signed: true }),
        any(Code::Insb_m8_DX, Code::Insd_m32_DX, String(Form::Ins)),
        any(Code::Outsb_DX_m8, Code::Outsd_DX_m32, String(Form::Outs)),
        Row(Code::Add_rm8_imm8, Code::Cmp_rm8_imm8, Rule::Group1, Widths::Only(Byte)),
        Row(Code::Add_rm16_imm16, Code::Cmp_rm64_imm32, Rule::Group1Wide, Widths::Wide),
        Row(Code::Add_rm8_imm8_82, Code::Cmp_rm8_imm8_82, Rule::Group1, Widths::Only(Byte)),
        Row(Code::Add_rm16_imm8, Code::Cmp_rm64_imm8, Rule::Group1Wide, Widths::Wide),
        any(Code::Test_rm8_r8, Code::Test_rm64_r64, Test),
        any(Code::Xchg_rm8_r8, Code::Xchg_rm64_r64, Exchange),
        any(Code::Mov_rm8_r8, Code::Mov_r64_rm64, Move),
        wide(Code::Xchg_r16_AX, Code::Xchg_r64_RAX, Exchange),
        any(Code::Mov_AL_moffs8, Code::Mov_moffs64_RAX, Move),
        any(Code::Movsb_m8_m8, Code::Movsq_m64_m64, String(Form::Movs)),
        any(Code::Cmpsb_m8_m8, Code::Cmpsq_m64_m64, String(Form::Cmps)),
        any(Code::Test_AL_imm8, Code::Test_RAX_imm32, Test),
        any(Code::Stosb_m8_AL, Code::Stosq_m64_RAX, String(Form::Stos)),
        any(Code::Lodsb_AL_m8, Code::Lodsq_RAX_m64, String(Form::Lods)),
        any(Code::Scasb_AL_m8, Code::Scasq_RAX_m64, String(Form::Scas)),
        any(Code::Mov_r8_imm8, Code::Mov_r64_imm64, Move),
        only(Byte, Code::Mov_rm8_imm8, Code::Mov_rm8_imm8, Move),
        wide(Code::Mov_rm16_imm16, Code::Mov_rm64_imm32, Move),
        any(Code::In_AL_imm8, Code::In_EAX_imm8, In),
        any(Code::Out_imm8_AL, Code::Out_imm8_EAX, Out),
        any(Code::In_AL_DX, Code::In_EAX_DX, In),
        any(Code::Out_DX_AL, Code::Out_DX_EAX, Out),
        only(Byte, Code::Test_rm8_imm8, Code::Test_rm8_imm8_F6r1, Test),
        only(Byte, Code::Not_rm8, Code::Not_rm8, Unary(self::Unary::Not)),
        only(Byte, Code::Neg_rm8, Code::Neg_rm8, Unary(self::Unary::Neg)),
        wide(Code::Test_rm16_imm16, Code::Test_rm64_imm32_F7r1, Test),
        wide(Code::Not_rm16, Code::Not_rm64, Unary(self::Unary::Not)),
        wide(Code::Neg_rm16, Code::Neg_rm64, Unary(self::Unary::Neg)),
        only(Byte, Code::Inc_rm8, Code::Inc_rm8, Unary(self::Unary::Inc)),
        only(Byte, Code::Dec_rm8, Code::Dec_rm8, Unary(self::Unary::Dec)),
        wide(Code::Inc_rm16, Code::Inc_rm64, Unary(self::Unary::Inc)),
        wide(Code::Dec_rm16, Code::Dec_rm64, Unary(self::Unary::Dec)),
        Row(Code::Cmovo_r16_rm16, Code::Cmovg_r64_rm64, Rule::MoveOn, Widths::Wide),
        Row(Code::Seto_rm8, Code::Setg_rm8, Rule::SetOn, Widths::Only(Byte)),
        wide(Code::Bt_rm16_r16, Code::Bt_rm64_r64, BitTest(BitChange::None)),
        wide(Code::Bts_rm16_r16, Code::Bts_rm64_r64, BitTest(BitChange::Set)),
        any(Code::Cmpxchg_rm8_r8, Code::Cmpxchg_rm64_r64, CompareExchange),
        wide(Code::Btr_rm16_r16, Code::Btr_rm64_r64, BitTest(BitChange::Reset)),
        only(Byte, Code::Movzx_r16_rm8, Code::Movzx_r64_rm8, MoveExtending { signed: false }),
        only(Word, Code::Movzx_r16_rm16, Code::Movzx_r64_rm16, MoveExtending { signed: false }),
        wide(Code::Bt_rm16_imm8, Code::Bt_rm64_imm8, BitTest(BitChange::None)),
        wide(Code::Bts_rm16_imm8, Code::Bts_rm64_imm8, BitTest(BitChange::Set)),
        wide(Code::Btr_rm16_imm8, Code::Btr_rm64_imm8, BitTest(BitChange::Reset)),
        wide(Code::Btc_rm16_imm8, Code::Btc_rm64_imm8, BitTest(BitChange::Complement)),
        wide(Code::Btc_rm16_r16, Code::Btc_rm64_r64, BitTest(BitChange::Complement)),
        only(Byte, Code::Movsx_r16_rm8, Code::Movsx_r64_rm8, MoveExtending { signed: true }),
        only(Word, Code::Movsx_r16_rm16, Code::Movsx_r64_rm16, MoveExtending { signed: true }),
        any(Code::Xadd_rm8_r8, Code::Xadd_rm64_r64, ExchangeAdd),
        only(Dword, Code::Movnti_m32_r32, Code::Movnti_m32_r32, Move),
        only(Qword, Code::Movnti_m64_r64, Code::Movnti_m64_r64, Move),
        only(Qword, Code::Cmpxchg8b_m64, Code::Cmpxchg8b_m64, CompareExchange8),
        // Twice as wide; nobody asks.
        only(Qword, Code::Cmpxchg16b_m128, Code::Cmpxchg16b_m128, CompareExchange16),
        wide(Code::Movbe_r16_m16, Code::Movbe_r64_m64, MoveSwapping),
        wide(Code::Movbe_m16_r16, Code::Movbe_m64_r64, MoveSwapping),
    ]
};

/// What a form does, and the width of its operand in memory where it has one; `None` where it is not executed.
pub(crate) fn find(code: Code) -> Option<(Operation, Width)> {
    let code = code as u16;
    let Row(first, _, rule, widths) = ROWS.get(ROWS.partition_point(|row| (row.1 as u16) < code))?;
    let place = usize::from(code.checked_sub(*first as u16)?);
    let operation = match rule {
        Rule::All(operation) => *operation,
        Rule::Group1 => *GROUP_1.get(place)?,
        Rule::Group1Wide => *GROUP_1.get(place / 3)?,
        Rule::SetOn => Operation::SetOn(place as u8),
        Rule::MoveOn => Operation::MoveOn((place / 3) as u8),
    };
    const WIDTHS: [Width; 4] = [Width::Byte, Width::Word, Width::Dword, Width::Qword];
    let width = match widths {
        Widths::Any => *WIDTHS.get(place % 4)?,
        Widths::Wide => *WIDTHS.get(place % 3 + 1)?,
        Widths::Only(width) => *width,
    };
    Some((operation, width))
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::String;

    use iced_x86::{Instruction, MemorySize, Mnemonic};

    use super::*;

    /// The decoder's opinion of what belongs to an operation.
    fn name(operation: Operation) -> String {
        const CONDITIONS: [&str; 16] =
            ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"];
        match operation {
            Operation::Move => "Mov".into(),
            Operation::MoveExtending { signed: true } => "Movsx".into(),
            Operation::MoveExtending { signed: false } => "Movzx".into(),
            Operation::MoveSwapping => "Movbe".into(),
            Operation::Binary(binary) => format!("{binary:?}"),
            Operation::Compare => "Cmp".into(),
            Operation::Test => "Test".into(),
            Operation::Unary(unary) => format!("{unary:?}"),
            Operation::BitTest(BitChange::None) => "Bt".into(),
            Operation::BitTest(BitChange::Set) => "Bts".into(),
            Operation::BitTest(BitChange::Reset) => "Btr".into(),
            Operation::BitTest(BitChange::Complement) => "Btc".into(),
            Operation::Exchange => "Xchg".into(),
            Operation::ExchangeAdd => "Xadd".into(),
            Operation::CompareExchange => "Cmpxchg".into(),
            Operation::CompareExchange8 => "Cmpxchg8b".into(),
            Operation::CompareExchange16 => "Cmpxchg16b".into(),
            Operation::In => "In".into(),
            Operation::Out => "Out".into(),
            Operation::String(form) => format!("{form:?}"),
            Operation::SetOn(number) => format!("Set{}", CONDITIONS[usize::from(number)]),
            Operation::MoveOn(number) => format!("Cmov{}", CONDITIONS[usize::from(number)]),
        }
    }

    /// The same by the decoder's mnemonic, for what is to be executed.
    fn expected(code: Code) -> Option<String> {
        let (mnemonic, form) = (format!("{:?}", code.mnemonic()), format!("{code:?}"));
        let is_string = ["Movs", "Cmps", "Stos", "Lods", "Scas", "Ins", "Outs"].into_iter().find(|name| {
            ["b_", "w_", "d_", "q_"].iter().any(|end| form.starts_with(&format!("{name}{end}")))
        });
        if let Some(name) = is_string {
            return (!form.contains("xmm")).then(|| name.into());
        }
        // Segment, control, debug and test registers are not for the emulator, nor is a form of the 80486's first steppings.
        let is_foreign = ["Sreg", "_cr", "_dr", "_tr", "486"].iter().any(|part| form.contains(part));
        let is_known = match code.mnemonic() {
            Mnemonic::Movnti => return Some("Mov".into()),
            Mnemonic::Movsxd => return Some("Movsx".into()),
            Mnemonic::Mov | Mnemonic::Cmpxchg => !is_foreign,
            Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movbe => true,
            Mnemonic::Add | Mnemonic::Adc | Mnemonic::Sub | Mnemonic::Sbb => true,
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Cmp | Mnemonic::Test => true,
            Mnemonic::Inc | Mnemonic::Dec | Mnemonic::Neg | Mnemonic::Not => true,
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => true,
            Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => true,
            Mnemonic::In | Mnemonic::Out => true,
            _ => mnemonic.starts_with("Cmov") || (mnemonic.starts_with("Set") && form.ends_with("_rm8")),
        };
        is_known.then_some(mnemonic)
    }

    #[test]
    fn the_rows_say_what_the_decoder_says_of_all_forms() {
        let mut known = 0;
        for code in Code::values() {
            let found = find(code);
            assert_eq!(found.map(|(operation, _)| name(operation)), expected(code), "{code:?}");
            let mut instruction = Instruction::default();
            instruction.set_code(code);
            let width = match instruction.memory_size() {
                MemorySize::UInt8 | MemorySize::Int8 => Width::Byte,
                MemorySize::UInt16 | MemorySize::Int16 => Width::Word,
                MemorySize::UInt32 | MemorySize::Int32 => Width::Dword,
                MemorySize::UInt64 | MemorySize::Int64 => Width::Qword,
                _ => continue,
            };
            if let Some((_, found)) = found {
                known += 1;
                assert_eq!(found, width, "{code:?}");
            }
        }
        assert!(known > 250, "{known}");
    }
}
