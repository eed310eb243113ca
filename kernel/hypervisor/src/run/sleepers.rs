//! The vCPUs that sleep on a CPU until a time.

use vcpu::Nanos;

use crate::config::MAX_VMS;

/// Which vCPUs the CPU is to wake at some time: a bit for each, and the earliest time. The times are with the vCPUs.
#[derive(Debug)]
pub(super) struct Sleepers {
    vcpus: [u64; MAX_VMS],
    next: Nanos,
}

impl Sleepers {
    pub(super) const fn new() -> Self {
        Self { vcpus: [0; MAX_VMS], next: Nanos::NEVER }
    }

    /// A vCPU has gone to sleep here until `deadline`.
    pub(super) fn add(&mut self, vm: usize, vcpu: usize, deadline: Nanos) {
        if deadline == Nanos::NEVER {
            return;
        }
        if let Some(word) = self.vcpus.get_mut(vm) {
            *word |= 1u64.checked_shl(vcpu as u32).unwrap_or(0);
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
        for (vm, word) in self.vcpus.iter_mut().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                let vcpu = rest.trailing_zeros();
                rest &= rest - 1;
                match look(vm, vcpu as usize) {
                    Some(deadline) => self.next = self.next.min(deadline),
                    None => *word &= !(1 << vcpu),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn who_is_due_is_looked_at_and_others_stay() {
        let mut sleepers = Sleepers::new();
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
        sleepers.add(MAX_VMS, 0, Nanos(1));
        assert_eq!(sleepers.next(), Nanos(30));
        assert_eq!(looked(&mut sleepers, 29, |_, _| None), vec![]);
        // The second is awake, the first sleeps on.
        let seen = looked(&mut sleepers, 30, |vm, _| (vm == 0).then_some(Nanos(50)));
        assert_eq!(seen, vec![(0, 63), (2, 0)]);
        assert_eq!(sleepers.next(), Nanos(50));
        assert_eq!(looked(&mut sleepers, 60, |_, _| None), vec![(0, 63)]);
        assert_eq!((looked(&mut sleepers, 90, |_, _| None), sleepers.next()), (vec![], Nanos::NEVER));
    }
}
