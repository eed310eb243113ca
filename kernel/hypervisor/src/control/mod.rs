//! Whether a write of a control register is one that the virtual CPU accepts, and what else it changes.
//!
//! Pure functions: they see the registers and say what is written, or why the guest gets #GP(0).
//!
//! Sources: Intel SDM vol. 3, "Control Registers", "Extended Feature Enable Register", "Initializing IA-32e Mode",
//! "PDPTE Registers", "Extended Control Registers (Including XCR0)"; vol. 2, "MOV—Move to/from Control Registers" and
//! "XSETBV".

#[cfg(test)]
mod tests;

use vcpu::{cr0, cr4, efer};

use crate::cpuid::{Permissions, StateLayout};

/// The registers that the checks look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlState {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// CS.L.
    pub code_is_64_bit: bool,
}

/// Why a write is #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Bits that do not exist or that the guest's CPUID does not show.
    Reserved {
        /// Those bits.
        bits: u64,
    },
    /// A combination that the manual forbids.
    Combination(&'static str),
}

/// What an accepted write does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The register's new value.
    pub value: u64,
    /// IA32_EFER afterwards.
    pub efer: u64,
    /// The four page-directory-pointer entries of PAE paging are loaded from where CR3 points.
    pub load_pdptes: bool,
}

const fn has(value: u64, bits: u64) -> bool {
    value & bits == bits
}

/// PAE paging: not 32-bit, not long mode.
const fn uses_pdptes(cr0: u64, cr4: u64, efer: u64) -> bool {
    has(cr0, cr0::PG) && has(cr4, cr4::PAE) && !has(efer, efer::LMA)
}

/// MOV to CR0 (and LMSW and CLTS with the whole value).
pub fn write_cr0(state: &ControlState, value: u64) -> Result<Change, Refusal> {
    if value >> 32 != 0 {
        return Err(Refusal::Reserved { bits: value & !0xffff_ffff });
    }
    // Undefined bits of the lower half are ignored; ET is always one.
    let value = value & cr0::DEFINED | cr0::ET;
    let paging = has(value, cr0::PG);
    if paging && !has(value, cr0::PE) {
        return Err(Refusal::Combination("CR0.PG without CR0.PE"));
    }
    if has(value, cr0::NW) && !has(value, cr0::CD) {
        return Err(Refusal::Combination("CR0.NW without CR0.CD"));
    }
    let mut efer = state.efer;
    if paging && !has(state.cr0, cr0::PG) && has(efer, efer::LME) {
        if !has(state.cr4, cr4::PAE) {
            return Err(Refusal::Combination("long mode without CR4.PAE"));
        }
        if state.code_is_64_bit {
            return Err(Refusal::Combination("long mode entered with CS.L set"));
        }
        efer |= efer::LMA;
    }
    if !paging && has(state.cr0, cr0::PG) {
        if has(efer, efer::LMA) && state.code_is_64_bit {
            return Err(Refusal::Combination("CR0.PG cleared in 64-bit mode"));
        }
        if has(state.cr4, cr4::PCIDE) {
            return Err(Refusal::Combination("CR0.PG cleared with CR4.PCIDE set"));
        }
        efer &= !efer::LMA;
    }
    let changed = (value ^ state.cr0) & (cr0::PG | cr0::CD | cr0::NW) != 0;
    Ok(Change { value, efer, load_pdptes: changed && uses_pdptes(value, state.cr4, efer) })
}

/// MOV to CR3.
pub fn write_cr3(state: &ControlState, value: u64, permissions: &Permissions) -> Result<Change, Refusal> {
    const NO_FLUSH: u64 = 1 << 63;
    let keep = Change { value, efer: state.efer, load_pdptes: uses_pdptes(state.cr0, state.cr4, state.efer) };
    if !has(state.efer, efer::LMA) {
        return Ok(Change { value: value & 0xffff_ffff, ..keep });
    }
    // Bit 63 only says that translations need not be flushed; flushing is always right.
    let value = if has(state.cr4, cr4::PCIDE) { value & !NO_FLUSH } else { value };
    let reserved = value & !((1 << permissions.physical_bits.min(52)) - 1);
    if reserved != 0 {
        return Err(Refusal::Reserved { bits: reserved });
    }
    Ok(Change { value, ..keep })
}

