//! The vCPUs that sleep on a CPU until a time.

use alloc::vec;
use alloc::vec::Vec;

use vcpu::Nanos;
use virtio::bits;

/// Which vCPUs the CPU is to wake at some time: a bit for each, and the earliest time. The times are with the vCPUs.
#[derive(Debug)]
pub(super) struct Sleepers {
    /// In which words of `vcpus` there may be some: bit n is for word n and every 64th behind it.
    some: u64,
    /// A word for each VM.
    vcpus: Vec<u64>,
    next: Nanos,
}

/// Words for which there is one bit are so many apart.
const APART: usize = u64::BITS as usize;

impl Sleepers {
    /// For so many VMs.
    pub(super) fn new(vms: usize) -> Self {
        Self { some: 0, vcpus: vec![0; vms], next: Nanos::NEVER }
    }

    /// For nobody, instead of those that are being looked at.
    pub(super) const fn none() -> Self {
        Self { some: 0, vcpus: Vec::new(), next: Nanos::NEVER }
    }

    /// A vCPU has gone to sleep here until `deadline`.
    pub(super) fn add(&mut self, vm: usize, vcpu: usize, deadline: Nanos) {
        if deadline == Nanos::NEVER {
            return;
        }
        if let Some(word) = self.vcpus.get_mut(vm) {
            *word |= 1u64.checked_shl(vcpu as u32).unwrap_or(0);
            self.some |= 1 << (vm % APART);
            self.next = self.next.min(deadline);
        }
    }

    /// When somebody is due; at the latest, as the one may be awake already.
    #[inline]
    pub(super) fn next(&self) -> Nanos {
        self.next
    }

    /// Looks at all of them if the time has come: `look(vm, vcpu)` wakes the vCPU where it is due, and says until when it
    /// sleeps here still, if it does.
    pub(super) fn look(&mut self, now: Nanos, mut look: impl FnMut(usize, usize) -> Option<Nanos>) {
        if now < self.next {
            return;
        }
        self.next = Nanos::NEVER;
        for first in bits(core::mem::take(&mut self.some)) {
            for (vm, word) in self.vcpus.iter_mut().enumerate().skip(first).step_by(APART) {
                for vcpu in bits(*word) {
                    match look(vm, vcpu) {
                        Some(deadline) => self.next = self.next.min(deadline),
                        None => *word &= !(1 << vcpu),
                    }
                }
                self.some |= u64::from(*word != 0) << first;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_due_is_looked_at_and_others_stay() {
        let mut sleepers = Sleepers::new(100);
        let looked = |sleepers: &mut Sleepers, now, answer: fn(usize, usize) -> Option<Nanos>| {
            let mut seen = Vec::new();
            sleepers.look(Nanos(now), |vm, vcpu| {
                seen.push((vm, vcpu));
                answer(vm, vcpu)
            });
            seen
        };
        assert_eq!(sleepers.next(), Nanos::NEVER);
        sleepers.add(0, 63, Nanos(50));
        sleepers.add(2, 0, Nanos(30));
        sleepers.add(2, 1, Nanos::NEVER);
        sleepers.add(66, 5, Nanos(70));
        sleepers.add(100, 0, Nanos(1));
        assert_eq!(sleepers.next(), Nanos(30));
        assert_eq!(looked(&mut sleepers, 29, |_, _| None), vec![]);
        // The second is awake, the first sleeps on.
        let seen = looked(&mut sleepers, 30, |vm, _| (vm != 2).then_some(Nanos(50)));
        assert_eq!(seen, vec![(0, 63), (2, 0), (66, 5)]);
        assert_eq!(sleepers.next(), Nanos(50));
        assert_eq!(looked(&mut sleepers, 60, |_, _| None), vec![(0, 63), (66, 5)]);
        assert_eq!((looked(&mut sleepers, 90, |_, _| None), sleepers.next()), (vec![], Nanos::NEVER));
    }
}
