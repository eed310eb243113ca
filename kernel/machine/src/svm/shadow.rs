//! The interrupt shadow of STI where VMRUN does not load it: on QEMU before 9.1.
//!
//! Between STI and HLT the host may interrupt a guest, and then again before the guest has gone on. The second exit says that there is no
//! shadow. An interrupt that is injected there comes before the HLT, and the guest sleeps on behind what it waits for. So the
//! shadow is kept until the guest has gone on.
//!
//! Source: AMD APM vol. 2, "Interrupt Shadows".

use super::code;

/// Who jumps to itself behind STI seems not to go on: its interrupts are held back no longer than so many exits.
const MOST: u8 = 8;

/// A shadow in which the guest was entered without the CPU's knowing.
#[derive(Debug, Default)]
pub(super) struct LostShadow {
    rip: u64,
    kept: u8,
}

impl LostShadow {
    /// The guest is entered at this instruction, which is in a shadow.
    pub(super) const fn enter(&mut self, rip: u64) {
        self.rip = rip;
    }

    /// Whether the guest still is there after the exit.
    pub(super) const fn is_kept(&mut self, exit_code: u64, rip: u64) -> bool {
        let kept = matches!(exit_code, code::INTR | code::NMI) && rip == self.rip && self.kept < MOST;
        self.kept = if kept { self.kept + 1 } else { 0 };
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shadow_lasts_until_the_guest_has_gone_on() {
        let mut shadow = LostShadow::default();
        shadow.enter(0x1000);
        assert!(shadow.is_kept(code::INTR, 0x1000) && shadow.is_kept(code::NMI, 0x1000));
        assert!(!shadow.is_kept(code::HLT, 0x1000), "it is executed");
        assert!(!shadow.is_kept(code::INTR, 0x1001));
        assert_eq!((0..20).take_while(|_| shadow.is_kept(code::INTR, 0x1000)).count(), usize::from(MOST));
    }
}
