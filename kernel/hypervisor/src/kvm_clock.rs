//! The paravirtual clock of KVM's documented interface: the guest names a page, the hypervisor writes there how time
//! follows from the TSC. Stock Linux takes the TSC's rate from it, so it need not measure the TSC against a timer, which on a slow or
//! busy machine fails.
//!
//! The guest's TSC has a constant offset and rate, so the page is written when the guest names it and when the guest
//! itself moves its TSC, and the flag says that it is good on all vCPUs.
//!
//! Source: the Linux kernel's documentation of KVM, "KVM-specific MSRs" (MSR_KVM_WALL_CLOCK_NEW,
//! MSR_KVM_SYSTEM_TIME_NEW) and "KVM CPUID bits".

use vcpu::{Gpa, GuestMemory, Nanos, PAGE_SIZE};

/// MSR_KVM_WALL_CLOCK_NEW.
pub(crate) const WALL_CLOCK: u32 = 0x4b56_4d00;
/// MSR_KVM_SYSTEM_TIME_NEW.
pub(crate) const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// Leaf 4000_0001H EAX: the two MSRs are there; the clock agrees on all vCPUs.
pub(crate) const FEATURES: u32 = 1 << 3 | 1 << 24;

/// Bit 0 of MSR_KVM_SYSTEM_TIME_NEW.
const ENABLE: u64 = 1;
/// Flag: readings of different vCPUs never run backwards.
const TSC_STABLE: u8 = 1;
/// Bytes of the time page's structure.
const TIME_BYTES: usize = 32;
/// Bytes of the wall clock's structure.
const WALL_BYTES: u64 = 12;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The factor from TSC ticks to nanoseconds: shift the ticks left by `shift` (right where it is negative), multiply by `multiplier`, drop
/// 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Scale {
    multiplier: u32,
    shift: i8,
}

impl Scale {
    fn new(tsc_hz: u64) -> Self {
        let hz = u128::from(tsc_hz.max(1));
        let factor = |shift: i32| (u128::from(NANOS_PER_SECOND) << (64 - shift)) / hz >> 32;
        // The finest factor that has 32 bits.
        let shift = (-31..=31).find(|shift| factor(*shift) <= u128::from(u32::MAX)).unwrap_or(31);
        Self { multiplier: factor(shift) as u32, shift: shift as i8 }
    }
}

/// One vCPU's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KvmClock {
    scale: Scale,
    /// Time zero of the guest.
    started: Nanos,
    /// What the guest wrote to the two MSRs.
    system_time: u64,
    wall_clock: u64,
    version: u32,
}

impl KvmClock {
    /// A clock nobody has asked for, which counts from `now`.
    pub(crate) fn new(tsc_hz: u64, now: Nanos) -> Self {
        Self { scale: Scale::new(tsc_hz), started: now, system_time: 0, wall_clock: 0, version: 0 }
    }

    /// The clock after a reset of the VM.
    pub(crate) fn reset(&mut self, now: Nanos) {
        *self = Self { scale: self.scale, started: now, system_time: 0, wall_clock: 0, version: 0 };
    }

    /// Reads one of the MSRs.
    pub(crate) const fn read(&self, msr: u32) -> u64 {
        if msr == SYSTEM_TIME { self.system_time } else { self.wall_clock }
    }

    /// Writes MSR_KVM_SYSTEM_TIME_NEW; [`Self::publish`] follows.
    pub(crate) const fn set_system_time(&mut self, value: u64) {
        self.system_time = value;
    }

