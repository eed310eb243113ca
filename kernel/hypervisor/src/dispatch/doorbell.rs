//! Doorbells of virtio devices: writes whose address says all. What is written does not matter, so of the instruction only its
//! length does.
//!
//! VMX tells the length of an instruction that caused an EPT violation, though no manual promises that it does. A vCPU compares it with the
//! decoder's until it has been right often enough, and goes by it from then on; one that was wrong once is never believed.

use devices::Width;
use vcpu::{Access, Backend, Host, NestedFault, Vcpu};

use super::familiar;
use crate::guest::Guest;
use crate::processor::Attention;

/// So often the CPU's length must have been the decoder's.
const ENOUGH: u8 = 16;

/// How far the lengths that the CPU tells are believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Trust {
    agreed: u8,
    lied: bool,
}

impl Trust {
    fn believes(self) -> bool {
        self.agreed >= ENOUGH && !self.lied
    }

    fn compare(&mut self, told: u8, found: u8) {
        self.lied |= told != found;
        self.agreed = self.agreed.saturating_add(1);
    }
}

/// Rings the doorbell that was written to: where the guest goes on. `None` where it was none, or the instruction is not one that is known here.
#[inline(always)]
pub(super) fn ring<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    fault: &NestedFault,
) -> Option<u64> {
    if fault.access != Access::Write {
        return None;
    }
    let vm = guest.vm;
    let (function, queue) = vm.virtio.doorbell(fault.gpa)?;
    if !guest.vcpu.is_in_64_bit_mode() {
        return None;
    }
    let told = guest.vcpu.fault_instruction_length();
    let length = match told.filter(|_| guest.cpu.trust.believes()) {
        Some(length) => length,
        None => {
            let found = decoded_length(guest, fault)?;
            if let Some(told) = told {
                guest.cpu.trust.compare(told, found);
            }
            found
        }
    };
    function.ring(queue);
    if function.is_rung() {
        guest.cpu.attention |= Attention::DEVICES;
    }
    guest.cpu.mismatches = 0;
    Some(guest.vcpu.rip().wrapping_add(length.into()))
}

/// The instruction's length from its code.
#[inline(never)]
fn decoded_length<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    fault: &NestedFault,
) -> Option<u8> {
    let found = familiar::find(guest).ok()?;
    // Elsewhere it is an access that crosses a page, and not for here.
    let is_it = found.is_at(guest.vcpu, fault.gpa) && found.width != Width::Qword;
    is_it.then_some(found.length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_believed_once_it_was_right_often_enough() {
        let mut trust = Trust::default();
        for _ in 0..ENOUGH {
            assert!(!trust.believes());
            trust.compare(3, 3);
        }
        assert!(trust.believes());
    }

    #[test]
    fn a_cpu_that_was_wrong_once_is_never_believed() {
        let mut trust = Trust::default();
        trust.compare(0, 3);
        (0..=u8::MAX).for_each(|_| trust.compare(3, 3));
        assert!(!trust.believes());
    }
}
