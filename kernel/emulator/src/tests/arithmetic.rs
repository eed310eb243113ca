//! Arithmetic and its flags against an independent model: a ripple-carry adder, one bit at a time.

use proptest::prelude::*;

use super::fake::*;

const CF: u64 = 1;
const PF: u64 = 4;
const AF: u64 = 0x10;
const ZF: u64 = 0x40;
const SF: u64 = 0x80;
const OF: u64 = 0x800;
const ALL: u64 = CF | PF | AF | ZF | SF | OF;

/// Sum and flags of `bits`-bit numbers, as a row of full adders gives them.
fn adder(bits: u32, a: u64, b: u64, carry_in: bool) -> (u64, u64) {
    let (mut sum, mut carry, mut flags, mut into_last) = (0_u64, carry_in, 0, false);
    for bit in 0..bits {
        let (x, y) = (a >> bit & 1 == 1, b >> bit & 1 == 1);
        if bit == bits - 1 {
            into_last = carry;
        }
        sum |= u64::from(x ^ y ^ carry) << bit;
        carry = [x, y, carry].into_iter().filter(|set| *set).count() >= 2;
        if bit == 3 && carry {
            flags |= AF;
        }
    }
    if carry {
        flags |= CF;
    }
    if carry != into_last {
        flags |= OF;
    }
    (sum, flags | of_result(bits, sum))
}

/// Subtraction is addition of the complement, with carry and half carry read as borrows.
fn subtracter(bits: u32, a: u64, b: u64, borrow: bool) -> (u64, u64) {
    let (difference, flags) = adder(bits, a, !b, !borrow);
    (difference, flags ^ CF ^ AF)
}

fn of_result(bits: u32, value: u64) -> u64 {
    let ones = (0..8).filter(|bit| value >> bit & 1 == 1).count();
    let mut flags = if ones % 2 == 0 { PF } else { 0 };
    if (0..bits).all(|bit| value >> bit & 1 == 0) {
        flags |= ZF;
    }
    if value >> (bits - 1) & 1 == 1 {
        flags |= SF;
    }
    flags
}

/// The result, or `None` where nothing is written, and the flags; `old` are the flags before.
fn model(operation: usize, bits: u32, a: u64, b: u64, old: u64) -> (Option<u64>, u64) {
    let carry = old & CF != 0;
    let (value, flags) = match operation {
        0 => adder(bits, a, b, false),
        2 => adder(bits, a, b, carry),
        3 => subtracter(bits, a, b, carry),
        5 | 7 => subtracter(bits, a, b, false),
        logic => {
            let value = match logic {
                1 => a | b,
                4 => a & b,
                _ => a ^ b,
            };
            (value, of_result(bits, value))
        }
    };
    ((operation != 7).then_some(value), (old & !ALL) | flags)
}

fn mask(bits: u32) -> u64 {
    if bits == 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Prefix and low opcode bit for an operand width.
fn width_encoding(bits: u32) -> (&'static [u8], u8) {
    match bits {
        8 => (&[], 0),
        16 => (&[0x66], 1),
        32 => (&[], 1),
        _ => (&[0x48], 1),
    }
}

fn widths() -> impl Strategy<Value = u32> {
    prop::sample::select(std::vec![8_u32, 16, 32, 64])
}

/// Values around which carries and signs turn, and any others.
fn values() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        prop::sample::select(std::vec![0, 1, 0xf, 0x10, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff]),
        prop::sample::select(std::vec![
            0x7fff_ffff,
            0x8000_0000,
            u64::MAX,
            1 << 63,
            (1 << 63) - 1,
            0xffff_ffff
        ]),
    ]
}

