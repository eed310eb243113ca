//! Who runs next: round robin.

use vcpu::Nanos;

/// How long a vCPU runs before others have their turn and the console is looked at.
pub(crate) const SLICE: Nanos = Nanos::from_millis(10);
/// A VM that wakes up ends the running one's slice, but not before this.
pub(crate) const SHORTEST_SLICE: Nanos = Nanos::from_millis(1);

/// The turn order of one CPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundRobin {
    last: usize,
}

impl RoundRobin {
    /// The next of `count` VMs behind the last one that is runnable.
    pub(crate) fn next(&mut self, count: usize, runnable: impl Fn(usize) -> bool) -> Option<usize> {
        let next = (1..=count).map(|step| (self.last + step) % count).find(|index| runnable(*index))?;
        self.last = next;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_a_turn() {
        let mut turns = RoundRobin::default();
        let order: [Option<usize>; 4] = core::array::from_fn(|_| turns.next(3, |index| index != 1));
        assert_eq!(order, [Some(2), Some(0), Some(2), Some(0)]);
        assert_eq!(turns.next(3, |_| false), None);
        assert_eq!(turns.next(0, |_| true), None);
        assert_eq!(turns.next(3, |index| index == 0), Some(0), "the last one again where it is the only one");
    }
}
