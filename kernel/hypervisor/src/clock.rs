//! The guest's time-stamp counter as the host's plus an offset, with IA32_TSC_ADJUST.
//!
//! Source: Intel SDM vol. 3, "Time-Stamp Counter", "Time-Stamp Counter Adjustment", "TSC-Deadline Mode".

/// One vCPU's TSC. Everything is modulo 2^64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GuestClock {
    offset: u64,
    adjust: u64,
}

impl GuestClock {
    /// A TSC that is zero where the host's is `host_tsc`.
    pub const fn starting_at(host_tsc: u64) -> Self {
        Self { offset: host_tsc.wrapping_neg(), adjust: 0 }
    }

    /// What is added to the host's TSC.
    #[inline]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The guest's TSC where the host's is `host_tsc`.
    #[inline]
    pub const fn guest_tsc(&self, host_tsc: u64) -> u64 {
        host_tsc.wrapping_add(self.offset)
    }

    /// IA32_TSC_ADJUST.
    #[inline]
    pub const fn adjust(&self) -> u64 {
        self.adjust
    }

    /// The guest writes its TSC: IA32_TSC_ADJUST takes the same step.
    pub const fn write_tsc(&mut self, value: u64, host_tsc: u64) {
        let step = value.wrapping_sub(self.guest_tsc(host_tsc));
        self.offset = self.offset.wrapping_add(step);
        self.adjust = self.adjust.wrapping_add(step);
    }

    /// The guest writes IA32_TSC_ADJUST: its TSC takes the same step.
    pub const fn write_adjust(&mut self, value: u64) {
        self.offset = self.offset.wrapping_add(value.wrapping_sub(self.adjust));
        self.adjust = value;
    }

    /// The host's TSC when the guest's reaches `deadline`: `host_tsc`, the present, where it has; `None` where the host's
    /// counter ends before.
    #[inline]
    pub const fn host_deadline(&self, deadline: u64, host_tsc: u64) -> Option<u64> {
        host_tsc.checked_add(deadline.saturating_sub(self.guest_tsc(host_tsc)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_past_deadline_is_now_and_a_far_one_never() {
        let clock = GuestClock::starting_at(1000);
        assert_eq!(clock.guest_tsc(1500), 500);
        assert_eq!(clock.host_deadline(400, 1500), Some(1500));
        assert_eq!(clock.host_deadline(600, 1500), Some(1600));
        assert_eq!(clock.host_deadline(u64::MAX, 1500), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(start: u64, value: u64, adjust: u64, host: u64, later in 0u64..1 << 40) {
            let mut clock = GuestClock::starting_at(start);
            clock.write_tsc(value, host);
            prop_assert_eq!(clock.guest_tsc(host.wrapping_add(later)), value.wrapping_add(later));
            let (tsc, old) = (clock.guest_tsc(host), clock.adjust());
            clock.write_adjust(adjust);
            prop_assert_eq!(clock.adjust(), adjust);
            // Both registers always take the same steps.
            prop_assert_eq!(clock.guest_tsc(host).wrapping_sub(tsc), adjust.wrapping_sub(old));
            clock.write_adjust(0);
            prop_assert_eq!(clock, GuestClock::starting_at(start));
        }
    }
}
