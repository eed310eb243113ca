//! The guest's time-stamp counter: the host's, at another rate where the CPU can do that, plus an offset; with IA32_TSC_ADJUST.
//!
//! Sources: Intel SDM vol. 3, "Time-Stamp Counter", "Time-Stamp Counter Adjustment", "TSC-Deadline Mode", "Use TSC scaling"; AMD
//! APM vol. 2, "TSC Ratio MSR".

use vcpu::TscScaling;

/// The rate of a guest's TSC by the host's: a fixed-point factor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscScale {
    multiplier: u64,
    fraction_bits: u32,
}

impl TscScale {
    /// The factor that makes `guest_hz` of `host_hz`, as near as the CPU can. `None` where it is out of its range.
    pub fn new(guest_hz: u64, host_hz: u64, scaling: TscScaling) -> Option<Self> {
        let fraction_bits = u32::from(scaling.fraction_bits);
        let exact = (u128::from(guest_hz) << fraction_bits).checked_div(host_hz.into())?;
        let multiplier =
            u64::try_from(exact).ok().filter(|multiplier| (1..=scaling.most).contains(multiplier));
        multiplier.map(|multiplier| Self { multiplier, fraction_bits })
    }

    /// The factor as the CPU takes it.
    pub const fn multiplier(self) -> u64 {
        self.multiplier
    }

    /// Guest ticks for host ticks, rounded down as the CPU does.
    #[inline]
    const fn guest(self, host: u64) -> u64 {
        ((host as u128 * self.multiplier as u128) >> self.fraction_bits) as u64
    }

    /// The host ticks in which so many guest ticks pass, rounded up.
    const fn host(self, guest: u64) -> Option<u64> {
        let ticks = ((guest as u128) << self.fraction_bits).div_ceil(self.multiplier as u128);
        if ticks > u64::MAX as u128 { None } else { Some(ticks as u64) }
    }
}

/// One vCPU's TSC. Everything is modulo 2^64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GuestClock {
    scale: Option<TscScale>,
    offset: u64,
    adjust: u64,
}

impl GuestClock {
    /// A TSC that is zero where the host's is `host_tsc`.
    pub const fn starting_at(host_tsc: u64, scale: Option<TscScale>) -> Self {
        let clock = Self { scale, offset: 0, adjust: 0 };
        Self { offset: clock.guest_tsc(host_tsc).wrapping_neg(), ..clock }
    }

    /// Its rate, where it is another than the host's.
    pub const fn scale(&self) -> Option<TscScale> {
        self.scale
    }

    /// What is added to the host's TSC, brought to the guest's rate.
    #[inline]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The guest's TSC where the host's is `host_tsc`.
    #[inline]
    pub const fn guest_tsc(&self, host_tsc: u64) -> u64 {
        let scaled = match self.scale {
            None => host_tsc,
            Some(scale) => scale.guest(host_tsc),
        };
        scaled.wrapping_add(self.offset)
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
        let left = deadline.saturating_sub(self.guest_tsc(host_tsc));
        match self.scale {
            None => host_tsc.checked_add(left),
            Some(scale) => match scale.host(left) {
                Some(ticks) => host_tsc.checked_add(ticks),
                None => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTEL: TscScaling = TscScaling { fraction_bits: 48, most: u64::MAX };
    const AMD: TscScaling = TscScaling { fraction_bits: 32, most: 0xff_ffff_ffff };

    #[test]
    fn a_past_deadline_is_now_and_a_far_one_never() {
        let clock = GuestClock::starting_at(1000, None);
        assert_eq!(clock.guest_tsc(1500), 500);
        assert_eq!(clock.host_deadline(400, 1500), Some(1500));
        assert_eq!(clock.host_deadline(600, 1500), Some(1600));
        assert_eq!(clock.host_deadline(u64::MAX, 1500), None);
    }

    #[test]
    fn factors_that_the_cpu_has_not_are_none() {
        assert_eq!(TscScale::new(2, 1, AMD).map(TscScale::multiplier), Some(2 << 32));
        assert_eq!(TscScale::new(300_000_000_000, 1_000_000_000, AMD), None);
        assert_eq!(TscScale::new(0, 1_000_000_000, INTEL), None);
        assert_eq!(TscScale::new(1_000_000_000, 0, INTEL), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(start: u64, value: u64, adjust: u64, host: u64, later in 0u64..1 << 40) {
            let mut clock = GuestClock::starting_at(start, None);
            clock.write_tsc(value, host);
            prop_assert_eq!(clock.guest_tsc(host.wrapping_add(later)), value.wrapping_add(later));
            let (tsc, old) = (clock.guest_tsc(host), clock.adjust());
            clock.write_adjust(adjust);
            prop_assert_eq!(clock.adjust(), adjust);
            // Both registers always take the same steps.
            prop_assert_eq!(clock.guest_tsc(host).wrapping_sub(tsc), adjust.wrapping_sub(old));
            clock.write_adjust(0);
            prop_assert_eq!(clock, GuestClock::starting_at(start, None));
        }

        /// At another rate, a deadline comes at the first host tick at which the guest's counter has reached it.
        #[test]
        fn deadlines_come_in_time_at_any_rate(
            guest_khz in 100_000u64..10_000_000,
            host_khz in 500_000u64..6_000_000,
            start in 0u64..1 << 60,
            ahead in 0u64..1 << 45,
            intel: bool,
        ) {
            let scaling = if intel { INTEL } else { AMD };
            let scale = TscScale::new(guest_khz * 1000, host_khz * 1000, scaling).expect("in range");
            let clock = GuestClock::starting_at(start, Some(scale));
            prop_assert_eq!(clock.guest_tsc(start), 0);
            let second = clock.guest_tsc(start + host_khz * 1000);
            // The factor's last bit, in each of the host's ticks, and the counter's at both ends.
            let rounding = 2 + ((host_khz * 1000) >> scaling.fraction_bits);
            prop_assert!(second.abs_diff(guest_khz * 1000) <= rounding, "{second} ticks in a second");
            let at = clock.host_deadline(ahead, start).expect("not so far");
            prop_assert!(clock.guest_tsc(at) >= ahead);
            // The factor may take the counter past several ticks at once, but not this far.
            let before = at.saturating_sub(2 + host_khz / guest_khz).max(start);
            prop_assert!(ahead == 0 || clock.guest_tsc(before) <= ahead);
        }
    }
}
