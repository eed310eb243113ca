//! Instructions that were decoded before. Drivers use a few instructions for all accesses to a device: where everything that their decoding
//! depends on is as it was (registers, the entries of the page tables, the code's bytes), so is what they are. All of it is read again each
//! time, so a guest may change any of it; what is spared is the work between.

use emulator::walk::Path;
use vcpu::{Backend, Gpa, GuestMemory, Gva, Host, SystemRegister, Vcpu, rflags};

use super::simple_move::{self, SimpleMove};
use crate::guest::Guest;
use crate::instruction::Code;

/// Instructions that are remembered for a vCPU.
const PLACES: usize = 4;
/// Bytes that are read together, at a multiple of them.
const PAIR: u64 = 16;

/// What an instruction's decoding depends on beside memory.
#[derive(Clone, Copy, Debug)]
struct Registers {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    /// RFLAGS.AC and the privilege level.
    rights: u64,
}

impl Registers {
    #[inline(always)]
    fn of<V: Vcpu>(vcpu: &V) -> Self {
        Self {
            cr0: vcpu.read(SystemRegister::Cr0),
            cr3: vcpu.read(SystemRegister::Cr3),
            cr4: vcpu.read(SystemRegister::Cr4),
            efer: vcpu.read(SystemRegister::Efer),
            rights: u64::from(vcpu.cpl()) | vcpu.rflags() & rflags::AC,
        }
    }

    /// Whether all of them are the same.
    #[inline(always)]
    const fn is_same(&self, other: &Self) -> bool {
        let differ = self.cr0 ^ other.cr0
            | self.cr3 ^ other.cr3
            | self.cr4 ^ other.cr4
            | self.efer ^ other.efer
            | self.rights ^ other.rights;
        differ == 0
    }
}

/// A decoded instruction, and what it was decoded from.
#[derive(Clone, Copy, Debug)]
struct Familiar {
    rip: u64,
    registers: Registers,
    path: Path,
    /// Where its first byte is.
    code: Gpa,
    /// The pair that has the first byte, and the next where the last one is there.
    pairs: [[u64; 2]; 2],
    is_in_two: bool,
    found: SimpleMove,
}

/// Those of a vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FamiliarMoves([Option<Familiar>; PLACES]);

impl FamiliarMoves {
    #[inline(always)]
    const fn place(rip: u64) -> usize {
        (rip ^ rip >> 4) as usize % PLACES
    }
}

/// The move at RIP, in 64-bit mode; the code there where it is another instruction.
#[inline(never)]
pub(super) fn find<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
) -> Result<SimpleMove, Code> {
    let rip = guest.vcpu.rip();
    if let Some(Some(known)) = guest.cpu.familiar.0.get(FamiliarMoves::place(rip))
        && known.rip == rip
        && known.registers.is_same(&Registers::of(guest.vcpu))
        && known.holds(guest.space)
    {
        return Ok(known.found);
    }
    get_to_know(guest, rip)
}

impl Familiar {
    /// Whether the tables and the code say what they said.
    #[inline(always)]
    fn holds<S: GuestMemory>(&self, space: &S) -> bool {
        for (gpa, value) in self.path.entries() {
            match space.load_u64(*gpa) {
                Ok(now) if now == *value => {}
                _ => return false,
            }
        }
        let first = Gpa(self.code.0 & !(PAIR - 1));
        is_there(space, first, &self.pairs[0])
            && (!self.is_in_two || is_there(space, Gpa(first.0 + PAIR), &self.pairs[1]))
    }
}

#[inline(always)]
fn is_there<S: GuestMemory>(space: &S, gpa: Gpa, [first, second]: &[u64; 2]) -> bool {
    match space.load_pair(gpa) {
        Ok([one, other]) => one == *first && other == *second,
        Err(_) => false,
    }
}

/// Decodes it from memory, and remembers it where it lies in one page.
#[inline(never)]
fn get_to_know<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    rip: u64,
) -> Result<SimpleMove, Code> {
    let code = guest.code();
    let Some(found) = simple_move::decode(code.as_slice()) else { return Err(code) };
    let last = Gva(rip.wrapping_add(u64::from(found.length) - 1));
    if last.page_offset() < Gva(rip).page_offset() {
        return Ok(found);
    }
    let paging = guest.paging();
    if let Some((path, code)) = guest.path(&paging, Gva(rip)) {
        let first = Gpa(code.0 & !(PAIR - 1));
        let is_in_two = code.0 % PAIR + u64::from(found.length) > PAIR;
        let pair = |gpa| guest.space.load_pair(gpa).ok();
        let second = if is_in_two { pair(Gpa(first.0 + PAIR)) } else { Some([0; 2]) };
        if let (Some(one), Some(other)) = (pair(first), second) {
            let registers = Registers::of(guest.vcpu);
            let known = Familiar { rip, registers, path, code, pairs: [one, other], is_in_two, found };
            if let Some(place) = guest.cpu.familiar.0.get_mut(FamiliarMoves::place(rip)) {
                // The bytes may have changed since they were decoded: they count as they are now.
                *place = known.still_decodes().then_some(known);
            }
        }
    }
    Ok(found)
}

impl Familiar {
    /// Whether the bytes that are remembered are this instruction's.
    fn still_decodes(&self) -> bool {
        let mut bytes = [0; 2 * PAIR as usize];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.pairs.iter().flatten()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let start = (self.code.0 % PAIR) as usize;
        let code = bytes.get(start..start + usize::from(self.found.length));
        code.and_then(simple_move::decode) == Some(self.found)
    }
}
