//! Changes of parameters, at any time: they count from each CPU's next decision on. Who changes where a vCPU may run
//! has the CPU that runs it look (a kick): its [`RunQueue::balance`](super::RunQueue::balance) then moves the vCPU.

use core::sync::atomic::Ordering;

use super::account::Account;
use super::id::{Cpu, CpuSet, MAX_VCPUS, Pool, VcpuId, VmId};
use super::parameters::{Error, MAX_PERCENT, MAX_WEIGHT, Parameters};
use super::shared::{Shared, vcpus_of};
use super::time::Ticks;

impl Shared {
    /// Makes room for a VM. Its vCPUs are added to queues by [`RunQueue::add`](super::RunQueue::add).
    pub fn add_vm(&self, parameters: Parameters, now: Ticks) -> Result<VmId, Error> {
        let Parameters { weight, cap, reservation, pool } = parameters;
        check_weight(weight)?;
        check_percent(cap, reservation)?;
        Self::pool_state_exists(pool)?;
        self.check_reservations(pool, None, reservation, self.pool(pool))?;
        let (free, account) =
            self.accounts().find(|(id, _)| id.generation.is_multiple_of(2)).ok_or(Error::Full)?;
        account.reset(now);
        account.weight.store(weight, Ordering::Relaxed);
        account.cap.store(cap, Ordering::Relaxed);
        account.reservation.store(reservation, Ordering::Relaxed);
        account.pool.store(pool.0, Ordering::Relaxed);
        let generation = free.generation.wrapping_add(1);
        account.generation.store(generation, Ordering::Release);
        Ok(VmId { generation, ..free })
    }

