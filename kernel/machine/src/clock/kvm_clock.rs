//! The TSC's rate in the words of KVM above us: its paravirtual clock says how TSC ticks become nanoseconds.
//!
//! Source: Linux documentation, "KVM-specific MSRs", MSR_KVM_SYSTEM_TIME_NEW.

// UNSAFETY: lets KVM write into a frame of memory, and reads it.
#![allow(unsafe_code)]

use x86_64::registers::model_specific::Msr;

use crate::memory::direct_map;
use crate::memory::frames::{Block, FrameKind};

use super::NANOS_PER_SECOND;

/// Address of the clock's structure; bit 0 has KVM keep it up to date.
const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
const ENABLE: u64 = 1;
/// The structure: multiplier of shifted ticks (nanoseconds are the product's upper half), and the shift.
const MULTIPLIER: usize = 24;
const SHIFT: usize = 28;

/// Asks KVM, which must have the clock. The clock is off again afterwards.
pub(super) fn tsc_hz() -> Option<u64> {
    let frame = Block::zeroed(0, FrameKind::Kernel).ok()?;
    let structure = direct_map(frame.start());
    // SAFETY: KVM writes to the block, which nobody else uses, and no longer when it is dropped: writing zero switches the
    // clock off. The reads are of aligned words, which KVM has filled when the write returns.
    let (multiplier, shift) = unsafe {
        let mut register = Msr::new(MSR_KVM_SYSTEM_TIME_NEW);
        register.write(frame.start().0 | ENABLE);
        let filled = (
            structure.add(MULTIPLIER).cast::<u32>().read_volatile(),
            structure.add(SHIFT).cast::<i8>().read_volatile(),
        );
        register.write(0);
        filled
    };
    rate(multiplier, shift)
}

/// Ticks per second of a TSC of which 2^32 ticks, shifted left by `shift` (right where negative), are `multiplier` ns.
fn rate(multiplier: u32, shift: i8) -> Option<u64> {
    let hz = (u128::from(NANOS_PER_SECOND) << 32).checked_div(u128::from(multiplier))?;
    let distance = u32::from(shift.unsigned_abs());
    let hz = if shift < 0 { hz.checked_shl(distance) } else { hz.checked_shr(distance) }?;
    u64::try_from(hz).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_and_shift_give_the_rate() {
        // 2 GHz: half a nanosecond a tick.
        assert_eq!(rate(1 << 31, 0), Some(2_000_000_000));
        assert_eq!(rate(1 << 31, -1), Some(4_000_000_000));
        assert_eq!(rate(1 << 31, 1), Some(1_000_000_000));
    }

    #[test]
    fn nonsense_gives_none() {
        assert_eq!(rate(0, 0), None);
        assert_eq!(rate(1, -128), None);
        assert_eq!(rate(1, 127), Some(0));
    }
}