/// MOV to CR4.
pub fn write_cr4(state: &ControlState, value: u64, permissions: &Permissions) -> Result<Change, Refusal> {
    const PCID: u64 = 0xfff;
    const REACHES_PDPTES: u64 = cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP;
    let reserved = value & !permissions.cr4;
    if reserved != 0 {
        return Err(Refusal::Reserved { bits: reserved });
    }
    let changed = value ^ state.cr4;
    if has(state.efer, efer::LMA) {
        if !has(value, cr4::PAE) {
            return Err(Refusal::Combination("CR4.PAE cleared in long mode"));
        }
        if has(changed, cr4::LA57) {
            return Err(Refusal::Combination("CR4.LA57 changed in long mode"));
        }
    }
    if has(changed, cr4::PCIDE) && has(value, cr4::PCIDE) {
        if !has(state.efer, efer::LMA) {
            return Err(Refusal::Combination("CR4.PCIDE set outside long mode"));
        }
        if state.cr3 & PCID != 0 {
            return Err(Refusal::Combination("CR4.PCIDE set while CR3 has a PCID"));
        }
    }
    let load = changed & REACHES_PDPTES != 0 && uses_pdptes(state.cr0, value, state.efer);
    Ok(Change { value, efer: state.efer, load_pdptes: load })
}

/// WRMSR of IA32_EFER: LMA cannot be written and keeps its value.
pub fn write_efer(state: &ControlState, value: u64, permissions: &Permissions) -> Result<u64, Refusal> {
    let value = value & !efer::LMA | state.efer & efer::LMA;
    let reserved = value & !(permissions.efer | efer::LMA);
    if reserved != 0 {
        return Err(Refusal::Reserved { bits: reserved });
    }
    if has(value ^ state.efer, efer::LME) && has(state.cr0, cr0::PG) {
        return Err(Refusal::Combination("EFER.LME changed while paging is on"));
    }
    Ok(value)
}

/// XSETBV with ECX = 0.
pub fn write_xcr0(value: u64, permissions: &Permissions) -> Result<u64, Refusal> {
    const AVX512: u64 = StateLayout::AVX512;
    let reserved = value & !permissions.xcr0;
    if reserved != 0 {
        return Err(Refusal::Reserved { bits: reserved });
    }
    if !has(value, StateLayout::X87) {
        return Err(Refusal::Combination("XCR0 without x87"));
    }
    if has(value, StateLayout::AVX) && !has(value, StateLayout::SSE) {
        return Err(Refusal::Combination("XCR0 with AVX and without SSE"));
    }
    if value & AVX512 != 0 && !has(value, AVX512 | StateLayout::AVX) {
        return Err(Refusal::Combination("XCR0 with a part of AVX-512"));
    }
    Ok(value)
}

/// Reserved bits of a present page-directory-pointer entry: 1 and 2, 5 to 8, and those above the physical address width.
pub fn pdpte_is_valid(entry: u64, permissions: &Permissions) -> bool {
    const PRESENT: u64 = 1;
    const RESERVED: u64 = 0b110 | 0x1e0;
    let beyond = !((1u64 << permissions.physical_bits.min(52)) - 1);
    entry & PRESENT == 0 || entry & (RESERVED | beyond) == 0
}

/// CR0 bits that a guest may change without an exit: they touch nothing but itself.
pub const GUEST_OWNED_CR0: u64 = cr0::MP | cr0::EM | cr0::TS | cr0::NE | cr0::WP | cr0::AM;

/// CR4 bits that a guest may change without an exit, of those its CPUID shows. Not OSXSAVE and PKE, which CPUID repeats.
pub const fn guest_owned_cr4(permissions: &Permissions) -> u64 {
    const HARMLESS: u64 =
        cr4::PVI | cr4::TSD | cr4::DE | cr4::PCE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::FSGSBASE;
    HARMLESS & permissions.cr4
}
