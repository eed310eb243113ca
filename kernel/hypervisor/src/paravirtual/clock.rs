//! KVM's paravirtual clock: a page in guest memory that says how the guest's TSC becomes nanoseconds, so that a guest knows
//! its TSC's rate without calibrating it against a slow timer.
//!
//! The numbers never change while the guest leaves its TSC alone, so the page is written once, and again when the VM was
//! paused, which the guest is told. The clocks of a VM's vCPUs have one origin and one rate, so they agree to the nanosecond.
//!
//! Source: Linux documentation, "KVM-specific MSRs" (MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW) and "KVM CPUID bits".

use vcpu::{Gpa, GuestMemory};

use super::ENABLE;
use crate::msr::Denied;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Areas are aligned to this.
const ALIGNMENT: u64 = 4;
/// The page's flags: the TSC is the same on all vCPUs; the VM was paused since the guest last looked. The guest clears that.
const TSC_STABLE: u8 = 1 << 0;
const GUEST_STOPPED: u8 = 1 << 1;
/// Bytes of the two structures.
const TIME_INFO: usize = 32;
const WALL_CLOCK: usize = 12;

/// Nanoseconds from ticks: shift left by `shift` (right where negative), multiply, take the upper half.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Scale {
    multiplier: u32,
    shift: i8,
}

impl Scale {
    /// The most exact scale for this rate: its multiplier has 32 significant bits.
    fn new(tsc_hz: u64) -> Self {
        let hz = u128::from(tsc_hz.max(1));
        let nanos = u128::from(NANOS_PER_SECOND) << 32;
        let mut shift = 0i8;
        while nanos >= hz << (32 + shift) && shift < 31 {
            shift += 1;
        }
        while nanos << 1 < (hz << 32) >> -shift.min(0) && shift > -31 {
            shift -= 1;
        }
        let ratio = if shift < 0 { (nanos << -shift) / hz } else { nanos / (hz << shift) };
        Self { multiplier: u32::try_from(ratio).unwrap_or(u32::MAX), shift }
    }

    #[cfg(test)]
    fn nanos(self, ticks: u64) -> u64 {
        let shifted = if self.shift < 0 { ticks >> -self.shift } else { ticks << self.shift };
        ((u128::from(shifted) * u128::from(self.multiplier)) >> 32) as u64
    }
}

/// One vCPU's clock page.
#[derive(Clone, Debug, Default)]
pub(crate) struct ParavirtualClock {
    scale: Scale,
    system_time: u64,
    wall_clock: u64,
    version: u32,
}

impl ParavirtualClock {
    /// A clock of this rate, not in use.
    pub(crate) fn new(tsc_hz: u64) -> Self {
        Self { scale: Scale::new(tsc_hz), ..Self::default() }
    }

    /// Back to not in use.
    pub(crate) fn reset(&mut self) {
        *self = Self { scale: self.scale, ..Self::default() };
    }

    /// MSR_KVM_SYSTEM_TIME_NEW.
    pub(crate) const fn system_time(&self) -> u64 {
        self.system_time
    }

    /// MSR_KVM_WALL_CLOCK_NEW.
    pub(crate) const fn wall_clock(&self) -> u64 {
        self.wall_clock
    }

    /// Writes MSR_KVM_SYSTEM_TIME_NEW. `tsc_at_zero` is the guest's TSC at the start of its time.
    pub(crate) fn write_system_time<M: GuestMemory>(
        &mut self,
        value: u64,
        tsc_at_zero: u64,
        memory: &M,
    ) -> Result<(), Denied> {
        if value & ENABLE != 0 {
            check(value & !ENABLE)?;
            self.fill(value, tsc_at_zero, TSC_STABLE, memory)?;
        }
        self.system_time = value;
        Ok(())
    }

    /// The guest has changed its TSC: the page follows.
    pub(crate) fn update<M: GuestMemory>(&mut self, tsc_at_zero: u64, memory: &M) {
        if self.system_time & ENABLE != 0 {
            // The area was RAM when the guest named it, and RAM does not go away.
            let _ = self.fill(self.system_time, tsc_at_zero, TSC_STABLE, memory);
        }
    }

    /// The VM was paused: its watchdogs need not wonder where the time has gone.
    pub(crate) fn tell_pause<M: GuestMemory>(&mut self, tsc_at_zero: u64, memory: &M) {
        if self.system_time & ENABLE != 0 {
            let _ = self.fill(self.system_time, tsc_at_zero, TSC_STABLE | GUEST_STOPPED, memory);
        }
    }

