//! What CPUs tell each other: that a vCPU which the other is home to has woken up, and when it has to see to devices. Anybody writes, only the CPU itself
//! reads. A bit for each vCPU, in room that is taken before the first VM is made.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use vcpu::Nanos;
use virtio::bits;

/// vCPUs of a VM at most: one word of bits.
pub(crate) const MAX_VCPUS: usize = 64;

#[derive(Debug, Default)]
struct Mailbox {
    /// In which words of `woken` there may be something: bit n is for word n and every 64th behind it.
    news: AtomicU64,
    /// A word for each VM.
    woken: Vec<AtomicU64>,
    /// No device of the VMs that the CPU looks after wants to go on before this time.
    due: AtomicU64,
}

/// Words for which there is one bit of news are so many apart.
const APART: usize = u64::BITS as usize;

/// The mailboxes of all CPUs.
#[derive(Debug)]
pub(crate) struct Mailboxes(Vec<Mailbox>);

impl Mailboxes {
    /// For so many CPUs, and no VM yet.
    pub(crate) fn new(cpus: usize) -> Self {
        Self((0..cpus).map(|_| Mailbox::default()).collect())
    }

    /// Makes room for so many VMs.
    pub(crate) fn make_room(&mut self, vms: usize) -> Result<(), TryReserveError> {
        for mailbox in &mut self.0 {
            mailbox.woken.try_reserve_exact(vms)?;
            mailbox.woken.resize_with(vms, AtomicU64::default);
        }
        Ok(())
    }

    /// How many CPUs there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells `cpu` that this vCPU has woken up.
    pub(crate) fn wake(&self, cpu: usize, vm: usize, vcpu: usize) {
        let Some(mailbox) = self.0.get(cpu) else { return };
        if let Some(woken) = mailbox.woken.get(vm) {
            woken.fetch_or(1u64.checked_shl(vcpu as u32).unwrap_or(0), SeqCst);
        }
        mailbox.news.fetch_or(1 << (vm % APART), SeqCst);
    }

    /// Whether `cpu` has something in its box.
    #[inline]
    pub(crate) fn has_news(&self, cpu: usize) -> bool {
        self.0.get(cpu).is_some_and(|mailbox| mailbox.news.load(SeqCst) != 0)
    }

    /// When the first device of the VMs that `cpu` looks after may want to go on.
    #[inline]
    pub(crate) fn due(&self, cpu: usize) -> Nanos {
        self.0.get(cpu).map_or(Nanos::NEVER, |mailbox| Nanos(mailbox.due.load(SeqCst)))
    }

    /// A device of a VM that `cpu` looks after wants to go on at this time, which the VM tells already.
    #[inline(never)]
    pub(crate) fn be_due(&self, cpu: usize, at: Nanos) {
        if let Some(mailbox) = self.0.get(cpu) {
            mailbox.due.fetch_min(at.0, SeqCst);
        }
    }

    /// `cpu` asks all VMs anew when their devices want to go on.
    pub(crate) fn forget_due(&self, cpu: usize) {
        if let Some(mailbox) = self.0.get(cpu) {
            mailbox.due.store(Nanos::NEVER.0, SeqCst);
        }
    }

    /// Takes everything out of `cpu`'s box: `woken(vm, vcpu)` for each vCPU.
    pub(crate) fn take(&self, cpu: usize, mut woken: impl FnMut(usize, usize)) {
        let Some(mailbox) = self.0.get(cpu) else { return };
        for first in bits(mailbox.news.swap(0, SeqCst)) {
            for (vm, word) in mailbox.woken.iter().enumerate().skip(first).step_by(APART) {
                bits(word.swap(0, SeqCst)).for_each(|vcpu| woken(vm, vcpu));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_VMS;
    use std::vec;

    #[test]
    fn a_box_is_emptied_by_taking() {
        let mut mailboxes = Mailboxes::new(2);
        mailboxes.make_room(MAX_VMS).expect("memory");
        assert!(!mailboxes.has_news(0));
        mailboxes.wake(1, 0, 63);
        mailboxes.wake(1, MAX_VMS - 1, 0);
        mailboxes.wake(1, 65, 1);
        mailboxes.wake(1, 0, 63);
        // Nobody's, and a VM that cannot be: nothing happens.
        mailboxes.wake(7, 0, 0);
        mailboxes.wake(1, MAX_VMS, 0);
        assert!(mailboxes.has_news(1) && !mailboxes.has_news(0));
        let mut seen = vec![];
        mailboxes.take(1, |vm, vcpu| seen.push((vm, vcpu)));
        assert_eq!(seen, [(0, 63), (65, 1), (MAX_VMS - 1, 0)]);
        assert!(!mailboxes.has_news(1));
        mailboxes.take(1, |_, _| panic!("taken already"));
    }
}
