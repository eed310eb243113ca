//! The run queues of all CPUs, each behind its lock, with what all of them share; and the way of a vCPU from one to another.
//! What is decided is in [`crate::schedule`].

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use spin::{Mutex, MutexGuard};
use vcpu::Host;

use crate::config::{MAX_CPUS, Share};
use crate::schedule::{
    self, Cpu, CpuSet, Error, Moved, Pool, RunQueue, Shared, Ticks, Timing, Transfer, VcpuId, VmId, transfer,
};

/// How often a vCPU that is to be removed is looked for.
const LOOKS: usize = 4;

/// The scheduler of a node.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) shared: Shared,
    queues: Vec<Mutex<RunQueue>>,
}

/// The time by which the scheduler counts.
pub(crate) fn ticks<H: Host>(host: &H) -> Ticks {
    Ticks(host.tsc())
}

impl Scheduler {
    /// For as many CPUs as the host has, but no more than the scheduler can name. There is no room for VMs yet.
    pub(crate) fn new<H: Host>(host: &H) -> Self {
        let cpus = host.cpus().clamp(1, schedule::MAX_CPUS);
        let shared = Shared::new(cpus, Timing::new(host.tsc_hz()));
        let queue = |cpu| Mutex::new(RunQueue::new(Cpu(cpu as u8), ticks(host)));
        Self { shared, queues: (0..cpus).map(queue).collect() }
    }

    /// Makes room for so many VMs, which have so many vCPUs together: any CPU may come to have all of them.
    pub(crate) fn make_room(&mut self, vms: usize, vcpus: usize) -> Result<(), TryReserveError> {
        self.shared.make_room(vms)?;
        self.queues.iter_mut().try_for_each(|queue| queue.get_mut().make_room(vcpus))
    }

    /// How many CPUs run vCPUs.
    pub(crate) fn cpus(&self) -> usize {
        self.queues.len()
    }

    /// The queue of a CPU, locked: for a few hundred instructions.
    #[inline]
    pub(crate) fn queue(&self, cpu: usize) -> Option<MutexGuard<'_, RunQueue>> {
        self.queues.get(cpu).map(Mutex::lock)
    }

    /// Does a transfer; `moved` is called before anybody else can use the vCPU.
    pub(crate) fn transfer(
        &self,
        wanted: Transfer,
        now: Ticks,
        moved: impl FnOnce(&Moved),
    ) -> Result<Moved, Error> {
        let (from, to) = (usize::from(wanted.from.0), usize::from(wanted.to.0));
        let (Some(first), Some(second)) = (self.queue(from.min(to)), self.queue(from.max(to))) else {
            return Err(Error::NoSuchCpu(wanted.to));
        };
        let (mut from, mut to) = if from < to { (first, second) } else { (second, first) };
        let done = transfer(&mut from, &mut to, &self.shared, wanted.vcpu, now)?;
        moved(&done);
        Ok(done)
    }

    /// Takes in a VM with so many vCPUs, which are put on different CPUs from `first` on; `home` hears where each is.
    pub(crate) fn add_vm(
        &self,
        share: &Share,
        vcpus: usize,
        first: usize,
        now: Ticks,
        mut home: impl FnMut(usize, usize),
    ) -> Result<VmId, Error> {
        let vm = self.shared.add_vm(share.parameters, now)?;
        let allowed = self.shared.pool(share.parameters.pool).and(share.pin);
        let mut next = Cpu((first % self.cpus()) as u8);
        for index in 0..vcpus {
            let added = allowed.next_from(next).ok_or(Error::NowhereToRun(VcpuId { vm, index: index as u8 }));
            let added = added.and_then(|cpu| {
                let mut queue = self.queue(usize::from(cpu.0)).ok_or(Error::NoSuchCpu(cpu))?;
                queue.add(&self.shared, vm, index as u8, share.pin)?;
                Ok(cpu)
            });
            match added {
                Ok(cpu) => {
                    home(index, usize::from(cpu.0));
                    next = Cpu((usize::from(cpu.0) + 1).rem_euclid(self.cpus()) as u8);
                }
                Err(error) => {
                    self.remove_vm(vm, now);
                    return Err(error);
                }
            }
        }
        Ok(vm)
    }

    /// Forgets a VM and its vCPUs, none of which runs.
    pub(crate) fn remove_vm(&self, vm: VmId, now: Ticks) {
        for index in 0..MAX_CPUS {
            let vcpu = VcpuId { vm, index: index as u8 };
            // Nearly always in the first queue that is looked at: who sleeps stays where it is, unless another CPU has just begun to move it.
            for _ in 0..LOOKS {
                let Ok(home) = self.shared.home(vcpu) else { break };
                let Some(mut queue) = self.queue(usize::from(home.0)) else { break };
                if queue.remove(&self.shared, vcpu, now).is_ok() {
                    break;
                }
            }
        }
        let _ = self.shared.remove_vm(vm);
    }

    /// Gives a pool its CPUs: those that others have so far.
    pub(crate) fn give_cpus(&self, pool: Pool, cpus: CpuSet) -> Result<(), Error> {
        cpus.iter().try_for_each(|cpu| self.shared.move_cpu(cpu, pool))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Parameters;
    use std::vec;
    use std::vec::Vec;
    use vcpu::fake::{Clock, FakeHost};

    const VMS: usize = 100;

    #[test]
    fn a_vms_vcpus_are_spread_over_the_cpus_that_it_may_use() {
        let host = FakeHost::new(&Clock::new(1_000_000_000)).with_cpus(4);
        let mut scheduler = Scheduler::new(&host);
        scheduler.make_room(VMS, 3 * VMS).expect("memory");
        assert_eq!(scheduler.cpus(), 4);
        let mut homes = Vec::new();
        let mut add = |share: &Share, first| {
            homes.clear();
            scheduler.add_vm(share, 3, first, ticks(&host), |index, cpu| homes.push((index, cpu)))?;
            Ok(homes.clone())
        };
        assert_eq!(add(&Share::default(), 3), Ok(vec![(0, 3), (1, 0), (2, 1)]));
        let pinned = Share { pin: CpuSet::from_bits(0b110), ..Share::default() };
        assert_eq!(add(&pinned, 0), Ok(vec![(0, 1), (1, 2), (2, 1)]));
        let nowhere = Share { pin: CpuSet::from_bits(0x100), ..Share::default() };
        assert!(matches!(add(&nowhere, 0), Err(Error::NowhereToRun(_))));
        // What failed has taken no place.
        for _ in 2..VMS {
            assert!(add(&Share::default(), 0).is_ok());
        }
        assert_eq!(add(&Share::default(), 0), Err(Error::Full));
        let too_much = Parameters { reservation: 401, ..Parameters::default() };
        assert!(add(&Share { parameters: too_much, ..Share::default() }, 0).is_err());
    }
}