    /// Odd versions say that the page is being written: Linux reads the first vCPU's page on all vCPUs.
    fn fill<M: GuestMemory>(
        &mut self,
        value: u64,
        tsc_at_zero: u64,
        flags: u8,
        memory: &M,
    ) -> Result<(), Denied> {
        let at = Gpa(value & !ENABLE);
        let version = self.version.wrapping_add(1) | 1;
        self.version = version.wrapping_add(1);
        let mut page = [0; TIME_INFO];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(field) = page.get_mut(at..at + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        put(0, &version.to_le_bytes());
        put(8, &tsc_at_zero.to_le_bytes());
        // Bytes 16 to 23, the system time at that moment, are zero.
        put(24, &self.scale.multiplier.to_le_bytes());
        put(28, &self.scale.shift.to_le_bytes());
        put(29, &[flags]);
        memory.write(at, &version.to_le_bytes()).map_err(|_| Denied)?;
        memory.write(at, &page).map_err(|_| Denied)?;
        memory.write(at, &self.version.to_le_bytes()).map_err(|_| Denied)
    }

    /// Writes MSR_KVM_WALL_CLOCK_NEW: the area gets the wall-clock time (in seconds) of the start of the guest's time.
    pub(crate) fn write_wall_clock<M: GuestMemory>(
        &mut self,
        value: u64,
        seconds_at_zero: u64,
        memory: &M,
    ) -> Result<(), Denied> {
        const VERSION: u32 = 2;
        check(value)?;
        let mut page = [0; WALL_CLOCK];
        if let Some((version, rest)) = page.split_first_chunk_mut::<4>() {
            *version = VERSION.to_le_bytes();
            if let Some((seconds, _)) = rest.split_first_chunk_mut::<4>() {
                *seconds = (seconds_at_zero as u32).to_le_bytes();
            }
        }
        memory.write(Gpa(value), &page).map_err(|_| Denied)?;
        self.wall_clock = value;
        Ok(())
    }
}

fn check(address: u64) -> Result<(), Denied> {
    if address.is_multiple_of(ALIGNMENT) { Ok(()) } else { Err(Denied) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vcpu::AddressSpace;
    use vcpu::fake::FakeSpace;

    fn memory() -> FakeSpace {
        let mut space = FakeSpace::with_memory(0x2000);
        space.grow_all(Gpa(0), 0x2000).unwrap();
        space
    }

    #[test]
    fn the_page_says_rate_and_origin() {
        let (memory, mut clock) = (memory(), ParavirtualClock::new(2_000_000_000));
        clock.write_system_time(0x1041, 77, &memory).unwrap();
        let mut page = [0; 32];
        memory.read(Gpa(0x1040), &mut page).unwrap();
        assert_eq!(page[..4], 2u32.to_le_bytes());
        assert_eq!(page[8..16], 77u64.to_le_bytes());
        assert_eq!(page[29], 1);
        clock.update(78, &memory);
        memory.read(Gpa(0x1040), &mut page).unwrap();
        assert_eq!((page[0], page[8]), (4, 78));
        clock.tell_pause(78, &memory);
        memory.read(Gpa(0x1040), &mut page).unwrap();
        assert_eq!((page[0], page[8], page[29]), (6, 78, 3));
        clock.write_system_time(0, 0, &memory).unwrap();
        clock.tell_pause(99, &memory);
        clock.update(99, &memory);
        memory.read(Gpa(0x1040), &mut page).unwrap();
        assert_eq!(page[8], 78, "not in use, not written");
    }

    #[test]
    fn areas_outside_ram_or_misaligned_are_denied() {
        let (memory, mut clock) = (memory(), ParavirtualClock::new(1_000_000_000));
        for address in [0x1003, 0x1ff1, 0xd000_0001, u64::MAX] {
            assert_eq!(clock.write_system_time(address, 0, &memory), Err(Denied), "{address:#x}");
        }
        assert_eq!(clock.write_wall_clock(0x1ffc, 1, &memory), Err(Denied));
        assert_eq!(clock.system_time(), 0);
        clock.write_wall_clock(0x100, 1_700_000_000, &memory).unwrap();
        assert_eq!(memory.load_u32(Gpa(0x104)), Ok(1_700_000_000));
    }

    proptest! {
        #[test]
        fn a_day_is_a_day(tsc_hz in 1_000_000u64..20_000_000_000, seconds in 0u64..86_400) {
            let scale = Scale::new(tsc_hz);
            let nanos = scale.nanos(seconds * tsc_hz);
            let error = nanos.abs_diff(seconds * NANOS_PER_SECOND);
            prop_assert!(error <= seconds + 2 + NANOS_PER_SECOND / tsc_hz, "{scale:?}: {error} ns off");
            // Linux's way back.
            let khz = (1_000_000u64 << 32) / u64::from(scale.multiplier);
            let khz = if scale.shift < 0 { khz << -scale.shift } else { khz >> scale.shift };
            prop_assert!(khz.abs_diff(tsc_hz / 1000) <= 1 << (-scale.shift).max(0), "{khz} kHz");
        }
    }
}