proptest! {
    #[test]
    fn binary_operations(
        operation in 0..8_usize, bits in widths(), a in values(), b in values(), flags in any::<u64>(),
        to_memory in any::<bool>(),
    ) {
        let old = (flags & ALL) | 2 | 0x200;
        let (prefix, low) = width_encoding(bits);
        let mut code = prefix.to_vec();
        // Opcode rows 00, 08, 10, … are ADD, OR, ADC, SBB, AND, SUB, XOR, CMP.
        code.extend([(operation as u8) << 3 | low | if to_memory { 0 } else { 2 }, 0x03]);
        let mut machine = Machine::at_device(if to_memory { a } else { b });
        machine.registers[RAX] = if to_memory { b } else { a };
        machine.rflags = old;
        machine.run_whole(&code);
        let (value, flags) = model(operation, bits, a & mask(bits), b & mask(bits), old);
        prop_assert_eq!(machine.rflags, flags, "{:02x?}", code);
        let expected = value.map_or(a, |value| {
            let kept = if bits == 32 && !to_memory { 0 } else { a & !mask(bits) };
            kept | (value & mask(bits))
        });
        let expected = if value.is_none() { a } else { expected };
        let found = if to_memory { machine.peek_u64(DEVICE) } else { machine.registers[RAX] };
        prop_assert_eq!(found, expected, "{:02x?}", code);
    }

    #[test]
    fn immediates_are_sign_extended(operation in 0..8_u8, a in values(), b in any::<i8>(), flags in any::<u64>()) {
        let old = (flags & ALL) | 2;
        let mut machine = Machine::at_device(a);
        machine.rflags = old;
        machine.run_whole(&[0x48, 0x83, 0x03 | operation << 3, b as u8]);
        let (value, flags) = model(usize::from(operation), 64, a, i64::from(b) as u64, old);
        prop_assert_eq!(machine.rflags, flags);
        prop_assert_eq!(machine.peek_u64(DEVICE), value.unwrap_or(a));
    }

    #[test]
    fn unary_operations(which in 0..4_usize, bits in widths(), a in values(), flags in any::<u64>()) {
        let old = (flags & ALL) | 2;
        let (prefix, low) = width_encoding(bits);
        let mut code = prefix.to_vec();
        // inc, dec: fe /0, /1; not, neg: f6 /2, /3
        let (opcode, modrm) = [(0xfe, 0x03), (0xfe, 0x0b), (0xf6, 0x13), (0xf6, 0x1b)][which];
        code.extend([opcode | low, modrm]);
        let mut machine = Machine::at_device(a);
        machine.rflags = old;
        machine.run_whole(&code);
        let a_low = a & mask(bits);
        let (value, new) = match which {
            0 => adder(bits, a_low, 1, false),
            1 => subtracter(bits, a_low, 1, false),
            2 => (!a_low, old),
            _ => subtracter(bits, 0, a_low, false),
        };
        let new = match which {
            0 | 1 => (new & !CF) | (old & CF),
            _ => new,
        };
        prop_assert_eq!(machine.rflags & ALL, new & ALL, "{:02x?}", code);
        prop_assert_eq!(machine.peek_u64(DEVICE), (a & !mask(bits)) | (value & mask(bits)));
    }

    #[test]
    fn test_and_compare_write_nothing(bits in widths(), a in values(), b in values(), flags in any::<u64>()) {
        let (prefix, low) = width_encoding(bits);
        let mut code = prefix.to_vec();
        code.extend([0x84 | low, 0x03]);
        let mut machine = Machine::at_device(a);
        machine.registers[RAX] = b;
        machine.rflags = (flags & ALL) | 2;
        machine.run_whole(&code);
        prop_assert_eq!(machine.rflags, 2 | of_result(bits, a & b & mask(bits)));
        prop_assert_eq!((machine.peek_u64(DEVICE), machine.registers[RAX]), (a, b));
    }

    /// A bit string is an array of bits around the operand's address.
    #[test]
    fn bit_strings(which in 0..4_usize, bits in prop::sample::select(std::vec![16_u32, 32, 64]), offset in -2000..2000_i64, fill in any::<[u8; 32]>()) {
        let prefix = width_encoding(bits).0;
        let mut code = prefix.to_vec();
        code.extend([0x0f, [0xa3, 0xab, 0xb3, 0xbb][which], 0x03]);
        let mut machine = Machine::new(crate::Mode::Long64);
        machine.registers[RBX] = DEVICE;
        machine.registers[RAX] = offset as u64;
        for address in DEVICE - 256..DEVICE + 264 {
            machine.poke(address, &[fill[(address % 32) as usize]]);
        }
        let before = machine.clone();
        machine.run_whole(&code);
        let (byte, bit) = (DEVICE.wrapping_add_signed(offset.div_euclid(8)), offset.rem_euclid(8));
        let old = before.memory[&byte];
        prop_assert_eq!(machine.rflags, 2 | u64::from(old >> bit & 1));
        let new = match which {
            0 => old,
            1 => old | 1 << bit,
            2 => old & !(1 << bit),
            _ => old ^ 1 << bit,
        };
        let mut expected = before.memory;
        expected.insert(byte, new);
        prop_assert_eq!(machine.memory, expected);
    }
}

#[test]
fn bit_tests_with_immediates_stay_in_the_operand() {
    let mut machine = Machine::at_device(0);
    machine.run_whole(&[0x0f, 0xba, 0x2b, 33]); // bts dword [rbx], 33
    assert_eq!(machine.peek_u64(DEVICE), 2);
    machine.run_whole(&[0x48, 0x0f, 0xba, 0x2b, 33]); // bts qword [rbx], 33
    assert_eq!(machine.peek_u64(DEVICE), 2 | 1 << 33);
    machine.run_whole(&[0xf0, 0x0f, 0xba, 0x33, 1]); // lock btr dword [rbx], 1
    assert_eq!((machine.peek_u64(DEVICE), machine.rflags & CF), (1 << 33, CF));
}
