//! What CPUs tell each other: that a vCPU which the other is home to has woken up. Anybody writes, only the CPU itself
//! reads. All room is fixed: a bit for each vCPU.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use alloc::vec::Vec;

use crate::config::MAX_VMS;

/// vCPUs of a VM at most: one word of bits.
pub(crate) const MAX_VCPUS: usize = 64;

#[derive(Debug, Default)]
struct Mailbox {
    news: AtomicBool,
    woken: [AtomicU64; MAX_VMS],
}

/// The mailboxes of all CPUs.
#[derive(Debug)]
pub(crate) struct Mailboxes(Vec<Mailbox>);

impl Mailboxes {
    /// For so many CPUs.
    pub(crate) fn new(cpus: usize) -> Self {
        Self((0..cpus).map(|_| Mailbox::default()).collect())
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
        mailbox.news.store(true, SeqCst);
    }

    /// Whether `cpu` has something in its box.
    #[inline]
    pub(crate) fn has_news(&self, cpu: usize) -> bool {
        self.0.get(cpu).is_some_and(|mailbox| mailbox.news.load(SeqCst))
    }

    /// Takes everything out of `cpu`'s box: `woken(vm, vcpu)` for each vCPU.
    pub(crate) fn take(&self, cpu: usize, mut woken: impl FnMut(usize, usize)) {
        let Some(mailbox) = self.0.get(cpu).filter(|mailbox| mailbox.news.swap(false, SeqCst)) else {
            return;
        };
        for (vm, word) in mailbox.woken.iter().enumerate() {
            let mut bits = word.swap(0, SeqCst);
            while bits != 0 {
                woken(vm, bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn a_box_is_emptied_by_taking() {
        let mailboxes = Mailboxes::new(2);
        assert!(!mailboxes.has_news(0));
        mailboxes.wake(1, 0, 63);
        mailboxes.wake(1, MAX_VMS - 1, 0);
        mailboxes.wake(1, 0, 63);
        // Nobody's, and a VM that cannot be: nothing happens.
        mailboxes.wake(7, 0, 0);
        mailboxes.wake(1, MAX_VMS, 0);
        assert!(mailboxes.has_news(1) && !mailboxes.has_news(0));
        let mut seen = vec![];
        mailboxes.take(1, |vm, vcpu| seen.push((vm, vcpu)));
        assert_eq!(seen, [(0, 63), (MAX_VMS - 1, 0)]);
        assert!(!mailboxes.has_news(1));
        mailboxes.take(1, |_, _| panic!("taken already"));
    }
}
