//! The fast way for what nearly every access to a device register is: a MOV of 16 or 32 bits between a register (or an immediate)
//! and memory in 64-bit mode, without prefixes but that of the operand size and REX. The CPU has told the guest-physical address, so the operand need
//! not be translated again. Anything else is left to the emulator, which does the same and more.
//!
//! Source: Intel SDM vol. 2, "Instruction Format" and "MOV—Move".

use devices::Width;
use vcpu::{Access, Backend, Gpa, Gpr, Host, NestedFault, PAGE_SIZE, Vcpu};

use crate::guest::Guest;

/// REX prefixes and their bits.
const REX_FIRST: u8 = 0x40;
const REX_LAST: u8 = 0x4f;
const REX_W: u8 = 8;
const REX_R: u8 = 4;
const REX_X: u8 = 2;
const REX_B: u8 = 1;

/// The operand has 16 bits.
const OPERAND_SIZE: u8 = 0x66;
const MOV_TO_MEMORY: u8 = 0x89;
const MOV_FROM_MEMORY: u8 = 0x8b;
const MOV_IMMEDIATE: u8 = 0xc7;
/// ModRM.rm: a SIB byte follows. SIB.index: no index.
const SIB_FOLLOWS: u8 = 4;
/// ModRM.rm or SIB.base with ModRM.mod = 0: no base, but a 32-bit displacement.
const NO_BASE: u8 = 5;