    /// Forgets a VM whose vCPUs have been removed.
    pub fn remove_vm(&self, vm: VmId) -> Result<(), Error> {
        let account = self.account(vm)?;
        if vcpus_of(vm, account).next().is_some() {
            return Err(Error::HasVcpus(vm));
        }
        account.reservation.store(0, Ordering::Relaxed);
        account.generation.store(vm.generation.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// A VM's parameters.
    pub fn parameters(&self, vm: VmId) -> Result<Parameters, Error> {
        let account = self.account(vm)?;
        Ok(Parameters {
            weight: account.weight.load(Ordering::Relaxed),
            cap: account.cap.load(Ordering::Relaxed),
            reservation: account.reservation.load(Ordering::Relaxed),
            pool: Pool(account.pool.load(Ordering::Relaxed)),
        })
    }

    /// Changes a VM's weight.
    pub fn set_weight(&self, vm: VmId, weight: u32) -> Result<(), Error> {
        check_weight(weight)?;
        self.account(vm)?.weight.store(weight, Ordering::Relaxed);
        Ok(())
    }

    /// Changes a VM's cap, in percent of one CPU; 0 lifts it. A new cap does not answer for what was before.
    pub fn set_cap(&self, vm: VmId, percent: u32, now: Ticks) -> Result<(), Error> {
        check_percent(percent, self.parameters(vm)?.reservation)?;
        self.account(vm)?.set_cap(percent, now);
        Ok(())
    }

    /// Changes a VM's reservation, in percent of one CPU.
    pub fn set_reservation(&self, vm: VmId, percent: u32, now: Ticks) -> Result<(), Error> {
        let Parameters { cap, pool, .. } = self.parameters(vm)?;
        check_percent(cap, percent)?;
        self.check_reservations(pool, Some(vm), percent, self.pool(pool))?;
        self.account(vm)?.set_reservation(percent, now);
        Ok(())
    }

    /// Changes a VM's weight, cap and reservation together.
    pub fn set_share(
        &self,
        vm: VmId,
        (weight, cap, reservation): (u32, u32, u32),
        now: Ticks,
    ) -> Result<(), Error> {
        let (account, Parameters { pool, cap: old_cap, reservation: old_reservation, .. }) =
            (self.account(vm)?, self.parameters(vm)?);
        check_weight(weight)?;
        check_percent(cap, reservation)?;
        self.check_reservations(pool, Some(vm), reservation, self.pool(pool))?;
        account.weight.store(weight, Ordering::Relaxed);
        // What stays as it is goes on to be accounted for.
        if cap != old_cap {
            account.set_cap(cap, now);
        }
        if reservation != old_reservation {
            account.set_reservation(reservation, now);
        }
        Ok(())
    }

    /// Percent of a CPU that a VM can reserve at most, beside what others of its pool have reserved.
    pub fn reservable(&self, vm: VmId) -> Result<u32, Error> {
        let pool = self.parameters(vm)?.pool;
        let all = 100 * self.pool(pool).count() as u32;
        Ok(all.saturating_sub(self.reserved(pool, Some(vm))))
    }

    /// Moves a VM to another pool.
    pub fn set_pool(&self, vm: VmId, pool: Pool) -> Result<(), Error> {
        Self::pool_state_exists(pool)?;
        let (account, reservation) = (self.account(vm)?, self.parameters(vm)?.reservation);
        check_somewhere(vm, account, self.pool(pool))?;
        self.check_reservations(pool, Some(vm), reservation, self.pool(pool))?;
        account.pool.store(pool.0, Ordering::Relaxed);
        Ok(())
    }

    /// Moves a CPU to another pool, unless a VM of its old pool needs it.
    pub fn move_cpu(&self, cpu: Cpu, pool: Pool) -> Result<(), Error> {
        Self::pool_state_exists(pool)?;
        if !self.cpus().contains(cpu) {
            return Err(Error::NoSuchCpu(cpu));
        }
        let from = self.pool_of(cpu);
        if from == pool {
            return Ok(());
        }
        let rest = self.pool(from).without(CpuSet::of(cpu));
        for (vm, account) in self.accounts_in(from) {
            check_somewhere(vm, account, rest)?;
        }
        self.check_reservations(from, None, 0, rest)?;
        self.set_pool_of(cpu, pool);
        Ok(())
    }

    /// Changes the CPUs to which a vCPU is pinned. [`CpuSet::ALL`] is not pinned.
    pub fn pin(&self, vcpu: VcpuId, cpus: CpuSet) -> Result<(), Error> {
        let (account, slot) = self.slot(vcpu)?;
        let pool = self.pool(Pool(account.pool.load(Ordering::Relaxed)));
        if pool.and(cpus).is_empty() {
            return Err(Error::NowhereToRun(vcpu));
        }
        slot.pin.store(cpus.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes the place of a new vCPU in its VM. It belongs to `home` from then on.
    pub(super) fn take_slot(&self, vm: VmId, index: u8, pin: CpuSet, home: Cpu) -> Result<VcpuId, Error> {
        let vcpu = VcpuId { vm, index };
        let account = self.account(vm)?;
        let pool = self.pool(Pool(account.pool.load(Ordering::Relaxed)));
        if pool.and(pin).is_empty() {
            return Err(Error::NowhereToRun(vcpu));
        }
        let slot = account.slots.get(usize::from(index)).filter(|_| usize::from(index) < MAX_VCPUS);
        let slot = slot.ok_or(Error::Full)?;
        if slot.present.load(Ordering::Acquire) {
            return Err(Error::Full);
        }
        slot.start(home, pin);
        slot.present.store(true, Ordering::Release);
        Ok(vcpu)
    }

    fn accounts_in(&self, pool: Pool) -> impl Iterator<Item = (VmId, &Account)> {
        self.accounts().filter(move |(id, account)| {
            !id.generation.is_multiple_of(2) && account.pool.load(Ordering::Relaxed) == pool.0
        })
    }

    /// What all VMs in a pool but one have reserved.
    fn reserved(&self, pool: Pool, but: Option<VmId>) -> u32 {
        let others = self.accounts_in(pool).filter(|(id, _)| Some(*id) != but);
        others.map(|(_, account)| account.reservation.load(Ordering::Relaxed)).sum()
    }

    /// Whether the pool has what is reserved in it, where `vm` (or a new one) reserves `percent`.
    fn check_reservations(
        &self,
        pool: Pool,
        vm: Option<VmId>,
        percent: u32,
        cpus: CpuSet,
    ) -> Result<(), Error> {
        let together = self.reserved(pool, vm).saturating_add(percent);
        if together as usize > 100 * cpus.count() {
            return Err(Error::Overcommitted(together));
        }
        Ok(())
    }
}

fn check_weight(weight: u32) -> Result<(), Error> {
    if (1..=MAX_WEIGHT).contains(&weight) { Ok(()) } else { Err(Error::Weight(weight)) }
}

fn check_percent(cap: u32, reservation: u32) -> Result<(), Error> {
    if cap > MAX_PERCENT {
        return Err(Error::Percent(cap));
    }
    if reservation > MAX_PERCENT || cap != 0 && reservation > cap {
        return Err(Error::Percent(reservation));
    }
    Ok(())
}

/// Every vCPU of the VM may run on one of these.
fn check_somewhere(vm: VmId, account: &Account, cpus: CpuSet) -> Result<(), Error> {
    let nowhere = |slot: &super::account::Slot| {
        cpus.and(CpuSet::from_bits(slot.pin.load(Ordering::Relaxed))).is_empty()
    };
    match vcpus_of(vm, account).find(|(_, slot)| nowhere(slot)) {
        Some((vcpu, _)) => Err(Error::NowhereToRun(vcpu)),
        None => Ok(()),
    }
}
