//! Which vCPU runs next on a CPU: in turn.

use alloc::collections::VecDeque;

use vcpu::Nanos;

use crate::config::MAX_VMS;
use crate::mailbox::MAX_VCPUS;

/// How long a vCPU runs before others have their turn and the console is looked at.
pub(crate) const SLICE: Nanos = Nanos::from_millis(10);
/// A vCPU that wakes up ends the running one's slice, but not before this.
pub(super) const SHORTEST_SLICE: Nanos = Nanos::from_millis(1);

/// A vCPU of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Id {
    pub(super) vm: usize,
    pub(super) vcpu: usize,
}

/// The vCPUs that wait for their turn on one CPU. Each is in one queue at most, so the room is fixed.
#[derive(Debug)]
pub(super) struct RunQueue(VecDeque<Id>);

impl RunQueue {
    pub(super) fn new() -> Self {
        Self(VecDeque::with_capacity(MAX_VMS * MAX_VCPUS))
    }

    /// Behind all others.
    pub(super) fn push(&mut self, id: Id) {
        debug_assert!(!self.0.contains(&id), "{id:?} waits already");
        self.0.push_back(id);
    }

    pub(super) fn pop(&mut self) -> Option<Id> {
        self.0.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_a_turn() {
        let mut queue = RunQueue::new();
        let ids = [Id { vm: 0, vcpu: 0 }, Id { vm: 0, vcpu: 1 }, Id { vm: 3, vcpu: 0 }];
        ids.iter().for_each(|id| queue.push(*id));
        for id in ids.iter().chain(&ids) {
            assert_eq!(queue.pop(), Some(*id));
            queue.push(*id);
        }
        assert!(!queue.is_empty());
    }
}
