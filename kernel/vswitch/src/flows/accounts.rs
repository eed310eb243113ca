//! What each port has in the table.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::port::{MAX_PORTS, PortId};

/// One port's. A line of the cache each, as several CPUs count for several ports.
#[derive(Default)]
#[repr(align(64))]
struct Account {
    owned: AtomicU32,
    created: AtomicU64,
    denied: AtomicU64,
    untracked: AtomicU64,
}

/// What a port has, and has had.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortTotals {
    /// Entries that are its now.
    pub owned: u32,
    /// Flows that it has begun.
    pub created: u64,
    /// Packets that it has sent and that were denied.
    pub denied: u64,
    /// Packets that it has sent and that no entry counts.
    pub untracked: u64,
}

/// Every port's.
pub(super) struct Accounts {
    ports: Vec<Account>,
    quota: u32,
}

impl Accounts {
    /// Those of ports that own at most `quota` entries each. `None` without memory.
    pub(super) fn new(quota: u32) -> Option<Self> {
        let mut ports = Vec::new();
        ports.try_reserve_exact(MAX_PORTS).ok()?;
        ports.resize_with(MAX_PORTS, Account::default);
        Some(Self { ports, quota })
    }

    /// One more entry for that port, if it may have it.
    pub(super) fn claim(&self, port: PortId) -> bool {
        let Some(account) = self.ports.get(port.index()) else { return false };
        // Another CPU may be refused while this one finds that it was too many. That is no loss, and no loop.
        let may = account.owned.fetch_add(1, Ordering::Relaxed) < self.quota;
        if !may {
            account.owned.fetch_sub(1, Ordering::Relaxed);
        }
        may
    }

    /// An entry of that port's is no more.
    pub(super) fn release(&self, port: PortId) {
        if let Some(account) = self.ports.get(port.index()) {
            account.owned.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn add_created(&self, port: PortId) {
        if let Some(account) = self.ports.get(port.index()) {
            account.created.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn add_denied(&self, port: PortId, packets: u32) {
        if let Some(account) = self.ports.get(port.index()) {
            account.denied.fetch_add(packets.into(), Ordering::Relaxed);
        }
    }

    pub(super) fn add_untracked(&self, port: PortId, packets: u32) {
        if let Some(account) = self.ports.get(port.index()) {
            account.untracked.fetch_add(packets.into(), Ordering::Relaxed);
        }
    }

    pub(super) fn of(&self, port: PortId) -> PortTotals {
        self.ports.get(port.index()).map(Account::totals).unwrap_or_default()
    }

    /// All ports' together. The sum of what ports own may be a little off while others count.
    pub(super) fn all(&self) -> PortTotals {
        self.ports.iter().map(Account::totals).fold(PortTotals::default(), |sum, one| PortTotals {
            owned: sum.owned.wrapping_add(one.owned),
            created: sum.created.wrapping_add(one.created),
            denied: sum.denied.wrapping_add(one.denied),
            untracked: sum.untracked.wrapping_add(one.untracked),
        })
    }
}

impl Account {
    fn totals(&self) -> PortTotals {
        PortTotals {
            owned: self.owned.load(Ordering::Relaxed),
            created: self.created.load(Ordering::Relaxed),
            denied: self.denied.load(Ordering::Relaxed),
            untracked: self.untracked.load(Ordering::Relaxed),
        }
    }
}
