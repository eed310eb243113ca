//! What all CPUs share: the accounts of VMs, the boards of CPUs, the pools.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::account::{Account, Slot};
use super::board::{Board, PoolState};
use super::id::{Cpu, CpuSet, MAX_CPUS, MAX_VCPUS, Pool, VcpuId, VmId};
use super::parameters::{Error, MAX_POOLS, Times};
use super::time::{Ticks, Timing};

/// What all CPUs share. Only atomics: everything takes `&self`. Changes of parameters and pools come from one place at
/// a time (the management), scheduling goes on beside them.
#[derive(Debug)]
pub struct Shared {
    pub(super) timing: Timing,
    accounts: Vec<Account>,
    boards: Vec<Board>,
    pools: [PoolState; MAX_POOLS],
    /// The CPUs that are idle,
    pub(super) idle: AtomicU64,
    /// and those where somebody waits who may run elsewhere.
    pub(super) offering: AtomicU64,
}

impl Shared {
    /// For so many CPUs (up to [`MAX_CPUS`]), and no VM yet.
    pub fn new(cpus: usize, timing: Timing) -> Self {
        let cpus = cpus.min(MAX_CPUS);
        let mut boards = Vec::with_capacity(cpus);
        boards.resize_with(cpus, Board::default);
        let (idle, offering) = (AtomicU64::new(CpuSet::first(cpus).bits()), AtomicU64::new(0));
        let shared = Self { timing, accounts: Vec::new(), boards, pools: Default::default(), idle, offering };
        shared.pools[0].cpus.store(CpuSet::first(cpus).bits(), Ordering::Relaxed);
        shared
    }

    /// Makes room for so many VMs: all memory that they will need here.
    pub fn make_room(&mut self, vms: usize) -> Result<(), TryReserveError> {
        let vms = vms.min(usize::from(u16::MAX));
        self.accounts.try_reserve_exact(vms)?;
        while self.accounts.len() < vms {
            self.accounts.push(Account::new()?);
        }
        Ok(())
    }

    /// The CPUs there are.
    pub fn cpus(&self) -> CpuSet {
        CpuSet::first(self.boards.len())
    }

    pub(super) fn account(&self, vm: VmId) -> Result<&Account, Error> {
        let account = self.accounts.get(usize::from(vm.index)).ok_or(Error::NoSuchVm(vm))?;
        let here = account.generation.load(Ordering::Acquire) == vm.generation;
        if here { Ok(account) } else { Err(Error::NoSuchVm(vm)) }
    }

    pub(super) fn slot(&self, vcpu: VcpuId) -> Result<(&Account, &Slot), Error> {
        let account = self.account(vcpu.vm)?;
        let slot = account.slots.get(usize::from(vcpu.index)).ok_or(Error::NoSuchVcpu(vcpu))?;
        if !slot.present.load(Ordering::Acquire) {
            return Err(Error::NoSuchVcpu(vcpu));
        }
        Ok((account, slot))
    }

    /// The CPU whose queue holds the vCPU.
    pub fn home(&self, vcpu: VcpuId) -> Result<Cpu, Error> {
        Ok(Cpu(self.slot(vcpu)?.1.home.load(Ordering::Relaxed)))
    }

    /// Whether the vCPU is in the registers of the CPU that runs it: while it is, nobody can
    /// [`transfer`](super::transfer) it, even when it does not run. Told by that CPU, before it runs the vCPU and after it has
    /// unloaded it.
    pub fn set_loaded(&self, vcpu: VcpuId, loaded: bool) {
        if let Ok((_, slot)) = self.slot(vcpu) {
            slot.loaded.store(loaded, Ordering::Release);
        }
    }

    /// What the vCPU has had. Runs and waits that have not ended are not in it.
    pub fn times(&self, vcpu: VcpuId) -> Result<Times, Error> {
        let (_, slot) = self.slot(vcpu)?;
        let read = |counter: &AtomicU64| Ticks(counter.load(Ordering::Relaxed));
        Ok(Times { charged: read(&slot.charged), steal: read(&slot.steal), throttled: read(&slot.throttled) })
    }

    /// The CPUs of a pool.
    pub fn pool(&self, pool: Pool) -> CpuSet {
        self.pool_state(pool)
            .map_or(CpuSet::EMPTY, |state| CpuSet::from_bits(state.cpus.load(Ordering::Relaxed)))
    }

    /// The CPUs on which a vCPU may run: those of its pool to which it is pinned.
    pub fn allowed(&self, vcpu: VcpuId) -> Result<CpuSet, Error> {
        let (account, slot) = self.slot(vcpu)?;
        Ok(self.allowed_in(account, slot))
    }

    #[inline]
    pub(super) fn allowed_in(&self, account: &Account, slot: &Slot) -> CpuSet {
        let pool = self.pool(Pool(account.pool.load(Ordering::Relaxed)));
        pool.and(CpuSet::from_bits(slot.pin.load(Ordering::Relaxed)))
    }

    #[inline]
    pub(super) fn board(&self, cpu: Cpu) -> Option<&Board> {
        self.boards.get(usize::from(cpu.0))
    }

    #[inline]
    pub(super) fn pool_state(&self, pool: Pool) -> Option<&PoolState> {
        self.pools.get(usize::from(pool.0))
    }

    /// The pool of a CPU.
    pub fn pool_of(&self, cpu: Cpu) -> Pool {
        Pool(self.board(cpu).map_or(0, |board| board.pool.load(Ordering::Relaxed)))
    }

    pub(super) fn pool_state_exists(pool: Pool) -> Result<(), Error> {
        if usize::from(pool.0) < MAX_POOLS { Ok(()) } else { Err(Error::NoSuchPool(pool)) }
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = (VmId, &Account)> {
        self.accounts.iter().enumerate().map(|(index, account)| {
            (VmId { index: index as u16, generation: account.generation.load(Ordering::Acquire) }, account)
        })
    }

    pub(super) fn set_pool_of(&self, cpu: Cpu, to: Pool) {
        let Some(board) = self.board(cpu) else { return };
        let from = self.pool_of(cpu);
        if let Some(state) = self.pool_state(from) {
            state.cpus.fetch_and(!CpuSet::of(cpu).bits(), Ordering::Relaxed);
        }
        if let Some(state) = self.pool_state(to) {
            state.cpus.fetch_or(CpuSet::of(cpu).bits(), Ordering::Relaxed);
        }
        board.pool.store(to.0, Ordering::Relaxed);
    }
}

/// VcpuIds of an account's vCPUs.
pub(super) fn vcpus_of(vm: VmId, account: &Account) -> impl Iterator<Item = (VcpuId, &Slot)> {
    let slots = account.slots.iter().take(MAX_VCPUS).enumerate();
    let present = slots.filter(|(_, slot)| slot.present.load(Ordering::Acquire));
    present.map(move |(index, slot)| (VcpuId { vm, index: index as u8 }, slot))
}