/// What is moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Move {
    Load(Gpr),
    Store(Gpr),
    StoreImmediate(u32),
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SimpleMove {
    pub(super) what: Move,
    base: Base,
    index: Option<(Gpr, u8)>,
    displacement: u64,
    pub(super) width: Width,
    pub(super) length: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Base {
    None,
    NextRip,
    Register(Gpr),
}

/// Reads bytes one after the other.
struct Bytes<'a> {
    code: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    #[inline]
    fn u8(&mut self) -> Option<u8> {
        let byte = *self.code.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    #[inline]
    fn u16(&mut self) -> Option<u16> {
        let bytes = self.code.get(self.at..)?.first_chunk::<2>()?;
        self.at += 2;
        Some(u16::from_le_bytes(*bytes))
    }

    #[inline]
    fn u32(&mut self) -> Option<u32> {
        let bytes = self.code.get(self.at..)?.first_chunk::<4>()?;
        self.at += 4;
        Some(u32::from_le_bytes(*bytes))
    }
}

/// Decodes; `None` for everything that is not such a move.
#[inline]
pub(super) fn decode(code: &[u8]) -> Option<SimpleMove> {
    let mut bytes = Bytes { code, at: 0 };
    let mut opcode = bytes.u8()?;
    let mut width = Width::Dword;
    if opcode == OPERAND_SIZE {
        width = Width::Word;
        opcode = bytes.u8()?;
    }
    let mut rex = 0;
    if (REX_FIRST..=REX_LAST).contains(&opcode) {
        rex = opcode;
        opcode = bytes.u8()?;
    }
    if rex & REX_W != 0 {
        return None;
    }
    let extended = |number: u8, bit| Gpr::from_number(number | if rex & bit != 0 { 8 } else { 0 });
    let modrm = bytes.u8()?;
    let (mode, register, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    if mode == 3 {
        return None;
    }
    let (mut base, mut index) = (Base::Register(extended(rm, REX_B)), None);
    let mut no_base = mode == 0 && rm == NO_BASE;
    if no_base {
        base = Base::NextRip;
    }
    if rm == SIB_FOLLOWS {
        let sib = bytes.u8()?;
        base = Base::Register(extended(sib & 7, REX_B));
        no_base = mode == 0 && sib & 7 == NO_BASE;
        if no_base {
            base = Base::None;
        }
        if sib >> 3 & 7 != SIB_FOLLOWS || rex & REX_X != 0 {
            index = Some((extended(sib >> 3 & 7, REX_X), sib >> 6));
        }
    }
    let displacement = match mode {
        1 => bytes.u8()? as i8 as u64,
        2 => bytes.u32()? as i32 as u64,
        _ if no_base => bytes.u32()? as i32 as u64,
        _ => 0,
    };
    let what = match opcode {
        MOV_TO_MEMORY => Move::Store(extended(register, REX_R)),
        MOV_FROM_MEMORY => Move::Load(extended(register, REX_R)),
        MOV_IMMEDIATE if register == 0 && width == Width::Word => Move::StoreImmediate(bytes.u16()?.into()),
        MOV_IMMEDIATE if register == 0 => Move::StoreImmediate(bytes.u32()?),
        _ => return None,
    };
    Some(SimpleMove { what, base, index, displacement, width, length: bytes.at as u8 })
}

impl SimpleMove {
    /// The operand's linear address.
    #[inline]
    pub(super) fn linear<V: Vcpu>(&self, vcpu: &V) -> u64 {
        let base = match self.base {
            Base::None => 0,
            Base::NextRip => vcpu.rip().wrapping_add(self.length.into()),
            Base::Register(register) => vcpu.gpr(register),
        };
        let index = self.index.map_or(0, |(register, shift)| vcpu.gpr(register) << shift);
        base.wrapping_add(index).wrapping_add(self.displacement)
    }

    /// Whether its operand is what the CPU could not reach at that address, and all of it in one page. An access that crosses a page
    /// faults at the second page's start.
    #[inline]
    pub(super) fn is_at<V: Vcpu>(&self, vcpu: &V, gpa: Gpa) -> bool {
        const OFFSET: u64 = PAGE_SIZE - 1;
        let same_offset = (self.linear(vcpu) ^ gpa.0) & OFFSET == 0;
        same_offset && gpa.0.is_multiple_of(self.width.bytes().into())
    }
}

/// Executes the move at RIP, where it is what made this access: where the guest goes on.
#[inline]
pub(super) fn execute<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    fault: &NestedFault,
    found: &SimpleMove,
) -> Option<u64> {
    if !found.is_at(guest.vcpu, fault.gpa) {
        return None;
    }
    let width = found.width;
    match (found.what, fault.access) {
        (Move::Load(register), Access::Read) => {
            let value = guest.mmio_read(fault.gpa, width) & width.mask();
            // A 16-bit register keeps what is above it.
            let kept = if width == Width::Word { guest.vcpu.gpr(register) & !width.mask() } else { 0 };
            guest.vcpu.set_gpr(register, kept | value);
        }
        (Move::Store(register), Access::Write) => {
            let value = guest.vcpu.gpr(register) & width.mask();
            guest.mmio_write(fault.gpa, width, value);
        }
        (Move::StoreImmediate(value), Access::Write) => {
            guest.mmio_write(fault.gpa, width, value.into());
        }
        _ => return None,
    }
    guest.cpu.mismatches = 0;
    Some(guest.vcpu.rip().wrapping_add(found.length.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(code: &[u8]) -> SimpleMove {
        decode(code).unwrap_or_else(|| panic!("{code:02x?}"))
    }

    #[test]
    fn the_forms_of_linux_and_of_compilers() {
        // MOV ECX, [RDI+0xb0]
        let load = found(&[0x8b, 0x8f, 0xb0, 0, 0, 0]);
        assert_eq!((load.what, load.base, load.length), (Move::Load(Gpr::Rcx), Base::Register(Gpr::Rdi), 6));
        assert_eq!(load.displacement, 0xb0);
        // MOV [R8+RAX*4-8], R9D
        let store = found(&[0x45, 0x89, 0x4c, 0x80, 0xf8]);
        assert_eq!((store.what, store.index), (Move::Store(Gpr::R9), Some((Gpr::Rax, 2))));
        assert_eq!((store.base, store.displacement as i64), (Base::Register(Gpr::R8), -8));
        // MOV DWORD [0xffffffffff5fd0b0], 0
        let immediate = found(&[0xc7, 0x04, 0x25, 0xb0, 0xd0, 0x5f, 0xff, 1, 2, 0, 0]);
        assert_eq!((immediate.what, immediate.base), (Move::StoreImmediate(0x201), Base::None));
        assert_eq!((immediate.displacement, immediate.length), (0xffff_ffff_ff5f_d0b0, 11));
        // MOV EAX, [RIP+0x10]
        assert_eq!(found(&[0x8b, 0x05, 0x10, 0, 0, 0]).base, Base::NextRip);
        // MOV [RDX], AX; MOV WORD [RDI], 0x201
        let store = found(&[0x66, 0x89, 0x02]);
        assert_eq!((store.what, store.width, store.length), (Move::Store(Gpr::Rax), Width::Word, 3));
        let immediate = found(&[0x66, 0xc7, 0x07, 1, 2]);
        assert_eq!((immediate.what, immediate.length), (Move::StoreImmediate(0x201), 5));
        // MOV EAX, [R12+R12]
        let both = found(&[0x43, 0x8b, 0x04, 0x24]);
        assert_eq!((both.base, both.index), (Base::Register(Gpr::R12), Some((Gpr::R12, 0))));
    }

    #[test]
    fn other_instructions_are_left_alone() {
        for code in [
            &[0x48, 0x8b, 0x07][..],
            &[0x66, 0x66, 0x8b, 0x07],
            &[0x65, 0x8b, 0x07],
            &[0xf0, 0x89, 0x07],
            &[0x8a, 0x07],
            &[0x8b, 0xc7],
            &[0xc7, 0x0f, 0, 0, 0, 0],
            &[0x87, 0x07],
            &[0x8b, 0x87, 0, 0],
            &[],
        ] {
            assert_eq!(decode(code), None, "{code:02x?}");
        }
    }

    proptest! {
        /// Where this decoder says yes, the whole decoder sees an instruction of the same length.
        #[test]
        fn agrees_with_the_decoder(size in prop::option::of(Just(OPERAND_SIZE)), rex in prop::option::of(REX_FIRST..=REX_LAST), opcode in prop::sample::select(
            &[0x88u8, 0x89, 0x8a, 0x8b, 0xc6, 0xc7, 0x01, 0xff][..]), rest in any::<[u8; 12]>()) {
            let mut code: std::vec::Vec<u8> = size.into_iter().chain(rex).collect();
            code.push(opcode);
            code.extend(rest);
            code.truncate(15);
            if let Some(found) = decode(&code) {
                prop_assert_eq!(emulator::length(&code, emulator::Mode::Long64), Some(found.length));
            }
        }
    }
}
