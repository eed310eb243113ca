//! The end of an interrupt without an exit: a bit in guest memory that says that nobody needs to hear of it. The guest clears
//! it instead of writing its local APIC's EOI register; the next exit, whatever it is for, finds it cleared.
//!
//! Source: Linux documentation, "KVM-specific MSRs" (MSR_KVM_EOI_EN).

use vcpu::{Gpa, GuestMemory};

use super::ENABLE;
use crate::msr::Denied;

/// Between the address and the enable bit.
const RESERVED: u64 = 2;
/// The bit in the first byte of the area.
const NOBODY_NEEDS_TO_HEAR: u8 = 1;

/// One vCPU's bit.
#[derive(Debug, Default)]
pub(crate) struct EoiFlag {
    msr: u64,
    armed: bool,
}

impl EoiFlag {
    /// MSR_KVM_EOI_EN.
    pub(crate) const fn msr(&self) -> u64 {
        self.msr
    }

    /// Writes MSR_KVM_EOI_EN.
    pub(crate) fn write<M: GuestMemory>(&mut self, value: u64, memory: &M) -> Result<(), Denied> {
        if value & RESERVED != 0 {
            return Err(Denied);
        }
        if value & ENABLE != 0 {
            memory.write(Gpa(value & !ENABLE), &[0; 4]).map_err(|_| Denied)?;
        }
        self.msr = value;
        Ok(())
    }

    /// Whether the guest uses it.
    #[inline]
    pub(crate) const fn is_enabled(&self) -> bool {
        self.msr & ENABLE != 0
    }

    /// Whether the bit is set, or was until the guest cleared it.
    #[inline]
    pub(crate) const fn is_armed(&self) -> bool {
        self.armed
    }

    /// Nobody needs to hear of the end of the interrupt that the guest serves.
    pub(crate) fn arm<M: GuestMemory>(&mut self, memory: &M) {
        self.armed = memory.write(Gpa(self.msr & !ENABLE), &[NOBODY_NEEDS_TO_HEAR]).is_ok();
    }

    /// After an exit: true where the guest has ended the interrupt. Otherwise it has to tell from now on.
    pub(crate) fn disarm<M: GuestMemory>(&mut self, memory: &M) -> bool {
        self.armed = false;
        let area = Gpa(self.msr & !ENABLE);
        let mut byte = [0];
        // An area that is gone cannot be cleared either: the guest then tells.
        if memory.read(area, &mut byte).is_err() {
            return false;
        }
        let [flags] = byte;
        let ended = flags & NOBODY_NEEDS_TO_HEAR == 0;
        if !ended {
            let _ = memory.write(area, &[flags & !NOBODY_NEEDS_TO_HEAR]);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcpu::AddressSpace;
    use vcpu::fake::FakeSpace;

    #[test]
    fn the_guest_clears_the_bit_or_tells() {
        let mut memory = FakeSpace::with_memory(0x1000);
        memory.grow_all(Gpa(0), 0x1000).unwrap();
        let mut eoi = EoiFlag::default();
        assert!(!eoi.is_enabled() && !eoi.is_armed());
        eoi.write(0x105, &memory).unwrap();
        assert!(eoi.is_enabled());
        eoi.arm(&memory);
        assert!(eoi.is_armed());
        assert_eq!(memory.load_u32(Gpa(0x104)), Ok(1));
        assert!(!eoi.disarm(&memory), "the guest has not ended it");
        assert_eq!(memory.load_u32(Gpa(0x104)), Ok(0), "and has to tell now");
        eoi.arm(&memory);
        memory.write(Gpa(0x104), &[0]).unwrap();
        assert!(eoi.disarm(&memory) && !eoi.is_armed());
        for value in [0x107, 0x1001, u64::MAX] {
            assert_eq!(eoi.write(value, &memory), Err(Denied), "{value:#x}");
        }
        assert_eq!(eoi.msr(), 0x105);
    }
}
