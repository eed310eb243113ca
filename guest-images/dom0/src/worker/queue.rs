//! Orders that wait until their disks' limits let them pass, each disk's in the order in which they came. A flush waits for nothing: it covers what
//! was answered before, and nothing that waits here was.

use std::collections::VecDeque;
use std::time::Duration;

use abi::{DiskOrder, DiskVerb};

use super::image::SECTOR;
use super::throttle::{Limits, Throttle};

/// Those of one disk.
#[derive(Default)]
struct Line {
    throttle: Throttle,
    orders: VecDeque<DiskOrder>,
}

/// Those of a VM.
pub(super) struct Queue(Vec<Line>);

impl Queue {
    /// For disks with such limits.
    pub(super) fn new(limits: impl Iterator<Item = Limits>) -> Self {
        Self(limits.map(|limits| Line { throttle: Throttle::new(limits), orders: VecDeque::new() }).collect())
    }

    /// A disk has other limits from here on; what waits for it is judged by them.
    pub(super) fn limit(&mut self, disk: u16, limits: Limits) {
        if let Some(line) = self.0.get_mut(usize::from(disk)) {
            line.throttle = Throttle::new(limits);
        }
    }

    /// An order has come. It comes back where it need not wait at all.
    pub(super) fn add(&mut self, order: DiskOrder) -> Option<DiskOrder> {
        match self.0.get_mut(usize::from(order.disk)) {
            Some(line) if order.verb != DiskVerb::Flush => {
                line.orders.push_back(order);
                None
            }
            // One for no disk is refused where it is carried out.
            _ => Some(order),
        }
    }

    /// The next order that may pass. Where there is none, the time when one may; or nothing waits.
    pub(super) fn next(&mut self, now: Duration) -> Result<DiskOrder, Option<Duration>> {
        let mut soonest = None;
        for line in &mut self.0 {
            let Some(order) = line.orders.front() else { continue };
            match line.throttle.pass(bytes_of(order), now) {
                Ok(()) => return line.orders.pop_front().ok_or(None),
                Err(when) => soonest = Some(soonest.map_or(when, |before: Duration| before.min(when))),
            }
        }
        Err(soonest)
    }
}

/// Bytes that an order moves.
fn bytes_of(order: &DiskOrder) -> u64 {
    match order.verb {
        DiskVerb::Read | DiskVerb::Write => u64::from(order.sectors) * SECTOR,
        DiskVerb::Flush | DiskVerb::Discard | DiskVerb::Zero | DiskVerb::ZeroUnmap => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(disk: u16, verb: DiskVerb, sector: u64) -> DiskOrder {
        DiskOrder { slot: 0, disk, verb, sectors: 128, sector, number: 0 }
    }

    #[test]
    fn a_disk_waits_for_its_limits_alone() {
        let slow = Limits { iops: Some(10), bandwidth: None };
        let mut queue = Queue::new([slow, Limits::default()].into_iter());
        let now = Duration::from_secs(1);
        for sector in 0..3 {
            assert_eq!(queue.add(order(0, DiskVerb::Read, sector)), None);
        }
        assert_eq!(queue.next(now).map(|order| order.sector), Ok(0));
        let Err(Some(when)) = queue.next(now) else { panic!("it waits") };
        assert_eq!(when, now + Duration::from_millis(100));
        assert_eq!(queue.add(order(1, DiskVerb::Write, 9)), None);
        assert_eq!(queue.next(now).map(|order| order.disk), Ok(1), "the other one has none");
        let flush = order(0, DiskVerb::Flush, 0);
        assert_eq!(queue.add(flush), Some(flush));
        let nowhere = order(7, DiskVerb::Read, 0);
        assert_eq!(queue.add(nowhere), Some(nowhere));
        assert_eq!(queue.next(when).map(|order| order.sector), Ok(1));
        queue.limit(0, Limits::default());
        assert_eq!(queue.next(when).map(|order| order.sector), Ok(2), "at once");
        assert_eq!(queue.next(when), Err(None));
    }
}
