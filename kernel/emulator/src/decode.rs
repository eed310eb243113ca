//! From bytes to an instruction.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

use crate::Mode;

/// No instruction is longer (SDM vol. 2, "Instruction Format").
pub const MAX_INSTRUCTION_LENGTH: usize = 15;

/// Why bytes are not an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Undecodable {
    /// They end too early.
    Truncated,
    /// Longer than any instruction may be: #GP.
    TooLong,
    /// Undefined: #UD.
    Invalid,
    /// From a part of the opcode map that the decoder is built without.
    Foreign,
}

/// Builds the decoder's tables. They are built at the first use otherwise, which allocates (about 100 KiB, in
/// some two thousand small pieces that are never freed); a kernel calls this during bring-up.
pub fn prepare() {
    const NOP: [u8; 1] = [0x90];
    let _ = decode(&NOP, Mode::Long64);
}

/// The instruction at the start of `code`, decoded as if it were at address 0: a RIP-relative displacement
/// is relative to the instruction's first byte.
pub(crate) fn decode(code: &[u8], mode: Mode) -> Result<Instruction, Undecodable> {
    let code = code.get(..MAX_INSTRUCTION_LENGTH).unwrap_or(code);
    let Ok(mut decoder) = Decoder::try_with_ip(mode.bitness(), code, 0, DecoderOptions::NONE) else {
        return Err(Undecodable::Invalid);
    };
    let mut instruction = Instruction::default();
    decoder.decode_out(&mut instruction);
    if !instruction.is_invalid() {
        return Ok(instruction);
    }
    Err(match decoder.last_error() {
        DecoderError::NoMoreBytes => Undecodable::Truncated,
        _ if is_foreign(code, mode) => Undecodable::Foreign,
        // The decoder says "invalid" as well where it would need a sixteenth byte.
        _ if instruction.len() == MAX_INSTRUCTION_LENGTH => Undecodable::TooLong,
        _ => Undecodable::Invalid,
    })
}

/// Bytes of the instruction at the start of `code`, or `None` where it is incomplete, undefined or a VEX,
/// EVEX, XOP or 3DNow! instruction.
pub fn length(code: &[u8], mode: Mode) -> Option<u8> {
    if let Some(known) = crate::intercept::unprefixed(code) {
        return Some(known.length);
    }
    decode(code, mode).ok().map(|instruction| instruction.len() as u8)
}

/// True for the opcode maps that the decoder leaves out (SDM vol. 2, "VEX Prefix", "EVEX"; APM vol. 3,
/// "XOP Prefix", "3DNow! Instruction").
fn is_foreign(code: &[u8], mode: Mode) -> bool {
    let prefixes = code.iter().take_while(|&&byte| is_prefix(byte, mode)).count();
    let mut rest = code.iter().skip(prefixes).copied();
    let (first, second) = (rest.next().unwrap_or(0), rest.next().unwrap_or(0));
    let register_form = second >= 0xc0;
    match first {
        0xc4 | 0xc5 | 0x62 => mode == Mode::Long64 || register_form,
        0x8f => second & 0x38 != 0,
        0x0f => second == 0x0f,
        _ => false,
    }
}

fn is_prefix(byte: u8, mode: Mode) -> bool {
    match byte {
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 => true,
        0x40..=0x4f => mode == Mode::Long64,
        _ => false,
    }
}