    /// Writes the time page, where the guest has named one: at `now` the guest's TSC is `guest_tsc`. A page that is no RAM
    /// is the guest's own loss.
    pub(crate) fn publish(&mut self, memory: &impl GuestMemory, now: Nanos, guest_tsc: u64) {
        let page = Gpa(self.system_time & !ENABLE);
        if self.system_time & ENABLE == 0 || page.page_offset() > PAGE_SIZE - TIME_BYTES as u64 {
            return;
        }
        let mut time = [0; TIME_BYTES];
        time[8..16].copy_from_slice(&guest_tsc.to_le_bytes());
        time[16..24].copy_from_slice(&(now - self.started).0.to_le_bytes());
        time[24..28].copy_from_slice(&self.scale.multiplier.to_le_bytes());
        time[28] = self.scale.shift.to_le_bytes()[0];
        time[29] = TSC_STABLE;
        // An odd version tells a reader on another vCPU to wait.
        for version in [self.version.wrapping_add(1), self.version.wrapping_add(2)] {
            time[..4].copy_from_slice(&version.to_le_bytes());
            if memory.write(page, &time).is_err() {
                return;
            }
        }
        self.version = self.version.wrapping_add(2);
    }

    /// Writes MSR_KVM_WALL_CLOCK_NEW: the structure there gets the wall-clock time of the guest's time zero.
    pub(crate) fn set_wall_clock(
        &mut self,
        value: u64,
        memory: &impl GuestMemory,
        now: Nanos,
        wall_clock_s: u64,
    ) {
        self.wall_clock = value;
        let at = Gpa(value);
        if at.page_offset() > PAGE_SIZE - WALL_BYTES {
            return;
        }
        let since_start_s = (now - self.started).0 / NANOS_PER_SECOND;
        let start_s = wall_clock_s.saturating_sub(since_start_s) as u32;
        let mut wall = [0; WALL_BYTES as usize];
        wall[..4].copy_from_slice(&2u32.to_le_bytes());
        wall[4..8].copy_from_slice(&start_s.to_le_bytes());
        // See `publish`.
        let _ = memory.write(at, &wall);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vcpu::AddressSpace;
    use vcpu::fake::FakeSpace;

    use super::*;

    fn memory(bytes: u64) -> FakeSpace {
        let mut space = FakeSpace::with_memory(bytes);
        space.add_ram(Gpa(0), bytes).unwrap();
        space
    }

    fn nanos(scale: Scale, ticks: u64) -> u64 {
        let shifted = if scale.shift < 0 { ticks >> -scale.shift } else { ticks << scale.shift };
        (u128::from(shifted) * u128::from(scale.multiplier) >> 32) as u64
    }

    proptest! {
        #[test]
        fn the_factor_is_exact_to_a_part_in_a_hundred_million(hz in 1_000_000u64..20_000_000_000) {
            let second = nanos(Scale::new(hz), hz);
            prop_assert!(second.abs_diff(NANOS_PER_SECOND) <= 10, "{second} at {hz}");
        }
    }

    #[test]
    fn the_page_says_when_and_how_fast() {
        let memory = memory(2 * PAGE_SIZE);
        let mut clock = KvmClock::new(1_000_000_000, Nanos(500));
        clock.publish(&memory, Nanos(700), 1);
        assert_eq!(memory.load_u64(Gpa(0x100)), Ok(0), "nobody asked yet");
        clock.set_system_time(0x1000 | ENABLE);
        clock.publish(&memory, Nanos(700), 9_999);
        assert_eq!(memory.load_u32(Gpa(0x1000)), Ok(2));
        assert_eq!(memory.load_u64(Gpa(0x1008)), Ok(9_999));
        assert_eq!(memory.load_u64(Gpa(0x1010)), Ok(200));
        clock.publish(&memory, Nanos(800), 10_099);
        assert_eq!(memory.load_u32(Gpa(0x1000)), Ok(4), "even again");
    }

    #[test]
    fn pages_that_are_none_harm_nobody() {
        let memory = memory(PAGE_SIZE);
        let mut clock = KvmClock::new(1_000_000_000, Nanos::ZERO);
        for page in [0xfff | ENABLE, 0x0010_0000 | ENABLE, u64::MAX] {
            clock.set_system_time(page);
            clock.publish(&memory, Nanos(1), 1);
            clock.set_wall_clock(page, &memory, Nanos(1), 1);
        }
    }
}
