//! What the management domain has done to VMs beside making, starting and ending them: keys are typed, the power button is pressed, shares are
//! set, counters are read.

use vcpu::{Backend, Host};

use super::Node;
use super::orders::{ManageError, not_now};
use crate::counters::TOLD;
use crate::schedule;
use crate::schedule::{CpuSet, MAX_PERCENT, MAX_WEIGHT, VmId};
use crate::scheduler::ticks;
use crate::vm::life::{State, Task};
use crate::wiring::Wiring;

/// Why a vCPU is not pinned.
pub(crate) enum PinError {
    /// The VM is gone.
    Gone(ManageError),
    /// There is no such vCPU.
    NoVcpu {
        /// Its number.
        asked: usize,
        /// The last one's.
        most: usize,
    },
    /// None of the CPUs is one of the VM's pool.
    NoCpu {
        /// The CPUs.
        asked: CpuSet,
        /// Those of the pool.
        pool: CpuSet,
    },
}

impl<'m, B: Backend> Node<'m, B> {
    /// Presses and releases the power button of a VM that runs: it is asked to shut down.
    ///
    /// # Errors
    /// It is gone, does not run, or is the management domain, whose button is the machine's.
    pub fn press_power_button<H: Host>(&self, host: &mut H, id: VmId) -> Result<(), ManageError> {
        let vm = self.of(id)?;
        if vm.hardware.is_some() {
            return Err(ManageError::IsDomain(id));
        }
        if vm.life.state() != State::Running {
            return Err(not_now(&vm));
        }
        let mut wiring = Wiring { vm: &vm, own: None, mailboxes: &self.mailboxes, host };
        vm.with_chipset(&mut wiring, |chipset, wiring| chipset.press_power_button(wiring));
        Ok(())
    }

    /// Types on the console of a VM: its virtio console where the guest has opened that, else its serial port. How many bytes had room.
    ///
    /// # Errors
    /// It is gone, or neither runs nor is paused.
    pub fn type_at<H: Host>(&self, host: &mut H, id: VmId, bytes: &[u8]) -> Result<usize, ManageError> {
        let vm = self.of(id)?;
        if !matches!(vm.life.state(), State::Running | State::Paused) {
            return Err(not_now(&vm));
        }
        let line = vm.listening_line();
        let taken = bytes.iter().take_while(|byte| line.type_byte(**byte)).count();
        if vm.terminal.is_some() {
            self.calls.insert(vm.number);
        }
        if vm.serial.has_input() && !vm.life.is_closed() {
            // Using it feeds it.
            let mut wiring = Wiring { vm: &vm, own: None, mailboxes: &self.mailboxes, host };
            vm.with_chipset(&mut wiring, |_, _| ());
        }
        Ok(taken)
    }

    /// A VM's exits so far, as [`Counters::told`](crate::counters::Counters::told) has them, and as of when each vCPU last stopped running.
    ///
    /// # Errors
    /// It is gone.
    pub fn exits(&self, id: VmId) -> Result<[u64; TOLD], ManageError> {
        let vm = self.of(id)?;
        let mut sums = [0_u64; TOLD];
        for slot in &vm.slots {
            for (sum, count) in sums.iter_mut().zip(slot.exits_told()) {
                *sum = sum.wrapping_add(count);
            }
        }
        Ok(sums)
    }

    /// Gives a VM another share of the CPUs: weight, cap and reservation, the latter two in percent of a CPU; no cap where that is 0.
    ///
    /// # Errors
    /// It is gone, or there cannot be such a share. Nothing has changed then.
    pub fn set_share<H: Host>(
        &self,
        host: &mut H,
        id: VmId,
        share: (u32, u32, u32),
    ) -> Result<(), ManageError> {
        self.of(id)?;
        let shared = &self.scheduler.shared;
        shared.set_share(id, share, ticks(host)).map_err(ManageError::Share)?;
        self.kick_all(host);
        Ok(())
    }

    /// Pins a VM's vCPU, or all of them, to CPUs: they run on those of these that are in the VM's pool.
    ///
    /// # Errors
    /// It is gone, has no such vCPU, or none of the CPUs is in its pool. Nothing has changed then.
    pub(crate) fn pin<H: Host>(
        &self,
        host: &mut H,
        id: VmId,
        vcpu: Option<usize>,
        cpus: CpuSet,
    ) -> Result<(), PinError> {
        let vm = self.of(id).map_err(PinError::Gone)?;
        let all = 0..vm.slots.len();
        let chosen = vcpu.map_or(all.clone(), |vcpu| vcpu..vcpu.saturating_add(1));
        if chosen.end > all.end {
            return Err(PinError::NoVcpu { asked: chosen.start, most: all.end.saturating_sub(1) });
        }
        let shared = &self.scheduler.shared;
        // All of them are in one pool: where there is no CPU for one, there is none for any.
        for vcpu in chosen {
            shared.pin(vm.vcpu_id(vcpu), cpus).map_err(|_| {
                let pool = shared.parameters(id).map_or(CpuSet::EMPTY, |it| shared.pool(it.pool));
                PinError::NoCpu { asked: cpus, pool }
            })?;
        }
        self.kick_all(host);
        Ok(())
    }

    /// Has all CPUs look who should run where, which may have changed.
    pub(super) fn kick_all<H: Host>(&self, host: &mut H) {
        (0..self.scheduler.cpus()).for_each(|cpu| host.kick(cpu));
    }

    /// What of a share that was refused was too much or too little, and the most that it can be.
    pub(crate) fn share_limit(
        &self,
        id: VmId,
        error: schedule::Error,
        (weight, cap, reservation): (u32, u32, u32),
    ) -> (u32, u32) {
        match error {
            schedule::Error::Weight(_) => (weight, MAX_WEIGHT),
            schedule::Error::Percent(_) if cap > MAX_PERCENT => (cap, MAX_PERCENT),
            schedule::Error::Percent(_) => (reservation, if cap == 0 { MAX_PERCENT } else { cap }),
            _ => (reservation, self.scheduler.shared.reservable(id).unwrap_or(0)),
        }
    }

    /// How many bytes of a VM's memory there are, and of how many, while it is being made. `None` where it is not.
    pub(crate) fn memory_made(&self, id: VmId) -> Option<(u64, u64)> {
        let vm = self.places.find(id)?;
        let all = vm.map.ram.iter().map(|range| range.length).sum();
        (vm.life.state() == State::Working(Task::Start)).then(|| (vm.birth.memory_made(), all))
    }
}
