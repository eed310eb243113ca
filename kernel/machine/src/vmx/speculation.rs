//! Which MSRs a guest reads and writes without exits: x2APIC registers or not, and IA32_SPEC_CTRL once it is switched for it.

// UNSAFETY: writes an address and the host's instruction pointer into the current VMCS.
#![allow(unsafe_code)]

use super::enter::{self, GUARDED};
use super::field;
use super::instruction::vmwrite;
use super::vcpu::VmxVcpu;
use super::{CONTROL_BITMAP, X2APIC_BITMAP};

impl VmxVcpu {
    /// Takes the MSR bitmap for what the vCPU is like now.
    pub(super) fn use_msr_bitmap(&mut self) {
        let x2apic = if self.passes_x2apic() { X2APIC_BITMAP } else { 0 };
        let control = if self.block.guard.switches() { CONTROL_BITMAP } else { 0 };
        let bitmap = self.shared.msr_bitmap(x2apic | control);
        // SAFETY: this vCPU's VMCS is current, and the bitmaps are frames that live as long as the backend.
        unsafe { vmwrite(field::MSR_BITMAP, bitmap.0) };
    }

    /// See [`vcpu::Vcpu::write_speculation`].
    pub(super) fn write_control(&mut self, msr: u32, value: u64) -> bool {
        let begins = self.block.guard.write(&self.shared.offer, msr, value);
        if begins == Some(true) {
            self.block.state |= GUARDED;
            // SAFETY: this vCPU's VMCS is current; the address is that of the code which goes with the block.
            unsafe { vmwrite(field::HOST_RIP, enter::exit_address(&self.block)) };
            self.use_msr_bitmap();
        }
        begins.is_some()
    }
}
