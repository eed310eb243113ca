//! Steal time: an area in guest memory that says how long a vCPU wanted to run and could not, and whether it runs now. A
//! guest that flushes translations leaves word there for vCPUs that do not run, instead of waiting for them.
//!
//! Source: Linux documentation, "KVM-specific MSRs" (MSR_KVM_STEAL_TIME), "KVM CPUID bits" (KVM_FEATURE_PV_TLB_FLUSH).

use vcpu::{Gpa, GuestMemory, Nanos, WordSize};

use super::ENABLE;
use crate::msr::Denied;

/// Bits between the address and the enable bit.
const RESERVED: u64 = 0x3e;
/// Places in the area: the time (8 bytes), the version (4), and the state of the vCPU (1).
const STEAL: u64 = 0;
const VERSION: u64 = 8;
const PREEMPTED: u64 = 16;
/// Bytes of what is written of the area; the rest is padding.
const AREA: usize = 64;
/// The state of a vCPU that does not run, and that another one has left word for it to flush.
const IS_PREEMPTED: u8 = 1 << 0;
const FLUSH_TLB: u8 = 1 << 1;
/// How often the state is tried to be taken while the guest changes it.
const TRIES: u32 = 8;

/// One vCPU's area.
#[derive(Debug, Default)]
pub(crate) struct StealTime {
    msr: u64,
    version: u32,
    /// What it had been kept from running when it last began to run, and when the area came into use.
    stolen: Nanos,
    origin: Nanos,
}

impl StealTime {
    /// Back to not in use.
    pub(crate) fn reset(&mut self) {
        *self = Self { stolen: self.stolen, ..Self::default() };
    }

    /// MSR_KVM_STEAL_TIME.
    pub(crate) const fn msr(&self) -> u64 {
        self.msr
    }

    const fn area(&self) -> Option<u64> {
        if self.msr & ENABLE != 0 { Some(self.msr & !ENABLE) } else { None }
    }

    /// Writes MSR_KVM_STEAL_TIME. The guest's time begins at 0.
    pub(crate) fn write<M: GuestMemory>(&mut self, value: u64, memory: &M) -> Result<(), Denied> {
        if value & RESERVED != 0 {
            return Err(Denied);
        }
        if value & ENABLE != 0 {
            memory.write(Gpa(value & !ENABLE), &[0; AREA]).map_err(|_| Denied)?;
            (self.origin, self.version) = (self.stolen, 0);
        }
        self.msr = value;
        Ok(())
    }

    /// The vCPU begins to run, having been kept from it for `stolen` so far. True where another vCPU has left word that
    /// translations are stale.
    pub(crate) fn begin_turn<M: GuestMemory>(&mut self, stolen: Nanos, memory: &M) -> bool {
        let changed = self.stolen != stolen;
        self.stolen = stolen;
        let Some(area) = self.area() else { return false };
        if changed {
            self.tell(area, memory);
        }
        take_state(Gpa(area + PREEMPTED), memory) & FLUSH_TLB != 0
    }

    /// Odd versions say that the time is being written; other vCPUs may read it meanwhile.
    fn tell<M: GuestMemory>(&mut self, area: u64, memory: &M) {
        let time = (self.stolen - self.origin).0.to_le_bytes();
        let mut version = || {
            self.version = self.version.wrapping_add(1);
            self.version.to_le_bytes()
        };
        // Where the guest's memory has changed, there is nobody to tell.
        let _ = memory
            .write(Gpa(area + VERSION), &version())
            .and_then(|()| memory.write(Gpa(area + STEAL), &time))
            .and_then(|()| memory.write(Gpa(area + VERSION), &version()));
    }

    /// The vCPU stops running: who wants its translations flushed may leave word.
    pub(crate) fn end_turn<M: GuestMemory>(&self, memory: &M) {
        if let Some(area) = self.area() {
            let _ = memory.write(Gpa(area + PREEMPTED), &[IS_PREEMPTED]);
        }
    }
}

/// What was left for the vCPU; from now on nothing is. A guest that changes it without end gets its flush.
fn take_state<M: GuestMemory>(gpa: Gpa, memory: &M) -> u8 {
    const STATE: u64 = 0xff;
    let Ok(mut word) = memory.load_u32(gpa).map(u64::from) else { return 0 };
    for _ in 0..TRIES {
        match memory.compare_exchange(gpa, WordSize::Four, word, word & !STATE) {
            Ok(Ok(())) => return word as u8,
            Ok(Err(now)) => word = now,
            Err(_) => return 0,
        }
    }
    let _ = memory.write(gpa, &[0]);
    FLUSH_TLB
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcpu::AddressSpace;
    use vcpu::fake::FakeSpace;

    const AT: u64 = 0x1040;

    fn memory() -> FakeSpace {
        let mut space = FakeSpace::with_memory(0x2000);
        space.grow_all(Gpa(0), 0x2000).unwrap();
        space
    }

    #[test]
    fn time_counts_from_when_the_area_came_into_use() {
        let (memory, mut steal) = (memory(), StealTime::default());
        assert!(!steal.begin_turn(Nanos(1000), &memory));
        memory.write(Gpa(AT), &[0xff; AREA]).unwrap();
        steal.write(AT | 1, &memory).unwrap();
        assert_eq!(memory.load_u64(Gpa(AT)), Ok(0));
        steal.end_turn(&memory);
        assert_eq!(memory.load_u32(Gpa(AT + 16)), Ok(1));
        assert!(!steal.begin_turn(Nanos(1500), &memory));
        assert_eq!((memory.load_u64(Gpa(AT)), memory.load_u32(Gpa(AT + 8))), (Ok(500), Ok(2)));
        assert_eq!(memory.load_u32(Gpa(AT + 16)), Ok(0), "it runs");
        steal.reset();
        steal.end_turn(&memory);
        assert_eq!(memory.load_u32(Gpa(AT + 16)), Ok(0), "not in use, not written");
    }

    #[test]
    fn a_flush_that_was_left_is_taken_once() {
        let (memory, mut steal) = (memory(), StealTime::default());
        steal.write(AT | 1, &memory).unwrap();
        steal.end_turn(&memory);
        memory.write(Gpa(AT + 16), &[IS_PREEMPTED | FLUSH_TLB, 7, 8, 9]).unwrap();
        assert!(steal.begin_turn(Nanos(0), &memory));
        assert_eq!(memory.load_u32(Gpa(AT + 16)), Ok(0x0908_0700), "the guest's other bytes stay");
        assert!(!steal.begin_turn(Nanos(0), &memory));
    }

    #[test]
    fn areas_that_are_none_are_denied() {
        let (memory, mut steal) = (memory(), StealTime::default());
        for value in [AT | 3, AT | 0x21, 0xd000_0001, 0x2001, u64::MAX] {
            assert_eq!(steal.write(value, &memory), Err(Denied), "{value:#x}");
            assert_eq!(steal.msr(), 0);
        }
        steal.write(AT | 1, &memory).unwrap();
        steal.write(0, &memory).unwrap();
        steal.end_turn(&memory);
        assert_eq!(memory.load_u32(Gpa(AT + 16)), Ok(0));
    }
}
