//! Single words of guest memory that the driver may be changing.

use vcpu::{Gpa, GuestMemory, NotRam};

/// One atomic read of a 16-bit word at an even address.
#[inline]
pub(crate) fn load_u16<M: GuestMemory>(memory: &M, gpa: Gpa) -> Result<u16, NotRam> {
    // An aligned 32-bit word holds it, whichever half it is.
    let word = memory.load_u32(gpa)?;
    Ok((word >> (8 * (gpa.0 & 2))) as u16)
}

/// The address `offset` bytes behind `gpa`, or where it is not: at the end of all addresses.
#[inline]
pub(crate) const fn behind(gpa: Gpa, offset: u64) -> Gpa {
    Gpa(gpa.0.saturating_add(offset))
}
